"""The eight objectives of generative Wasserstein flows, against loops written by hand."""

import copy
from dataclasses import replace

import pytest
import torch
from _exact import rng
from torch import Tensor, nn

from wgflow import RBF, Adam, BadInput, Dataset, ForwardEuler, Regression, StandardNormal, presets
from wgflow.generative.nets import ToyCritic

N, DIM, LATENT = 12, 2, 3
BANDWIDTHS = (0.5, 2.0)
KERNEL = 0.5 * (RBF(0.5) + RBF(2.0))
OUTPUTS = {"mmd": 4, "smmd": 4, "ckmmd": LATENT}
OBJECTIVES = ["chi2", "kl", "kl_dv", "js", "mmd", "smmd", "ckmmd", "w1"]


@pytest.fixture(autouse=True)
def _double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def networks(objective: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    generator = nn.Sequential(nn.Linear(LATENT, 8), nn.Tanh(), nn.Linear(8, DIM))
    # Without a last bias: of most objectives it has no gradient, and Adam would make steps of the rounding errors.
    critic = nn.Sequential(nn.Linear(DIM, 8), nn.SiLU(), nn.Linear(8, OUTPUTS.get(objective, 1), bias=False))
    return generator, critic


def data() -> Tensor:
    return torch.randn(40, DIM, generator=rng(5)) + 1.5


def flow(objective: str, generator: nn.Module, critic: nn.Module) -> presets.Flow:
    options = {
        "kernel": KERNEL,
        "num_steps": 2,
        "first_iters": 3,
        "iters": 2,
        "batch": N,
        "lr": (1e-2, 2e-2),
        "ema": 0.0,
    }
    return presets.gwf(
        Dataset(data()), StandardNormal(LATENT), generator, critic, objective=objective, lambda2=0.8, **options
    )


# --- the losses, from the table of the paper's code ------------------------------------------------------------------


def k(x: Tensor, y: Tensor) -> Tensor:
    s = (x[:, None] - y[None]).square().sum(-1)
    return sum(torch.exp(-s / (2 * b**2)) for b in BANDWIDTHS) / 2


def mmd(h_real: Tensor, h_fake: Tensor) -> Tensor:
    """The U-statistic."""
    m, n = len(h_real), len(h_fake)
    real, fake = k(h_real, h_real), k(h_fake, h_fake)
    return (
        (real.sum() - real.trace()) / (m * (m - 1))
        + (fake.sum() - fake.trace()) / (n * (n - 1))
        - 2 * k(h_real, h_fake).mean()
    )


def scale(critic: nn.Module, real: Tensor) -> Tensor:
    jacobians = torch.func.vmap(torch.func.jacrev(lambda y: critic(y[None])[0]))(real)
    return 1 / (1 + 10 * jacobians.square().sum((1, 2)).mean())


def paired(z: Tensor, h: Tensor) -> Tensor:
    s = (z - h).square().sum(1)
    return (sum(torch.exp(-s / (2 * b**2)) for b in BANDWIDTHS) / 2).mean()


def critic_loss(objective: str, critic: nn.Module, real: Tensor, fake: Tensor, z_real: Tensor, z: Tensor) -> Tensor:
    d_real, d_fake = critic(real), critic(fake)
    softplus = nn.functional.softplus
    return {
        "chi2": lambda: d_fake.mean() + (d_real.square() / 4 - d_real).mean(),
        "kl": lambda: d_fake.mean() + (-d_real - 1).exp().mean(),
        "kl_dv": lambda: d_fake.mean() + (-d_real).exp().mean().log(),
        "js": lambda: softplus(d_fake).mean() + softplus(-d_real).mean(),
        "mmd": lambda: -mmd(d_real, d_fake),
        "smmd": lambda: -scale(critic, real) * mmd(d_real, d_fake),
        "ckmmd": lambda: -paired(z_real, d_real) + paired(z, d_fake),
        "w1": lambda: d_fake.mean() - d_real.mean(),
    }[objective]()


def generator_loss(objective: str, critic: nn.Module, real: Tensor, fake: Tensor, z: Tensor) -> Tensor:
    d_fake = critic(fake)
    return {
        "js": lambda: nn.functional.softplus(-d_fake).mean(),
        "mmd": lambda: mmd(critic(real), d_fake),
        "smmd": lambda: scale(critic, real) * mmd(critic(real), d_fake),
        "ckmmd": lambda: -paired(z, d_fake),
    }.get(objective, lambda: -d_fake.mean())()


def slopes(critic: nn.Module, x: Tensor, z: Tensor | None) -> Tensor:
    x = x.detach().requires_grad_(True)
    v = critic(x) if z is None else torch.stack([paired(a[None], b[None]) for a, b in zip(z, critic(x), strict=True)])
    return torch.autograd.grad(v.sum(), x, create_graph=True)[0]


class Numbers:
    """The random numbers of a run, in its order."""

    def __init__(self, objective: str, seed: int) -> None:
        self.objective, self.rng, self.data = objective, rng(seed), data()
        for _ in range(2 * (objective == "ckmmd")):  # the seeds of two factories
            torch.randint(2**62, (), generator=self.rng)

    def real(self) -> tuple[Tensor, Tensor]:
        real = self.data[torch.randint(len(self.data), (N,), generator=self.rng)]
        z = self.latent() if self.objective == "ckmmd" else real
        if self.objective == "smmd":
            torch.randint(2, (4096,), generator=self.rng)  # the signs that more than 16 features would need
        return real, z

    def latent(self) -> Tensor:
        return torch.randn(N, LATENT, generator=self.rng)

    def between(self, fake: Tensor, real: Tensor, z: Tensor, z_real: Tensor) -> tuple[Tensor, Tensor]:
        i, j = torch.randperm(N, generator=self.rng), torch.randperm(N, generator=self.rng)
        a = torch.rand(N, 1, generator=self.rng)
        return torch.lerp(fake[i], real[j], a), torch.lerp(z[i], z_real[j], a)


def penalty(
    objective: str, critic: nn.Module, numbers: Numbers, real: Tensor, fake: Tensor, z: Tensor, z_real: Tensor
) -> Tensor:
    if objective in ("chi2", "kl", "kl_dv", "js"):
        return 0.2 * slopes(critic, real, None).square().sum(1).mean()
    x, behind = numbers.between(fake, real, z, z_real if objective == "ckmmd" else z)
    g = slopes(critic, x, behind if objective == "ckmmd" else None)
    if objective == "w1":
        return 10 * (g.norm(dim=1) - 1).square().mean()
    return 10 * g.square().sum(1).mean()


def critic_step(
    objective: str, critic: nn.Module, optim: torch.optim.Optimizer, generator: nn.Module, numbers: Numbers
) -> None:
    real, z_real = numbers.real()
    z = numbers.latent()
    fake = generator(z).detach()
    loss = critic_loss(objective, critic, real, fake, z_real, z)
    optim.zero_grad()
    (loss + penalty(objective, critic, numbers, real, fake, z, z_real)).backward()
    optim.step()


def optimisers(generator: nn.Module, critic: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.Adam(net.parameters(), lr, (0.5, 0.9)) for net, lr in ((generator, 1e-2), (critic, 2e-2))]


def assert_same(ours: nn.Module, theirs: nn.Module, start: nn.Module) -> None:
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert not any(map(torch.equal, list(ours.parameters())[:2], list(start.parameters())[:2]))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_jko_steps_are_those_of_a_loop_by_hand(objective: str) -> None:
    generator, critic = networks(objective)
    made = flow(objective, generator, critic)
    state, h = made.solver.init(made.functional, made.initial, rng(7)), made.step_size
    for _ in range(5):
        state, _ = made.solver.update(made.functional, state, h)
    assert state.k == 2

    by_hand, judge, numbers = copy.deepcopy(generator), copy.deepcopy(critic), Numbers(objective, 7)
    optim, judge_optim = optimisers(by_hand, judge)
    for iters in (3, 2):
        old = copy.deepcopy(by_hand)
        for _ in range(iters):
            critic_step(objective, judge, judge_optim, by_hand, numbers)
            z = numbers.latent()
            real, _ = numbers.real()
            fake = by_hand(z)
            moved = (fake - old(z).detach()).square().mean() / 0.8  # the mean over coordinates too
            optim.zero_grad()
            (moved + generator_loss(objective, judge, real, fake, z)).backward()
            optim.step()
    assert_same(state.successor.net, by_hand, generator)
    assert_same(state.estimator.net, judge, critic)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_forward_euler_takes_the_same_objects(objective: str) -> None:
    """Regression onto moved points: its first gradient is h times that of the loss, its others see the same targets."""
    generator, critic = networks(objective)
    made, h = flow(objective, generator, critic), 0.3
    solver = ForwardEuler(made.solver.estimator, batch=N)
    start = replace(made.initial, regression=Regression(Adam(1e-2), persistent=2, batch=N))
    state = solver.init(made.functional, start, rng(7))
    for _ in range(3):
        state, _ = solver.update(made.functional, state, h)

    by_hand, judge, numbers = copy.deepcopy(generator), copy.deepcopy(critic), Numbers(objective, 7)
    optim, judge_optim = optimisers(by_hand, judge)
    for _ in range(3):
        critic_step(objective, judge, judge_optim, by_hand, numbers)
        real, _ = numbers.real()
        z = numbers.latent()
        fake = by_hand(z).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(generator_loss(objective, judge, real, fake, z), fake)
        targets = fake.detach() - h * N * slope
        for _ in range(2):
            optim.zero_grad()
            ((by_hand(z) - targets).square().sum(1).mean() / 2).backward()
            optim.step()
    assert_same(state.measure.net, by_hand, generator)
    assert_same(state.estimator.net, judge, critic)


def test_an_objective_that_is_not_there_names_its_neighbours() -> None:
    with pytest.raises(BadInput, match=r"objective='ck_mmd': .*ckmmd"):
        flow("ck_mmd", *networks("mmd"))


def test_an_infinite_lambda_leaves_the_transport_cost_out() -> None:
    made = presets.gwf(Dataset(data()), StandardNormal(LATENT), *networks("kl"), objective="kl", lambda2=float("inf"))
    assert made.step_size == float("inf")


def test_features_of_another_number_than_the_latent_has_are_refused() -> None:
    generator, critic = networks("mmd")
    with pytest.raises(BadInput, match=r"as many as its latent has coordinates, 3, got .*4"):
        flow("ckmmd", generator, critic).solve()


@pytest.mark.parametrize(("objective", "outputs"), [("mmd", 5), ("smmd", 5), ("ckmmd", LATENT), ("kl", 1)])
def test_a_factory_of_critics_is_told_how_many_outputs(objective: str, outputs: int) -> None:
    generator, _ = networks(objective)
    nu, z = Dataset(data()), StandardNormal(LATENT)
    options = {"objective": objective, "features": 5, "num_steps": 1, "first_iters": 1, "iters": 1, "batch": N}
    state = presets.gwf(nu, z, generator, lambda **sizes: ToyCritic(dim=DIM, width=4, **sizes), **options).solve().state
    net = getattr(state.estimator.net, "net", state.estimator.net)
    assert net.head[-1].out_features == outputs
