"""The one driver: it starts, advances, saves, checks and stops, and knows nothing of any method."""

import inspect
import math
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from wgflow._context import ordinary, outside_inference
from wgflow._crossings import report_crossings
from wgflow._fields import Count, PositiveOrInfinite, Whole, checked
from wgflow._inner import RESIDUAL, gathered
from wgflow._instead import article
from wgflow._interrupts import Interrupts
from wgflow._ledger import ADVICE, Ledger
from wgflow._outputs import number_of_step
from wgflow._ranks import anywhere
from wgflow._rng import Stream, generator, mixed
from wgflow._rules import resolved
from wgflow._state import first_nonfinite, state_dict
from wgflow._typing import Info
from wgflow._undefined import nonfinite_entry, outside, undefined
from wgflow.callbacks import Callback
from wgflow.checkpoint import Checkpoint
from wgflow.compatibility import same_points, why_not
from wgflow.errors import BadInput, CheckpointError, Diverged, Incompatible, NotConverged
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure
from wgflow.solution import MOST_SAVED, Save, Solution, size
from wgflow.solvers import Solver, State

StepSize = PositiveOrInfinite | Callable[[int], float]


_LOOKED_AHEAD = 10_000
"""Time steps whose sizes are asked for before the first one."""


@dataclass(eq=False)
class Run:
    """A solve in progress, as callbacks see it."""

    F: Functional
    solver: Solver
    state: State
    step_size: StepSize
    num_steps: int
    seed: int
    save: Save | None
    stream: Stream
    """What the global generators give, in the turns of this run."""
    initial: MovingMeasure | None = None
    """The law that it started from; None where it went on from a passed state."""
    ledger: Ledger = field(init=False)
    solution: Solution = field(init=False)
    metrics: dict[str, float] = field(default_factory=dict)
    advice: dict[str, str] = field(default_factory=dict)
    """What to do about solvers inside of the steps that miss their tolerance, by their names."""
    spacing: int = 1
    """Of the states saved, where nobody has said which: it doubles whenever they are too many."""
    resumed_from: str | None = None
    interrupts: Interrupts = field(default_factory=Interrupts)
    sound: tuple[MovingMeasure, float] = field(init=False)
    """The last law, with its time, after which everything that was looked at was finite."""

    STOP = "stop"

    def __post_init__(self) -> None:
        self.sound = (self.state.measure, self.state.t)
        self.solution = Solution(self.state.measure, self.state)
        self.ledger = Ledger(self.solver.updates_before(self.state.k))

    @property
    def updates(self) -> int:
        """Updates done since the start of the flow."""
        return self.ledger.updates

    @property
    def total_updates(self) -> int:
        """Updates of the whole flow."""
        return self.solver.updates_before(self.num_steps)

    def h(self, k: int) -> float:
        """Size of time step number ``k``; raises ``BadInput`` unless it is a positive number."""
        h = number_of_step(self.step_size, k, PositiveOrInfinite, "step_size")
        if math.isinf(h) and not self.solver.implicit:
            raise BadInput(
                f"step_size=inf: only an implicit solver has that limit, {type(self.solver).__name__} is explicit"
            )
        return h

    def nonfinite(self) -> str | None:
        """Name of a tensor of the state that is not finite, or None; waits for the device."""
        try:
            return first_nonfinite(state_dict(self.state))
        except CheckpointError:  # a measure without a plain form; it cannot be saved either
            return None

    def check(self) -> None:
        """Raise ``Diverged`` when a tensor of the state is not finite. All ranks must call it together."""
        where = self.nonfinite()
        if not anywhere(torch.tensor(where is not None, device=self.state.rng.device)):
            return
        where = where or "the state on another rank"
        raise Diverged(
            f"{where} is not finite after update {self.updates}, in time step {self.state.k}.",
            advice=ADVICE,
            term=where,
            step=self.state.k,
            update=self.updates,
        )

    def record(self, metrics: dict[str, float]) -> None:
        """Put numbers into the record of the time step in progress."""
        self.metrics |= {name: float(value) for name, value in metrics.items()}

    def keep(self, last: bool = False) -> None:
        """Save the state now, when it is its turn."""
        s, save = self.solution, self.save or Save()
        every = save.every * self.spacing
        if every and (self.state.k % every == 0 or last) and self.state.t not in s.times[-1:]:
            s.times.append(self.state.t)
            s.saved.append(save.fn(self.state))
            if self.save is None and not last and size(s.saved[-1]) * len(s.saved) > MOST_SAVED:
                del s.times[1::2], s.saved[1::2]
                self.spacing *= 2


@ordinary()
@checked
def solve(
    F: Functional,
    solver: Solver,
    initial: MovingMeasure,
    *,
    step_size: StepSize,
    num_steps: Count,
    seed: Whole = 0,
    save: Save | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint | None = None,
    state: State | None = None,
    log_every: Count = 50,
    throw: bool = True,
) -> Solution:
    r"""Run a Wasserstein gradient flow of ``F`` from ``initial``.

    Parameters
    ----------
    F : Functional
        What decreases.
    solver : Solver
        The time discretization.
    initial : MovingMeasure
        :math:`\rho_0`; it is copied, never changed. Its device is the device of the flow.
    step_size : float or callable
        :math:`h`, or a function of the step number :math:`k`. Infinite for the proximal-free limit of an implicit solver.
    num_steps : int
        Time steps in all, those of a resumed run or a passed ``state`` included.
    seed : int
        Everything random is a function of it: network initialisation, batches, latents. The global generators are
        left as they were found. Flows in several threads take turns, an update each, since networks draw from them.
    save : Save, optional
        What to keep of the states. By default particles of every step, and of every second, fourth, ... one where those
        would take more than 16 MB.
    callbacks : sequence of Callback
        Readers of the run: progress, logs, pictures, metrics.
    checkpoint : Checkpoint, optional
        Where to save everything; if the folder holds this run already, it goes on from there, bit for bit on a CPU.
        Ctrl-C and SIGTERM then wait for the end of the update and save first; a second one does not wait.
    state : State, optional
        Go on from the ``state`` of an earlier solution (consumed).
    log_every : int
        Updates between looks at what they report (``on_log``). The device is waited for then, at the end of a time
        step and for a checkpoint, and at no other time.
    throw : bool
        Raise :class:`Diverged`; when False return the solution with ``status="diverged"``.

    Returns
    -------
    Solution

    Raises
    ------
    Incompatible
        When the three parts do not work together; the message says what to use instead. Also when the points of the
        flow and of its target differ in shape, dtype or device.
    BadInput
        For a step size or a count that is not positive, a start with entries that are not finite, or one outside of the support,
        where the log density or the potential that the flow goes by is not finite.
    Diverged
        When a reported quantity or a saved tensor is not finite; names the term, the step, the update and the time. Its
        ``solution`` holds what was saved until then and, for particles, the last finite law.
    CheckpointError
        When the folder holds another run, or no readable checkpoint among those it has.

    Examples
    --------
    >>> import torch
    >>> from wgflow import ForwardEuler, Particles, PotentialEnergy, solve
    >>> V = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> flow = solve(V, ForwardEuler(), Particles(torch.ones(1, 2)), step_size=0.5, num_steps=2)
    >>> flow.measure.x
    tensor([[0.2500, 0.2500]])
    """
    F, solver, initial = outside_inference(F), outside_inference(solver), outside_inference(initial)
    reason = why_not(F, solver, initial)
    if reason is not None:
        raise Incompatible(reason)
    with ExitStack() as stack:
        stream = Stream(seed, initial.device)
        stack.callback(stream.close)
        with stream.turn():
            start = initial if state is None else None
            if state is None:
                # Mixed: a start that was drawn from manual_seed(seed) would be the noise of the first step as well.
                state = solver.init(F, initial, generator(mixed(seed), initial.device))
            run = Run(F, solver, state, step_size, num_steps, seed, save, stream, start)
            _check_start(run)
        if checkpoint is not None:
            run.interrupts = stack.enter_context(Interrupts())
            stack.enter_context(checkpoint.opened(run, callbacks))
        return _drive(run, callbacks, checkpoint, log_every, throw)


def _check_start(run: Run) -> None:
    k = run.state.k
    if k > run.num_steps:
        raise BadInput(f"num_steps={run.num_steps} counts all time steps, and the state passed has completed {k}")
    init = type(run.solver).init
    kind = resolved(inspect.get_annotations(init).get("return", State), init.__module__)
    if isinstance(kind, type) and not isinstance(run.state, kind):
        raise BadInput(
            f"{type(run.solver).__name__} goes on from {article(kind)}, not from {article(type(run.state))}: start from its measure, "
            "solve(F, solver, state.measure, ...)"
        )
    for step in range(k, min(run.num_steps, k + _LOOKED_AHEAD)) if callable(run.step_size) else [k]:
        run.h(step)
    for target in run.F.targets():
        reason = same_points(target, run.state.measure)
        if reason is not None:
            raise Incompatible(reason)
    where = run.nonfinite()
    if where is not None:
        first = nonfinite_entry(run.state, "state") or "in a network or an optimiser"
        raise BadInput(f"the flow cannot start: {where} has entries that are not finite, the first is {first}")
    for part, name in ((run.F, "F"), (run.solver, "solver"), (run.state.measure, "initial")):
        entry = nonfinite_entry(part, name)
        if entry is not None:
            raise BadInput(f"the flow cannot start: {entry} is not finite")
    if k < run.num_steps:
        reason = outside(run.F.at(k, run.state.t), run.solver, run.state.measure)
        if reason is not None:
            raise BadInput(f"the flow cannot start: {reason}")


def _drive(
    run: Run, callbacks: Sequence[Callback], checkpoint: Checkpoint | None, log_every: int, throw: bool
) -> Solution:
    solution, started, stops = run.solution, [], []
    try:
        run.keep()
        for c in callbacks:
            stops.append(c.on_start(run) == Run.STOP)
            started.append(c)
        if checkpoint is not None and run.resumed_from is None:
            checkpoint.write(run, callbacks)
        if any(stops) or _advance(run, callbacks, checkpoint, log_every):
            solution.status = "stopped"
        _say_unconverged(run)
    except Diverged as error:
        solution.status = "diverged"
        error.solution, error.time = solution, run.sound[1]
        why = undefined(run.F, run.solver.estimator, run.state.estimator, run.sound[0], run.initial)
        error.advice = error.advice if why is None else why[0].upper() + why[1:]
        error.args = (f"{error.reason} {error.advice} The last finite law is that of time {error.time:g}.",)
        if throw:
            raise
    finally:
        # Particles of the last good step are still there; networks have been changed in place.
        kept = solution.status == "diverged" and run.state.measure.tracks_points
        solution.state, solution.measure = run.state, run.sound[0] if kept else run.state.measure
        with ExitStack() as ends:  # all of them end, also when one fails
            for c in reversed(started):
                ends.callback(c.on_end, run)
    return solution


def _advance(run: Run, callbacks: Sequence[Callback], checkpoint: Checkpoint | None, log_every: int) -> bool:
    """Update until all time steps are done; returns whether a callback has stopped the run before."""
    ledger, solution = run.ledger, run.solution
    begun = time.perf_counter()
    stop = run.interrupts.asked(looked=True, device=run.state.rng.device)
    while run.state.k < run.num_steps and not stop:
        k = run.state.k
        with run.stream.turn(), gathered() as inner:
            before = run.state.measure
            run.state, info = run.solver.update(run.F, run.state, run.h(k))
            report_crossings(run.F, run.solver, before, run.state.measure)
        info |= inner.info()
        run.advice |= inner.advice
        ledger.add(k, info)
        for c in callbacks:
            c.on_update(run, info)
        looked, stepped = ledger.updates % log_every == 0, run.state.k > k
        last = run.state.k == run.num_steps
        if looked or stepped:
            ledger.settle()
        if looked or last or not info:  # where nothing is reported, the state itself is looked at
            run.check()
        if stepped:
            run.sound = (run.state.measure, run.state.t)
        if looked:
            window = ledger.mean_and_clear(ledger.window)
            for c in callbacks:
                c.on_log(run, window)
        if stepped:
            row = _record(run, time.perf_counter() - begun)
            begun = time.perf_counter()
            stop = Run.STOP in [c.on_step(run, row) for c in callbacks]
            if stop:
                for c in callbacks:
                    c.on_stop(run, row)
            row |= run.metrics
            run.metrics = {}
            solution.history.append(row)
            run.keep(last=stop or last)
        stop = run.interrupts.asked(looked=looked or stepped, device=run.state.rng.device) or stop
        if checkpoint is not None and checkpoint.due(run, looked=looked or stepped, last=stop or last):
            ledger.settle()
            checkpoint.write(run, callbacks)
    return stop


def _say_unconverged(run: Run) -> None:
    """A flow that rests on solutions that are none is not done, and says so."""
    solution = run.solution
    remark = run.solver.remark(solution.history)
    if remark is not None:
        warnings.warn(remark, RuntimeWarning, stacklevel=5)
    if not solution.unconverged:
        return
    if solution.status == "done":
        solution.status = "unconverged"
    worst = {name: max(solution.curve(name + RESIDUAL)[1]) for name in solution.unconverged}
    warnings.warn(
        "inside of the time steps "
        + "; ".join(
            f"{name} missed its tolerance in {share:.0%} of the steps (residual up to {worst[name]:.2g}). "
            f"{run.advice.get(name, '')}".rstrip()
            for name, share in solution.unconverged.items()
        ),
        NotConverged,
        stacklevel=5,
    )


def _record(run: Run, seconds: float) -> dict[str, Any]:
    means: Info = run.ledger.mean_and_clear(run.ledger.step)
    return {"k": run.state.k, "t": run.state.t, "update": run.updates, "seconds": seconds} | means
