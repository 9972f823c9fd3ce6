"""Adams–Bashforth: the weights of its steps, for points and for networks, whose past is a copy."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from _exact import double, mlp, rng
from torch import Tensor, nn

from wgflow import (
    SGD,
    W1,
    Adam,
    AdamsBashforth,
    Annealed,
    BoundedEuler,
    Chain,
    Critic,
    ForwardEuler,
    Functional,
    Particles,
    PotentialEnergy,
    Pushforward,
    Regression,
    SquaredW2,
    StandardNormal,
    maps,
    solve,
    why_not,
)
from wgflow.solvers.explicit import Explicit

WELL = PotentialEnergy(lambda x: (x.square() - 1).square().sum(1) / 4)
START = Particles(double([[0.1], [-0.6], [2.0]]))


def by_hand(x: Tensor, steps: list[float]) -> Tensor:
    v = lambda x: -x * (x.square() - 1)  # noqa: E731
    before, last = None, 0.0
    for h in steps:
        now = v(x)
        ahead = 0.0 if before is None else h / (2 * last)
        x = x + h * (now + ahead * (now - (now if before is None else before)))
        before, last = now, h
    return x


@pytest.mark.parametrize("steps", [[0.1] * 6, [0.1, 0.2, 0.05, 0.05, 0.1]], ids=["equal", "unequal"])
def test_the_steps_are_those_of_the_formula(steps: list[float]) -> None:
    end = solve(WELL, AdamsBashforth(), START, step_size=lambda k: steps[k], num_steps=len(steps)).measure.x
    torch.testing.assert_close(end, by_hand(START.x, steps), rtol=0, atol=1e-14)


class Table(nn.Module):
    """Free points, one a latent: with the rate of plain descent equal to their number every step is realised."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.y = nn.Parameter(y.clone())

    def forward(self, z: Tensor) -> Tensor:
        return self.y + 0 * z


@pytest.mark.parametrize("control", [None, "naive"])
def test_a_network_that_realises_every_step_follows_the_points(control: str | None) -> None:
    net = Pushforward(START, Table(START.x), regression=Regression(SGD(3.0), batch=3, control=control))
    one = solve(WELL, AdamsBashforth(), net, step_size=0.1, num_steps=6).measure.map.y.detach()
    two = solve(WELL, AdamsBashforth(), START, step_size=0.1, num_steps=6).measure.x
    torch.testing.assert_close(one, two, rtol=0, atol=1e-14)


@pytest.mark.parametrize("solver", [ForwardEuler(), BoundedEuler(), AdamsBashforth()])
def test_a_control_that_asks_again_leaves_the_dissipation_that_of_the_start(solver: Explicit) -> None:
    F = 0.5 * SquaredW2(Particles(torch.zeros_like(START.x)))
    net = mlp(1, 1, seed=3)
    moving = Pushforward(START, net, regression=Regression(SGD(0.5), 4, batch=3, control="naive"))
    first = solve(F, solver, moving, step_size=0.5, num_steps=1).history[-1]
    assert first["flow/dissipation"] == pytest.approx(float(net(START.x).square().mean().detach()), rel=1e-12)


def test_the_velocity_before_is_that_of_the_critic_and_the_generator_before() -> None:
    """By hand, with copies; with references in their place the change would be zero and the step Euler's."""
    F, h = W1(Particles(torch.randn(20, 2, generator=rng(1)).double() + 2), batch=20), 0.5
    latent = Particles(torch.randn(20, 2, generator=rng(2)).double())
    rho = Pushforward(latent, mlp(2, 2, seed=3), regression=Regression(SGD(0.5), batch=20))
    solver = AdamsBashforth(Critic(mlp(2, seed=4), Adam(1e-2), iters=3), batch=20)
    state = solver.init(F, rho, rng(5))
    state, _ = solver.update(F, state, h)  # Euler's
    old = [mlp(2, 2, seed=3), state.earlier.estimator.net]  # the law before it and the critic it went by
    assert all(map(torch.equal, old[0].state_dict().values(), state.earlier.measure.map.state_dict().values()))
    kept = [p.clone() for p in old[1].parameters()]

    def velocity(critic: nn.Module, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(critic(x).sum(), x)[0]

    generator, z = [p.clone() for p in state.measure.map.parameters()], latent.x
    y = state.measure.map(z).detach()
    before = velocity(old[1], old[0](z))
    state, _ = solver.update(F, state, h)
    now = velocity(state.estimator.net, y)
    assert not torch.allclose(now, before)
    target = y + h * (1.5 * now - 0.5 * before)
    twin = mlp(2, 2, seed=3)
    with torch.no_grad():
        for p, q in zip(twin.parameters(), generator, strict=True):
            p.copy_(q)
    loss = (twin(z) - target).square().sum(1).mean() / 2
    gradients = torch.autograd.grad(loss, list(twin.parameters()))
    for p, q, g in zip(state.measure.map.parameters(), twin.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.detach(), (q - 0.5 * g).detach(), rtol=0, atol=1e-12)
    assert not all(
        map(torch.equal, kept, state.earlier.estimator.net.parameters())
    )  # it is the critic of this step now
    assert state.earlier.estimator.net is not state.estimator.net


def test_the_first_step_is_one_of_euler() -> None:
    one, two = (solve(WELL, s, START, step_size=0.2, num_steps=1).measure.x for s in (AdamsBashforth(), ForwardEuler()))
    assert torch.equal(one, two)


@dataclass(frozen=True)
class Drawn(Functional):
    """A well whose place changes: x' = sin t - x."""

    t: float = 0.0

    def at(self, k: int, t: float) -> "Drawn":
        return replace(self, t=t)

    def value(self, rho: Particles) -> Tensor:
        return rho.mean((rho.x - math.sin(self.t)).square().sum(1)) / 2


@pytest.mark.parametrize("moves", ["points", "network"])
def test_the_order_is_two_where_the_functional_depends_on_time(moves: str) -> None:
    """Against x' = 2 (sin t - x): for a network the velocity before is that of the functional before."""
    net = Pushforward(START, Table(START.x), regression=Regression(SGD(3.0), batch=3))
    exact = (4 * math.sin(1) - 2 * math.cos(1)) / 5 + (START.x + 0.4) * math.exp(-2)
    errors = []
    for n in (40, 80):
        end = solve(2 * Drawn(), AdamsBashforth(), START if moves == "points" else net, step_size=1 / n, num_steps=n)
        x = end.measure.x if moves == "points" else end.measure.map.y.detach()
        errors.append(float((x - exact).abs().max()))
    assert 3.7 < errors[0] / errors[1] < 4.3, errors


def test_a_functional_that_changes_with_the_number_of_the_step_gives_a_network_the_velocities_of_points() -> None:
    F = Annealed(lambda s: s * PotentialEnergy(lambda x: x.square().sum(1)), lambda k: 0.7**k) + WELL
    net = Pushforward(START, Table(START.x), regression=Regression(SGD(3.0), batch=3))
    steps = [0.1, 0.2, 0.05, 0.05, 0.1]
    ends = [solve(F, AdamsBashforth(), s, step_size=lambda k: steps[k], num_steps=5).measure for s in (net, START)]
    torch.testing.assert_close(ends[0].map.y.detach(), ends[1].x, rtol=0, atol=1e-14)


def test_a_chain_is_refused() -> None:
    why = why_not(WELL, AdamsBashforth(), Chain(StandardNormal(1), lambda: maps.Affine(1)))
    assert why is not None
    assert "Use" in why
