"""Labels of points: the number of a class, one a point."""

import torch
from torch import Tensor

from wgflow.core.errors import BadInput

_FEW = 12
"""Numbers that a message names."""


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
    found, counts = labels.unique(return_counts=True)
    largest = int(found[-1])
    if len(found) <= largest:  # names of things may be as large as they like
        there = set(found.tolist())
        empty = [label for label in range(min(largest, len(there) + _FEW + 1)) if label not in there]
        raise BadInput(
            f"{who} has classes 0 to {largest} and no point of class {_few(empty)}: number the classes without gaps, "
            "or add points of the empty one"
        )
    return counts.tolist()


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:_FEW])) + (", ..." if len(numbers) > _FEW else "")
