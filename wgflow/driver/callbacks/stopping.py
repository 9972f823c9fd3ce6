"""Rules that stop a run before its last time step."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wgflow.core.clock import reached
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, NonNegative, PositiveOrInfinite
from wgflow.driver.callbacks.base import Callback, say_unrecorded

if TYPE_CHECKING:
    from wgflow.driver.run import Run


@dataclass
class StopWhen(Callback):
    """Stops the run after a time step whose record satisfies a condition.

    A stopped run that is resumed stops again at once, unless the condition has changed.

    Parameters
    ----------
    condition : callable
        From the record of a step (with the metrics of the callbacks before) to a bool.

    Examples
    --------
    The dissipation :math:`E|v|^2` at the start of step k is :math:`4^{-(k-1)}` here, below 0.01 for the first time at k = 5:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> stop = wg.StopWhen(lambda row: row["flow/dissipation"] < 0.01)
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=100, callbacks=[stop])
    >>> len(flow.history)
    5
    """

    condition: Callable[[dict[str, Any]], bool]

    def on_start(self, run: "Run") -> str | None:
        """Ask the condition about the last record of a resumed run."""
        history = run.solution.history
        return self._asked(run, history[-1]) if history else None

    def on_step(self, run: "Run", row: dict[str, Any]) -> str | None:
        """Ask the condition; raises ``BadInput`` when it looks for a number that is not in the record, or answers neither yes nor no."""
        return self._asked(run, row | run.metrics)

    def _asked(self, run: "Run", row: dict[str, Any]) -> str | None:
        try:
            return run.STOP if self.condition(row) else None
        except KeyError as error:
            raise BadInput(
                f"the condition of StopWhen looks for {error}, and the record of step {row.get('k')} has {', '.join(sorted(row))}. For one "
                f"that comes later, row.get({error}, math.inf)"
            ) from error
        except (RuntimeError, ValueError) as error:
            raise BadInput(f"the condition of StopWhen must answer yes or no: {error}") from error


@dataclass
class StopAt(Callback):
    """Stops the run after the first time step that reaches a time, as schedules of step sizes ask for.

    Parameters
    ----------
    time : float
        In the units of the step size; rounding of its sum is allowed for.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.1, num_steps=1000, callbacks=[wg.StopAt(0.5)])
    >>> flow.status, len(flow.history)
    ('stopped', 5)
    """

    time: PositiveOrInfinite

    def _reached(self, run: "Run") -> str | None:
        return run.STOP if reached(run.state.t, self.time) else None

    def on_start(self, run: "Run") -> str | None:
        """Look at the time of a resumed run."""
        return self._reached(run)

    def on_step(self, run: "Run", row: dict[str, Any]) -> str | None:
        """Look at the time."""
        return self._reached(run)


@dataclass
class StopWhenFlat(Callback):
    r"""Stops the run once a recorded quantity no longer changes.

    That is when the last ``patience + 1`` records :math:`r` are within a band,
    :math:`\max r-\min r\le` ``absolute`` + ``tolerance`` :math:`\max|r|`.

    A flow that draws random numbers in its steps (minibatches, latents, diffusion) never gets there where its noise is wider than the
    band. For such a flow there is a second rule, of the last two windows of p = ``max(patience, 5)`` records: it is flat as well once
    their means differ by no more than the band and ``noise`` standard errors of that difference, :math:`\sigma\sqrt{2/p}`.
    The noise :math:`\sigma` is estimated from successive differences, :math:`\sigma^2=E(r_{i+1}-r_i)^2/2` (von Neumann 1941), in which a
    slow trend cancels. A drift that is smaller than its noise over a window is not seen: a longer ``patience`` resolves more.
    Noise may also be the quantity: the dissipation :math:`E|v|^2` of a minibatch never falls below the variance of its velocity, and is
    flat there while the flow still goes on. Watch a value on all points then.

    Parameters
    ----------
    key : str
        In the record of a step: what the solver reports, such as ``"flow/dissipation"``, or a metric of an ``Evaluate``
        that comes before. Steps without it do not count.
    tolerance : float
        Relative change that counts as none; 0 asks for equal numbers, unless ``absolute`` is given.
    patience : int
        Changes looked at.
    absolute : float
        Change that counts as none, in the units of the quantity: for one that goes to 0.
    noise : float
        Standard errors that count as no change in a flow that draws random numbers; 0 leaves the second rule out.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> flat = wg.StopWhenFlat("flow/dissipation", absolute=1e-6)  # it goes to 0, so no relative change is small
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.solve(V, wg.ForwardEuler(), start, step_size=0.5, num_steps=1000, callbacks=[flat])
    >>> flow.status, flow.state.k
    ('stopped', 21)
    """

    key: str
    tolerance: NonNegative = 1e-3
    patience: Count = 10
    absolute: NonNegative = 0.0
    noise: NonNegative = 1.0
    _begun: Tensor | None = field(default=None, init=False, repr=False)
    _random: bool = field(default=False, init=False, repr=False)

    def _flat(self, run: "Run", row: dict[str, Any]) -> str | None:
        latest = (r[self.key] for r in (row, *reversed(run.solution.history)) if self.key in r)
        window = max(self.patience, _LEAST)
        found = list(itertools.islice(latest, max(self.patience + 1, 2 * window)))
        last = found[: self.patience + 1]
        if len(last) <= self.patience:
            return None
        band = self.absolute + self.tolerance * max(map(abs, last))
        if max(last) - min(last) <= band:
            return run.STOP
        if not (self._random and self.noise) or len(found) < 2 * window:
            return None
        found = found[: 2 * window]
        change = abs(statistics.fmean(found[:window]) - statistics.fmean(found[window:]))
        return run.STOP if change <= band + self.noise * _standard_error(found, window) else None

    def on_start(self, run: "Run") -> str | None:
        """Look at the records of a resumed run."""
        self._begun = run.state.rng.get_state()
        self._random = self._random and run.resumed_from is not None  # and not from another run
        return self._flat(run, {})

    def on_step(self, run: "Run", row: dict[str, Any]) -> str | None:
        """Look at the records so far."""
        if self._begun is not None:  # after the first step it is known whether steps draw anything
            self._random = self._random or not torch.equal(self._begun, run.state.rng.get_state())
            self._begun = None
        return self._flat(run, row | run.metrics)

    def state_dict(self) -> dict[str, Any]:
        """Keep whether the flow draws random numbers."""
        return {"random": self._random}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore it; runs from before it was kept find out."""
        self._random = saved.get("random", False)

    def on_end(self, run: "Run") -> None:
        """Warn when no record has had the quantity."""
        say_unrecorded(self, self.key, run)


_LEAST = 5
"""Records of a window: from fewer the noise cannot be told."""


def _standard_error(records: Sequence[float], window: int) -> float:
    """Return that of the difference between the means of two windows, from successive differences."""
    squares = [(b - a) ** 2 for a, b in itertools.pairwise(records)]
    return math.sqrt(statistics.fmean(squares) / window)
