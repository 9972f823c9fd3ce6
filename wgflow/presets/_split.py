"""Data in parts that share no point, and the kernel density estimate that a part of them chooses."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.brief import Brief
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Fraction, Positive, Whole, checked
from wgflow.core.finite import require_finite
from wgflow.core.rng import generator, mixed
from wgflow.measures import (
    LocalGaussians,
)


@dataclass(frozen=True, repr=False)
class PointSplit(Brief):
    """Points in three parts that share none.

    Attributes
    ----------
    centres : Tensor, shape (K, d)
        Where the kernels are.
    train : Tensor, shape (n, d)
        What a fit minimizes over.
    held_out : Tensor, shape (m, d)
        What decides when a fit stops.

    Examples
    --------
    >>> import torch
    >>> split = split_points(torch.arange(20.0)[:, None], num_centres=10, held_out=0.2)
    >>> len(split.centres), len(split.train), len(split.held_out)
    (10, 8, 2)
    """

    centres: Tensor
    train: Tensor
    held_out: Tensor


@checked
def split_points(x: Tensor, num_centres: Count | None = None, held_out: Fraction = 0.2, seed: Whole = 0) -> PointSplit:
    r"""Split points at random into centers, training points and held-out points, so that no point is in two parts.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        The data. Of points that occur several times one is a center at most, and then the others are left out.
    num_centres : int, optional
        By default half of the points, 1000 at most.
    held_out : float
        Share of the other points that is held out, at least one and at most 1000.
    seed : int
        Of the split.

    Returns
    -------
    PointSplit
        Centers, training points and held-out points.

    Raises
    ------
    BadInput
        For a tensor of another shape, entries that are not finite, or fewer than two distinct points beside the centers.

    Examples
    --------
    >>> import torch
    >>> split = split_points(torch.arange(20.0)[:, None], num_centres=10, held_out=0.2)
    >>> len(split.centres), len(split.train), len(split.held_out)
    (10, 8, 2)
    """
    if x.dim() != 2 or x.numel() == 0:
        raise BadInput(f"expected data of shape (n, d), got {tuple(x.shape)}; flatten images first: x.flatten(1)")
    require_finite("split_points", x=x)
    distinct, copy_of = torch.unique(x, dim=0, return_inverse=True)
    K = min(1000, len(distinct) // 2) if num_centres is None else num_centres
    if K < 1 or len(distinct) < K + 2:
        raise BadInput(
            f"num_centres={K}: there are {len(distinct)} distinct points of {len(x)}, and beside the centers one to fit to and one to "
            "hold out are needed: give more points or fewer centers"
        )
    rng = generator(mixed(seed), "cpu")
    order = torch.randperm(len(distinct), generator=rng).to(x.device)
    m = min(max(1, round(held_out * (len(distinct) - K))), len(distinct) - K - 1, 1000)
    part = torch.empty_like(order)
    part[order] = torch.arange(len(order), device=x.device)
    place = part[copy_of]
    return PointSplit(distinct[order[:K]], x[place >= K + m], x[(place >= K) & (place < K + m)])


@checked
def isotropic_kde(points: PointSplit, stds: Sequence[Positive] = ()) -> LocalGaussians:
    r"""Return the kernel density estimate at the centers whose bandwidth the held-out points find most likely.

    Parameters
    ----------
    points : PointSplit
        Centers and held-out points.
    stds : sequence of float
        Bandwidths to choose from, standard deviations; by default 40, from 0.01 to 1 times the standard deviation of a coordinate.

    Returns
    -------
    LocalGaussians
        The mixture with equal weights and one bandwidth.

    Examples
    --------
    >>> import torch
    >>> split = split_points(torch.randn(300, 1, generator=torch.Generator().manual_seed(0)))
    >>> law = isotropic_kde(split, stds=(0.01, 0.4, 3.0))
    >>> law.precision.covariance[0].sqrt()
    tensor([[0.4000]])
    """
    unit = float((points.centres - points.centres.mean(0)).square().mean().sqrt())
    tried = list(stds) or [unit * 10 ** (-2 + 2 * i / 39) for i in range(40)]
    laws = [LocalGaussians.isotropic(points.centres, std) for std in tried]
    return max(laws, key=lambda law: float(law.log_prob(points.held_out).mean()))
