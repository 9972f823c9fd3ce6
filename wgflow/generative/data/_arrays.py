"""Images from .npy and .npz files."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.generative.data._array_files import member, open_arrays
from wgflow.generative.data._images import CHUNK_PIXELS, ImageSet, empty_images

_SLACK = 1e-3  # a quarter of a level: rounds to the end of the range
_MAPPED = 2**32  # bytes of a file above which its images are not copied into memory
_LAYOUTS = "(n, h, w), (n, h, w, c) or (n, c, h, w) with c = 1 or 3"


def load_array(path: Path) -> ImageSet:
    """Return the images of a .npy file, or ``images`` or ``x`` of a .npz file with its ``labels`` or ``y``.

    Raises
    ------
    BadInput
        For a file that cannot be read, a missing key, a wrong dtype, shape or range, or values that are not
        finite; see :func:`wgflow.generative.data.load_images` for what is accepted.
    """
    try:
        images, labels = _read(path)
    except BadInput:
        raise
    except Exception as error:  # numpy, zipfile and the decompressors each have their own
        raise BadInput(f"{path} cannot be read as a .npy or .npz file of numbers: {str(error)[:200]}") from error
    images, axis = _channel_axis(images, path)
    return ImageSet(_convert(images, axis, path), _check_labels(labels, len(images), path), path.name)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    # Mapped where possible, not read: the only full copy is then the uint8 tensor that is returned. Writes would stay in memory.
    file = open_arrays(path, mmap_mode="c")
    if isinstance(file, np.ndarray):
        return file, None
    with file:
        images = next((key for key in ("images", "x") if key in file), None)
        labels = next((key for key in ("labels", "y") if key in file), None)
        if images is None:
            raise BadInput(f"{path} has no array called 'images' or 'x'; it holds: {', '.join(file) or 'nothing'}")
        return member(file, images), None if labels is None else member(file, labels)


def _channel_axis(a: np.ndarray, path: Path) -> tuple[np.ndarray, int]:
    """Return the array with four axes and the axis of its channels: 1 or 3."""
    if a.size == 0:
        raise BadInput(f"the set of images in {path} is empty: shape {a.shape}")
    if a.ndim == 3 and a.shape[2] <= 4:
        raise BadInput(
            f"{path} has shape {a.shape}, which looks like one picture (h, w, c) and would be {a.shape[0]} gray ones: store a "
            "set of pictures as (n, h, w, c)"
        )
    if a.ndim == 3:
        return a[:, None], 1
    axes = [axis for axis in (1, 3) if a.ndim == 4 and a.shape[axis] in (1, 3)]
    if len(axes) == 2:
        raise BadInput(
            f"{path} has shape {a.shape}, in which axis 1 and axis 3 could both be the channels. Store the "
            "images so that only one of them is 1 or 3 (gray images as (n, h, w))"
        )
    if not axes:
        raise BadInput(f"{path} has shape {a.shape}, expected {_LAYOUTS}")
    return a, axes[0]


def _convert(a: np.ndarray, axis: int, path: Path) -> Tensor:
    """Copy into a new uint8 tensor (n, c, h, w), a chunk at a time; images of a large file stay there, and are mapped."""
    if a.dtype == np.bool_:
        raise BadInput(
            f"the images in {path} are bool, expected uint8 (0 to 255): black and white are (255 * x).astype('uint8')"
        )
    if a.dtype != np.uint8 and a.dtype.kind != "f":
        raise BadInput(
            f"the images in {path} are {a.dtype}, expected uint8 (0 to 255) or floating-point numbers in "
            "[0, 1]; levels 0 to 255 of another type: convert with .astype('uint8')"
        )
    nchw = a if axis == 1 else a.transpose(0, 3, 1, 2)
    if a.dtype == np.uint8 and isinstance(a, np.memmap) and a.nbytes > _MAPPED:
        return torch.from_numpy(nchw)
    n, c, h, w = nchw.shape
    images = empty_images(n, c, h, w)
    out = images.numpy()
    step = max(1, CHUNK_PIXELS // nchw[0].size)
    for i in range(0, len(out), step):
        chunk = nchw[i : i + step]
        out[i : i + step] = chunk if a.dtype == np.uint8 else _levels(chunk, i, path)
    if a.dtype == np.uint8 and out.max() == 1:
        warnings.warn(
            f"the images in {path} have no level but 0 and 1 of 255, all but black: black and white are 0 and 255",
            stacklevel=2,
        )
    return images


def _levels(chunk: np.ndarray, begin: int, path: Path) -> np.ndarray:
    """Return round(255 x) for x in [0, 1], rounding errors allowed for; ``begin`` is the number of the first image."""
    flat = chunk.reshape(len(chunk), -1)
    low, high = flat.min(1), flat.max(1)  # NaN if any is
    wrong = ~((low >= -_SLACK) & (high <= 1 + _SLACK))
    if wrong.any():
        i = int(wrong.argmax())
        where = f"image {begin + i} of {path}"
        if not np.isfinite(flat[i]).all():
            first = tuple(int(k) for k in np.argwhere(~np.isfinite(chunk[i]))[0])
            raise BadInput(f"{where} has values that are not finite, the first at {first}: {chunk[i][first]}")
        raise BadInput(
            f"{where} has values from {low[i]:g} to {high[i]:g}, expected [0, 1]. Images in [-1, 1]: store "
            "(x + 1) / 2; levels 0 to 255: store them as uint8"
        )
    return np.rint(chunk.astype(np.float64).clip(0, 1) * 255)


def _check_labels(y: np.ndarray | None, n: int, path: Path) -> Tensor | None:
    if y is None:
        return None
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise BadInput(f"the labels in {path} are {y.dtype} of shape {y.shape}, expected {n} integers of shape ({n},)")
    if int(y.max()) > np.iinfo(np.int64).max:
        raise BadInput(f"the labels in {path} go up to {y.max()}, which is no number of a class")
    return torch.from_numpy(y.astype(np.int64))
