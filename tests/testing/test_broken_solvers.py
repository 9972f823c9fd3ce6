"""Every check of a solver catches one that is broken on purpose."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

import wgflow as wg
from wgflow.solvers import State
from wgflow.testing import checks_for
from wgflow.testing._solvers import SOLVER


def solver(update=lambda right, F, state, h: right(F, state, h), made=(), **held):
    """Return forward Euler with another update, a function of the right one and its arguments."""
    held["update"] = lambda self, F, state, h: update(super(Broken, self).update, F, state, h)
    Broken = type("Broken", (wg.ForwardEuler,), held)
    return Broken(*made)


@dataclass(frozen=True)
class Hidden(wg.ForwardEuler):
    """It keeps a momentum where no checkpoint looks."""

    kept: dict = field(default_factory=dict)

    def update(self, F, state, h):
        before = state.measure.x
        if state.k == 0:
            self.kept.clear()
        new, info = super().update(F, state, h)
        new = replace(new, measure=replace(new.measure, x=new.measure.x + self.kept.get("last", 0.0)))
        self.kept["last"] = 0.5 * (new.measure.x - before)
        return new, info


class Lossy:
    """A momentum that saves nothing."""

    def __init__(self):
        self.value = 0.0

    def state_dict(self):
        return {}

    def load_state_dict(self, saved):
        pass


@dataclass(eq=False)
class Moving(State):
    momentum: Lossy = field(default_factory=Lossy)


@dataclass(frozen=True)
class Forgetful(wg.ForwardEuler):
    """Its momentum is in the state, and not in the saved one."""

    def init(self, F, measure, rng):
        s = super().init(F, measure, rng)
        return Moving(s.measure, s.k, s.t, s.rng, s.estimator)

    def update(self, F, state, h):
        new, info = super().update(F, state, h)
        x = new.measure.x + state.momentum.value
        state.momentum.value = 0.5 * (x - state.measure.x)
        return replace(new, measure=replace(new.measure, x=x)), info


@dataclass(frozen=True)
class Careless(wg.ForwardEuler):
    scale: Any = 1.0

    def __post_init__(self):
        assert self.scale**2 > 0


def noisy(right, F, state, h):
    new, info = right(F, state, h)
    return replace(new, measure=replace(new.measure, x=new.measure.x + np.random.default_rng().random())), info


def sticky(right, F, state, h):
    """Steps of at most one hundredth: halving the step changes little."""
    new, info = right(F, state, min(h, 0.01))
    return replace(new, t=state.t + h), info


BROKEN = {
    "steps_count_time": (
        solver(lambda right, F, state, h: (replace(right(F, state, h)[0], t=state.t + 2 * h), {})),
        "the time after 1 steps is wrong: found 0.6 in the place of 0.3",
    ),
    "resumes_after_every_update": (
        Forgetful(),
        r"a flow that was saved after \d of 3 updates, and went on, is another one: .* is off by",
    ),
    "resumes_through_a_checkpoint": (Forgetful(), "a flow that was interrupted after 2 of 3 updates is another one"),
    "the_seed_decides_everything": (solver(noisy), "two flows of one seed differ: a tensor of shape"),
    "inputs_are_left_as_they_were": (Hidden(), "a flow changes what it is given: solver.kept"),
    "order_shows_against_the_exact_flow": (
        solver(order=2),
        r"order = 2 is declared, and the error to the exact flow on the double well .* shows 0.9\d, 0.9\d",
    ),
    "order_shows_between_its_own_steps": (
        solver(sticky, order=1),
        "order = 1 is declared, and the effect of halving the step on the double well",
    ),
    "wrong_arguments_are_refused": (Careless(), r"Careless\(scale='a'\) raises TypeError"),
}
MORE = {
    "steps_count_time": (
        solver(lambda right, F, state, h: (replace(right(F, state, h)[0], k=state.k), {})),
        r"k is 0 after the 1 updates that step 0 takes by updates\(0\)",
    ),
}


def test_there_is_a_broken_solver_for_every_check():
    assert set(BROKEN) == set(SOLVER.checks)


@pytest.mark.parametrize(("name", "case"), [*BROKEN.items(), *MORE.items()])
def test_a_broken_solver_is_caught(name, case):
    broken, said = case
    check = next(c for c in checks_for(broken) if c.name == name)
    with pytest.raises(AssertionError, match=said):
        check()


def test_what_a_solver_refuses_is_said():
    with pytest.raises(wg.Incompatible, match=r"KL.value needs the density"):
        wg.testing.check_solver(
            wg.ForwardEuler(), F=wg.KL(wg.StandardNormal(2)), measure=wg.Particles(torch.zeros(3, 2))
        )
    with pytest.raises(
        wg.BadInput,
        match=r"accepts none of the simple functionals, F=... and measures, measure=...: give what it accepts",
    ):
        wg.testing.check_solver(solver(refuses=lambda self, F: "no. Use another."))

    class Bare(wg.Solver):
        def update(self, F, state, h):
            return state, {}

    with pytest.raises(wg.BadInput, match=r"Bare has no estimator: .* estimator: Estimator"):
        wg.testing.check_solver(Bare())
