"""Functions of points whose intermediate arrays are larger than points, evaluated on some points at a time."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wgflow.core.typing import Points

BLOCK = 2**22
"""Numbers of one intermediate array."""


def by_blocks(f: Callable[[Points], Tensor], x: Points, size: int) -> Tensor:
    """Return ``f(x)``, each point by itself, in blocks; a backward pass computes a block again.

    Parameters
    ----------
    f : callable
        From points (rows, *event) to a tensor of as many rows, the same for every call.
    x : Tensor, shape (n, *event)
    size : int
        Numbers of its largest intermediate array for one point.
    """
    rows = max(1, BLOCK // size)
    if len(x) <= rows:
        return f(x)
    if not torch.is_grad_enabled():
        return torch.cat([f(block) for block in x.split(rows)])
    blocks = [checkpoint(f, block, use_reentrant=False, preserve_rng_state=False) for block in x.split(rows)]
    return torch.cat(blocks)  # type: ignore[arg-type]
