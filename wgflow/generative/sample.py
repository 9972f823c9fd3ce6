"""Drawing images: one seed an image, so that neither the batch size nor the count changes any of them."""

import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgflow import Measure, Particles, Pushforward
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Whole, checked
from wgflow.core.imports import require
from wgflow.core.rng import generator
from wgflow.generative.data import to_uint8
from wgflow.generative.data._images import cut_off, other_range
from wgflow.generative.shown import labels_of
from wgflow.storage.files import replacing

_LARGEST_PICTURE = 89_000_000  # Pillow takes more pixels for an attack when it opens them


@checked
def sample(measure: Measure, n: int, *, seed: int = 0, first: int = 0, batch: int = 256) -> Tensor:
    r"""Return images number ``first`` to ``first + n - 1`` of a seed, float (n, \*event) on the CPU.

    Image ``i`` is a function of the weights, ``seed`` and ``i`` alone (and of the kind of device, whose generators
    differ).

    Parameters
    ----------
    measure : Measure
        A trained generator in evaluation mode (``Pushforward.inference()``), or a cloud of images, of which distinct ones are
        taken.
    n : int
        Count.
    seed : int
        Of the whole set.
    first : int
        Number of the first image.
    batch : int
        Images in one pass.

    Returns
    -------
    Tensor, shape (n, \*event)
        On the CPU.

    Raises
    ------
    BadInput
        When a count is out of range, or a cloud has fewer images.

    Examples
    --------
    The first two of four are the two of two:

    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative import sample
    >>> generator = wg.Pushforward(wg.StandardNormal(1, 8, 8), torch.nn.Tanh()).inference()
    >>> torch.equal(sample(generator, 4)[:2], sample(generator, 2))
    True
    """
    _check_count(n, first, batch)
    if isinstance(measure, Particles) and measure.log_w is None:
        return _distinct(measure, n, seed, first)
    images, labelled = [], labels_of(measure)
    with torch.no_grad():
        for begin in range(first, first + n, batch):
            numbers = range(begin, min(begin + batch, first + n))
            if not isinstance(measure, Pushforward):
                images.append(_seeded_draws(measure, seed, numbers, stream=0).cpu())
                continue
            # A batch takes the classes in turn; alone, every image would be of the first one.
            latent = measure.latent if labelled is None else labelled
            x = _seeded_draws(latent, seed, numbers, stream=0)
            inputs = (x,) if measure.noise is None else (x, _seeded_draws(measure.noise, seed, numbers, stream=1))
            images.append(measure.apply(inputs).cpu())
    return torch.cat(images)


def _distinct(cloud: Particles, n: int, seed: int, first: int) -> Tensor:
    """Points of a cloud in an order that the seed chooses."""
    if first + n > len(cloud):
        raise BadInput(
            f"n={n}: this run moves a cloud of {len(cloud)} images and has no others; a method with a generator draws new ones"
        )
    order = torch.randperm(len(cloud), generator=generator(seed))[first : first + n]
    return cloud.x.detach()[order.to(cloud.device)].cpu()


def _seeded_draws(latent: Measure, seed: int, numbers: range, stream: int) -> Tensor:
    # Seeds of consecutive numbers are far apart; one generator is enough to draw them all.
    rng = generator(0, latent.device)
    draws = []
    for i in numbers:
        rng.manual_seed(((seed * 2 + stream) * 0x9E3779B97F4A7C15 + i * 0xBF58476D1CE4E5B9) % 2**62)
        draws.append(latent.draw(1, rng).x)
    return torch.cat(draws)


@checked
def of_class(measure: Measure, label: Whole) -> Pushforward:
    """Return the law of what a generator makes of one class.

    Parameters
    ----------
    measure : Measure
        A trained generator with labels, in evaluation mode.
    label : int
        The class, from 0.

    Returns
    -------
    Pushforward
        With a latent whose label is this one.

    Raises
    ------
    BadInput
        For a generator without labels, and for an unknown class.

    Examples
    --------
    The label is behind the 64 pixels:

    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative import of_class
    >>> from wgflow.generative.nets import ConvGenerator, LabelledGenerator
    >>> net = LabelledGenerator(ConvGenerator, 2, image_shape=(1, 8, 8), channels=4)
    >>> latent = wg.LabelledLatent(wg.StandardNormal(*net.source_shape), 2)
    >>> generator = wg.Pushforward(latent, net).inference()
    >>> of_class(generator, 1).draw(3, torch.Generator()).x[:, 64:].argmax(1)
    tensor([1, 1, 1])
    """
    latent = labels_of(measure)
    if latent is None:
        raise BadInput(f"class {label}: this {type(measure).__name__} has no classes, it was trained without labels")
    assert isinstance(measure, Pushforward)
    return replace(measure, latent=latent.of_class(label))


@checked
def class_rows(measure: Measure, columns: Count, *, seed: int = 0, batch: int = 256) -> Tensor:
    r"""Return a row of images for every class; those of a column are made of the same latent.

    Parameters
    ----------
    measure : Measure
        A trained generator with labels, in evaluation mode.
    columns : int
        Images of a class.
    seed, batch : int
        As for :func:`sample`.

    Returns
    -------
    Tensor, shape (C * columns, \*event)
        A row after the other, of points with their label behind.

    Raises
    ------
    BadInput
        For a generator without labels.

    Examples
    --------
    Three images of each of two classes:

    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative import class_rows
    >>> from wgflow.generative.nets import ConvGenerator, LabelledGenerator
    >>> net = LabelledGenerator(ConvGenerator, 2, image_shape=(1, 8, 8), channels=4)
    >>> latent = wg.LabelledLatent(wg.StandardNormal(*net.source_shape), 2)
    >>> generator = wg.Pushforward(latent, net).inference()
    >>> class_rows(generator, 3).shape
    torch.Size([6, 66])
    """
    latent = labels_of(measure)
    classes = 1 if latent is None else latent.classes  # without labels of_class says so
    return torch.cat([sample(of_class(measure, c), columns, seed=seed, batch=batch) for c in range(classes)])


@checked
def save_grid(images: Tensor, path: str | Path, columns: int | None = None) -> None:
    """Write images (n, c, h, w) in [-1, 1] as one picture, about square unless ``columns`` is given.

    Parameters
    ----------
    images : Tensor, shape (n, c, h, w)
        In [-1, 1], with 1 or 3 channels.
    path : path
        A ``.png`` file.
    columns : int, optional
        Images in a row.

    Raises
    ------
    BadInput
        For images of another shape, fewer than one column, or a picture that would be too large to open again.
    CannotWrite
        When the file system refuses.
    MissingDependency
        Without torchvision (``wgflow[image]``).

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from wgflow.generative import save_grid
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_grid(torch.zeros(6, 1, 8, 8), f"{folder}/grid.png", columns=3)
    """
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not images.numel() or not images.is_floating_point():
        raise BadInput(
            f"a grid shows images (n, 1 or 3, h, w) in [-1, 1], got {images.dtype} of shape {tuple(images.shape)}; uint8 images "
            "become such by to_unit"
        )
    n, _, h, w = images.shape
    columns = _columns(n, h, w, columns)
    utils = require("torchvision.utils", extra="image")
    _say_cut_off(images)
    scale = max(1, 512 // (columns * (w + 2)))
    big = images.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    with replacing(Path(path)) as temporary:
        utils.save_image(big.clamp(-1, 1) * 0.5 + 0.5, temporary, "png", nrow=columns, padding=2 * scale, pad_value=1.0)


def save_images(
    measure: Measure,
    n: int,
    path: Path,
    *,
    seed: int = 0,
    columns: int | None = None,
    batch: int = 256,
    label: int | None = None,
) -> int:
    """Draw ``n`` images as :func:`sample` does, into a ``.png`` grid or an ``.npy`` array of uint8 (n, c, h, w); return their count.

    A grid of a generator with labels has a row a class (:func:`class_rows`), n over the number of classes in each, unless one class is
    asked for by its number ``label``.

    Raises
    ------
    BadInput
        For another ending, counts out of range, more images than the disk has room for.
    CannotWrite
        When the file system refuses.
    """
    if path.suffix not in (".png", ".npy"):
        raise BadInput(f"out={str(path)!r}: expected a name that ends in .png or .npy")
    if label is not None:
        measure = of_class(measure, label)
    shape: tuple[int, ...] = tuple(sample(measure, 1, seed=seed).shape[1:])
    latent = labels_of(measure)
    if path.suffix == ".png" and latent is not None and label is None:
        columns = columns or max(1, round(n / latent.classes))
        _columns(columns * latent.classes, shape[-2], shape[-1], columns)
        save_grid(class_rows(measure, columns, seed=seed, batch=batch), path, columns)
        return columns * latent.classes
    if path.suffix == ".png":
        columns = _columns(n, shape[-2], shape[-1], columns)
        save_grid(sample(measure, n, seed=seed, batch=batch), path, columns)
        return n
    if columns is not None:
        raise BadInput(f"columns={columns} is for a .png grid: leave it out for {path.name}")
    _check_count(n, 0, batch)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        free = shutil.disk_usage(path.parent).free
        if n * math.prod(shape) > free:
            raise BadInput(
                f"n={n} images take {n * math.prod(shape) / 1e6:.0f} MB and {path.parent} has {free / 1e6:.0f} MB free"
            )
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, n, batch):
            images = sample(measure, min(batch, n - first), seed=seed, first=first, batch=batch)
            _say_cut_off(images)
            file.write(to_uint8(images).numpy().tobytes())
    return n


def _say_cut_off(images: Tensor) -> None:
    low, high = (float(edge) for edge in images.aminmax())
    if math.isnan(low):
        lost = int(images.isnan().flatten(1).any(1).sum())
        warnings.warn(
            f"{lost} of {len(images)} images have values that are not numbers: these have no color", stacklevel=3
        )
    elif cut_off(low, high):
        warnings.warn(other_range(low, high), stacklevel=3)


def _check_count(n: int, first: int, batch: int) -> None:
    if n < 1 or batch < 1 or first < 0:
        raise BadInput(f"expected n >= 1, batch >= 1 and first >= 0, got {n}, {batch}, {first}")


def _columns(n: int, h: int, w: int, columns: int | None) -> int:
    if columns is not None and columns < 1:
        raise BadInput(f"columns={columns}: expected at least 1")
    _check_count(n, 0, 1)
    columns = min(columns or max(1, round(n**0.5)), n)
    pixels = columns * (w + 2) * -(-n // columns) * (h + 2)
    if pixels > _LARGEST_PICTURE:
        raise BadInput(
            f"n={n} images make a picture of {pixels / 1e6:.0f} million pixels: ask for fewer, or for a name that ends in .npy"
        )
    return columns
