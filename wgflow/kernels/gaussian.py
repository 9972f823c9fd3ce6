"""Gaussian kernels, with a bandwidth of one's own or one found by a rule."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow._distances import Distances
from wgflow._fields import Positive, Tensor0d
from wgflow._typing import Points
from wgflow.errors import Unsupported
from wgflow.kernels.base import Evaluated, Kernel, exp_


@dataclass(frozen=True)
class RBF(Kernel):
    r"""The Gaussian :math:`k=e^{-|x-y|^2/(2\sigma^2)}`.

    Parameters
    ----------
    bandwidth : float or 0-d Tensor
        :math:`\sigma`, a length. :math:`e^{-r^2/h}` of the SVGD papers is :math:`\sigma=\sqrt{h/2}`.

    Examples
    --------
    >>> import torch
    >>> RBF(1.0).profile(torch.tensor([0.0, 2.0]))
    tensor([1.0000, 0.3679])
    """

    bandwidth: Positive | Tensor0d

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`e^{-s/2\sigma^2}`."""
        return exp_(s * (-0.5 / self.bandwidth**2))

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-k/2\sigma^2`."""
        return self.profile(s) * (-0.5 / self.bandwidth**2)

    def curvature(self, s: Tensor) -> Tensor:
        r"""Return :math:`k/4\sigma^4`."""
        return self.profile(s) * (0.25 / self.bandwidth**4)

    def evaluate(self, s: Tensor) -> Evaluated:
        """Return the value, whose multiple the slope is."""
        c = -0.5 / self.bandwidth**2
        k = exp_(s.mul_(c))
        return k, k, c

    def log_integral(self, d: int) -> float | Tensor:
        r"""Return :math:`\frac d2\log(2\pi\sigma^2)`."""
        log = math.log(self.bandwidth) if not isinstance(self.bandwidth, Tensor) else self.bandwidth.log()
        return d * (0.5 * math.log(2 * math.pi) + log)


@dataclass(frozen=True)
class _Rule(Kernel):
    """An RBF whose bandwidth is found from the particles at every evaluation and then held fixed."""

    scale: Positive = 1.0

    def bandwidth(self, x: Points) -> Tensor:
        """Return the bandwidth for points (n, d), a 0-d tensor without gradient."""
        raise Unsupported(f"{type(self).__name__} must define bandwidth")

    def fit(self, x: Points) -> RBF:
        """Return the RBF of the rule's bandwidth."""
        with torch.no_grad():
            return RBF(self.scale * self.bandwidth(x.detach().flatten(1)).clamp(min=torch.finfo(x.dtype).tiny ** 0.25))

    def profile(self, s: Tensor) -> Tensor:
        """Raise: the bandwidth is not known yet."""
        raise Unsupported(f"{self} has no bandwidth yet: call fit(x) first")

    slope = profile


MOST_FOR_A_RULE = 1000
"""Points that a bandwidth rule looks at, evenly spaced in their order."""


def _some(x: Tensor) -> Tensor:
    return x[:: -(-len(x) // MOST_FOR_A_RULE)]


@dataclass(frozen=True)
class MedianRBF(_Rule):
    r"""RBF by the median rule of SVGD: :math:`2\sigma^2=\mathrm{med}(|x_i-x_j|^2)/\log(n+1)`, times ``scale`` squared.

    The median is over distinct pairs of at most :data:`MOST_FOR_A_RULE` of the points. Source: Liu and Wang (2016), who
    write :math:`e^{-r^2/h}`, :math:`h=\mathrm{med}^2/\log n`.
    """

    def bandwidth(self, x: Points) -> Tensor:
        """Return the bandwidth; that of one particle is 1."""
        some = _some(x)
        if len(some) < 2:
            return x.new_ones(())
        return (torch.pdist(some).square().median() / (2 * math.log(len(x) + 1))).sqrt()


@dataclass(frozen=True)
class NearestRBF(_Rule):
    r"""RBF by nearest neighbours: :math:`\sigma^2=\frac1n\sum_i\min_{j\ne i}|x_i-x_j|^2`, times ``scale`` squared.

    For the densities of blob and GFSD flows, where the kernel should just bridge the gaps between particles. At most
    :data:`MOST_FOR_A_RULE` particles look for their neighbour, among all. DPVI's ``nei``.
    """

    def bandwidth(self, x: Points) -> Tensor:
        """Return the bandwidth; that of one particle is 1."""
        if len(x) < 2:
            return x.new_ones(())
        some = _some(x)
        between = Distances(some, x, smooth=False)
        nearest = [
            between.block(slice(i, i + 64), slice(0, len(x))).topk(2, 1, largest=False)[0]
            for i in range(0, len(some), 64)
        ]
        return torch.cat(nearest)[:, 1].mean().sqrt()
