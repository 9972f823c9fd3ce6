"""What functions of the user return: shapes, gradients and numbers, whoever asks for them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from wgflow import (
    JKO,
    KL,
    Autograd,
    BadInput,
    Chain,
    Evaluate,
    EvaluationNoise,
    ForwardEuler,
    Functional,
    InteractionEnergy,
    Langevin,
    LearnedScore,
    MetropolisLangevin,
    Particles,
    PotentialEnergy,
    Proximal,
    ProximalScore,
    Pushforward,
    Smoothed,
    Solver,
    SquaredKSD,
    StandardNormal,
    Stein,
    Unnormalised,
    solve,
)
from wgflow.kernels import RBF
from wgflow.maps import Affine, TransportMap
from wgflow.measures import Grid

CLOUD = Particles(torch.linspace(-1, 1, 12, dtype=torch.float64).view(6, 2))
SUMMED: dict[str, Callable[[Tensor], Tensor]] = {
    "over the batch as well": lambda x: -x.square().sum(),
    "over the batch": lambda x: -x.square().sum(0),
    "not at all": lambda x: -x.square(),
    "with an axis left": lambda x: -x.square().sum(1, keepdim=True),
}


def go(F: Functional, solver, start=CLOUD) -> None:
    solve(F, solver, start, step_size=0.1, num_steps=1)


WHO = {
    "langevin": lambda f: go(KL(Unnormalised(f, 2)), Langevin()),
    "mala": lambda f: go(KL(Unnormalised(f, 2)), MetropolisLangevin()),
    "svgd": lambda f: go(KL(Unnormalised(f, 2)), ForwardEuler(Stein(RBF(1.0)))),
    "proximal score": lambda f: go(KL(Unnormalised(f, 2)), ForwardEuler(ProximalScore(0.1))),
    "a normaliser": lambda f: go(
        KL(Unnormalised(lambda x: -x.square().sum(1), 2)), ForwardEuler(ProximalScore(0.1, log_normaliser=f))
    ),
    "stein discrepancy": lambda f: go(SquaredKSD(Unnormalised(f, 2), RBF(1.0)), ForwardEuler()),
    "potential": lambda f: go(PotentialEnergy(f), ForwardEuler()),
    "potential by noise": lambda f: go(
        PotentialEnergy(f) + 1.0 * KL(StandardNormal(2, dtype=torch.float64)), Langevin()
    ),
    "chain": lambda f: go(KL(Unnormalised(f, 2)), JKO(iters=1, batch=8), Chain(StandardNormal(2), lambda: Affine(2))),
    "grid": lambda f: Grid.of(f, [-1.0, -1.0], [1.0, 1.0], [3, 3]),
}


@pytest.mark.parametrize("how", SUMMED)
@pytest.mark.parametrize("who", WHO)
def test_a_function_summed_over_the_wrong_axis_is_refused_by_everybody(who: str, how: str) -> None:
    with pytest.raises(BadInput, match=r"must map \(\d+, 2\) to \(\d+,\), one number a point; it returned"):
        WHO[who](SUMMED[how])


def test_the_message_says_which_axis() -> None:
    for how, advice in (
        ("over the batch as well", r"sum\(1\), not over the points"),
        ("with an axis left", r"squeeze\(-1\)"),
        ("not at all", r"Reduce \(2,\), the axes of a point"),
    ):
        with pytest.raises(BadInput, match=advice):
            WHO["potential"](SUMMED[how])


def test_as_many_points_as_coordinates_hide_nothing() -> None:
    """(2, 2) summed over either axis has shape (2,): the function is asked for three points as well."""
    start = Particles(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    with pytest.raises(BadInput, match=r"must map \(3, 2\) to \(3,\)"):
        go(PotentialEnergy(lambda x: x.square().sum(0)), ForwardEuler(), start)
    with pytest.raises(BadInput, match="an interaction must map"):
        go(InteractionEnergy(lambda z: z.square().sum(1)), ForwardEuler(), start)
    go(PotentialEnergy(lambda x: x.square().sum(1)), ForwardEuler(), start)
    go(InteractionEnergy(lambda z: z.square().sum(-1)), ForwardEuler(), start)


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda x: x.detach().square().sum(1), "does not depend on the points differentiably"),
        (lambda x: torch.as_tensor(x.detach().numpy() ** 2).sum(1), "does not depend on the points differentiably"),
        (lambda x: (x.detach().numpy() ** 2).sum(1), "it returned <array of shape"),
        (lambda x: x.square().sum(1).long(), "floating-point numbers, got torch.int64"),
        (lambda x: 1.0, "it returned 1.0. Return a tensor"),
        (lambda x: None, "it returned None"),
    ],
)
def test_a_potential_without_a_gradient_is_refused(f: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        go(PotentialEnergy(f) + PotentialEnergy(lambda x: x.sum(1)), ForwardEuler())


def test_a_constant_has_the_gradient_0() -> None:
    flow = solve(PotentialEnergy(lambda x: x.new_ones(len(x))), ForwardEuler(), CLOUD, step_size=0.1, num_steps=2)
    assert torch.equal(flow.measure.x, CLOUD.x)


def _halves(x: Tensor) -> Tensor:
    x.detach().mul_(0.5)
    return x


@pytest.mark.parametrize(
    ("F", "solver"),
    [
        (PotentialEnergy(lambda x: _halves(x).square().sum(1)), ForwardEuler()),
        (KL(Unnormalised(lambda x: -_halves(x).square().sum(1), 2)), Langevin()),
        (KL(Unnormalised(lambda x: -_halves(x).square().sum(1), 2)), MetropolisLangevin()),
        (PotentialEnergy(lambda x: x.square().sum(1), proximal=lambda x, h: _halves(x)), Proximal()),
        (
            KL(StandardNormal(2)),
            ForwardEuler(LearnedScore(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2)))),
        ),
    ],
)
def test_a_function_that_changes_the_points_in_place_is_refused(F: Functional, solver: Solver) -> None:
    start = torch.ones(3, 2)
    with pytest.raises(BadInput, match="changes in place what it is given"):
        solve(F, solver, Particles(start), step_size=0.1, num_steps=2)
    assert torch.equal(start, torch.ones(3, 2))


def test_a_functional_must_be_one_number() -> None:
    class Values(Functional):
        def value(self, rho):
            return rho.x.square().sum(1)

        def freeze(self, rng):
            return self

        def at(self, k, t):
            return self

    with pytest.raises(BadInput, match=r"Values.value must return a 0-d tensor; got shape \(6,\)"):
        go(Values(), ForwardEuler())


def test_maps_networks_and_proximal_maps_keep_the_number_of_points() -> None:
    class Broadcast(TransportMap):
        has_logdet = True

        def __init__(self) -> None:
            super().__init__(2)
            self.shift = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return x + self.shift

        def with_logdet(self, x, rng=None):
            return self(x), self.shift.sum()  # one number for all points

    target = KL(Unnormalised(lambda x: -x.square().sum(1), 2))
    with pytest.raises(BadInput, match=r"Broadcast must map .* with log-determinants \(8,\); it returned"):
        go(target, JKO(iters=1, batch=8), Chain(StandardNormal(2), Broadcast))

    class Fewer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x):
            return self.linear(x)[:1]

    with pytest.raises(BadInput, match=r"must map \d+ inputs to as many points"):
        go(PotentialEnergy(lambda x: x.square().sum(1)), JKO(iters=1, batch=8), Pushforward(StandardNormal(2), Fewer))
    with pytest.raises(BadInput, match="a proximal map must keep the shape"):
        go(PotentialEnergy(lambda x: x.square().sum(1), proximal=lambda x, h: x[:1]), Proximal())
    with pytest.raises(BadInput, match="a score network must keep the shape"):
        go(
            KL(Unnormalised(lambda x: -x.square().sum(1), 2)),
            ForwardEuler(LearnedScore(lambda: nn.Linear(2, 1).double())),
        )


@pytest.mark.parametrize("bad", [math.nan, -1.0, "a", None, torch.ones(2)])
def test_numbers_of_a_step_are_numbers(bad: object) -> None:
    V = PotentialEnergy(lambda x: x.square().sum(1))
    with pytest.raises(BadInput, match=r"step_size=.* at step 0: expected a positive number"):
        solve(V, ForwardEuler(), CLOUD, step_size=lambda k: bad, num_steps=1)
    with pytest.raises(BadInput, match=r"standard deviation=.* at step 0"):
        EvaluationNoise(Autograd(), lambda k: bad)
    with pytest.raises(BadInput, match=r"standard deviation=.* at step 0"):
        Smoothed(StandardNormal(2), lambda k: bad).draw(3, torch.Generator())


@pytest.mark.parametrize("report", [1.0, None, [("a", 1.0)], {"a": "b"}, {1: 1.0}, {"a": torch.ones(2)}])
def test_a_metric_reports_numbers_by_name(report: object) -> None:
    with pytest.raises(BadInput, match="must return a dictionary of numbers by name"):
        solve(
            PotentialEnergy(lambda x: x.square().sum(1)),
            ForwardEuler(),
            CLOUD,
            step_size=0.1,
            num_steps=1,
            callbacks=[Evaluate([lambda rho, rng: report])],
        )
