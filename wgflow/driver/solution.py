"""What a solve returns, and what it keeps on the way."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from wgflow.core.brief import WIDTH, Brief, fitting, shortened, table
from wgflow.core.clock import reached
from wgflow.core.fields import Checked, NonNegative, Whole
from wgflow.core.inner import UNCONVERGED
from wgflow.core.instead import suggest
from wgflow.core.placing import Placed
from wgflow.measures import MovingMeasure, Particles
from wgflow.solvers import State


def snapshot(state: State) -> Any:
    """Particles on the CPU for a flow of particles, None otherwise: the default of :class:`Save`."""
    m = state.measure
    if not isinstance(m, Particles):
        return None
    return Particles(_copied(m.x), None if m.log_w is None else _copied(m.log_w))


def _copied(t: Tensor) -> Tensor:
    return t.detach().clone() if t.is_cpu else t.detach().cpu()


MOST_SAVED = 2**24
"""Bytes of states that a flow saves where nobody has said which to save."""


def size(state: Any) -> int:
    """Bytes of a :func:`snapshot`."""
    return 0 if state is None else state.x.nbytes + (0 if state.log_w is None else state.log_w.nbytes)


@dataclass(frozen=True)
class Save(Checked):
    """What to keep of the states.

    Parameters
    ----------
    every : int
        Keep ``fn(state)`` after every so many time steps, besides the first and the last state; 0 keeps nothing.
    fn : callable
        From a state to anything; tensors it returns must be copies, since states are changed in place. Slices are copied for it: they
        would keep, and write, the whole tensor that they are of.
    times : tuple of float, optional
        Keep the first state that reaches each of these times, and no others, instead of ``every`` so many. A step is not cut to
        end at a time: choose step sizes that meet it, or read in ``Solution.times`` what was met.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start, save = wg.Particles(torch.ones(1, 1)), wg.Save(times=(0.0, 0.5, 2.0))
    >>> flow = wg.solve(V, wg.ForwardEuler(), start, step_size=0.25, num_steps=20, save=save)
    >>> flow.times
    [0.0, 0.5, 2.0]
    """

    every: Whole = 1
    fn: Callable[[State], Any] = snapshot
    times: tuple[NonNegative, ...] | None = None

    def due(self, k: int, t: float, last: bool, spacing: int, kept: Sequence[float]) -> bool:
        """Whether the state after step ``k``, at time ``t``, is kept, when those of the times ``kept`` are."""
        if self.times is not None:
            before = kept[-1] if kept else -math.inf
            return any(reached(t, time) and not reached(before, time) for time in self.times)
        every = self.every * spacing
        return bool(every) and (k % every == 0 or last) and t not in kept[-1:]


suggest(
    Save, (int, "Wrap how often to save: Save(every={value})"), (Callable, "Wrap a function of the state: Save(fn=f)")
)


@dataclass
class Solution(Brief, Placed):
    """A solved flow. It is shown in a few lines, in a notebook as a table of its path.

    Attributes
    ----------
    measure : MovingMeasure
        The last law; of a diverged flow of particles the last one that was finite.
    times : list of float
        Times of the saved states.
    saved : list
        What ``save.fn`` returned at those times.
    history : list of dict
        One record a completed time step: ``k``, ``t``, ``seconds``, means over the step of what its updates reported,
        and metrics.
    state : State
        Pass it back as ``solve(..., state=...)`` to go on.
    status : {"done", "unconverged", "stopped", "diverged"}
        All steps done; all steps made, but a solver inside of one missed its tolerance (:attr:`unconverged`); stopped by a
        callback; or a quantity ceased to be finite.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=2, save=wg.Save(every=1))
    >>> flow.status, flow.times, [rho.x.item() for rho in flow.saved]
    ('done', [0.0, 0.5, 1.0], [1.0, 0.5, 0.25])
    """

    goes_to = "a solution: go on from its law, solution.measure"

    measure: MovingMeasure
    state: State
    times: list[float] = field(default_factory=list)
    saved: list[Any] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    status: Literal["done", "unconverged", "stopped", "diverged"] = "done"

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Return the times and the values of one key of the history, where it was recorded."""
        rows = [r for r in self.history if key in r]
        return [r["t"] for r in rows], [r[key] for r in rows]

    @property
    def unconverged(self) -> dict[str, float]:
        """Solvers inside of the steps that missed their tolerance, each with the share of the steps in which it did.

        How far they came is in the history, as ``"<name>/residual"``, the mean over a step's updates.
        """
        names = {key for row in self.history for key in row if key.endswith(UNCONVERGED)}
        missed = {name: sum(row.get(name, 0) > 0 for row in self.history) / len(self.history) for name in sorted(names)}
        return {name.removesuffix(UNCONVERGED): share for name, share in missed.items() if share}

    def __repr__(self) -> str:
        """Return how far the flow has come, where it is, and what was kept on the way."""
        keys = self._recorded()
        of = f" of {', '.join(keys[:_KEYS])}{f', ... {len(keys)} in all' * (len(keys) > _KEYS)}" if keys else ""
        lines = [
            self._title(),
            f"  measure: {fitting(self.measure, WIDTH - 11)}",
            f"  saved: {_counted(len(self.saved), 'state')}{_between(self.times)}",
            f"  history: {_counted(len(self.history), 'record')}{of}",
        ]
        if self.history:
            last = {key: self.history[-1].get(key) for key in keys}
            shown = [f"{key} {_number(value)}" for key, value in last.items() if value is not None]
            lines += [f"  last step: {', '.join(shown[:_KEYS])}"] if shown else []
        missed = [f"{name} in {share:.0%} of the steps" for name, share in self.unconverged.items()]
        return "\n".join(
            shortened(line, WIDTH) for line in [*lines, *(f"  unconverged: {text}" for text in missed[:3])]
        )

    def _repr_html_(self) -> str:
        keys = self._recorded()[: 2 * _KEYS]
        count = min(len(self.history), _ROWS)
        turns = [round(i * (len(self.history) - 1) / max(count - 1, 1)) for i in range(count)]
        rows = [[_number(self.history[i].get(key)) for key in ("k", "t", *keys)] for i in turns]
        return table(("step", "t", *keys), rows, self._title())

    def _title(self) -> str:
        steps, seconds = _counted(self.state.k, "step"), sum(row.get("seconds", 0.0) for row in self.history)
        took = f" in {seconds:.3g} s" if self.history else ""
        return f"Solution: {self.status}, {steps} to t = {self.state.t:g}{took}"

    def _recorded(self) -> list[str]:
        """Names in the history, but those that every record has."""
        names = dict.fromkeys(key for row in self.history[:1] + self.history[-1:] for key in row)
        return [key for key in names if key not in ("k", "t", "update", "seconds")]


_KEYS, _ROWS = 5, 12
"""Most quantities of a line, and most rows of a table."""


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _between(times: list[float]) -> str:
    return f", t = {times[0]:g} to {times[-1]:g}" if times else ""


def _number(value: Any) -> str:
    """Return a number of the history as a person reads it; nothing where there is none."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
