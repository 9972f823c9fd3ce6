"""What the user names on the command line: objects, ``package.module:NAME``, arrays in files, and pictures to write."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wgflow.core.errors import BadInput
from wgflow.core.instead import shown
from wgflow.storage.files import replacing


def named(name: str, what: str) -> Any:
    """Return an object of the user's; the present folder counts as a place of modules, as for ``python -m``."""
    from wgflow.generative.pairs import named_object

    if ":" not in name:
        path = Path(name)
        expected = f"{path.stem}:NAME" if path.suffix == ".py" else "package.module:NAME"
        missing = ", and there is no file of this name" if path.suffix and not path.is_file() else ""
        raise BadInput(f"{what}={name!r}: expected {expected}{missing}")
    with _present_folder():
        return named_object(name, what)


def callbacks(names: str | None) -> list[Any]:
    """Return the callbacks at ``package.module:NAME``, separated by commas; what makes one is called."""
    from wgflow import Callback

    found = []
    for name in [] if names is None else names.split(","):
        given = named(name.strip(), "callback")
        try:
            made = given if isinstance(given, Callback) or not callable(given) else given()
        except TypeError as error:
            raise BadInput(f"callback={name!r} cannot be made without arguments: {error}") from error
        if not isinstance(made, Callback):
            raise BadInput(f"callback={name!r} is {shown(made)}: expected a wgflow.Callback, or what makes one")
        found.append(made)
    return found


def array(path: Path, what: str) -> np.ndarray:
    """Return the points (n, d) of an .npy file, or of a text file with a point a line; raises ``BadInput`` for another file."""
    kind, where = path.suffix.lower(), f"{what}={str(path)!r}"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")  # it is refused below
            if kind == ".npy":
                found = np.load(path, allow_pickle=False)
            else:
                found = np.loadtxt(path, delimiter="," if kind == ".csv" else None, ndmin=2, encoding="utf-8-sig")
    except (ValueError, EOFError) as error:
        known = {".npy": "an array of numpy.save", ".csv": "numbers with commas between them, a point a line"}
        expected = known.get(kind, "numbers with spaces between them, a point a line")
        header = "" if kind == ".npy" else ", without a header"
        raise BadInput(f"{where}: expected {expected}{header} ({str(error)[:80]})") from error
    return points(found, where)


def points(found: Any, where: str) -> np.ndarray:
    """Return an array (n, d) in float64, in the order of bytes and memory that torch takes; raises ``BadInput`` for another one."""
    if not isinstance(found, np.ndarray):  # an archive under the name of an array
        raise BadInput(f"{where}: expected an array of numpy.save, got {shown(found)}")
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.number) or np.iscomplexobj(found):
        advice = ". One number a point has the shape (n, 1): reshape(-1, 1)" if found.ndim == 1 else ""
        raise BadInput(f"{where}: expected points (n, d), got {found.dtype} of shape {found.shape}{advice}")
    if not found.size:
        raise BadInput(f"{where}: expected at least one point, it has none")
    wrong = np.argwhere(~np.isfinite(found))
    if len(wrong):
        i, j = wrong[0]
        raise BadInput(
            f"{where}: {len(np.unique(wrong[:, 0]))} of its {len(found)} points are not finite, the first is number {i} with "
            f"{found[i, j]} for coordinate {j}: drop or repair them"
        )
    return np.array(found, dtype=np.float64)


def save_picture(figure: Any, path: str | Path) -> None:
    """Write a figure in the format that the name says, whole or not at all; missing folders are made."""
    with replacing(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:], dpi=150)


@contextmanager
def _present_folder() -> Iterator[None]:
    sys.path.insert(0, os.getcwd())
    try:
        yield
    finally:
        sys.path.remove(os.getcwd())
