"""Points with something behind them that moves with them and is not moved: a label as a one-hot vector, or a latent."""

import math

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.typing import Points


def joined(x: Points, behind: Tensor) -> Points:
    r"""Return points with something behind them, (n, d + m), from points (n, \*event) of d coordinates and what follows (n, m)."""
    return torch.cat([x.flatten(1), behind.to(x.dtype)], 1)


def parted(points: Points, event_shape: tuple[int, ...]) -> tuple[Points, Tensor]:
    r"""Return what :func:`joined` has joined: points (n, \*event), and what is behind them (n, m), which passes no gradient on.

    A function of both then has no slope in what is behind: nothing that follows it moves that.

    Raises
    ------
    BadInput
        When the points have too few coordinates to hold anything more.
    """
    d = math.prod(event_shape)
    if points.dim() != 2 or points.shape[1] <= d:
        raise BadInput(
            f"expected points with more behind their {d} coordinates, (n, {d} + m), got {tuple(points.shape)}: draw them from a "
            "Labelled or Paired measure"
        )
    return points[:, :d].unflatten(1, event_shape), points[:, d:].detach()


class Keeping(nn.Module):
    """A map of points that leaves what is behind them where it is, or the whole of them behind what it makes of them.

    Parameters
    ----------
    net : nn.Module
        The map.
    event_shape : tuple of int, optional
        Shape of the points that it takes, with more behind them, which is kept. None: the points themselves are kept.
    """

    def __init__(self, net: nn.Module, event_shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.net, self.event_shape = net, event_shape

    def forward(self, points: Tensor, *noise: Tensor) -> Tensor:
        """Map points, and auxiliary noise if the map takes any, to points with the same behind them."""
        if self.event_shape is None:
            return joined(self.net(points, *noise), points.flatten(1))
        x, behind = parted(points, self.event_shape)
        return joined(self.net(x, *noise), behind)
