"""Callbacks that show or write what a run reports."""

import json
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wgflow.core.errors import BadInput, CannotWrite
from wgflow.core.fields import checked
from wgflow.core.progress import progress_bar
from wgflow.core.typing import Info
from wgflow.driver.callbacks.base import Callback
from wgflow.storage.files import open_own, reason

if TYPE_CHECKING:
    from wgflow.driver.run import Run


class Progress(Callback):
    """A progress bar over the updates, with a few of the reported quantities; a line a minute where it goes to a file.

    Parameters
    ----------
    keys : sequence of str
        What to show; everything by default.
    disable : bool
        Show nothing.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> bar = wg.Progress(keys=["dissipation"], disable=True)
    >>> flow = wg.solve(F, wg.ForwardEuler(), wg.Particles(torch.ones(1, 1)), step_size=0.5, num_steps=2, callbacks=[bar])
    """

    @checked
    def __init__(self, keys: Sequence[str] | None = None, disable: bool = False) -> None:
        self.keys, self.disable = keys, disable

    def on_start(self, run: "Run") -> None:
        """Open the bar where the run stands."""
        self.bar = progress_bar(total=run.total_updates, initial=run.updates, disable=self.disable)
        if run.resumed_from is not None and not self.disable:
            self.bar.write(_resumed(run), file=sys.stderr)
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


def _resumed(run: "Run") -> str:
    """Say where a run goes on, or that it has reached its end."""
    if run.state.k >= run.num_steps:
        return f"all {run.updates} updates of {run.num_steps} time steps are done already: nothing is left to do"
    return (
        f"going on from update {run.updates} of {run.total_updates}, in time step {run.state.k + 1} of {run.num_steps}"
    )


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

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "log.jsonl")
    ...     log = wg.JsonLog(file)
    ...     flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=2, callbacks=[log])
    ...     lines = [json.loads(line) for line in file.read_text().splitlines()]
    >>> [(line["k"], line["t"]) for line in lines if "seconds" in line]
    [(1, 0.5), (2, 1.0)]
    """

    @checked
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.position: int | None = None
        self.written: set[str] = set()

    def on_start(self, run: "Run") -> None:
        """Open the file, at the position of the checkpoint."""
        position, self.position = self.position, None
        size = self.path.stat().st_size if self.path.is_file() else 0
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
