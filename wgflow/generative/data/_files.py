"""Images decoded from files by Pillow."""

import re
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.imports import require
from wgflow.generative.data._images import empty_images, resize

# Pillow goes by the content. It would hand a PostScript file of any name to an interpreter of programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_GREY = ("1", "L", "LA")
_COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_WITH_ALPHA = ("LA", "PA", "RGBA")
_AT_ONCE = 32  # files decoded before the next ones are read: bounds the memory that large photographs take


def decode_images(paths: list[Path], size: int | None, crop: int | None = None) -> Tensor:
    """Return the files as uint8 (n, c, size, size): one channel if all are gray, else RGB.

    Each image is turned as its EXIF data say, cut to its central square (of ``crop`` pixels, or as large as
    it can be) and resized. Transparent pictures are put on white, so that what looks the same is the same. Color
    profiles are not applied.

    Raises
    ------
    BadInput
        Naming the file: when one cannot be read, has more than 8 bits a channel, is smaller than ``crop``, or
        differs in size from the others while ``size`` is None.

    Warns
    -----
    UserWarning
        When files hold several pictures, of which the first one is taken.
    """
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(_header, paths))
        edges = [crop or header.edge for header in headers]
        for path, header, wanted in zip(paths, headers, edges, strict=True):
            if header.edge < wanted:
                raise BadInput(f"{path} is {header.edge} pixels wide or high, too small to cut out {wanted} x {wanted}")
            if size is None and wanted != edges[0]:
                raise BadInput(
                    f"{path} has a shorter side of {wanted} pixels, {paths[0]} one of {edges[0]}: give size "
                    "(on the command line --image_size) to bring all images to one size"
                )
        films = [path for path, header in zip(paths, headers, strict=True) if header.film]
        if films:
            warnings.warn(
                f"{len(films)} of the files hold several pictures, the first of each is taken: {films[0]}", stacklevel=2
            )
        mode = "L" if all(header.grey for header in headers) else "RGB"
        side = size or edges[0]
        out = empty_images(len(paths), len(mode), side, side)
        for i in range(0, len(paths), _AT_ONCE):
            some = slice(i, i + _AT_ONCE)
            decoded = pool.map(lambda path, edge: _decode(path, mode, edge), paths[some], edges[some])
            _fill(out[some], decoded)
    return out


def _fill(out: Tensor, images: Iterable[Tensor]) -> None:
    for place, image in zip(out, images, strict=True):
        place.copy_(resize(image[None], out.shape[-1])[0])


class _Header(NamedTuple):
    """What a file says before it is decoded: whether it is gray, its shorter side, whether it holds several pictures."""

    grey: bool
    edge: int
    film: bool


def _header(path: Path) -> _Header:
    with _opened(path) as image:
        mode, edge = image.mode, min(image.size)
        # Pillow takes the upper 8 of 16 bits of a color, and cuts 16 bits of grey off at 255.
        deep = any(re.search(r";16[BLN]", str(tile)) for tile in image.tile) or _deep_pixmap(image)
        # A camera's JPEG with a preview behind it (MPO) is one picture.
        film = getattr(image, "is_animated", False) and image.format != "MPO"
    if deep or mode not in _GREY + _COLOUR:
        depth = "16 bits a channel" if deep else f"pixels of Pillow's mode {mode}"
        raise BadInput(f"{path} has {depth}, expected 8 bits a channel: convert it first")
    return _Header(mode in _GREY, edge, film)


def _deep_pixmap(image: Any) -> bool:
    """Whether a PPM file has levels above 255: its tile ends in the mode and the largest level."""
    if image.format != "PPM" or not image.tile:
        return False
    _, _, _, held = image.tile[0]
    return isinstance(held, tuple) and int(held[-1]) > 255


def _decode(path: Path, mode: str, edge: int) -> Tensor:
    ops = require("PIL.ImageOps", extra="image")
    with _opened(path) as image:
        _scale_transparent_level(image)
        try:
            ops.exif_transpose(image, in_place=True)
            image = _opaque(image).convert(mode)
        except Exception as error:  # Pillow's readers raise a different class for each format
            raise BadInput(f"{path} cannot be decoded as an image: {error}") from error
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        pixels = np.array(image.crop((left, top, left + edge, top + edge)))
    return torch.from_numpy(pixels.reshape(edge, edge, len(mode))).permute(2, 0, 1)


def _scale_transparent_level(image: Any) -> None:
    """Bring the transparent level of a gray PNG to 0 to 255: Pillow brings the pixels there, and leaves it in 2 or 4 bits."""
    held, bits = image.info.get("transparency"), re.search(r"\bL;([24])\b", str(image.tile))
    if bits and isinstance(held, int):
        image.info["transparency"] = held * 255 // (2 ** int(bits[1]) - 1)


def _opaque(image: Any) -> Any:
    """Return a picture on white where it has transparent pixels: the colors below those are arbitrary."""
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image
    pillow, layer = require("PIL.Image", extra="image"), image.convert("RGBA")
    return pillow.alpha_composite(pillow.new("RGBA", layer.size, "white"), layer)


def _opened(path: Path) -> Any:
    pillow = require("PIL.Image", extra="image")
    try:
        return pillow.open(path, formats=_FORMATS)
    except Exception as error:  # as above, and warnings about huge images
        raise BadInput(f"{path} cannot be read as an image: {error}") from error
