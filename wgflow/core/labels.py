"""Labels of points: the number of a class, carried behind a point as a one-hot vector."""

import math

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.typing import Points


def check_labels(labels: Tensor, n: int, one: str) -> None:
    """Raise ``BadInput`` unless labels are int64 (n,): one a point, which the message calls ``one``."""
    if labels.dtype != torch.int64 or labels.shape != (n,):
        raise BadInput(
            f"labels must be int64 of shape ({n},), one {one}, got {labels.dtype} of shape {tuple(labels.shape)}"
        )


def members(labels: Tensor | None, label: int, who: str) -> Tensor:
    """Return the numbers of the points of a class; raises ``BadInput`` where labels are not known, or no point has this one."""
    if labels is None:
        raise BadInput(f"{who} has no labels: make it with labels=, one class a point")
    index = (labels == label).nonzero()[:, 0]
    if not len(index):
        raise BadInput(f"{who} has no point of class {label}: its classes are {_few(labels.unique().tolist())}")
    return index


def counts_of(labels: Tensor, who: str) -> list[int]:
    """Return how many points each class has, from 0 to the largest label; raises ``BadInput`` for a negative one or an empty class."""
    least = int(labels.min())
    if least < 0:
        raise BadInput(f"{who} has a label {least}: classes are numbered from 0")
    counts: list[int] = labels.bincount().tolist()
    empty = [label for label, count in enumerate(counts) if not count]
    if empty:
        raise BadInput(
            f"{who} has classes 0 to {len(counts) - 1} and no point of class {_few(empty)}: number the classes without gaps, "
            "or add points of the empty one"
        )
    return counts


def joined(x: Points, one_hot: Tensor) -> Points:
    r"""Return points with their labels behind them, (n, d + C), from points (n, \*event) of d coordinates and labels (n, C)."""
    return torch.cat([x.flatten(1), one_hot.to(x.dtype)], 1)


def parted(points: Points, event_shape: tuple[int, ...]) -> tuple[Points, Tensor]:
    r"""Return what :func:`joined` has joined: points (n, \*event), and one-hot labels (n, C) that pass no gradient on.

    A function of both then has no slope in the label: nothing that follows it changes the class of a point.

    Raises
    ------
    BadInput
        When the points have too few coordinates to hold a label as well.
    """
    d = math.prod(event_shape)
    if points.dim() != 2 or points.shape[1] <= d:
        raise BadInput(
            f"expected points with a label behind their {d} coordinates, (n, {d} + classes), got {tuple(points.shape)}: draw "
            "them from a Labelled measure"
        )
    return points[:, :d].unflatten(1, event_shape), points[:, d:].detach()


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:12])) + (", ..." if len(numbers) > 12 else "")
