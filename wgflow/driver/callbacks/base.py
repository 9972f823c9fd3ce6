"""Callbacks read a run and never change it: progress, logs, metrics, stopping."""

import itertools
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from wgflow.core.errors import BadInput, CannotWrite
from wgflow.core.fields import Checked, Count, NonNegative, PositiveOrInfinite, checked
from wgflow.core.instead import suggest
from wgflow.core.outputs import numbers
from wgflow.core.rng import generator, global_generators, mixed
from wgflow.core.typing import Info
from wgflow.functionals import Functional
from wgflow.measures import Measure
from wgflow.metrics import Metric
from wgflow.storage.files import open_own, reason

if TYPE_CHECKING:
    from wgflow.driver.run import Run


_OF_A_RECORD = {"k", "t", "update", "seconds", "kind"}
"""What a record of a time step says besides what is measured."""


class Callback(Checked):
    """The moments of a run. A callback reads the state and never writes it; metrics use generators of their own."""

    def on_start(self, run: "Run") -> str | None:
        """Before the first update, after a resume; may return ``run.STOP``."""

    def on_update(self, run: "Run", info: Info) -> None:
        """After every update. ``info`` holds 0-d tensors on the device: reading one waits for it."""

    def on_log(self, run: "Run", window: dict[str, float]) -> None:
        """After every ``log_every`` updates, with the means of what they reported."""

    def on_step(self, run: "Run", row: dict[str, Any]) -> str | None:
        """After every time step, with its record; may return ``run.STOP``."""

    def on_stop(self, run: "Run", row: dict[str, Any]) -> None:
        """After the :meth:`on_step` of all where one of them stops the run, before the record of the step is kept."""

    def on_end(self, run: "Run") -> None:
        """At the end, also of a run that failed, if :meth:`on_start` did not."""

    def state_dict(self) -> dict[str, Any]:
        """Plain form of what must survive a resume; nothing by default."""
        return {}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


suggest(
    Callback,
    (Functional, "A functional along the flow is Evaluate([FunctionalValue(F)])"),
    (Callable, "Write a subclass of Callback with on_step, or StopWhen(condition)"),
)


class Progress(Callback):
    """A progress bar over the updates, with a few of the reported quantities.

    Parameters
    ----------
    keys : sequence of str
        What to show; everything by default.
    disable : bool
        Show nothing.
    """

    @checked
    def __init__(self, keys: Sequence[str] | None = None, disable: bool = False) -> None:
        self.keys, self.disable = keys, disable

    def on_start(self, run: "Run") -> None:
        """Open the bar where the run stands."""
        self.bar = tqdm(total=run.total_updates, initial=run.updates, disable=self.disable, mininterval=0.5)
        self.begun = None if run.updates else 0  # where the step in progress began; unknown in the middle of a run

    def on_update(self, run: "Run", info: Info) -> None:
        """Advance."""
        self.bar.update()

    def on_step(self, run: "Run", row: dict[str, Any]) -> None:
        """Take off the updates that the step did not need."""
        if self.begun is not None:
            self.bar.total -= self.begun + run.solver.updates(run.state.k - 1) - run.updates
        self.begun = run.updates

    def on_log(self, run: "Run", window: dict[str, float]) -> None:
        """Show the latest means."""
        shown = {k.rpartition("/")[2]: f"{v:.3g}" for k, v in window.items() if self.keys is None or k in self.keys}
        self.bar.set_postfix({"step": f"{run.state.k}/{run.num_steps}"} | shown, refresh=False)

    def on_end(self, run: "Run") -> None:
        """Close the bar."""
        self.bar.close()


class JsonLog(Callback):
    """Writes one JSON object a line: window means, time steps and metrics; infinity and NaN, which JSON lacks, as null.

    On a resume the file is cut back to where the checkpoint stood, so that every line is there once. A run that goes
    on from a passed state appends.

    Parameters
    ----------
    path : path
        A new file, or the one of the run that goes on.

    Raises
    ------
    BadInput
        At the start of a new run, when the file holds something already.
    CannotWrite
        When the file system refuses, or the path is a link.
    """

    @checked
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.position: int | None = None
        self.written: set[str] = set()

    def on_start(self, run: "Run") -> None:
        """Open the file, at the position of the checkpoint."""
        position, self.position = self.position, None
        size = self.path.stat().st_size if self.path.exists() else 0
        if position is None and size and not run.updates:
            raise BadInput(f"{self.path} holds the log of another run: give a new path, or remove it")
        self.file = open_own(self.path)
        self.file.truncate(self._kept(size if position is None else position, size))
        self.file.seek(0, os.SEEK_END)

    def _kept(self, position: int, size: int) -> int:
        """Where to go on: at ``position``, or after the last whole line of a file that has lost its end."""
        if position <= size:
            return position
        warnings.warn(f"{self.path} is shorter than when the checkpoint was written: some lines are lost", stacklevel=2)
        return self.file.read().rfind(b"\n") + 1

    def on_stop(self, run: "Run", row: dict[str, Any]) -> None:
        """Write the metrics that the end of a stopped run has added to its last step."""
        added = {name: value for name, value in run.metrics.items() if name not in self.written}
        if added:
            self._write({"kind": "stop", "k": run.state.k, "t": run.state.t} | added)

    def _write(self, row: dict[str, Any]) -> None:
        finite = json_numbers(row)
        try:
            self.file.write((json.dumps(finite) + "\n").encode())
            self.file.flush()
        except OSError as error:
            raise CannotWrite(f"cannot write {self.path}: {reason(error)}") from error

    def on_log(self, run: "Run", window: dict[str, float]) -> None:
        """Write a window."""
        self._write({"kind": "updates", "update": run.updates, "k": run.state.k} | window)

    def on_step(self, run: "Run", row: dict[str, Any]) -> None:
        """Write a time step."""
        self.written = set(run.metrics)
        self._write({"kind": "step"} | row | run.metrics)

    def on_end(self, run: "Run") -> None:
        """Close the file."""
        self.file.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the length of the file, once all of it is on the disk."""
        os.fsync(self.file.fileno())
        return {"position": self.file.tell()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Remember where to go on."""
        self.position = saved["position"]


def json_numbers(row: dict[str, Any]) -> dict[str, Any]:
    """Return a record with infinity and NaN, which JSON lacks, as None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


@dataclass
class Evaluate(Callback):
    """Evaluates metrics at the end of time steps and puts them into the history.

    Put it before callbacks that write the record. The generator of an evaluation is a function of the run's seed and
    the step, so evaluating more often changes neither the flow nor the other evaluations.

    Parameters
    ----------
    metrics : sequence of Metric
        From a measure and a generator to a dictionary of numbers.
    every : int
        Time steps between evaluations; the first law and the last one, of a run that is stopped as well, are always
        evaluated.
    """

    metrics: Sequence[Metric]
    every: Count = 1
    initial: dict[str, float] = field(default_factory=dict)

    def evaluate(self, run: "Run") -> dict[str, float]:
        """Evaluate now."""
        return evaluate_all(self.metrics, run.state.present.inference(), run.seed, run.state.k)

    def on_start(self, run: "Run") -> None:
        """Evaluate the initial law of a run that is not resumed."""
        if run.resumed_from is None:
            self.initial = self.evaluate(run)

    def on_step(self, run: "Run", row: dict[str, Any]) -> None:
        """Evaluate when it is time."""
        if self._turn(run) or run.state.k == run.num_steps:
            run.record(self.evaluate(run))

    def _turn(self, run: "Run") -> bool:
        return run.state.k % self.every == 0

    def on_stop(self, run: "Run", row: dict[str, Any]) -> None:
        """Evaluate the last law of a run that is stopped between two evaluations."""
        if not self._turn(run) and run.state.k < run.num_steps:
            run.record(self.evaluate(run))

    def state_dict(self) -> dict[str, Any]:
        """Return the initial values."""
        return {"initial": self.initial}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the initial values."""
        self.initial = saved["initial"]


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


def evaluate_all(metrics: Sequence[Metric], rho: Measure, *seeds: int) -> dict[str, float]:
    """Evaluate metrics on a measure, each with generators of its own that depend on ``seeds`` and its place only.

    Raises
    ------
    BadInput
        When a metric uses a name that a record has already: one of the numbers would be lost.
    """
    found: dict[str, float] = {}
    for j, metric in enumerate(metrics):
        seed, who = mixed(*seeds, j), type(metric).__name__
        with global_generators(seed, rho.device):
            new = numbers(metric(rho, generator(seed, rho.device)), who)
        taken = sorted(new.keys() & (found.keys() | _OF_A_RECORD))
        if taken:
            raise BadInput(f"metric {j}, {who}, reports {taken[0]!r}, which a record has already: give it another name")
        found |= new
    return found
