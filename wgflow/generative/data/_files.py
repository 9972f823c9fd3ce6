"""Images decoded from files by Pillow."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wgflow._imports import require
from wgflow.errors import BadInput
from wgflow.generative.data._images import resize

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_AT_ONCE = 32  # files decoded before the next ones are read: bounds the memory that large photographs take


def find_images(folder: Path) -> list[Path]:
    """Return the image files (by suffix) below ``folder``, sorted, without hidden ones (``.name``)."""
    visible = (p for p in folder.rglob("*") if not any(s.startswith(".") for s in p.relative_to(folder).parts))
    return sorted(p for p in visible if p.suffix.lower() in SUFFIXES and p.is_file())


def decode_images(paths: list[Path], size: int | None, crop: int | None = None) -> Tensor:
    """Return the files as uint8 (n, c, size, size): one channel if all are grey, else RGB.

    Each image is turned as its EXIF data say, cut to its central square (of ``crop`` pixels, or as large as
    it can be) and resized. Transparency is ignored.

    Raises
    ------
    BadInput
        Naming the file: when one cannot be read, has more than 8 bits a channel, is smaller than ``crop``, or
        differs in size from the others while ``size`` is None.
    """
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(_header, paths))
        edges = [crop or edge for _, edge in headers]
        for path, (_, edge), wanted in zip(paths, headers, edges, strict=True):
            if edge < wanted:
                raise BadInput(f"{path} is {edge} pixels wide or high, too small to cut out {wanted} x {wanted}")
            if size is None and wanted != edges[0]:
                raise BadInput(
                    f"{path} has a shorter side of {wanted} pixels, {paths[0]} one of {edges[0]}: give size "
                    "(on the command line --image_size) to bring all images to one size"
                )
        mode = "L" if all(grey for grey, _ in headers) else "RGB"
        side = size or edges[0]
        out = torch.empty(len(paths), len(mode), side, side, dtype=torch.uint8)
        for i in range(0, len(paths), _AT_ONCE):
            some = slice(i, i + _AT_ONCE)
            decoded = pool.map(lambda path, edge: _decode(path, mode, edge), paths[some], edges[some])
            _fill(out[some], decoded)
    return out


def _fill(out: Tensor, images: Iterable[Tensor]) -> None:
    for place, image in zip(out, images, strict=True):
        place.copy_(resize(image[None], out.shape[-1])[0])


def _header(path: Path) -> tuple[bool, int]:
    """Return whether a file is grey and its shorter side, without decoding it."""
    with _opened(path) as image:
        mode, edge = image.mode, min(image.size)
    if mode not in _GREY + _COLOUR:
        raise BadInput(f"{path} has pixels of Pillow's mode {mode}, expected 8 bits a channel: convert it first")
    return mode in _GREY, edge


def _decode(path: Path, mode: str, edge: int) -> Tensor:
    ops = require("PIL.ImageOps", extra="image")
    with _opened(path) as image:
        try:
            ops.exif_transpose(image, in_place=True)
            image = image.convert(mode)
        except Exception as error:  # Pillow's readers raise a different class for each format
            raise BadInput(f"{path} cannot be decoded as an image: {error}") from error
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        pixels = np.array(image.crop((left, top, left + edge, top + edge)))
    return torch.from_numpy(pixels.reshape(edge, edge, len(mode))).permute(2, 0, 1)


def _opened(path: Path) -> Any:
    pillow = require("PIL.Image", extra="image")
    try:
        return pillow.open(path)
    except Exception as error:  # as above, and warnings about huge images
        raise BadInput(f"{path} cannot be read as an image: {error}") from error
