"""The files of numpy, opened with care: they may come from anywhere."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from wgflow.core.errors import BadInput, DataNotFound

_BEGINNINGS = (b"\x93NUMPY", b"PK\x03\x04", b"PK\x05\x06")  # an array, an archive, an empty archive


def existing_file(path: str | os.PathLike[str], lacks: str, hint: str = "") -> Path:
    """Return the path of a file, not of a pipe, which would never end; raises ``DataNotFound``: there ``lacks`` at it."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise BadInput(f"there {lacks} at {path!r:.60}: expected the path of a file")
    if not os.path.isfile(path):
        raise DataNotFound(f"there {lacks} at {os.fspath(path)}{hint}")
    return Path(path)


def open_arrays(path: Path, mmap_mode: Any = None) -> Any:
    """Return what ``np.load`` makes of an .npy or .npz file; whatever else it can read, pickles above all, is refused.

    Raises
    ------
    ValueError
        For another file. Damaged ones raise this and much else, in part when a member of the archive is read.
    """
    with open(path, "rb") as file:
        begins = file.read(6)
    if not begins.startswith(_BEGINNINGS):
        raise ValueError(f"it begins with {begins!r}" if begins else "it is empty")
    return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)


def member(archive: Any, key: str) -> np.ndarray:
    """Return one array of an .npz file; raises ``ValueError`` where it is none."""
    held = archive[key]
    if not isinstance(held, np.ndarray):  # numpy hands out a foreign member of the archive as bytes
        raise ValueError(f"its {key!r} is not an array")
    return held
