"""C5, C6: one JKO step is source-fixed unbalanced transport; S-JKO, UOTM, OTM and GANs against loops written by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from _exact import ALL, Affine, Atoms, Quadratic, double, hermite, mlp, nearest, rng, trapezoid
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as nnf

from wgflow import (
    FUNCTIONALS,
    JKO,
    SGD,
    Callback,
    Critic,
    Dataset,
    Particles,
    Pushforward,
    Regression,
    StandardNormal,
    presets,
    solve,
)
from wgflow.core.rng import mixed

# --- C5: W2²/(2h) + F and W2² + 2hF --------------------------------------------------------------------------------


def discrete_pair(seed):
    g = rng(seed)
    x, y = torch.rand(4, 2, generator=g, dtype=torch.float64), torch.rand(5, 2, generator=g, dtype=torch.float64)
    mu, nu = (torch.rand(n, generator=g, dtype=torch.float64) + 0.2 for n in (4, 5))
    return x, mu / mu.sum(), Atoms(y, nu)


def semi_dual(F, cost, mu, y):
    """Maximise ⟨u, mu⟩ - F*(-v) over u_i + v_j <= c_ij; returns the value and the new law ∂F*/∂φ."""
    n, m = cost.shape

    def conjugate(v):
        return F.conjugate(lambda points: -v[nearest(points, y)])

    def loss(z):
        v = double(z[n:]).requires_grad_(True)
        value = conjugate(v)
        (grad,) = torch.autograd.grad(value, v)
        return value.item() - mu.numpy() @ z[:n], np.concatenate([-mu.numpy(), grad.numpy()])

    rows = -np.hstack([np.kron(np.eye(n), np.ones((m, 1))), np.kron(np.ones((n, 1)), np.eye(m))])
    slack = {"type": "ineq", "fun": lambda z: cost.numpy().ravel() + rows @ z, "jac": lambda z: rows}
    best = minimize(
        loss, np.zeros(n + m), jac=True, method="SLSQP", constraints=slack, options={"ftol": 1e-15, "maxiter": 500}
    )
    v = double(best.x[n:]).requires_grad_(True)
    return -best.fun, -torch.autograd.grad(conjugate(v), v)[0]


def primal(F, cost, mu, y):
    """Minimise ⟨c, π⟩ + F(second marginal) over plans with first marginal mu, F by its value."""
    n, m = cost.shape

    def loss(z):
        plan = double(z).reshape(n, m).requires_grad_(True)
        log_rho = (plan.sum(0) + 1e-300).log()
        value = (cost * plan).sum() + F.value(Particles(y, log_rho, log_rho))
        return value.item(), torch.autograd.grad(value, plan)[0].numpy().ravel()

    sums = np.kron(np.eye(n), np.ones((1, m)))
    marginal = {"type": "eq", "fun": lambda z: sums @ z - mu.numpy(), "jac": lambda z: sums}
    start = np.outer(mu.numpy(), np.full(m, 1 / m)).ravel()
    best = minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, None)] * (n * m),
        constraints=marginal,
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return best.fun, double(best.x).reshape(n, m).sum(0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["kl", "chi2", "js_nonsat", "softplus"])
def test_the_two_scalings_of_a_step_share_their_minimiser(name, seed):
    h = 0.15
    x, mu, nu = discrete_pair(seed)
    squares = torch.cdist(x, nu.x).square()
    F = FUNCTIONALS[name](Particles(nu.x, nu.probability.log()))
    value, rho = semi_dual(F, squares / (2 * h), mu, nu.x)
    scaled, same = semi_dual(2 * h * F, squares, mu, nu.x)
    assert scaled == pytest.approx(2 * h * value, rel=1e-7)
    torch.testing.assert_close(same, rho, rtol=0, atol=2e-5)
    assert float(rho.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["kl", "chi2", "js_exact"])
def test_strong_duality_between_value_and_conjugate(name, seed):
    x, mu, nu = discrete_pair(seed)
    cost = torch.cdist(x, nu.x).square() / (2 * 0.15)
    if name == "js_exact":  # its conjugate ends at log 2: scaled down, the optimum stays well inside
        cost = cost / 4
    dual, rho = semi_dual(FUNCTIONALS[name](Particles(nu.x, nu.probability.log())), cost, mu, nu.x)
    value, marginal = primal(FUNCTIONALS[name](nu), cost, mu, nu.x)
    assert value == pytest.approx(dual, abs=1e-6)
    torch.testing.assert_close(marginal, rho, rtol=0, atol=1e-4)


def test_the_solver_walks_the_same_path_under_both_scalings():
    """JKO of F with step h, and of 2hF with step 1/2 (the cost is then |x - y|²), with learning rates in the ratio 2h."""
    h, ends = 0.2, []
    F = FUNCTIONALS["kl"](trapezoid(), ALL)
    for functional, step, lr in ((F, h, 0.05), (2 * h * F, 0.5, 0.05 / (2 * h))):
        solver = JKO(Critic(Quadratic(), SGD(lr)), optim=SGD(lr), iters=20, batch=ALL)
        flow = solve(functional, solver, Pushforward(hermite(), Affine(0.5, 2.0)), step_size=step, num_steps=2)
        ends.append([*flow.measure.net.parameters(), *flow.state.estimator.net.parameters()])
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


# --- C6: against loops written by hand -----------------------------------------------------------------------------

D, BATCH, SEED = 2, 16, 3
POINTS = 0.5 * torch.randn(40, D, dtype=torch.float64, generator=rng(1)) + 1


class Generator(nn.Module):
    """T(x, z)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(2 * D, D, seed=4)

    def forward(self, x, z):
        return self.net(torch.cat([x, z], 1))


def normal(*shape, g):
    return torch.randn(*shape, dtype=torch.float64, generator=g)


def by_hand(critic_loss, score, proximal, *, phases=1, updates=4, independent=False, gamma=0.2, noise=None):
    """S-JKO in plain PyTorch: critic_loss(v_fake, v_real), score(v_fake) what T descends, proximal(old, new) (n,)."""
    g = rng(mixed(SEED))  # the stream of a flow
    T, v = Generator(), mlp(D, seed=5)
    old = lambda x, z: x  # noqa: E731
    descend_T, descend_v = (torch.optim.Adam(net.parameters(), lr, (0.5, 0.9)) for net, lr in ((T, 2e-4), (v, 1e-4)))
    anneal = [
        torch.optim.lr_scheduler.LambdaLR(
            o, lambda i, lr=lr: (5e-5 + (lr - 5e-5) * (1 + math.cos(math.pi * i / (phases * updates))) / 2) / lr
        )
        for o, lr in ((descend_T, 2e-4), (descend_v, 1e-4))
    ]
    reports = []
    for k in range(phases):
        for _ in range(updates):
            y = POINTS[torch.randint(len(POINTS), (BATCH,), generator=g)]
            if noise is not None:
                y = y + noise(k) * normal(BATCH, D, g=g)
            fake = T(normal(BATCH, D, g=g), normal(BATCH, D, g=g)).detach()
            y.requires_grad_(True)
            real = v(y)[:, 0]
            loss = critic_loss(v(fake)[:, 0], real)
            (slope,) = torch.autograd.grad(real.sum(), y, create_graph=True)
            descend_v.zero_grad()
            (loss + gamma / 2 * slope.square().sum(1).mean()).backward()
            descend_v.step()

            x, z = normal(BATCH, D, g=g), normal(BATCH, D, g=g)
            z_old = normal(BATCH, D, g=g) if independent else z
            torch.randint(len(POINTS), (BATCH,), generator=g)  # the library draws data here too
            if noise is not None:
                normal(BATCH, D, g=g)
            with torch.no_grad():
                before = old(x, z_old)
            after = T(x, z)
            cost, energy = proximal(before, after).mean(), score(v(after)[:, 0]).mean()
            descend_T.zero_grad()
            (cost + energy).backward()
            descend_T.step()
            reports.append((-loss.item(), cost.item(), energy.item()))
            for schedule in anneal:
                schedule.step()
        old = copy.deepcopy(T)
    return reports, [*T.parameters(), *v.parameters()]


class Reports(Callback):
    """What the critic ascends, and the two parts of what the generator descends."""

    def on_start(self, run):
        self.rows = []

    def on_update(self, run, info):
        self.rows.append([info[name].item() for name in ("critic/objective", "jko/transport", "jko/energy")])


def by_library(preset, **options):
    flow = preset(
        Dataset(POINTS),
        StandardNormal(D, dtype=torch.float64),
        Generator(),
        mlp(D, seed=5),
        noise=StandardNormal(D, dtype=torch.float64),
        reference=nn.Identity(),
        batch=BATCH,
        **options,
    )
    reports = Reports()
    found = flow.solve(seed=SEED, callbacks=[reports])
    rows = [(objective, cost / flow.step_size, energy) for objective, cost, energy in reports.rows]
    return rows, [*found.state.successor.net.parameters(), *found.state.estimator.net.parameters()]


def kl_critic(fake, real):
    return fake.mean() + (torch.exp(-real) - 1).mean()


def mean_cost(h):
    return lambda old, new: ((new - old) ** 2).mean(1) / (2 * h)


def assert_same(ours, theirs, shift=(0.0, 0.0, 0.0)):
    """Equal to machine precision in every report and every parameter; ``shift`` are constants the losses differ by."""
    assert len(ours[0]) == len(theirs[0]) >= 4
    for row, expected in zip(ours[0], theirs[0], strict=True):
        assert row == pytest.approx([e + s for e, s in zip(expected, shift, strict=True)], rel=1e-11, abs=1e-12)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("variant", ["wgflow", "paper", "code"])
def test_s_jko_is_the_published_algorithm(variant):
    ours = by_library(
        presets.s_jko, variant=variant, step_size=0.3, num_steps=3, first_iters=4, iters=4, lr=(2e-4, 1e-4)
    )
    noise = (lambda k: 1 / (32 * (k + 1))) if variant == "code" else None
    theirs = by_hand(
        kl_critic,
        lambda v: -v,
        mean_cost(0.3),
        phases=3,
        independent=variant != "wgflow",
        gamma=0.4 if variant == "paper" else 0.2,
        noise=noise,
    )
    assert_same(ours, theirs)


def test_one_step_of_s_jko_is_source_fixed_uotm():
    h = 0.3
    tau = 1 / (2 * D * h)
    theirs = by_hand(kl_critic, lambda v: -v, lambda old, new: tau * ((new - old) ** 2).sum(1))
    assert_same(by_library(presets.s_jko, step_size=h, num_steps=1, first_iters=4), theirs)
    assert_same(by_library(presets.uotm_source_fixed, tau=tau, iters=4), theirs)


def test_a_hard_constraint_is_the_semi_dual_of_plain_optimal_transport():
    theirs = by_hand(lambda fake, real: fake.mean() - real.mean(), lambda v: -v, mean_cost(0.25))
    assert_same(by_library(presets.otm, tau=1 / (2 * D * 0.25), iters=4), theirs)


def no_cost(old, new):
    return 0 * ((new - old) ** 2).sum(1)


def test_an_infinite_step_is_the_f_gan():
    assert_same(by_library(presets.f_gan, iters=4), by_hand(kl_critic, lambda v: -v, no_cost))


def test_an_infinite_step_of_js_nonsat_is_the_non_saturating_gan():
    def bce(v, label):
        return nnf.binary_cross_entropy_with_logits(v, torch.full_like(v, label))

    theirs = by_hand(lambda fake, real: bce(real, 1.0) + bce(fake, 0.0), lambda v: nnf.softplus(-v), no_cost)
    ours = by_library(presets.f_gan, divergence="js_nonsat", iters=4)
    assert_same(ours, theirs, shift=(2 * math.log(2), 0.0, -math.log(2)))


@pytest.mark.parametrize(("divergence", "score"), [("kl", lambda v: -v), ("js_nonsat", lambda v: nnf.softplus(-v))])
def test_forward_euler_with_one_regression_step_is_the_generator_step_of_the_f_gan(divergence, score):
    """The gradient of |G - stopgrad(G - h∇φ(G))|²/2 in the parameters is that of h φ(G)."""
    h, lr = 0.3, 0.7
    critic, F = Critic(mlp(D, seed=5)), FUNCTIONALS[divergence](Particles(POINTS))
    es = critic.init(F, rng())
    latent = StandardNormal(D, dtype=torch.float64)
    rho = Pushforward(latent, mlp(D, D, seed=4), regression=Regression(SGD(lr), batch=BATCH)).start(rng())
    rho.follow(lambda p: p.x + h * critic.velocity(F, p, es), rng(7))

    G = mlp(D, D, seed=4)
    score(es.net(G(normal(BATCH, D, g=rng(7))))[:, 0]).mean().backward()
    stepped = [p - lr * h * p.grad for p in G.parameters()]
    torch.testing.assert_close(list(rho.net.parameters()), stepped, rtol=1e-11, atol=1e-12)
