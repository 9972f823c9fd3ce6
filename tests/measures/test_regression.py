"""How a network follows a move: one step is WGAN, more steps go to targets that stay."""

import math
from collections.abc import Callable

import pytest
import torch
from _exact import mlp, rng
from torch import Tensor, nn

from wgflow import (
    SGD,
    W1,
    Adam,
    BadInput,
    Critic,
    ForwardEuler,
    Particles,
    PotentialEnergy,
    Pushforward,
    Regression,
    StandardNormal,
    presets,
    solve,
)

LATENT = Particles(torch.randn(16, 3, generator=rng(1)).double())


def relu_critic() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1)).double()


def started(net: nn.Module, regression: Regression, latent: Particles = LATENT) -> Pushforward:
    return Pushforward(latent, net, regression=regression).start(rng())


def up(f: nn.Module, h: float) -> Callable[[Particles], Tensor]:
    """The move of forward Euler on W1 with critic f: y + h grad f(y)."""

    def move(p: Particles) -> Tensor:
        y = p.x.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(f(y).sum(), y)
        return p.x + h * grad

    return move


def wgan_gradients(net: nn.Module, f: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(-f(net(LATENT.x)).mean(), list(net.parameters())))


@pytest.mark.parametrize("critic", [mlp(2, seed=3), relu_critic()], ids=["smooth", "relu"])
@pytest.mark.parametrize("h", [0.1, 1.0, 3.0])
def test_one_step_is_the_generator_step_of_wgan(critic: nn.Module, h: float) -> None:
    """The gradient is h times WGAN's: plain descent at the rate r/h makes WGAN's step at the rate r."""
    net, lr = mlp(3, 2, seed=2), 0.3
    expected = [p - lr * g for p, g in zip(net.parameters(), wgan_gradients(net, critic), strict=True)]
    rho = started(net, Regression(SGD(lr / h), batch=16)).follow(up(critic, h), rng())
    for p, q in zip(rho.map.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("h", [0.1, 1.0, 3.0])
def test_with_adam_the_size_of_the_step_does_not_matter_at_one_update(h: float) -> None:
    net, critic = mlp(3, 2, seed=2), mlp(2, seed=3)
    ours = started(net, Regression(Adam(1e-3, eps=1e-30), batch=16)).follow(up(critic, h), rng()).map
    twin = mlp(3, 2, seed=2)
    optimizer = torch.optim.Adam(twin.parameters(), 1e-3, (0.5, 0.9), 1e-30)
    (-critic(twin(LATENT.x)).mean()).backward()
    optimizer.step()
    for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-13)


class Table(nn.Module):
    """Free points: a generator that can realise every move."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.y = nn.Parameter(y.clone())

    def forward(self, z: Tensor) -> Tensor:
        return self.y + 0 * z[:, :2]


def realised(solution) -> list[float]:
    return [row["regression/realised"] for row in solution.history]


@pytest.mark.parametrize("persistent", [1, 3, 10])
def test_free_points_contract_to_their_targets(persistent: int) -> None:
    """With rate r the residual of m points shrinks by (1 - r/m) a step, so that 1 - (1 - r/m)^2K of the step is realised."""
    lr, m = 4.0, 16
    rho = Pushforward(LATENT, Table(LATENT.x[:, :2]), regression=Regression(SGD(lr), persistent=persistent, batch=m))
    V = PotentialEnergy(lambda x: x.square().sum(1) / 2)
    solution = solve(V, ForwardEuler(), rho, step_size=0.5, num_steps=3)
    expected = 1 - (1 - lr / m) ** (2 * persistent)
    assert realised(solution) == pytest.approx([expected] * 3, abs=1e-12)
    factor = 0.5 + 0.5 * (1 - lr / m) ** persistent
    torch.testing.assert_close(solution.measure.map.y.detach(), LATENT.x[:, :2] * factor**3, rtol=0, atol=1e-12)


def test_the_whole_step_is_realised_where_the_rate_is_the_number_of_points() -> None:
    rho = Pushforward(LATENT, Table(LATENT.x[:, :2]), regression=Regression(SGD(16.0), batch=16))
    V = PotentialEnergy(lambda x: x.square().sum(1) / 2)
    solution = solve(V, ForwardEuler(), rho, step_size=0.5, num_steps=1)
    torch.testing.assert_close(solution.measure.map.y.detach(), LATENT.x[:, :2] / 2, rtol=0, atol=1e-15)
    assert realised(solution) == [1.0]


def test_a_step_of_length_zero_is_realised() -> None:
    rho = Pushforward(LATENT, Table(LATENT.x[:, :2]), regression=Regression(SGD(1.0), batch=16))
    flat = PotentialEnergy(lambda x: 0 * x.sum(1))
    assert realised(solve(flat, ForwardEuler(), rho, step_size=0.5, num_steps=2)) == [1.0, 1.0]


def test_targets_and_latents_stay_through_the_updates_and_the_critic_is_not_asked_again() -> None:
    asked, seen = [], []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(3, 2, seed=2)

        def forward(self, z: Tensor) -> Tensor:
            seen.append(z.clone())
            return self.net(z)

    def move(p: Particles) -> Tensor:
        asked.append(p)
        return p.x + 1

    started(Watched(), Regression(SGD(0.1), persistent=5, batch=8)).follow(move, rng())
    assert len(asked) == 1
    assert len(seen) == 1 + 5 + 1  # before, at every update, and to see what was realised
    assert all(torch.equal(z, seen[0]) for z in seen)


def test_the_naive_control_is_wgan_with_several_generator_steps_against_one_critic() -> None:
    net, critic, lr, h, K = mlp(3, 2, seed=2), mlp(2, seed=3), 0.3, 0.5, 4
    rho = started(net, Regression(SGD(lr / h), K, 16, control="naive")).follow(up(critic, h), rng())
    twin = mlp(3, 2, seed=2)
    optimizer = torch.optim.SGD(twin.parameters(), lr)
    for _ in range(K):
        optimizer.zero_grad()
        (-critic(twin(LATENT.x)).mean()).backward()
        optimizer.step()
    for p, q in zip(rho.map.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-12)


def test_moments_are_kept_through_the_steps() -> None:
    """Two steps of one update are two steps of one Adam, on a constant pull: with fresh moments the second would be longer."""

    def moved(steps: int) -> float:
        rho = started(Table(LATENT.x[:, :2]), Regression(Adam(0.01, (0.9, 0.99)), batch=16))
        for k in range(steps):
            rho = rho.follow(lambda p, k=k: p.x + (1 if k == 0 else -3), rng())
        return float((rho.map.y.detach() - LATENT.x[:, :2]).mean())

    first, second = moved(1), moved(2) - moved(1)
    m, v = 0.9 * 0.1 * -1 + 0.1 * 3, 0.99 * 0.01 + 0.01 * 9
    assert first == pytest.approx(0.01, rel=1e-6)
    assert second == pytest.approx(-0.01 * (m / (1 - 0.81)) / math.sqrt(v / (1 - 0.9801)), rel=1e-4)


def normalised() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)).double()


@pytest.mark.parametrize("persistent", [2, 7])
def test_batch_normalisation_means_the_same_at_every_persistence(persistent: int) -> None:
    """One batch is seen as often as with one update, and never by the look at what was realised."""
    ends = []
    for K in (1, persistent):
        rho = started(normalised(), Regression(SGD(1e-30), K, 16)).follow(lambda p: p.x + 1, rng())
        ends.append(rho.map[1])
    one, more = ends
    assert one.num_batches_tracked == more.num_batches_tracked == 2  # the law before, and the first update
    torch.testing.assert_close(one.running_mean, more.running_mean)
    torch.testing.assert_close(one.running_var, more.running_var)
    assert more.track_running_stats


def test_one_update_with_batch_normalisation_is_wgan_in_training_mode() -> None:
    net, critic, lr = normalised(), mlp(2, seed=3), 0.2
    twin = normalised()
    gradients = torch.autograd.grad(-critic(twin(LATENT.x)).mean(), list(twin.parameters()))
    rho = started(net, Regression(SGD(lr), batch=16)).follow(up(critic, 1.0), rng())
    for p, q, g in zip(rho.map.parameters(), twin.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.detach(), (q - lr * g).detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bad", [{"persistent": 0}, {"persistent": -1}, {"persistent": 1.5}, {"control": "stale"}])
def test_a_regression_checks_its_settings(bad: dict) -> None:
    with pytest.raises(BadInput, match=next(iter(bad))):
        Regression(Adam(), **bad)


# --- under the names of the papers ------------------------------------------------------------------------------------

PARTS = (
    Particles(torch.randn(64, 2, generator=rng(8)) + 3),
    StandardNormal(2),
    lambda: nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)),
    lambda: nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1)),
)


@pytest.mark.parametrize("name", ["w1_fe", "wgan_gp", "wgan_lp", "w2_fe"])
def test_a_preset_moves_a_generator_to_the_data(name: str) -> None:
    flow = presets.PRESETS[name](*PARTS, num_steps=60, batch=64, lr=(5e-3, 1e-2))
    solution = flow.solve()
    centre = PARTS[0].x.mean(0)
    distance = lambda rho: float((rho.draw(200, rng(9)).x.mean(0) - centre).norm())  # noqa: E731
    assert distance(solution.measure) < 0.8 * distance(flow.initial.start(rng(1)))
    assert {"regression/realised", "critic/objective", "flow/dissipation"} <= solution.history[-1].keys()


def test_presets_have_the_settings_of_their_papers() -> None:
    w1, gp, lp, w2 = (presets.PRESETS[name](*PARTS) for name in ("w1_fe", "wgan_gp", "wgan_lp", "w2_fe"))
    assert isinstance(w1.functional, W1)
    assert (w1.solver.estimator.iters, w1.num_steps, w1.step_size, w1.solver.batch) == (5, 5000, 1.0, 512)
    assert w1.initial.regression == Regression(Adam(1e-4, (0.9, 0.999)), 3, 512)
    for flow, kind in ((gp, "gp"), (lp, "lp")):
        assert flow.solver.estimator.penalty.kind == kind
        assert flow.initial.regression == Regression(Adam(1e-4, (0.0, 0.9)), 1, 64)
    assert Critic.penalties(w2.solver.estimator, w2.functional) == []
    assert w2.functional.c == 0.5


@pytest.mark.parametrize(
    ("name", "option"), [("wgan_gp", "persistent"), ("wgan_lp", "penalty"), ("w2_fe", "penalty"), ("otm", "divergence")]
)
def test_an_option_that_a_preset_sets_itself_is_refused(name: str, option: str) -> None:
    with pytest.raises(TypeError, match=rf"{name}\(\) .*'{option}'"):
        presets.PRESETS[name](*PARTS, **{option: 3})
