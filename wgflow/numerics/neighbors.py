"""Nearest neighbors among the points of a cloud, block by block."""

import torch
from torch import Tensor

from wgflow.core.typing import Points
from wgflow.numerics.distances import Distances, tiles


def nearest(x: Points, y: Points, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Return the distances of every point of ``x`` to the ``k`` nearest points of ``y``, and the numbers of these.

    No more than a block of distances is held at a time. Coincident points are at distance 0.

    Parameters
    ----------
    x, y : Tensor, shapes (n, \*event) and (m, \*event)
        Of one dtype and device.
    k : int
        At most the number of points that a row of ``x`` may have as neighbors.
    own : Tensor, int64, shape (n,), optional
        The number in ``y`` that each point of ``x`` has itself, which is no neighbor of it.

    Returns
    -------
    distances, index : Tensor, shape (n, k)
        Nearest first.
    """
    between = Distances(x, y, smooth=False)
    squares = torch.full((len(x), k), torch.inf, dtype=between.dtype, device=x.device)
    index = torch.full((len(x), k), -1, device=x.device)
    for i, j in tiles(len(x), len(y), x.device):
        block = between.block(i, j)
        if own is not None:
            row = ((own[i] >= j.start) & (own[i] < j.stop)).nonzero()[:, 0]
            block[row, own[i][row] - j.start] = torch.inf
        found, column = block.topk(min(k, block.shape[1]), largest=False)
        squares[i], place = torch.cat([squares[i], found], 1).topk(k, largest=False)
        index[i] = torch.cat([index[i], column + j.start], 1).gather(1, place)
    return squares.sqrt_(), index
