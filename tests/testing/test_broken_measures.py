"""Every check of a measure catches one that is broken on purpose."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import wgflow as wg
from wgflow.measures.particles import ParticlesSuccessor
from wgflow.testing import checks_for
from wgflow.testing._measures import MEASURE


def measure(kind=wg.StandardNormal, made=(2,), **held):
    """Return a measure with other attributes; functions are called with the measure, the right method and its arguments."""
    for name, f in list(held.items()):
        if callable(f):
            held[name] = lambda self, *a, n=name, f=f, **k: f(self, getattr(super(Broken, self), n), *a, **k)
    Broken = type("Broken", (kind,), held)
    return Broken(*made)


def cloud(**held):
    return measure(wg.Particles, (torch.eye(2).repeat(4, 1).cumsum(0),), **held)


def successor(**held):
    """Return particles whose successor has other methods."""
    for name, f in list(held.items()):
        held[name] = lambda self, *a, n=name, f=f, **k: f(self, getattr(super(Broken, self), n), *a, **k)
    Broken = type("Broken", (ParticlesSuccessor,), held)
    return cloud(
        propose=lambda self, right, rng, last=None: Broken(right(rng, last).y),
        start=lambda self, right, rng: type(self)(right(rng).x),
    )


@dataclass(frozen=True, eq=False)
class Careless(wg.Measure):
    scale: Any
    event_shape = torch.Size((2,))

    def __post_init__(self):
        assert self.scale**2 > 0

    def draw(self, n, rng):
        return wg.StandardNormal(2).draw(n, rng)


@dataclass(frozen=True, eq=False)
class Shares(wg.Particles):
    """A start that moves the particles themselves."""

    def start(self, rng):
        with torch.no_grad():
            self.x.add_(1.0)
        return super().start(rng)


@dataclass(frozen=True, eq=False)
class Forgets(wg.Particles):
    """It saves the shape of its particles only."""

    def start(self, rng):
        return replace(self, x=self.x + torch.randn(self.x.shape, generator=rng, dtype=self.x.dtype))

    def state_dict(self):
        return {"n": len(self.x)}

    def load_state_dict(self, saved):
        pass


FAR = torch.eye(2).repeat(4, 1).cumsum(0)
BROKEN = {
    "draws_are_points_with_weights": (
        measure(draw=lambda self, right, n, rng: wg.Particles(right(n, rng).x[:, :1])),
        r"a draw has points of shape \(1,\), event_shape is \(2,\)",
    ),
    "the_generator_decides_the_draw": (
        measure(draw=lambda self, right, n, rng: wg.Particles(torch.randn(n, 2))),
        "it drew from the global generator; draw with the generator that is given",
    ),
    "a_measure_without_draws_says_so": (measure(can_draw=False), "can_draw is False, and draw returns points"),
    "log_prob_is_one_number_a_point": (
        measure(log_prob=lambda self, right, x: right(x)[:, None]),
        r"log_prob has shape \(9, 1\) at 9 points, expected \(9,\)",
    ),
    "score_is_the_gradient_of_log_prob": (
        measure(log_prob=lambda self, right, x: right(x) + x[:, 0].detach()),
        r"the gradient of log_prob is not that of its values: found .* at \[\d, 0\]",
    ),
    "draws_follow_the_density": (
        measure(log_prob=lambda self, right, x: right(1.1 * x)),
        r"draws do not follow log_prob: over 4000 draws .* of linear f in coordinate \d is -0.2\d+ ± 0.0\d+, expected 0",
    ),
    "atoms_are_those_it_counts": (
        measure(wg.Dataset, (FAR,), take=lambda self, right, index, rng: right(index[:1], rng)),
        "num_atoms is 8, and take returns 1 points",
    ),
    "later_steps_have_the_same_points": (
        measure(at=lambda self, right, k, t: wg.StandardNormal(3)),
        r"at\(k, t\) changes the shape of a point",
    ),
    "is_left_as_it_was": (Shares(FAR.clone()), r"the measure changes when a copy of it moves: .*x is"),
    "follows_a_move": (
        cloud(
            start=lambda self, right, rng: type(self)(right(rng).x),
            follow=lambda self, right, move, rng: right(lambda p: 2 * p.x - move(p), rng),
        ),
        "tracked points are not where a move by 1 puts them",
    ),
    "a_successor_starts_where_the_measure_is": (
        successor(couple=lambda self, right, rho, n, rng, latent="shared": (rho, replace(rho, x=self.y + 1))),
        "a new successor does not start where the measure is",
    ),
    "a_coupling_can_be_evaluated_again": (
        successor(
            couple=lambda self, right, rho, n, rng, latent="shared": (
                rho,
                replace(rho, x=self.y + torch.rand(self.y.shape)),
            )
        ),
        "a coupling that is evaluated again has other second points",
    ),
    "an_accepted_successor_is_the_measure": (
        successor(accept=lambda self, right, rho, snapshot="raw": replace(rho, x=rho.x + 1)),
        "the accepted measure is not the successor",
    ),
    "state_dict_restores_it": (Forgets(FAR), "a measure that was written and read draws other points"),
    "wrong_arguments_are_refused": (Careless(1.0), r"Careless\(scale='a'\) raises TypeError"),
}
MORE = {
    "follows_a_move": (
        measure(
            wg.Pushforward,
            (wg.StandardNormal(2), torch.nn.Linear(2, 2), None, None, 0.0, wg.Regression(wg.Adam(1e-2))),
            follow=lambda self, right, move, rng: right(lambda p: 2 * p.x - move(p), rng),
        ),
        "20 moves to one place bring the points no nearer to it",
    ),
    "the_generator_decides_the_draw": (
        measure(draw=lambda self, right, n, rng: right(n, torch.Generator().manual_seed(0))),
        "two draws in a row are the same: it does not use the generator",
    ),
    "draws_are_points_with_weights": (
        measure(draw=lambda self, right, n, rng: right(n + 1, rng)),
        r"draw\(1\) returns 2 points",
    ),
    "a_successor_starts_where_the_measure_is": (
        successor(parameters=lambda self, right: [self.y.detach()]),
        "a parameter of the successor does not require gradient",
    ),
}


def test_there_is_a_broken_measure_for_every_check():
    assert set(BROKEN) == set(MEASURE.checks)


@pytest.mark.parametrize(("name", "case"), [*BROKEN.items(), *MORE.items()])
def test_a_broken_measure_is_caught(name, case):
    broken, said = case
    check = next(c for c in checks_for(broken) if c.name == name)
    with pytest.raises(AssertionError, match=said):
        check()
