"""The states that a run has saved, in one file of its folder that grows: a checkpoint says how much of it is its own."""

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
from wgflow.storage.files import flush, reason
from wgflow.storage.state import plain, tensors

_NAME = re.compile(r"saved-(\d{10})\.states")
_HEAD = 8  # bytes that say how many follow


class SavedStates:
    """Writes what is new since the last checkpoint, and the whole in a new file where states have been dropped.

    The file of a checkpoint is named by the update at which it was begun. A kill leaves an end that belongs to no
    checkpoint, and is overwritten. Without tensors among the states, a checkpoint holds them itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._begin(None)

    def _begin(self, path: Path | None) -> None:
        self.path, self.count, self.length, self.last = path, 0, 0, object()
        self.seen = hashlib.sha256()

    def write(self, saved: list[Any], updates: int) -> Any:
        """Return what a checkpoint holds: where the states are, or the states.

        Raises
        ------
        CannotWrite
            When the file system refuses; what earlier checkpoints need is still there.
        CheckpointError
            For a state that has no plain form.
        """
        if self.count and (self.count > len(saved) or saved[self.count - 1] is not self.last):
            self._begin(None)
        new = [plain(_plain(s), f"saved[{i}]") for i, s in enumerate(saved[self.count :], self.count)]
        if self.path is None and not tensors(new):
            return new
        if new:
            try:
                self._append(new, updates)
            except OSError as error:
                path, self.path = self.path, self.path if self.length else None
                raise CannotWrite(f"cannot write {path}: {reason(error)}") from error
            self.count, self.last = len(saved), saved[-1]
        assert self.path is not None
        return {"file": self.path.name, "bytes": self.length, "count": self.count, "digest": self.seen.hexdigest()}

    def _append(self, new: list[Any], updates: int) -> None:
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

    def read(self, held: Any) -> list[Any]:
        """Return the states of a checkpoint, and go on after them.

        Raises
        ------
        CheckpointError
            When the file is not there or has been altered.
        """
        if not isinstance(held, dict):
            self._begin(None)
            return list(map(_unplain, held))
        path = self.folder / str(held["file"])
        if _NAME.fullmatch(path.name) is None or path.is_symlink() or not path.is_file():
            raise CheckpointError(f"its states are in {path.name}, which is not there")
        self._begin(path)
        try:
            with open(path, "rb") as file:
                content = file.read(held["bytes"])
            self.seen.update(content)
            if self.seen.hexdigest() != held["digest"]:
                raise CheckpointError(f"its states in {path.name} are truncated or altered")
            states = [state for part in _parts(content) for state in torch.load(io.BytesIO(part), weights_only=True)]
        except OSError as error:
            raise CheckpointError(f"its states in {path.name} cannot be read: {reason(error)}") from error
        states = list(map(_unplain, states))
        self.count, self.last, self.length = len(states), states[-1], len(content)
        return states

    def remove_old(self, updates: Iterable[int]) -> None:
        """Remove the files that no checkpoint at one of ``updates`` needs: each needs the newest that was there."""
        begun = {int(match[1]): p for p in self.folder.glob("saved-*.states") if (match := _NAME.fullmatch(p.name))}
        needed = {max((b for b in begun if b <= u), default=None) for u in updates}
        for update, path in begun.items():
            if update not in needed and path != self.path:
                with suppress(OSError):  # it is tried again next time
                    path.unlink()


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
