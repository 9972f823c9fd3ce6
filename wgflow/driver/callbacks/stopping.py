"""Rules that stop a run before its last time step."""

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, NonNegative, PositiveOrInfinite
from wgflow.driver.callbacks.base import Callback

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
    """

    time: PositiveOrInfinite

    def _reached(self, run: "Run") -> str | None:
        return run.STOP if run.state.t >= self.time * (1 - 1e-9) else None

    def on_start(self, run: "Run") -> str | None:
        """Look at the time of a resumed run."""
        return self._reached(run)

    def on_step(self, run: "Run", row: dict[str, Any]) -> str | None:
        """Look at the time."""
        return self._reached(run)


@dataclass
class StopWhenFlat(Callback):
    """Stops the run once a recorded quantity no longer changes.

    That is when its last ``patience + 1`` records are within ``tolerance`` times the largest of their absolute values.

    Parameters
    ----------
    key : str
        In the record of a step: what the solver reports, such as ``"flow/dissipation"``, or a metric of an ``Evaluate``
        that comes before. Steps without it do not count.
    tolerance : float
        Relative change that counts as none; 0 asks for equal numbers.
    patience : int
        Changes looked at.
    """

    key: str
    tolerance: NonNegative = 1e-3
    patience: Count = 10

    def _flat(self, run: "Run", row: dict[str, Any]) -> str | None:
        latest = (r[self.key] for r in (row, *reversed(run.solution.history)) if self.key in r)
        found = list(itertools.islice(latest, self.patience + 1))
        if len(found) <= self.patience:
            return None
        return run.STOP if max(found) - min(found) <= self.tolerance * max(map(abs, found)) else None

    def on_start(self, run: "Run") -> str | None:
        """Look at the records of a resumed run."""
        return self._flat(run, {})

    def on_step(self, run: "Run", row: dict[str, Any]) -> str | None:
        """Look at the records so far."""
        return self._flat(run, row | run.metrics)

    def on_end(self, run: "Run") -> None:
        """Warn when no record has had the quantity."""
        history = run.solution.history
        if history and not any(self.key in row for row in history):
            known = ", ".join(sorted(history[-1]))
            warnings.warn(
                f"StopWhenFlat: no time step has recorded {self.key!r}; the last one has {known}", stacklevel=2
            )
