"""The one driver: it starts, advances, saves, checks and stops, and knows nothing of any method."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from wgflow._ledger import Ledger
from wgflow._rng import generator
from wgflow._typing import Info
from wgflow.callbacks import Callback
from wgflow.checkpoint import Checkpoint
from wgflow.compatibility import same_shape, why_not
from wgflow.errors import BadInput, Diverged, Incompatible
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure
from wgflow.solution import Save, Solution
from wgflow.solvers import Solver, State

StepSize = float | Callable[[int], float]


@dataclass(eq=False)
class Run:
    """A solve in progress, as callbacks see it."""

    F: Functional
    solver: Solver
    state: State
    step_size: StepSize
    num_steps: int
    seed: int
    save: Save
    ledger: Ledger = field(default_factory=Ledger)
    solution: Solution = field(init=False)
    metrics: dict[str, float] = field(default_factory=dict)
    resumed_from: str | None = None

    STOP = "stop"

    def __post_init__(self) -> None:
        self.solution = Solution(self.state.measure, self.state)

    @property
    def updates(self) -> int:
        """Updates done since the start of the flow."""
        return self.ledger.updates

    @property
    def total_updates(self) -> int:
        """Updates of the whole flow."""
        return sum(self.solver.updates(k) for k in range(self.num_steps))

    def h(self) -> float:
        """Size of the current time step; raises ``BadInput`` unless it is positive."""
        h = self.step_size(self.state.k) if callable(self.step_size) else self.step_size
        if not h > 0:
            raise BadInput(f"step_size={h} at step {self.state.k}: expected a positive number")
        if math.isinf(h) and not self.solver.implicit:
            raise BadInput(
                f"step_size=inf: only an implicit solver has that limit, {type(self.solver).__name__} is explicit"
            )
        return h

    def record(self, metrics: dict[str, float]) -> None:
        """Put numbers into the record of the time step in progress."""
        self.metrics |= metrics

    def keep(self, last: bool = False) -> None:
        """Save the state now, when it is its turn."""
        every, s = self.save.every, self.solution
        if every and (self.state.k % every == 0 or last) and self.state.t not in s.times[-1:]:
            s.times.append(self.state.t)
            s.saved.append(self.save.fn(self.state))


def solve(
    F: Functional,
    solver: Solver,
    initial: MovingMeasure,
    *,
    step_size: StepSize,
    num_steps: int,
    seed: int = 0,
    save: Save | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint | None = None,
    state: State | None = None,
    log_every: int = 50,
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
        Time steps in all, those of a resumed or passed ``state`` included.
    seed : int
        Everything random is a function of it: network initialisation, batches, latents. The global generators are
        left as they were found.
    save : Save, optional
        What to keep of the states; particles of every step by default.
    callbacks : sequence of Callback
        Readers of the run: progress, logs, pictures, metrics.
    checkpoint : Checkpoint, optional
        Where to save everything; if the folder holds this run already, it goes on from there, bit for bit on a CPU.
    state : State, optional
        Go on from the ``state`` of an earlier solution (consumed).
    log_every : int
        Updates between looks at what they report (``on_log``), the only times the device is waited for.
    throw : bool
        Raise :class:`Diverged`; when False return the solution with ``status="diverged"``.

    Returns
    -------
    Solution

    Raises
    ------
    Incompatible
        When the three parts do not work together; the message says what to use instead.
    BadInput
        For a step size or a count that is not positive, or points of different shapes.
    Diverged
        When a reported quantity or a saved tensor is not finite; names the term, the step and the update.
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
    if num_steps < 1 or log_every < 1:
        raise BadInput(f"num_steps={num_steps}, log_every={log_every}: expected at least 1")
    reason = why_not(F, solver, initial)
    if reason is not None:
        raise Incompatible(reason)
    devices = [initial.device] if initial.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        if state is None:
            state = solver.init(F, initial, generator(seed, initial.device))
        reason = same_shape(F.data(), state.measure)
        if reason is not None:
            raise Incompatible(reason)
        run = Run(F, solver, state, step_size, num_steps, seed, Save() if save is None else save)
        run.h()
        if checkpoint is None:
            return _drive(run, callbacks, None, log_every, throw)
        with checkpoint.opened(run, callbacks):
            return _drive(run, callbacks, checkpoint, log_every, throw)


def _drive(
    run: Run, callbacks: Sequence[Callback], checkpoint: Checkpoint | None, log_every: int, throw: bool
) -> Solution:
    solution = run.solution
    run.keep()
    for c in callbacks:
        c.on_start(run)
    try:
        _advance(run, callbacks, checkpoint, log_every)
    except Diverged as error:
        solution.status = "diverged"
        error.solution = solution
        if throw:
            raise
    finally:
        solution.state, solution.measure = run.state, run.state.measure
        for c in callbacks:
            c.on_end(run)
    return solution


def _advance(run: Run, callbacks: Sequence[Callback], checkpoint: Checkpoint | None, log_every: int) -> None:
    ledger, solution = run.ledger, run.solution
    begun = time.perf_counter()
    while run.state.k < run.num_steps:
        k = run.state.k
        run.state, info = run.solver.update(run.F, run.state, run.h())
        ledger.add(k, info)
        for c in callbacks:
            c.on_update(run, info)
        stop = False
        if ledger.updates % log_every == 0:
            ledger.settle()
            window = ledger.mean_and_clear(ledger.window)
            for c in callbacks:
                c.on_log(run, window)
        if run.state.k > k:
            ledger.settle()
            row = _record(run, time.perf_counter() - begun)
            begun = time.perf_counter()
            stop = Run.STOP in [c.on_step(run, row) for c in callbacks]
            row |= run.metrics
            run.metrics = {}
            solution.history.append(row)
            run.keep(last=stop or run.state.k == run.num_steps)
        if checkpoint is not None and checkpoint.due(run, last=stop or run.state.k == run.num_steps):
            ledger.settle()
            checkpoint.write(run, callbacks)
        if stop:
            solution.status = "stopped"
            return


def _record(run: Run, seconds: float) -> dict[str, Any]:
    means: Info = run.ledger.mean_and_clear(run.ledger.step)
    return {"k": run.state.k, "t": run.state.t, "update": run.updates, "seconds": seconds} | means
