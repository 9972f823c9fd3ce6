"""Checkpoint files: there whole or not at all, and checked when they are read."""

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from wgflow.errors import CheckpointError

FORMAT = 1
_NAME = re.compile(r"update-(\d{10})-([0-9a-f]{16})\.pt")
_ENTRIES = {"run", "state", "ledger", "history", "times", "saved", "callbacks", "global_rng"}


def files(directory: Path) -> list[Path]:
    """Checkpoint files of a folder, the newest first."""
    return sorted(directory.glob("update-*.pt"), reverse=True)


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
    try:
        intact = _digest(path) == match[2]
        saved = torch.load(path, map_location="cpu", weights_only=True) if intact else None
    except Exception as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    if not intact:
        raise CheckpointError(f"{path.name} is truncated or altered: its bytes do not have the digest in its name")
    if not isinstance(saved, dict) or saved.get("wgflow_checkpoint") != FORMAT or not saved.keys() >= _ENTRIES:
        raise CheckpointError(f"{path.name} is not a checkpoint of this version of wgflow (format {FORMAT})")
    return saved


def write(payload: dict[str, Any], directory: Path, updates: int) -> Path:
    """Write one file under a temporary name, flush it to the disk, rename it and return its path.

    An error of the file system leaves nothing behind; a kill leaves a stray that :func:`remove_strays` finds.
    """
    temporary = directory / f".writing-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            torch.save(payload, file)
            file.flush()
            os.fsync(file.fileno())
        path = directory / f"update-{updates:010d}-{_digest(temporary)}.pt"
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if os.name == "posix":  # a rename is durable only once its folder is
        folder = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path


def remove_strays(directory: Path) -> None:
    """Remove what killed runs left half written; only for who holds the folder's lock."""
    for stray in directory.glob(".writing-*"):
        with suppress(OSError):
            stray.unlink()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
