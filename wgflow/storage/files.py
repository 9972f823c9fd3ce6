"""Files that are there whole or not at all; the lock of a folder; checkpoint files, checked when they are read."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock, Timeout

from wgflow.core.errors import BadInput, CannotWrite, CheckpointError, WgflowError

FORMAT = 3
_READABLE = (1, 2, FORMAT)  # the first one held all saved states itself, both of them the history
LOCK = "run.lock"
_STRAY = ".writing-"
_LARGEST_TEXT = 2**20
_NAME = re.compile(r"update-(\d{10})-([0-9a-f]{16})\.pt")
_ENTRIES = {"run", "state", "ledger", "saved", "callbacks", "global_rng"}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a new, empty file beside ``path``, which takes its name, flushed to the disk, when the block has ended well.

    Missing folders are made. A link or a file in the place of ``path`` is replaced, never written through. The mode is
    what the umask leaves. A block that fails leaves nothing behind; a kill leaves a stray that :func:`remove_strays` finds.

    Raises
    ------
    CannotWrite
        When the file system refuses.
    """
    path = _nameable(path)
    with _beside(path, anew=True) as (temporary, put):
        yield temporary
        put(path)


@contextmanager
def _beside(path: Path, *, anew: bool) -> Iterator[tuple[Path, Callable[[Path], None]]]:
    """Give a new file in the folder of ``path``, which is made ``anew`` where it is missing, and a function that renames it for good."""
    temporary = path.parent / f"{_STRAY}{secrets.token_hex(8)}{path.suffix}"
    try:
        if path.is_dir() and not path.is_symlink():  # a link is replaced
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if anew:
            path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        mode = stat.S_IMODE(temporary.stat().st_mode)

        def put(path: Path) -> None:
            temporary.chmod(mode)  # some writers put a file of their own in its place, readable by its owner only
            flush(temporary)
            os.replace(temporary, path)
            if os.name == "posix":  # a rename is durable only once its folder is
                flush(path.parent)

        yield temporary, put
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and not isinstance(error, WgflowError):
            raise CannotWrite(f"cannot write {path}: {reason(error)}") from error
        raise


def check_writable(path: str | Path) -> None:
    """Make the folder of a file that is to be written later; raises ``CannotWrite`` for what would stand against it then."""
    path = _nameable(path)
    with _beside(path, anew=True) as (temporary, _):
        temporary.unlink()


def _nameable(path: str | Path) -> Path:
    if "\0" in str(path):
        raise CannotWrite(f"cannot write {str(path)!r}: a name cannot hold a null character")
    return Path(path)


def reason(error: OSError) -> str:
    """What the file system says, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    return error.strerror or str(error)


def refusal(directory: Path, error: Exception) -> OSError:
    """What the file system has said to a writer with error classes of its own; PyTorch's does not tell that the disk is full."""
    told = re.search(r"os error (\d+)", str(error))
    full = shutil.disk_usage(directory).free < 2**20
    return OSError(int(told[1]) if told else errno.ENOSPC if full else errno.EIO, str(error))


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def open_own(path: Path) -> BinaryIO:
    """Open a file to read and to go on writing, made where there is none; never through a link, and nothing but a file.

    Raises
    ------
    CannotWrite
        When the file system refuses.
    """
    path = _nameable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link")
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a file")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        return os.fdopen(descriptor, "r+b")
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {reason(error)}") from error


def read_text(path: Path, what: str) -> str:
    """Return the text of a small file of settings.

    Raises
    ------
    BadInput
        When it is not a file, is larger than such files are, or not UTF-8; ``what`` says what it was read as.
    """
    try:
        if not path.is_file():  # a pipe would be read for ever
            raise BadInput(f"{path} cannot be read as {what}: it is not a file")
        if path.stat().st_size > _LARGEST_TEXT:
            raise BadInput(f"{path} is not {what}: it is larger than {_LARGEST_TEXT // 2**20} MB")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not {what}: it is not text in UTF-8") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {reason(error)}") from error


def flush(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_strays(directory: Path) -> None:
    """Remove what killed runs left half written; only for who holds the folder's lock."""
    for stray in directory.glob(f"{_STRAY}*"):
        with suppress(OSError):
            stray.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder and hold it for this run: nobody else, thread or process, can while the block lasts.

    Raises
    ------
    CheckpointError
        When another process or thread holds it, or the folder cannot be written to.
    """
    path = _nameable(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise OSError(errno.ELOOP, f"{LOCK} is a symbolic link")
        with suppress(FileExistsError):  # the lock of a shared folder is for its group, as the umask says
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout:
        raise CheckpointError(
            f"{folder} is in use by another process: wait for it, or give this run a folder of its own"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot write to the folder {folder}: {reason(error)}") from error
    try:
        yield
    finally:
        lock.release()


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
    if _NAME.fullmatch(path.name) is None:
        raise CheckpointError(f"{path.name} does not have the name of a checkpoint of wgflow")
    if not path.is_file():  # a pipe would be read for ever
        raise CheckpointError(f"{path.name} cannot be read: it is not a file")
    try:
        intact = _intact(path)
        saved = torch.load(path, map_location="cpu", weights_only=True) if intact else None
    except Exception as error:
        raise CheckpointError(f"{path.name} cannot be read: {error}") from error
    if not intact:
        raise CheckpointError(f"{path.name} is truncated or altered: its bytes do not have the digest in its name")
    if not isinstance(saved, dict) or saved.get("wgflow_checkpoint") not in _READABLE or not saved.keys() >= _ENTRIES:
        raise CheckpointError(f"{path.name} is not a checkpoint of this version of wgflow (format {FORMAT})")
    return saved


def glanced(path: Path) -> dict[str, Any]:
    """Return the entries of a checkpoint file as they are, without reading its tensors; empty where it has none that can be read.

    Raises
    ------
    OSError
        When the file system refuses, also to map a file, which says nothing of what is in it.
    """
    if not path.is_file():
        return {}
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # of whatever the file is; PyTorch says so too where a file system maps none
        if _intact(path):
            raise OSError(errno.EIO, str(error)) from error
        return {}
    return saved if isinstance(saved, dict) else {}


def gone(directory: Path) -> str | None:
    """Say that a folder is not the one any more that the run has locked; None while it is."""
    return None if (directory / LOCK).exists() else "the folder was removed or emptied in mid-run"


def check_held(directory: Path) -> None:
    """Raise ``CannotWrite`` when a folder is not the one any more that the run has locked."""
    why = gone(directory)
    if why is not None:
        raise CannotWrite(f"cannot write to {directory}: {why}") from FileNotFoundError(errno.ENOENT, why)


def write(payload: dict[str, Any], directory: Path, updates: int) -> Path:
    """Write one checkpoint file of a folder, named by its update and its digest, and return its path.

    Raises
    ------
    CannotWrite
        When the file system refuses.
    """
    with _beside(directory / "update.pt", anew=False) as (temporary, put):
        with open(temporary, "wb") as file:
            try:
                torch.save(payload, file)
            except RuntimeError as error:
                raise refusal(directory, error) from error
        path = directory / f"update-{updates:010d}-{_digest(temporary)}.pt"
        put(path)
    return path


def _intact(path: Path) -> bool:
    """Whether a checkpoint file has the digest that is in its name."""
    match = _NAME.fullmatch(path.name)
    return match is not None and _digest(path) == match[2]


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
