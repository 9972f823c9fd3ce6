"""Checkpoints: plain tensors, written to a temporary name and renamed, checked by digest, one run a folder."""

import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wgflow.core.beside import Beside
from wgflow.core.errors import BadInput, CannotWrite, CheckpointError
from wgflow.core.fields import Checked, Count, NonNegative
from wgflow.core.instead import suggest
from wgflow.core.ranks import by_first, from_first, parallel, rank, together, world
from wgflow.driver import first_format
from wgflow.driver.earlier_batches import as_earlier, give_batches, is_earlier
from wgflow.driver.same_run import another, describe_run, say_other_shares
from wgflow.storage.describe import describe, differences
from wgflow.storage.files import FORMAT, check_held, files, gone, locked, read, reason, remove_strays, write
from wgflow.storage.growing import LISTS, Growing
from wgflow.storage.state import first_nonfinite, load_state, on_host, plain, state_dict, tensors

if TYPE_CHECKING:
    from wgflow.driver.callbacks import Callback
    from wgflow.driver.run import Run

_SHARE = 0.1
"""Of the time of a run, the most in which checkpoints are being written where their pace is a time."""


@dataclass(eq=False)
class Checkpoint(Checked):
    """Where and how often to save a run; a run finds its own checkpoints there and goes on from the last good one.

    A file holds tensors and plain types only (``torch.load(weights_only=True)`` reads it): the state with networks, optimizers and
    generators, the logs' positions, and the global random state. It is written under a temporary name, flushed to the disk and
    renamed to ``update-<count>-<sha256>.pt``, so that a run killed at any moment leaves whole files only. The history and the
    saved states are beside it, in one file that grows (``saved-<count>.states``). On a CPU a resumed run ends bit for bit where an
    uninterrupted one ends. A finished run that is started again returns its solution without further work.

    A thread writes a copy of the state while the run goes on, and an error of the thread stops the run at the next update. One copy
    exists at a time. The run waits for the first file, before the first update, so that a folder that cannot be used shows at once,
    and for the last one, after the last update or Ctrl-C or SIGTERM.

    Parameters
    ----------
    directory : path
        Folder of this run and no other; it is locked while the run lasts.
    every_seconds : float
        Wall time between two checkpoints, at least ten times what the last one took to be written. Under ``torch.distributed``
        the clock of the first rank is asked every ``log_every`` updates.
    every_updates : int, optional
        Count of updates between two checkpoints, instead of the wall time. One that is still being written is waited for.
    keep : int
        How many files to keep, at least 2: the last one and the one before.
    name : str, optional
        Tells this run from others where code would have to: a run goes on in its folder if its numbers, tensors and
        classes are the same and neither name is another one. Without a name functions count with their code and all that
        they hold, and what cannot be compared is refused with a sentence that says so.

    Raises
    ------
    BadInput
        For an interval that is not positive, fewer than two files to keep, or wall time together with a count of updates.

    Examples
    --------
    A finished run that is started again is read from its folder:

    >>> import tempfile
    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save = wg.Checkpoint(folder)
    ...     first = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=3, checkpoint=save)
    ...     again = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=3, checkpoint=save)
    >>> again.measure.x, len(again.history)
    (tensor([[0.1250]]), 3)
    """

    directory: str | Path
    every_seconds: NonNegative = 60.0
    every_updates: Count | None = None
    keep: Count = 2
    name: str | None = None
    _last: float = field(default=0.0, init=False, repr=False)
    _run: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    _grown: Growing = field(init=False, repr=False)
    _writer: Beside = field(default_factory=Beside, init=False, repr=False)
    _refused: set[Path] = field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        if not str(self.directory).strip() or "\0" in str(self.directory):
            raise BadInput(f"Checkpoint(directory={self.directory!r}): expected the name of a folder")
        if self.name is not None and not self.name.strip():
            raise BadInput(f"Checkpoint(name={self.name!r}): expected a name, or None")
        if self.keep < 2:
            raise BadInput(f"Checkpoint(keep={self.keep}): expected at least 2, so that one survives a damaged other")

    @property
    def folder(self) -> Path:
        """The directory as a path."""
        return Path(self.directory)

    def due(self, run: "Run", *, looked: bool, last: bool) -> bool:
        """Whether a checkpoint should be written now; ``looked`` says that all ranks wait for each other anyway."""
        if last or (self._writer.failed is not None and not parallel()):
            return True
        if self.every_updates is not None:
            return run.updates % self.every_updates == 0
        if parallel() and not looked:
            return False
        # Clocks differ and all ranks must agree, so only the first one's is asked.
        writer, elapsed = self._writer, time.monotonic() - self._last
        pause = max(self.every_seconds, writer.seconds / _SHARE)
        now = not writer.busy and (writer.failed is not None or elapsed >= pause)
        return from_first(now, run.state.rng.device)

    @contextmanager
    def opened(self, run: "Run", callbacks: Sequence["Callback"]) -> Iterator[None]:
        """Lock the folder, restore the last good checkpoint of this run, and unlock at the end.

        Raises
        ------
        CheckpointError
            When another process holds the folder, it holds another run or a longer one, its files cannot be read, or
            the disk has no room for the checkpoints of this run.
        """
        device = run.state.rng.device
        with ExitStack() as stack:
            name = by_first(lambda: self._begin(run, callbacks, stack), device)
            # Nobody goes on, and removes the file, before all have read it.
            together(lambda: self._read_too(run, callbacks, name))
            self._last = time.monotonic()
            try:
                yield
            except BaseException:
                try:
                    self._writer.wait()
                except Exception as error:  # what ended the run is told first
                    warnings.warn(str(error), stacklevel=2)
                raise
            by_first(self._writer.wait, device)

    def _begin(self, run: "Run", callbacks: Sequence["Callback"], stack: ExitStack) -> str | None:
        stack.enter_context(locked(self.folder))
        self._grown, self._writer = Growing(self.folder), Beside()
        self._run = describe_run(run) | {"name": self.name}
        self._restore(run, callbacks)
        self._check_room(run)
        remove_strays(self.folder)
        self._remove_old()
        return run.resumed_from

    def _read_too(self, run: "Run", callbacks: Sequence["Callback"], name: str | None) -> None:
        if rank() != 0 and name is not None:
            self._grown = Growing(self.folder)
            self._fill(run, callbacks, read(self.folder / name), name)

    def _restore(self, run: "Run", callbacks: Sequence["Callback"]) -> None:
        refused: dict[Path, str] = {}
        for path in files(self.folder):
            try:
                saved = read(path)
                why = self._another(run, saved["run"])
                if why is not None:
                    raise CheckpointError(f"{path.name} is of another run: {why}")
                where = first_nonfinite(saved["state"])
                if where is not None:
                    raise CheckpointError(f"{path.name} holds a {where} with entries that are not finite")
                self._fill(run, callbacks, saved, path.name)
            except CheckpointError as error:
                refused[path] = str(error)
                continue
            say_other_shares(saved.get("processes", world()))
            ours = describe(run.save)
            if differences(ours, saved.get("save", ours), settled=self.name is not None):
                warnings.warn(
                    f"{path.name} holds states that another Save has kept: they stay as they are, new ones are kept as asked now",
                    stacklevel=2,
                )
            break
        self._refused = set(refused)
        if refused and run.resumed_from is None:
            raise CheckpointError(
                f"{self.folder} holds checkpoints and none can be used. Give this run another folder, or remove them."
                "\n  " + "\n  ".join(refused.values())
            )
        for why in refused.values():
            warnings.warn(f"checkpoint refused, the one before it is used: {why}", stacklevel=2)
        if run.updates > run.total_updates:
            raise CheckpointError(
                f"the run in {self.folder} has made {run.updates} updates and completed {run.state.k} time steps, "
                f"more than the num_steps={run.num_steps} asked for: ask for {run.state.k} or more"
            )

    def _another(self, run: "Run", theirs: dict[str, Any]) -> str | None:
        if "version" in theirs:
            return another(as_earlier(self._run) if is_earlier(theirs) else self._run, theirs)
        return "; ".join(differences(as_earlier(first_format.describe_run(run)), theirs)) or None

    def _fill(self, run: "Run", callbacks: Sequence["Callback"], saved: dict[str, Any], name: str) -> None:
        device = run.state.rng.device
        run.state = load_state(run.state, saved["state"], f"{name}: state", device)
        run.ledger.load_state_dict(saved["ledger"])
        try:
            lists = self._grown.read(saved)
        except CheckpointError as error:
            raise CheckpointError(f"{name}: {error}") from error
        for kept, entries in lists.items():
            getattr(run.solution, kept)[:] = entries
        run.spacing = saved.get("spacing", 1)
        for turn, c in _named(callbacks).items():
            if turn in saved["callbacks"]:
                c.load_state_dict(saved["callbacks"][turn])
        run.stream.restore(saved["global_rng"])
        run.resumed_from = name
        if is_earlier(saved["run"]):
            give_batches(run)
            self._run = as_earlier(self._run)

    def _payload(self, run: "Run", callbacks: Sequence["Callback"]) -> dict[str, Any]:
        payload = {
            "wgflow_checkpoint": FORMAT,
            "run": self._run,
            "processes": world(),
            "save": describe(run.save),
            "state": state_dict(run.state),
            "ledger": run.ledger.state_dict(),
            "spacing": run.spacing,
            "callbacks": {name: c.state_dict() for name, c in _named(callbacks).items()},
            "global_rng": run.stream.saved(),
        }
        return {name: plain(value, name) for name, value in payload.items()}

    def _check_room(self, run: "Run") -> None:
        state = sum(t.nbytes for t in tensors(state_dict(run.state)))
        # Adam has not made its moments before the first update: twice the weights more.
        size = state if run.updates else 3 * state
        held = sum(p.stat().st_size for p in files(self.folder) if p not in self._refused)
        need, free = size * (self.keep + 1) - held, shutil.disk_usage(self.folder).free
        if need > free:
            raise CheckpointError(
                f"{self.folder} has {free / 1e6:.0f} MB free and the {self.keep + 1} checkpoints of this run take up to "
                f"{need / 1e6:.0f} MB: free some room or choose another folder"
            )

    def write(self, run: "Run", callbacks: Sequence["Callback"], *, wait: bool = True) -> None:
        """Take one checkpoint, and have it written, beside the run unless it shall ``wait``; the oldest one is removed then.

        Raises
        ------
        Diverged
            When a tensor of the state is not finite: the last good checkpoint is kept.
        CheckpointError
            When the file, or the one before, cannot be written; no partial file is left and the earlier ones stay.
        """
        run.check()
        self._last = time.monotonic()
        by_first(lambda: self._take(run, callbacks, wait), run.state.rng.device)

    def _take(self, run: "Run", callbacks: Sequence["Callback"], wait: bool) -> None:
        self._writer.wait()
        payload, updates, copied = self._payload(run, callbacks), run.updates, None
        new = self._grown.new({name: getattr(run.solution, name) for name in LISTS})
        if not wait:
            with suppress(RuntimeError):  # where there is no room for a copy, the run waits
                payload, copied = on_host(payload)
        self._writer.start(lambda: self._write(payload, new, updates, copied))
        if copied is None:
            self._writer.wait()

    def _write(
        self, payload: dict[str, Any], new: dict[str, list[Any]], updates: int, copied: Callable[[], None] | None
    ) -> None:
        if copied is not None:
            copied()
        try:
            check_held(self.folder)
            path = write(payload | {"saved": self._grown.append(new, updates)}, self.folder, updates)
        except CannotWrite as error:
            why = gone(self.folder) or reason(cast(OSError, error.__cause__))
            raise CheckpointError(
                f"no checkpoint could be written to {self.folder}: {why}; earlier ones stay"
            ) from error
        self._refused.discard(path)
        self._remove_old()

    def _remove_old(self) -> None:
        for old in [p for p in files(self.folder) if p not in self._refused][self.keep :]:
            with suppress(OSError):  # it is tried again next time
                old.unlink()
        self._grown.remove_old(files(self.folder))


suggest(Checkpoint, ((str, Path), "Wrap the folder: Checkpoint({value})"))


def _named(callbacks: Sequence["Callback"]) -> dict[str, "Callback"]:
    """Callbacks by class name and turn, so that one may be added or left out when a run goes on."""
    turns: Counter[str] = Counter()
    named = {}
    for c in callbacks:
        name = type(c).__qualname__
        turns[name] += 1
        named[f"{name} {turns[name]}"] = c
    return named
