"""Checkpoints: plain tensors, written to a temporary name and renamed, checked by digest, one run a folder."""

import errno
import hashlib
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout

from wgflow._describe import describe, differences
from wgflow._state import first_nonfinite, load_state, state_dict, tensors
from wgflow.errors import BadInput, CheckpointError, Diverged

if TYPE_CHECKING:
    from wgflow.callbacks import Callback
    from wgflow.solve import Run

FORMAT = 1
_NAME = re.compile(r"update-(\d{10})-([0-9a-f]{16})\.pt")


@dataclass(eq=False)
class Checkpoint:
    """Where and how often to save a run; a run finds its own checkpoints there and goes on from the last good one.

    A file holds tensors and plain types only (``torch.load(weights_only=True)`` reads it): the state with networks,
    optimisers and generators, the logs' positions, the history, and the global random state. It is written under a
    temporary name, flushed to the disk and renamed to ``update-<count>-<sha256>.pt``, so that a run killed at any
    moment leaves whole files only. On a CPU a resumed run ends bit for bit where an uninterrupted one ends.

    Parameters
    ----------
    directory : path
        Folder of this run and no other; it is locked while the run lasts.
    every_seconds : float
        Wall time between two checkpoints; the last state is always saved.
    every_updates : int, optional
        Count of updates between two checkpoints, instead of the wall time.
    keep : int
        How many files to keep, at least 2: the last one and the one before.
    """

    directory: str | Path
    every_seconds: float = 60.0
    every_updates: int | None = None
    keep: int = 2
    _last: float = field(default=0.0, repr=False)

    def __post_init__(self) -> None:
        self.directory = Path(self.directory)
        if self.keep < 2:
            raise BadInput(f"Checkpoint(keep={self.keep}): expected at least 2, so that one survives a damaged other")

    def due(self, run: "Run", last: bool) -> bool:
        """Whether a checkpoint should be written now."""
        if last:
            return True
        if self.every_updates is not None:
            return run.updates % self.every_updates == 0
        # All ranks must agree, and clocks differ; only the first rank writes, so only its clock is asked.
        return _rank() == 0 and time.monotonic() - self._last >= self.every_seconds

    @contextmanager
    def opened(self, run: "Run", callbacks: Sequence["Callback"]) -> Iterator[None]:
        """Lock the folder, restore the last good checkpoint of this run, and unlock at the end.

        Raises
        ------
        CheckpointError
            When another process holds the folder, it holds another run, its files cannot be read, or the disk has no
            room for the checkpoints of this run.
        """
        if _rank() != 0:
            self._restore(run, callbacks)
            yield
            return
        self._make_folder()
        lock = FileLock(self.directory / "run.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise CheckpointError(
                f"{self.directory} is in use by another process: wait for it, or give this run a folder of its own"
            ) from None
        try:
            for stray in self.directory.glob(".writing-*"):
                stray.unlink()
            self._restore(run, callbacks)
            self._check_room(run)
            self._last = time.monotonic()
            yield
        finally:
            lock.release()

    def _make_folder(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot make the folder {self.directory}: {error.strerror}") from error

    def files(self) -> list[Path]:
        """Checkpoint files, the newest first."""
        return sorted((p for p in self.directory.glob("update-*.pt")), reverse=True)

    def _restore(self, run: "Run", callbacks: Sequence["Callback"]) -> None:
        files, refused = self.files(), []
        for path in files:
            try:
                saved = read(path)
                differ = differences(describe_run(run), saved["run"])
                if differ:
                    raise CheckpointError(f"{path.name} is of another run: " + "; ".join(differ))
                self._fill(run, callbacks, saved)
            except CheckpointError as error:
                refused.append(str(error))
                continue
            for reason in refused:
                warnings.warn(f"checkpoint refused, the one before it is used: {reason}", stacklevel=2)
            run.resumed_from = path.name
            return
        if refused:
            raise CheckpointError(
                f"{self.directory} holds checkpoints and none can be used. Give this run another folder, or remove them."
                "\n  " + "\n  ".join(refused)
            )

    def _fill(self, run: "Run", callbacks: Sequence["Callback"], saved: dict[str, Any]) -> None:
        run.state = load_state(run.state, saved["state"])
        run.ledger.load_state_dict(saved["ledger"])
        run.solution.history[:] = saved["history"]
        run.solution.times[:] = saved["times"]
        run.solution.saved[:] = _unplain(saved["saved"])
        for c, held in zip(callbacks, saved["callbacks"], strict=True):
            c.load_state_dict(held)
        torch.set_rng_state(saved["global_rng"]["cpu"])
        if "cuda" in saved["global_rng"] and run.state.rng.device.type == "cuda":
            torch.cuda.set_rng_state(saved["global_rng"]["cuda"], run.state.rng.device)

    def _payload(self, run: "Run", callbacks: Sequence["Callback"]) -> dict[str, Any]:
        device = run.state.rng.device
        rng = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(device)
        return {
            "wgflow_checkpoint": FORMAT,
            "run": describe_run(run),
            "state": state_dict(run.state),
            "ledger": run.ledger.state_dict(),
            "history": run.solution.history,
            "times": run.solution.times,
            "saved": _plain(run.solution.saved),
            "callbacks": [c.state_dict() for c in callbacks],
            "global_rng": rng,
        }

    def _check_room(self, run: "Run") -> None:
        size = sum(t.nbytes for t in tensors(state_dict(run.state)))
        # Adam has not made its moments before the first update: twice the weights more.
        need, free = 3 * size * (self.keep + 1), shutil.disk_usage(self.directory).free
        if need > free:
            raise CheckpointError(
                f"{self.directory} has {free / 1e6:.0f} MB free and the {self.keep + 1} checkpoints of this run take up to "
                f"{need / 1e6:.0f} MB: free some room or choose another folder"
            )

    def write(self, run: "Run", callbacks: Sequence["Callback"]) -> Path | None:
        """Write one checkpoint and remove the oldest; returns its path (None on ranks other than the first).

        Raises
        ------
        Diverged
            When a tensor of the state is not finite: the last good checkpoint is kept.
        CheckpointError
            When the file cannot be written; no partial file is left and the earlier ones stay.
        """
        if _rank() != 0:
            return None
        payload = self._payload(run, callbacks)
        where = first_nonfinite(payload["state"])
        if where is not None:
            raise Diverged(
                f"{where} is not finite after update {run.updates}, in time step {run.state.k}; the checkpoint before is "
                f"kept in {self.directory}.",
                term=where,
                step=run.state.k,
                update=run.updates,
            )
        temporary = self.directory / f".writing-{os.getpid()}"
        try:
            path = self._save(payload, temporary, run.updates)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(self.directory).free < 2**20
            reason = "the disk is full" if full else str(error)
            raise CheckpointError(
                f"no checkpoint could be written to {self.directory}: {reason}; earlier ones stay"
            ) from error
        for old in self.files()[self.keep :]:
            old.unlink()
        self._last = time.monotonic()
        return path

    def _save(self, payload: dict[str, Any], temporary: Path, updates: int) -> Path:
        with open(temporary, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        path = self.directory / f"update-{updates:010d}-{_digest(temporary)}.pt"
        os.replace(temporary, path)
        if os.name == "posix":  # a rename is durable only once its folder is
            folder = os.open(self.directory, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return path


def read(path: Path) -> dict[str, Any]:
    """Read one checkpoint file.

    Raises
    ------
    CheckpointError
        Naming the file, when it is not a checkpoint of wgflow, is truncated or altered, or of another format.
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path.name} does not have the name of a checkpoint of wgflow")
    if _digest(path) != match[2]:
        raise CheckpointError(f"{path.name} is truncated or altered: its bytes do not have the digest in its name")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(saved, dict) or saved.get("wgflow_checkpoint") != FORMAT:
        raise CheckpointError(f"{path.name} is not a checkpoint of this version of wgflow (format {FORMAT})")
    return saved


def describe_run(run: "Run") -> dict[str, Any]:
    """Return what makes two runs the same one; ``num_steps`` may grow, so it is not part of it."""
    step = run.step_size
    return {
        "functional": describe(run.F),
        "solver": describe(run.solver),
        "step_size": describe(step),
        "seed": run.seed,
        "measure": describe(run.state.measure),
    }


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _plain(saved: list[Any]) -> list[Any]:
    from wgflow.measures import Particles

    return [{"x": s.x, "log_w": s.log_w} if isinstance(s, Particles) else s for s in saved]


def _unplain(saved: list[Any]) -> list[Any]:
    from wgflow.measures import Particles

    return [Particles(**s) if isinstance(s, dict) and s.keys() == {"x", "log_w"} else s for s in saved]
