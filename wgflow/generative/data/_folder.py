"""Which files of a folder are its images."""

import os
import warnings
from pathlib import Path

from wgflow.core.errors import BadInput

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_DESKTOP = ("thumbs.db", "desktop.ini")  # what Windows leaves behind, as others leave hidden files


def find_images(folder: Path) -> list[Path]:
    """Return the image files (by suffix) below ``folder``, sorted; links are followed, every folder is read once.

    Hidden files and folders (``.name``) are left out. A warning names other files that are left out, and links to
    folders that have been read already, which a loop of links has too.

    Raises
    ------
    BadInput
        Naming it: a link that leads nowhere, an image that is not a file, or a folder that cannot be read.
    """
    images: list[Path] = []
    others: list[Path] = []
    again: list[Path] = []
    seen: set[str] = set()
    pending = [folder]  # links wait until the folders themselves have been read
    while pending:
        for where, folders, files in os.walk(pending.pop(0), onerror=_refuse):
            here, real = Path(where), os.path.realpath(where)
            folders[:] = [] if real in seen else sorted(filter(_visible, folders))
            if real in seen:
                again.append(here)
                continue
            seen.add(real)
            pending += [here / name for name in folders if os.path.islink(here / name)]
            for path in (here / name for name in files if _visible(name)):
                (images if _is_image(path) else others).append(path)
    _say_left_out(folder, others, "not an image by suffix")
    _say_left_out(folder, again, "a second way to a folder that was read already")
    return sorted(images)


def _visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _DESKTOP


def _is_image(path: Path) -> bool:
    if not path.exists():
        raise BadInput(f"{path} is a link that leads nowhere ({os.readlink(path)}): repair it or remove it")
    if path.suffix.lower() not in SUFFIXES:
        return False
    if not path.is_file():
        raise BadInput(f"{path} is not a file but a pipe, a socket or a device")
    return True


def _refuse(error: OSError) -> None:
    raise BadInput(f"the folder {error.filename} cannot be read: {error.strerror}") from error


def _say_left_out(folder: Path, paths: list[Path], what: str) -> None:
    if paths:
        names = ", ".join(str(p.relative_to(folder)) for p in sorted(paths)[:3])
        more = ", ..." if len(paths) > 3 else ""
        warnings.warn(f"{folder}: {len(paths)} left out, {what}: {names}{more}", stacklevel=2)
