"""What grows along a run, in one file of its folder: a checkpoint says how much of it is its own."""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from wgflow.core.errors import CannotWrite, CheckpointError
from wgflow.measures import Particles
from wgflow.storage.files import flush, glanced, reason
from wgflow.storage.state import plain

LISTS = ("history", "times", "saved")
_NAME = re.compile(r"saved-(\d{10})\.states")
_HEAD = 8  # bytes that say how many follow


class Growing:
    """Writes what the lists of a solution have got since the last checkpoint, or all of it to a new file where entries were dropped.

    The lists are its history, the states that it has saved, and their times. The file of a checkpoint is named by the update at
    which it was begun. A kill leaves an end that belongs to no checkpoint, and is overwritten.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path | None] = {}
        self._begin(None)

    def _begin(self, path: Path | None) -> None:
        self.path, self.length, self.seen = path, 0, hashlib.sha256()
        self.known: dict[str, tuple[int, Any]] = dict.fromkeys(LISTS, (0, None))  # length and last entry of every list

    def new(self, lists: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Return, for :meth:`append`, what the lists have got since the last time.

        Raises
        ------
        CheckpointError
            For an entry that has no plain form.
        """
        if any(
            n and (n > len(lists[name]) or lists[name][n - 1] is not last) for name, (n, last) in self.known.items()
        ):
            self._begin(None)
        new = {}
        for name, entries in lists.items():
            start = self.known[name][0]
            if len(entries) > start:
                new[name] = [plain(_plain(e), f"{name}[{i}]") for i, e in enumerate(entries[start:], start)]
                self.known[name] = len(entries), entries[-1]
        return new

    def append(self, new: dict[str, list[Any]], updates: int) -> dict[str, Any]:
        """Write it, and return what a checkpoint holds: where its lists are.

        Raises
        ------
        CannotWrite
            When the file system refuses; what earlier checkpoints need is still there, and the next one begins a file.
        """
        if new or self.path is None:
            try:
                self._append(new, updates)
            except OSError as error:
                path = self.path
                self._begin(None)
                raise CannotWrite(f"cannot write {path}: {reason(error)}") from error
        assert self.path is not None
        return {"file": self.path.name, "bytes": self.length, "digest": self.seen.hexdigest()}

    def _append(self, new: dict[str, list[Any]], updates: int) -> None:
        content = io.BytesIO()
        torch.save(new, content)
        chunk = content.tell().to_bytes(_HEAD, "little") + content.getvalue()
        begun = self.path is None
        if self.path is None:
            self.path = self.folder / f"saved-{updates:010d}.states"
            self.path.unlink(missing_ok=True)  # of a run that was killed before its checkpoint
        flags = os.O_CREAT | os.O_EXCL if begun else getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(self.path, os.O_RDWR | getattr(os, "O_BINARY", 0) | flags, 0o666), "r+b") as file:
            file.truncate(self.length)
            file.seek(self.length)
            file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if begun and os.name == "posix":
            flush(self.folder)
        self.seen.update(chunk)
        self.length += len(chunk)

    def read(self, checkpoint: dict[str, Any]) -> dict[str, list[Any]]:
        """Return the lists of a checkpoint, and go on after them.

        Those that an earlier format holds itself are written with the next checkpoint.

        Raises
        ------
        CheckpointError
            When the file is not there or has been altered.
        """
        self._begin(None)
        within = {name: checkpoint[name] for name in LISTS if isinstance(checkpoint.get(name), list)}
        written = {} if "saved" in within else self._read(checkpoint["saved"])
        lists: dict[str, list[Any]] = {name: [] for name in LISTS} | within | written
        lists["saved"] = list(map(_unplain, lists["saved"]))
        self.known |= {name: (len(lists[name]), lists[name][-1]) for name in written}
        return lists

    def _read(self, held: dict[str, Any]) -> dict[str, list[Any]]:
        path = self.folder / str(held["file"])
        if _NAME.fullmatch(path.name) is None or path.is_symlink() or not path.is_file():
            raise CheckpointError(f"its states are in {path.name}, which is not there")
        self.path = path
        try:
            with open(path, "rb") as file:
                content = file.read(held["bytes"])
            self.seen.update(content)
            if self.seen.hexdigest() != held["digest"]:
                raise CheckpointError(f"its states in {path.name} are truncated or altered")
        except OSError as error:
            raise CheckpointError(f"its states in {path.name} cannot be read: {reason(error)}") from error
        self.length = len(content)
        lists: dict[str, list[Any]] = {}
        for part in _parts(content):
            chunk = torch.load(io.BytesIO(part), weights_only=True)
            chunk = {"saved": chunk} if isinstance(chunk, list) else chunk  # of the second format
            for name, entries in chunk.items():
                lists.setdefault(name, []).extend(entries)
        return lists

    def remove_old(self, checkpoints: Iterable[Path]) -> None:
        """Remove the files that none of the checkpoints says that its lists are in."""
        with suppress(OSError):  # what is refused is tried again next time
            needed = {self.path, *map(self._needed, checkpoints)}
            for path in self.folder.glob("saved-*.states"):
                if path not in needed and _NAME.fullmatch(path.name):
                    path.unlink()

    def _needed(self, checkpoint: Path) -> Path | None:
        """Return the file of a checkpoint; None for one that cannot be read, which no run goes on with, or has none."""
        name = checkpoint.name  # it holds the digest
        if name not in self._files:
            saved = glanced(checkpoint).get("saved")
            self._files[name] = self.folder / str(saved.get("file")) if isinstance(saved, dict) else None
        return self._files[name]


def _parts(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = start + _HEAD + int.from_bytes(content[start : start + _HEAD], "little")
        yield content[start + _HEAD : end]
        start = end


def _plain(state: Any) -> Any:
    return {"x": state.x, "log_w": state.log_w} if isinstance(state, Particles) else state


def _unplain(state: Any) -> Any:
    return Particles(**state) if isinstance(state, dict) and state.keys() == {"x", "log_w"} else state
