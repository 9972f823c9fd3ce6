"""What a person looks at while a generator trains: sample grids, curves and numbers."""

import csv
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wgflow import Callback, Particles, Pushforward
from wgflow.core.errors import CannotWrite, MissingDependency
from wgflow.core.fields import Count, checked
from wgflow.core.imports import require
from wgflow.core.networks import copied
from wgflow.core.ranks import by_first, from_all, take_first
from wgflow.driver.callbacks import evaluate_all
from wgflow.generative.folder import WEIGHTS, still_there
from wgflow.generative.latent_space import Space
from wgflow.generative.sample import save_images
from wgflow.generative.shown import export, pictured, present
from wgflow.generative.speed import SPEED
from wgflow.metrics import Metric
from wgflow.storage.files import reason, remove_strays, replacing

if TYPE_CHECKING:
    from wgflow.driver.run import Run


class Monitor(Callback):
    """Evaluates, draws and exports what is trained, a generator by its averaged weights, at a fixed pace of updates.

    Writes into the folder of the run: ``samples/update-*.png`` (the same latents every time), ``metrics.csv``,
    ``curves.png``, ``generator.safetensors`` (averaged weights; of a flow without a network its points) and TensorBoard
    events. Of these, curves and TensorBoard are left out when their package is not installed. A metric may report a number at
    some evaluations only: its column is empty at the others. Of several processes all have a monitor: the metrics of a generator are
    dealt to them, where all have the same ones; the first process does everything else, and the others wait for it as long as it takes.

    Parameters
    ----------
    directory : path
        Folder of the run.
    metrics : sequence of Metric
        Evaluated with a generator that depends on the seed and the update only.
    every : int
        Updates between two evaluations; the start and the end are always evaluated.
    images : int
        Images on a grid.
    space : Space, optional
        Where the flow lives, if not among images.
    record : dict, optional
        What identifies the run: put into the exported file.

    Examples
    --------
    :func:`fit` and :func:`train` make one; by itself it is a callback of :func:`wgflow.solve`.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative import Monitor
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().flatten(1).sum(1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     watch = Monitor(folder, [], every=1, images=4)
    ...     start = wg.Particles(torch.ones(4, 1, 8, 8))
    ...     flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=1, callbacks=[watch])
    ...     sorted(path.name for path in Path(folder, "samples").iterdir())
    ['update-000000.png', 'update-000001.png']
    """

    @checked
    def __init__(
        self,
        directory: str | Path,
        metrics: Sequence[Metric],
        every: Count,
        images: Count = 64,
        space: Space | None = None,
        record: dict[str, Any] | None = None,
    ) -> None:
        self.directory, self.metrics, self.every, self.images = Path(directory), metrics, every, images
        self.space, self.record = space, record
        self.rows: list[dict[str, float]] = []
        self.windows: list[dict[str, float]] = []
        self.steps: list[int] = []
        self.board: _Board | None = None
        self.seconds = 0.0
        """Spent on evaluations in this session."""

    def on_start(self, run: "Run") -> None:
        """Look at where the flow starts: at the untrained generator."""
        by_first(lambda: self._open(run), run.state.rng.device)
        if not self.rows:
            self._look(run)

    def _open(self, run: "Run") -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for folder in (self.directory, self.directory / "samples"):
            remove_strays(folder)
        self.board = _Board(self.directory / "tensorboard", run.updates)
        if self.rows and not (self.directory / WEIGHTS).exists():
            export(present(run), self.directory / WEIGHTS, self.record)

    def on_log(self, run: "Run", window: dict[str, float]) -> None:
        """Keep the window for the curves."""
        told = {name: value for name, value in window.items() if not name.startswith(SPEED)}
        self.windows.append({"update": run.updates, "k": run.state.k} | told)
        if self.board is not None:
            self.board.add(window, run.updates)

    def on_update(self, run: "Run", info: Any) -> None:
        """Look when it is time; the end of the run comes through :meth:`on_step`."""
        if run.updates % self.every == 0 and run.state.k < run.num_steps:
            self._look(run)

    def on_step(self, run: "Run", row: dict[str, Any]) -> None:
        """Look at the end of the run, and put the last numbers into the record of the step."""
        self.steps.append(run.updates)
        if run.state.k == run.num_steps:
            self._look(run)
        self._record(run)

    def on_stop(self, run: "Run", row: dict[str, Any]) -> None:
        """Look at the end of a run that is stopped between two looks."""
        if not self.rows or self.rows[-1]["update"] != run.updates:
            self._look(run)
            self._record(run)

    def _record(self, run: "Run") -> None:
        if self.rows and self.rows[-1]["update"] == run.updates:
            run.record({k: v for k, v in self.rows[-1].items() if k not in ("update", "k", "t")})

    def _look(self, run: "Run") -> None:
        device = run.state.rng.device
        if (
            by_first(run.nonfinite, device) is not None
        ):  # the driver stops the run at its next look, on all ranks together
            return
        begun = time.perf_counter()  # after the device was waited for: the rest is evaluation
        self.rows.append({"update": run.updates, "k": run.state.k, "t": run.state.t} | self._evaluated(run))
        by_first(lambda: self._write(run), device)
        self.seconds += time.perf_counter() - begun

    def _evaluated(self, run: "Run") -> dict[str, float]:
        rho, seeds = pictured(present(run), self.space), (run.seed, run.updates)
        names = from_all([type(metric).__name__ for metric in self.metrics])
        if len(names) == 1 or names != names[:1] * len(names) or not isinstance(rho, Pushforward):
            return by_first(lambda: evaluate_all(self.metrics, rho, *seeds), run.state.rng.device)
        # Statistics of batches are each rank's own: all look at the network of the first, which is exported.
        net = copied(rho.map)
        take_first([*net.parameters(), *net.buffers()])
        return evaluate_all(self.metrics, replace(rho, net=net, reference=None), *seeds, shared=True)

    def _write(self, run: "Run") -> None:
        still_there(self.directory)
        rho = present(run)
        images = min(self.images, len(rho)) if isinstance(rho, Particles) else self.images
        grid = self.directory / "samples" / f"update-{run.updates:06d}.png"
        save_images(pictured(rho, self.space), images, grid, seed=run.seed)
        export(rho, self.directory / WEIGHTS, self.record)
        with replacing(self.directory / "metrics.csv") as path, open(path, "w", newline="") as file:
            names = dict.fromkeys(name for row in self.rows for name in row)
            writer = csv.DictWriter(file, list(names), restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        if self.board is not None:
            self.board.add({f"metrics/{name}": value for name, value in self.rows[-1].items()}, run.updates)
        self._draw_curves()

    def _draw_curves(self) -> None:
        try:
            from wgflow.plotting import training_curves

            figure = training_curves(self.windows, self.rows, self.steps)
        except MissingDependency:
            return
        with replacing(self.directory / "curves.png") as path:
            figure.savefig(path, format="png", dpi=120)

    def on_end(self, run: "Run") -> None:
        """Close the event file."""
        if self.board is not None:
            self.board.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the rows so far."""
        return {"rows": self.rows, "windows": self.windows, "steps": self.steps}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the rows."""
        self.rows, self.windows, self.steps = saved["rows"], saved["windows"], saved.get("steps", [])


class _Board:
    """TensorBoard events, or nothing where the package is not installed."""

    def __init__(self, directory: Path, updates: int) -> None:
        self.directory, self.writer = directory, None
        with suppress(MissingDependency, ImportError), self._said():
            writer = require("torch.utils.tensorboard", extra="log").SummaryWriter
            self.writer = writer(directory, purge_step=updates or None)

    def add(self, values: dict[str, float], update: int) -> None:
        """Write numbers by name."""
        if self.writer is not None:
            with self._said():
                for name, value in values.items():
                    self.writer.add_scalar(name, value, update)

    def close(self) -> None:
        """Write what is left and close the file."""
        if self.writer is not None:
            with self._said():
                self.writer.close()

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotWrite(f"cannot write to {self.directory}: {reason(error)}") from error
