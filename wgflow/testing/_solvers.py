"""What a solver owes its callers."""

import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wgflow import (
    KL,
    W1,
    Adam,
    Callback,
    Chain,
    Checkpoint,
    Functional,
    Grid,
    MovingMeasure,
    Particles,
    PotentialEnergy,
    Pushforward,
    Regression,
    Solver,
    StandardNormal,
    State,
    Unnormalised,
    solve,
    why_not,
)
from wgflow.core.errors import BadInput, Incompatible
from wgflow.core.rng import generator, global_generators
from wgflow.maps import Affine
from wgflow.storage.state import load_state, state_dict, tensors
from wgflow.testing._arguments import refuses_wrong_arguments
from wgflow.testing._checks import Suite, close
from wgflow.testing._worlds import global_state_kept, points, through_a_file, untouched


@dataclass(frozen=True)
class SolverCase:
    """A solver with a functional and a measure that it accepts, and the steps to take."""

    solver: Solver
    F: Functional
    measure: MovingMeasure
    step_size: float = 0.3
    num_steps: int = 3

    @classmethod
    def of(
        cls,
        solver: Solver,
        F: Functional | None = None,
        measure: MovingMeasure | None = None,
        step_size: float = 0.3,
        num_steps: int = 3,
    ) -> "SolverCase":
        """Return the case of a solver; a functional and a measure that it accepts are found, where none are given.

        Raises
        ------
        BadInput
            When it accepts none of the simple ones.
        Incompatible
            When it refuses those that are given.
        """
        functionals = _functionals() if F is None else [F]
        measures = _measures() if measure is None else [measure]
        found = [(G, m) for m in measures for G in functionals if why_not(G, solver, m) is None]
        if found:
            return cls(solver.suited(found[0][1]), *found[0], step_size, num_steps)
        reason = why_not(functionals[0], solver, measures[0])
        if F is not None and measure is not None:
            raise Incompatible(str(reason))
        simple = [w for w, given in (("functionals, F=...", F), ("measures, measure=...", measure)) if given is None]
        raise BadInput(
            f"{type(solver).__name__} accepts none of the simple {' and '.join(simple)}: give what it accepts. Of the first pair it says: "
            f"{reason}"
        )

    def run(self, **options: Any) -> State:
        """Return the state at the end of a flow."""
        return self.flow(**options).state

    def flow(self, **options: Any) -> Any:
        """Return a flow."""
        given = {"step_size": self.step_size, "num_steps": self.num_steps} | options
        return solve(self.F, self.solver, self.measure, **given)


def _functionals() -> list[Functional]:
    banana = lambda x: -0.5 * (x[:, 0].square() + (x[:, 1] - x[:, 0].square() / 4).square())  # noqa: E731
    return [
        KL(Unnormalised(banana, 2)),
        quadratic(),
        KL(StandardNormal(2, dtype=torch.float32), 64),
        W1(StandardNormal(2, dtype=torch.float32), 64),
    ]


def _measures() -> list[MovingMeasure]:
    x = points((2,), 6, seed=1, dtype=torch.float32)
    normal = StandardNormal(2, dtype=torch.float32)
    net = nn.Linear(2, 2, dtype=torch.float32)
    follow = Regression(Adam(1e-2), batch=8)
    return [
        Particles(x, torch.randn(6, generator=generator(2), dtype=torch.float32)),
        Particles(x),
        Pushforward(normal, net, regression=follow),
        Chain(normal, Affine(2).float()),
        Grid.of(normal, low=(-4, -4), high=(4, 4), shape=(8, 8), dtype=torch.float32),
    ]


SOLVER = Suite[SolverCase](double=False)


@SOLVER.check
def steps_count_time(case: SolverCase) -> None:
    """Time step k takes at most updates(k) updates, after which k has grown by 1 and t by the step size; all is finite."""
    solver = case.solver
    with global_generators(0, torch.device("cpu")):
        state = solver.init(case.F, case.measure, generator(0))
        for k in range(case.num_steps):
            budget = solver.updates(k)
            for done in range(budget):
                assert state.k == k, f"k is {state.k} after {done} updates of step {k}"
                state, info = solver.update(case.F, state, case.step_size)
                _numbers(info)
                if state.k != k:
                    break
            assert state.k == k + 1, f"k is {state.k} after the {budget} updates that step {k} takes by updates({k})"
            close(state.t, (k + 1) * case.step_size, f"the time after {k + 1} steps is wrong", rtol=1e-12)
    counted, total = solver.updates_before(case.num_steps), sum(map(solver.updates, range(case.num_steps)))
    assert counted == total, f"updates_before({case.num_steps}) is {counted}, and the sum of updates(k) is {total}"
    _finite(state)


def _numbers(info: Any) -> None:
    assert isinstance(info, dict), f"update returns a {type(info).__name__} beside the state, expected a dictionary"
    for name, value in info.items():
        plain = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.dim() == 0)
        assert plain, f"update reports {name!r} = {type(value).__name__}, expected a number or a 0-d tensor"


def _finite(state: State) -> None:
    saved = tensors(state_dict(state.measure))
    assert all(bool(torch.isfinite(t).all()) for t in saved if t.is_floating_point()), (
        "the measure after the steps is not finite"
    )


def resumes(case: SolverCase, after: Iterable[int]) -> State:
    """Hold a solver to going on from a saved state as if nothing had happened, bit for bit; returns its last state.

    After each of these numbers of updates the state is written, read into one that was initialized with another seed, and
    updated to the end.
    """
    F, solver, h, chosen = case.F, case.solver, case.step_size, set(after)

    def rest(state: State) -> Iterator[State]:
        while state.k < case.num_steps:
            state, _ = solver.update(F, state, h)
            yield state

    with global_generators(0, torch.device("cpu")):
        first = solver.init(F, case.measure, generator(0))
        saved = {0: through_a_file(first)} if 0 in chosen else {}
        for done, state in enumerate(rest(first), 1):
            if done in chosen and state.k < case.num_steps:
                saved[done] = through_a_file(state)
        for number, plain in saved.items():
            *_, resumed = rest(load_state(solver.init(F, case.measure, generator(99)), plain))
            same(resumed, state, f"a flow that was saved after {number} of {done} updates, and went on, is another one")
    assert saved, "no state was saved: the flow ended before"
    return state


def same(ours: State, theirs: State, claim: str) -> None:
    """Raise ``AssertionError`` unless two states are equal bit for bit."""
    a, b = (tensors(state_dict(s)) for s in (ours, theirs))
    assert (ours.k, ours.t) == (theirs.k, theirs.t), (
        f"{claim}: at step {ours.k}, time {ours.t}, in the place of {theirs.k}, {theirs.t}"
    )
    assert len(a) == len(b), f"{claim}: it holds {len(a)} tensors in the place of {len(b)}"
    for s, t in zip(a, b, strict=True):
        if not torch.equal(s, t):
            off = float((s.double() - t.double()).abs().max()) if s.shape == t.shape else math.inf
            raise AssertionError(f"{claim}: a tensor of shape {tuple(t.shape)} in its state is off by {off:.2g}")


@SOLVER.check
def resumes_after_every_update(case: SolverCase) -> None:
    """Saved after any update and loaded into a state of another seed, a flow goes on bit for bit as it would have."""
    most = sum(map(case.solver.updates, range(case.num_steps)))
    resumes(case, range(most) if most <= 30 else (0, 1, 2, 5, 10, most // 2, most - 1))


class _Interrupted(Exception):
    pass


class _InterruptAt(Callback):
    """Counts updates, and stops the process, as it were, after so many."""

    def __init__(self, update: int) -> None:
        self.update, self.seen = update, 0

    def on_update(self, run: Any, info: Any) -> None:
        """Stop when the time has come."""
        self.seen += 1
        if run.updates == self.update:
            raise _Interrupted


@SOLVER.check
def resumes_through_a_checkpoint(case: SolverCase) -> None:
    """Interrupted and called again with the same checkpoint, solve returns the state and history of a flow in one go."""
    counter = _InterruptAt(-1)
    whole = case.flow(callbacks=[counter])
    total = counter.seen
    for update in sorted({2, total // 2, total - 1} & set(range(1, total))):
        with tempfile.TemporaryDirectory() as folder:
            place: dict[str, Any] = {"checkpoint": Checkpoint(Path(folder) / "run", every_updates=1)}
            with suppress(_Interrupted):
                case.flow(callbacks=[_InterruptAt(update)], **place)
            resumed = case.flow(**place)
        same(
            resumed.state, whole.state, f"a flow that was interrupted after {update} of {total} updates is another one"
        )
        untimed = [[{**row, "seconds": 0} for row in flow.history] for flow in (resumed, whole)]
        assert untimed[0] == untimed[1], (
            f"a flow that was interrupted after {update} of {total} updates has another history"
        )


@SOLVER.check
def the_seed_decides_everything(case: SolverCase) -> None:
    """The same seed gives the same flow bit for bit, whatever the global generators are at, and they are not used."""
    torch.manual_seed(1)
    one = case.run(seed=5)
    torch.manual_seed(2)
    ends: list[State] = []
    global_state_kept(lambda: ends.append(case.run(seed=5)), "a flow")
    same(ends[0], one, "two flows of one seed differ")


@SOLVER.check
def inputs_are_left_as_they_were(case: SolverCase) -> None:
    """Solver, functional and measure are as they were after a flow: settings, tensors, networks and their modes."""
    held = {"solver": case.solver, "F": case.F, "measure": case.measure}
    untouched(held, lambda: case.flow(num_steps=2), "a flow changes what it is given")


def quadratic() -> PotentialEnergy:
    """Return half of the squared distance from the origin, with its closed form of an implicit step."""
    return PotentialEnergy(lambda x: x.square().sum(1) / 2, proximal=lambda x, h: x / (1 + h))


@SOLVER.check
def wrong_arguments_are_refused(case: SolverCase) -> None:
    """Nothing but an error of wgflow leaves the constructor, and of values of every kind most are refused."""
    refuses_wrong_arguments(case.solver)
