"""What is looked at before the first update of a flow."""

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from wgflow.core.errors import BadInput, Incompatible, WgflowError
from wgflow.core.instead import article
from wgflow.core.parts import own_parts
from wgflow.core.placing import tensors_in
from wgflow.core.rules import resolved
from wgflow.driver.callbacks import Callback
from wgflow.driver.compatibility import same_points
from wgflow.driver.run import Run
from wgflow.driver.undefined import nonfinite_entry, outside
from wgflow.solvers import State

_BEGUN = "_begun_with"
_LOOKED_AHEAD = 10_000
"""Time steps whose sizes are asked for before the first one."""


def check_start(run: Run) -> None:
    """Refuse a run whose start, parts or steps are not what a flow needs.

    Raises
    ------
    BadInput
        For numbers that are none, a start outside of the support, and steps that reach what a schedule or a target does not have.
    Incompatible
        When the points of the flow and of a target differ in kind.
    """
    k = run.state.k
    if any(isinstance(part, Tensor) and part.requires_grad for part in own_parts(run.initial)):
        raise BadInput(
            "solve passes no gradients back to its start, and a tensor of it requires them: give x.detach(). What can be differentiated "
            "is said in the documentation, under 'Derivatives of a flow'"
        )
    if k > run.num_steps:
        raise BadInput(f"num_steps={run.num_steps} counts all time steps, and the state passed has completed {k}")
    init = type(run.solver).init
    kind = resolved(inspect.get_annotations(init).get("return", State), init.__module__)
    if isinstance(kind, type) and not isinstance(run.state, kind):
        raise BadInput(
            f"{type(run.solver).__name__} goes on from {article(kind)}, not from {article(type(run.state))}: start from its measure, "
            "solve(F, solver, state.measure, ...)"
        )
    end = _end(run)
    for target in run.F.targets():
        reason = same_points(target, run.state.measure)
        if reason is not None:
            raise Incompatible(reason)
        if k < run.num_steps and math.isfinite(end):
            with _reached(
                run, f"{type(target).__name__}.at({run.num_steps - 1}, {end:g})"
            ):  # a law that there is until some time refuses a later one
                target.at(run.num_steps - 1, end)
    where = run.nonfinite()
    if where is not None:
        first = nonfinite_entry(run.state, "state") or "in a network or an optimizer"
        raise BadInput(f"the flow cannot start: {where} has entries that are not finite, the first is {first}")
    for part, name in ((run.F, "F"), (run.solver, "solver"), (run.state.measure, "initial")):
        entry = nonfinite_entry(part, name)
        if entry is not None:
            raise BadInput(f"the flow cannot start: {entry} is not finite")
    if k < run.num_steps:
        reason = outside(run.F.at(k, run.state.t), run.solver, run.state.measure)
        if reason is not None:
            raise BadInput(f"the flow cannot start: {reason}")


def check_unmoved(state: State) -> None:
    """Refuse a state whose generator, or whose tensors in place, an earlier flow that went on from it has taken further."""
    numbers = state.rng.get_state().numpy().tobytes()
    versions = [None if t.is_inference() else t._version for t in tensors_in(state)]
    begun = vars(state).setdefault(_BEGUN, (numbers, versions))
    differ = {"random numbers": numbers != begun[0], "networks or other tensors": versions != begun[1]}
    moved = [name for name, other in differ.items() if other]
    if moved:
        raise BadInput(
            f"state: an earlier flow has gone on from it and has moved its {' and its '.join(moved)}, so it is no longer that of time "
            f"{state.t:g}. Go on from the later solution's state, or give each flow a copy.deepcopy(state) made before the first one"
        )


def handed_on(state: State) -> None:
    """Let a flow go on from the state that one has ended with, also where that is the one it began with."""
    vars(state).pop(_BEGUN, None)


def _end(run: Run) -> float:
    """Return the time at which the steps end, whose sizes are asked for; infinite where they follow from the run, or are too many."""
    k, t = run.state.k, run.state.t
    if not callable(run.step_size):
        return t + (run.num_steps - k) * run.h(k)
    sizes = [run.h(k)] if k < run.num_steps else []
    with _reached(run, "step_size"):
        sizes += [run.h(step) for step in range(k + 1, min(run.num_steps, k + _LOOKED_AHEAD))]
    known = k + len(sizes) == run.num_steps and not isinstance(run.step_size, Callback)
    return t + sum(sizes) if known else math.inf


@contextmanager
def _reached(run: Run, what: str) -> Iterator[None]:
    """Say of what fails at a later step which number of steps leads there."""
    try:
        yield
    except Exception as error:
        why = str(error) if isinstance(error, WgflowError) else f"{what} fails, {type(error).__name__}: {error}"
        raise BadInput(
            f"{why}. The last one of num_steps={run.num_steps} is step {run.num_steps - 1}: ask for no more steps than there are, also "
            "where a callback may stop the run before"
        ) from error
