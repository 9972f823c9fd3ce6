"""Stacks of 8-bit images, their float form, and resizing."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked
from wgflow.core.instead import suggest
from wgflow.core.labels import check_labels

CHUNK_PIXELS = 2**22  # bounds what is held in float at any time (16 MB in float32)


def check_images(images: Tensor) -> None:
    """Raise ``BadInput`` unless ``images`` is a non-empty uint8 tensor (n, c, h, w)."""
    if images.dtype != torch.uint8:
        raise BadInput(f"images must be uint8 (0 to 255), got {images.dtype}; wgflow's to_uint8 converts from [-1, 1]")
    if images.layout != torch.strided or images.is_meta:
        raise BadInput(
            "images must be a dense tensor that holds its values: a sparse one has to_dense(), one on meta none"
        )
    if images.dim() != 4:
        raise BadInput(f"images must have shape (n, c, h, w), got {tuple(images.shape)}")
    if images.numel() == 0:
        raise BadInput(f"the set of images is empty: shape {tuple(images.shape)}")


@dataclass(frozen=True, eq=False)
class ImageSet(Checked):
    """Images in memory with what is known about them.

    Attributes
    ----------
    images : Tensor, uint8, shape (n, c, height, width)
        Gray levels or RGB, 0 to 255.
    labels : Tensor, int64, shape (n,), or None
        Class of each image, an index into ``classes`` where these are known.
    name : str
        Name of the set, or of the file or folder it was read from.
    classes : tuple of str, or None
        Names of the classes.

    Raises
    ------
    BadInput
        For images that are not uint8 (n, c, h, w) or are none at all, and for labels that are not int64 (n,).

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative import ImageSet
    >>> images = ImageSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), None, "black")
    >>> images.images.shape
    torch.Size([10, 1, 8, 8])
    """

    images: Tensor = field(repr=False)
    labels: Tensor | None = field(repr=False)
    name: str
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_images(self.images)
        labels = self.labels
        if labels is not None and not isinstance(labels, Tensor):
            raise BadInput(f"labels must be a torch.Tensor of int64, one an image, got {type(labels).__name__}")
        if labels is not None:
            check_labels(labels, len(self.images), "an image")

    def __len__(self) -> int:
        return len(self.images)


suggest(
    Tensor,
    (ImageSet, "Pass its images"),
    ((str, Path), "load_images reads files"),
    ((DataLoader, Dataset, Iterator), "Collect it in one tensor first, with torch.stack or torch.cat"),
)


def to_unit(images: Tensor) -> Tensor:
    r"""Return :math:`x / 127.5 - 1` in float32: 0 becomes -1 and 255 becomes 1. Any shape.

    Parameters
    ----------
    images : Tensor, uint8
        Levels.

    Returns
    -------
    Tensor, float32
        Of the same shape.

    Raises
    ------
    BadInput
        When ``images`` is not uint8: scaling twice would pass unnoticed.

    Examples
    --------
    >>> to_unit(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise BadInput(f"to_unit expects a tensor of uint8 images (0 to 255), got {_kind(images)}")
    return images.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    r"""Return :math:`\mathrm{round}(127.5\,(x + 1))` cut to the range from 0 to 255, as uint8. Any shape.

    The inverse of :func:`to_unit`. Halves are rounded to even levels; what is not a number has no color, and
    its byte is arbitrary.

    Parameters
    ----------
    x : Tensor, floating point
        Values, of which those in [-1, 1] are not cut.

    Returns
    -------
    Tensor, uint8
        Of the same shape.

    Raises
    ------
    BadInput
        When ``x`` is not of a floating-point type.

    Examples
    --------
    >>> to_uint8(torch.tensor([-1.0, 0.0, 7.0]))
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise BadInput(f"to_uint8 expects a tensor of floating-point images in [-1, 1], got {_kind(x)}")
    return x.detach().to(torch.float32).add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def cut_off(low: float, high: float) -> bool:
    """Whether images of these values were made for another range than [-1, 1]; a little more is overshoot of a network."""
    return max(-low, high) > 1.1


def in_other_range(low: float, high: float) -> bool:
    """Whether many images of these values were made for another range than [-1, 1], also for a half of it."""
    return cut_off(low, high) or 0 <= low < high


def other_range(low: float, high: float, whose: str = "the model's images") -> str:
    """Return a sentence on images that were made for another range than [-1, 1]."""
    what = "what lies outside of that was cut off" if cut_off(low, high) else "half of it was never used"
    return (
        f"{whose} have values from {low:.2g} to {high:.2g}, expected [-1, 1]: {what}. Images in [0, 1] become "
        "2 x - 1, levels 0 to 255 become x / 127.5 - 1"
    )


def _kind(x: Any) -> str:
    return str(x.dtype) if isinstance(x, Tensor) else type(x).__name__


def empty_images(n: int, c: int, h: int, w: int, device: torch.device | None = None) -> Tensor:
    """Return room for images, uint8 (n, c, h, w).

    Raises
    ------
    BadInput
        When they are more than the memory holds.
    """
    try:
        return torch.empty(n, c, h, w, dtype=torch.uint8, device=device)
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise BadInput(
            f"{n} images of {c} x {h} x {w} take {n * c * h * w / 1e9:.3g} GB of memory, which this machine does not give: "
            "choose a smaller size, or fewer images"
        ) from error


def resize(images: Tensor, size: int) -> Tensor:
    """Return square images (n, c, h, h) as (n, c, size, size): bilinear, antialiased and rounded.

    Raises
    ------
    BadInput
        When the images are not square: stretching them would distort what they show.
    """
    n, c, h, w = images.shape
    if h != w:
        raise BadInput(f"size={size} needs square images, these are {h} x {w}: crop them first, or leave size out")
    if h == size:
        return images
    out = empty_images(n, c, size, size, images.device)
    step = max(1, CHUNK_PIXELS // (c * max(h, size) ** 2))
    for i in range(0, n, step):
        x = images[i : i + step].to(torch.float32)
        x = functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        out[i : i + step] = x.round_()
    return out
