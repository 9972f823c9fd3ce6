"""A solve in progress."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from wgflow.core.errors import BadInput, CheckpointError, Diverged
from wgflow.core.fields import PositiveOrInfinite
from wgflow.core.outputs import number_of_step
from wgflow.core.ranks import on_any
from wgflow.core.rng import Stream
from wgflow.driver.interrupts import Interrupts
from wgflow.driver.ledger import ADVICE, Ledger
from wgflow.driver.solution import MOST_SAVED, Save, Solution, size, snapshot
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure
from wgflow.solvers import Solver, State
from wgflow.storage.state import alone, first_nonfinite, state_dict

StepSize = PositiveOrInfinite | Callable[[int], float]
_EVERY_STEP = Save()


@dataclass(eq=False)
class Run:
    """A solve in progress, as callbacks see it.

    Attributes
    ----------
    F, solver : Functional, Solver
        The functional and the time discretization, with the minimizer that was chosen for what moves.
    state : State
        The state after the last update: ``state.measure``, completed time steps ``state.k``, time ``state.t``.
    step_size, num_steps, seed, save
        As given to :func:`wgflow.solve`.
    stream : Stream
        What the global generators give, in the turns of this run.
    initial : MovingMeasure or None
        The law that it started from; None where it went on from a passed state.
    ledger : Ledger
        Means of what updates report.
    solution : Solution
        What ``solve`` returns, so far.
    metrics : dict
        What :meth:`record` was given for the time step in progress.
    advice : dict of str
        What to do about solvers inside of the steps that miss their tolerance, by their names.
    spacing : int
        Of the states saved, where nobody has said which: it doubles whenever they are too many.
    resumed_from : str or None
        The checkpoint that it went on from.
    interrupts : Interrupts
        The signals that ask it to end.
    sound : (MovingMeasure, float)
        The last law, with its time, after which everything that was looked at was finite.

    Examples
    --------
    A callback that puts a number into the record of a time step:

    >>> import torch
    >>> import wgflow as wg
    >>> class Farthest(wg.Callback):
    ...     def on_step(self, run, row):
    ...         run.record({"farthest": run.state.measure.x.abs().max().item()})
    >>> V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start, callbacks = wg.Particles(torch.ones(1, 1)), [Farthest()]
    >>> flow = wg.solve(V, wg.ForwardEuler(), start, step_size=0.5, num_steps=2, callbacks=callbacks)
    >>> flow.curve("farthest")
    ([0.5, 1.0], [0.5, 0.25])
    """

    F: Functional
    solver: Solver
    state: State
    step_size: StepSize
    num_steps: int
    seed: int
    save: Save | None
    stream: Stream
    initial: MovingMeasure | None = None
    ledger: Ledger = field(init=False)
    solution: Solution = field(init=False)
    metrics: dict[str, float] = field(default_factory=dict)
    advice: dict[str, str] = field(default_factory=dict)
    spacing: int = 1
    resumed_from: str | None = None
    interrupts: Interrupts = field(default_factory=Interrupts)
    sound: tuple[MovingMeasure, float] = field(init=False)
    _constant: float | None = field(init=False, repr=False, default=None)
    """The step size, once it has been checked, where it is a number."""

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
        if self._constant is not None:
            return self._constant
        h = number_of_step(self.step_size, k, PositiveOrInfinite, "step_size")
        if math.isinf(h) and not self.solver.implicit:
            raise BadInput(
                f"step_size=inf: only an implicit solver has that limit, {type(self.solver).__name__} is explicit"
            )
        if not callable(self.step_size):
            self._constant = h
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
        if not on_any(where is not None, self.state.rng.device):
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
        s, save = self.solution, self.save or _EVERY_STEP
        if save.due(self.state.k, self.state.t, last, self.spacing, s.times):
            s.times.append(self.state.t)
            found = save.fn(self.state)
            s.saved.append(found if save.fn is snapshot else alone(found))  # a snapshot is a copy
            if self.save is None and not last and size(s.saved[-1]) * len(s.saved) > MOST_SAVED:
                del s.times[1::2], s.saved[1::2]
                self.spacing *= 2
