"""Gaussian kernels whose bandwidth is found from the particles by a rule."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Positive
from wgflow.core.typing import Points
from wgflow.kernels.base import Kernel, register_kernel
from wgflow.kernels.gaussian import RBF
from wgflow.numerics.distances import Distances, readable, tiles

MOST_FOR_A_RULE = 1000
"""Points that a bandwidth rule looks at: of more, those that share the mass equally along a fixed direction."""


@dataclass(frozen=True)
class Rule(Kernel):
    r"""An RBF whose bandwidth is found from the particles at every evaluation and then held fixed.

    It depends on the law of the particles: on their weights, not on their order, nor on how often a point is there, since
    distances of 0 do not count, nor those that rounding makes of them in a flow. It is 1 where all particles are at one
    place. Above :data:`MOST_FOR_A_RULE` particles it is that of some of them, which may change it by a few per cent from
    one step to the next.

    Raises
    ------
    BadInput
        When a particle is not finite (on a CPU; elsewhere looking would wait for the device).
    """

    scale: Positive = 1.0

    @abstractmethod
    def squared_length(self, x: Points, w: Tensor | None) -> Tensor:
        """Return the square of the bandwidth for points (n, d) with weights (n,), 0-d; not finite where all coincide."""

    def bandwidth(self, x: Points, log_w: Tensor | None = None) -> Tensor:
        r"""Return the bandwidth at ``scale = 1``, a 0-d tensor in double precision and without gradient.

        Parameters
        ----------
        x : Tensor, shape (n, \*event)
        log_w : Tensor, shape (n,), optional
            Logarithms of weights; equal when None.
        """
        with torch.no_grad():
            x = x.detach().flatten(1)
            square = self.squared_length(x, None if log_w is None else log_w.detach().double().softmax(0))
            if readable(x) and not bool(torch.isfinite(square)) and not bool(torch.isfinite(x).all()):
                first = int((~torch.isfinite(x)).any(1).nonzero()[0])
                raise BadInput(f"{self} finds no bandwidth: particle {first} is {x[first].tolist()}")
            # Not below what single precision can divide by.
            square = torch.where(torch.isfinite(square), square, 1.0).clamp(min=1e3 * torch.finfo(square.dtype).tiny)
            return square.double().sqrt()

    def fit(self, x: Points, log_w: Tensor | None = None) -> RBF:
        """Return the RBF of the rule's bandwidth."""
        return RBF(self.scale * self.bandwidth(x, log_w))

    def profile(self, s: Tensor) -> Tensor:
        """Raise: the bandwidth is not known yet."""
        raise Unsupported(f"{self} has no bandwidth yet: call fit(x) first")

    slope = profile


_CHUNK = 2**12


def _some(x: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return at most ``MOST_FOR_A_RULE`` points and their weights: all, or equal shares of the mass in order of a projection."""
    if len(x) <= MOST_FOR_A_RULE:
        return x, w
    direction = torch.randn(x.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x.device)
    # By parts: no copy of all points in double precision.
    order = torch.cat([part.double() @ direction for part in x.split(_CHUNK)]).argsort()
    shares = (torch.arange(MOST_FOR_A_RULE, dtype=torch.float64, device=x.device) + 0.5) / MOST_FOR_A_RULE
    if w is None:
        chosen = (shares * len(x)).long()
    else:
        mass = w[order].cumsum(0)
        chosen = torch.searchsorted(mass, shares * mass[-1]).clamp_(max=len(x) - 1)
    return x[order[chosen]], None


def _one_place(some: Tensor, w: Tensor | None, n: int) -> Tensor:
    r"""Return the squared distance up to which two of n points count as one, 0-d: twins that rounding has parted in a flow.

    It is a rounding of where the points are and some of how far they are spread, on a line of many less than their gaps.
    """
    eps, some = torch.finfo(some.dtype).eps, some.double()
    centre = some.median(0).values
    spread = _quantile((some - centre).square().sum(1), w, 0.75).nan_to_num(0.0)
    return spread * min(eps**0.75, 0.01 / n) ** 2 + (eps * centre.norm()).square()


def _elsewhere(s: Tensor, one_place: Tensor) -> Tensor:
    """Return the squared distances with infinity for those of one place; a single pass where the bound can be read."""
    if readable(one_place):
        return nnf.threshold(s, float(one_place), math.inf)
    return torch.where(s > one_place, s, math.inf)


@register_kernel("median_rbf")
@dataclass(frozen=True)
class MedianRBF(Rule):
    r"""RBF by the median rule of SVGD: :math:`2\sigma^2=\mathrm{med}(|x_i-x_j|^2)/\log(n+1)`, times ``scale`` squared.

    The median is over pairs of particles at different places, each with the product of their weights; n counts those that have
    mass. Source: Liu and Wang (2016), who write :math:`e^{-r^2/h}`, :math:`h=\mathrm{med}^2/\log n`.

    Parameters
    ----------
    scale : float
        A factor of the bandwidth :math:`\sigma`.

    Examples
    --------
    Two particles at distance 2: :math:`2\sigma^2=4/\log3`, so :math:`\sigma^2=2/\log3`.

    >>> import torch
    >>> kernel = MedianRBF().fit(torch.tensor([[0.0], [2.0]]))
    >>> round(float(kernel.bandwidth**2 * math.log(3)), 4)
    2.0
    """

    def squared_length(self, x: Points, w: Tensor | None) -> Tensor:
        """Return the median over twice the logarithm."""
        log = math.log(len(x) + 1) if w is None else ((w > 0).sum().double() + 1).log().to(x.dtype)
        some, w = _some(x, w)
        m = len(some)
        if m < 2:
            return x.new_full((), math.nan)
        i, j = torch.triu_indices(m, m, 1, device=x.device)
        s = Distances(some, some, smooth=False).block(slice(0, m), slice(0, m))[i, j]
        s = torch.where(s > _one_place(some, w, len(x)), s, 0.0)
        return _quantile(s, None if w is None else w[i] * w[j], 0.5) / (2 * log)


def _quantile(s: Tensor, w: Tensor | None, share: float) -> Tensor:
    """Return the lower quantile of the positive numbers, NaN without any."""
    if w is None and share == 0.5:
        return torch.where(s > 0, s, math.nan).nanmedian()
    s, order = s.sort()
    mass = torch.where(s > 0, 1.0 if w is None else w[order], 0.0).double().cumsum(0)
    # A little less than the share: of equal weights the sum may be off by rounding.
    at = torch.searchsorted(mass, mass[-1:] * (share - 1e-12)).clamp_(max=len(s) - 1)
    return torch.where(mass[-1] > 0, s[at[0]], math.nan)


@register_kernel("nearest_rbf")
@dataclass(frozen=True)
class NearestRBF(Rule):
    r"""RBF by nearest neighbors: :math:`\sigma^2=\sum_iw_i\min_{x_j\ne x_i}|x_i-x_j|^2`, times ``scale`` squared.

    For the densities of blob and GFSD flows, where the kernel should just bridge the gaps between particles. Some look for
    their neighbor, among all that have mass. ``NearestRBF(scale=2**-0.5)`` is the ``nei`` rule of DPVI (Zhang, Li and Zhu
    2022), which puts this mean for :math:`h` in :math:`e^{-r^2/h}`; scale 1 is :math:`\sqrt2` wider.

    Parameters
    ----------
    scale : float
        A factor of the bandwidth :math:`\sigma`.

    Examples
    --------
    The squared distances to the nearest are 1, 1 and 4, their mean 2:

    >>> import torch
    >>> kernel = NearestRBF().fit(torch.tensor([[0.0], [1.0], [3.0]]))
    >>> round(float(kernel.bandwidth**2), 4)
    2.0
    """

    def squared_length(self, x: Points, w: Tensor | None) -> Tensor:
        """Return the mean squared distance to the nearest neighbor at another place."""
        some, weights = _some(x, w)
        between = Distances(some, x, smooth=False)
        nearest = torch.full((len(some),), math.inf, dtype=between.dtype, device=x.device)
        one_place = _one_place(some, weights, len(x))
        for i, j in tiles(len(some), len(x), x.device):
            s = _elsewhere(between.block(i, j), one_place)
            if w is not None:
                s.masked_fill_(w[j] == 0, math.inf)
            nearest[i] = torch.minimum(nearest[i], s.amin(1))
        return nearest.mean() if weights is None else nearest @ weights.to(nearest.dtype)
