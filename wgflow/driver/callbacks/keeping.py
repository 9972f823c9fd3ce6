"""The best law of a run, and an early end of a run that gets no better."""

import math
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wgflow.core.fields import Count
from wgflow.driver.callbacks.base import Callback, say_unrecorded
from wgflow.measures import MovingMeasure
from wgflow.storage.state import load_state, state_dict

if TYPE_CHECKING:
    from wgflow.driver.run import Run


@dataclass
class KeepBest(Callback):
    """Keeps a snapshot of the law whose record is the least, and stops a run that has not bettered it for a while.

    With a held-out loss that is early stopping: put it behind the ``Evaluate`` that records the loss. A checkpoint holds the snapshot.

    Parameters
    ----------
    key : str
        In the record of a step, such as ``"functional"``; steps without it do not count, and NaN is no betterment.
    patience : int, optional
        Records without a betterment after which the run stops; None never stops it.

    Attributes
    ----------
    measure : MovingMeasure or None
        The best law so far.
    value : float
        Its record.

    Examples
    --------
    Forward Euler with too long a step, which multiplies x by -1.5: the first record is the least, and two more are made.

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> look, best = wg.Evaluate([wg.metrics.FunctionalValue(F)]), wg.KeepBest("functional", patience=2)
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.solve(F, wg.ForwardEuler(), start, step_size=2.5, num_steps=50, callbacks=[look, best])
    >>> best.value, len(flow.history)
    (1.125, 3)
    """

    key: str
    patience: Count | None = None
    measure: MovingMeasure | None = field(init=False, repr=False, default=None)
    value: float = field(init=False, default=math.inf)
    _waited: int = field(init=False, repr=False, default=0)
    _saved: dict[str, Any] | None = field(init=False, repr=False, default=None)

    def on_start(self, run: "Run") -> str | None:
        """Begin anew, or with the best law of the checkpoint."""
        saved, self._saved = self._saved, None
        self.measure, self.value, self._waited = None, math.inf, 0
        if saved is not None and saved["measure"] is not None:
            blank = run.state.measure.snapshot()
            self.measure = load_state(blank, saved["measure"], "KeepBest", run.state.rng.device)
            self.value, self._waited = saved["value"], saved["waited"]
        return self._stop(run)

    def on_step(self, run: "Run", row: dict[str, Any]) -> str | None:
        """Compare."""
        record = row | run.metrics
        if self.key not in record:
            return None
        if not self._bettered(run, record):
            self._waited += 1
        return self._stop(run)

    def on_stop(self, run: "Run", row: dict[str, Any]) -> None:
        """Compare the last law, which an ``Evaluate`` before may have evaluated out of turn."""
        record = row | run.metrics
        if self.key in record:
            self._bettered(run, record)

    def _bettered(self, run: "Run", record: dict[str, Any]) -> bool:
        if not record[self.key] < self.value:
            return False
        self.measure, self.value, self._waited = run.state.measure.snapshot(), float(record[self.key]), 0
        return True

    def _stop(self, run: "Run") -> str | None:
        return run.STOP if self.patience is not None and self._waited >= self.patience else None

    def on_end(self, run: "Run") -> None:
        """Warn when no record has had the quantity, or none a number."""
        say_unrecorded(self, self.key, run)
        if self.measure is None and any(self.key in row for row in run.solution.history):
            warnings.warn(f"KeepBest: no record of {self.key!r} is a finite number, and no law was kept", stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        """Return the best law and how long it has been the best."""
        held = None if self.measure is None else state_dict(self.measure)
        return {"measure": held, "value": self.value, "waited": self._waited}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Remember what to begin with."""
        self._saved = saved
