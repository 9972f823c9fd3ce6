r"""How the normalizer of the regularized Wasserstein proximal is found: by draws, by Laplace's method, by quadrature.

For a point :math:`y` the proximal has the conditional law :math:`x|y\propto e^{-V(x)/2\tau}\,N(x;y,2\tau T)`. Its normalizer is
told as the mean :math:`m(y)=E_{z\sim N(y,2\tau T)}e^{-V(z)/2\tau}`. That is the kernel's :math:`Z(y)=(4\pi\tau T)^{d/2}m(y)` without
the constant, which overflows in many coordinates. Potentials for which it is a formula are in :mod:`wgflow.measures.potentials`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, Finite
from wgflow.core.outputs import per_point
from wgflow.core.typing import Points
from wgflow.numerics.distances import readable
from wgflow.numerics.metric import Metric
from wgflow.numerics.soft_sums import log_sums

Function = Callable[[Points], Tensor]


@dataclass(frozen=True)
class Tilt:
    r"""The conditional law :math:`x|y\propto e^{-V(x)/2\tau}\,N(x;y,2\tau T\,I)` of one proximal step.

    Attributes
    ----------
    potential : callable
        :math:`V`, from (n, \*event) to (n,).
    time, temperature : float
        :math:`T` and :math:`\tau`; the target of the flow is :math:`e^{-V/\tau}`, and the tilt has half of that exponent.
    """

    potential: Function
    time: float
    temperature: float

    @property
    def std(self) -> float:
        r"""The standard deviation :math:`\sqrt{2\tau T}` of a coordinate before the tilt."""
        return math.sqrt(2 * self.temperature * self.time)

    def log_weight(self, z: Points) -> Tensor:
        r"""Return :math:`-V(z)/2\tau`, shape (n,)."""
        return -self.potential(z) / (2 * self.temperature)


class Normalizer(Checked, ABC):
    r"""How :math:`m(y)=E_{z\sim N(y,2\tau T)}e^{-V(z)/2\tau}` is found, and with it means and draws of the conditional law.

    A subclass gives :meth:`log_mean`. Everything is said for the identity as the metric; for another one :meth:`whitened` says
    what becomes of it in coordinates where that is the identity.

    Examples
    --------
    A rule of one's own, for the potential 0, of which :math:`m=1`; the operator is then the heat flow.

    >>> import torch
    >>> import wgflow as wg
    >>> class Zero(wg.Normalizer):
    ...     def log_mean(self, tilt, y, noise):
    ...         return torch.zeros(len(y))
    >>> operator = wg.WassersteinProximal(lambda x: 0 * x.sum(1), 1.0, temperature=1.0, normalizer=Zero())
    >>> operator(wg.Particles(torch.zeros(1, 1))).score(torch.ones(1, 1))  # of N(0, 2)
    tensor([[-0.5000]])
    """

    draws: ClassVar[bool] = False
    """:meth:`log_mean` is handed normal numbers of :meth:`noise`."""

    def noise(self, like: Points, rng: torch.Generator) -> Tensor | None:
        r"""Return the normal numbers (s, \*event) that all points (n, \*event) of one estimate share; None where none are used."""
        return None

    @abstractmethod
    def log_mean(self, tilt: Tilt, y: Points, noise: Tensor | None) -> Tensor:
        r"""Return :math:`\log m(y)`, shape (n,), differentiable in ``y``; ``noise`` comes from :meth:`noise`."""

    def expect(self, tilt: Tilt, f: Function, y: Points, noise: Tensor) -> Tensor:
        r"""Return :math:`E[f(x)|y]`, shape (n,), differentiable in ``y``, from normal draws (s, \*event) that all points share.

        By default the self-normalized mean :math:`\sum_sw_sf(z_s)/\sum_sw_s` over :math:`z_s=y+\sqrt{2\tau T}\,\xi_s` with
        :math:`w_s=e^{-V(z_s)/2\tau}`, whose bias is of order 1/s.
        """
        z = around(y, tilt.std * noise)
        log_w = tilt.log_weight(z).view(len(noise), len(y))
        return (log_w.softmax(0) * f(z).view_as(log_w)).sum(0)

    def draw(self, tilt: Tilt, y: Points, rng: torch.Generator) -> Points:
        r"""Return one draw of :math:`x|y` for every point, (n, \*event).

        By default one of 32 proposals :math:`y+\sqrt{2\tau T}\,\xi`, chosen by the weights :math:`e^{-V/2\tau}`: right up to an error
        of one over their number.
        """
        return resampled(lambda xi: (y + tilt.std * xi, 0.0), tilt.log_weight, self.proposals, y, rng)

    @property
    def proposals(self) -> int:
        """How many proposals :meth:`draw` chooses from, where it does."""
        return 32

    def whitened(self, metric: Metric) -> "Normalizer":
        r"""Return what does the same in the coordinates :math:`u=L^{-1}x` of a metric; itself where nothing depends on them."""
        return self


def around(y: Points, offsets: Tensor) -> Points:
    """Return all sums of points (n, *event) and offsets (s, *event), one after the other, (s n, *event)."""
    return (y + offsets[:, None]).flatten(0, 1)


def resampled(
    propose: Callable[[Tensor], tuple[Points, Tensor | float]],
    log_weight: Function,
    count: int,
    y: Points,
    rng: torch.Generator,
) -> Points:
    """Return of so many proposals for every point one by its weight, seen one at a time (by Gumbel's maximum): memory O(n)."""
    with torch.no_grad():
        chosen, best = y, y.new_full((len(y),), -torch.inf)
        for _ in range(count):
            z, log_w = propose(torch.randn(y.shape, generator=rng, device=y.device, dtype=y.dtype))
            u = torch.rand(len(y), generator=rng, device=y.device, dtype=torch.float64)
            key = log_weight(z) + log_w - (-u.clamp(min=1e-300).log()).log().to(y.dtype)
            better = key > best
            chosen, best = torch.where(better.view(-1, *[1] * (y.dim() - 1)), z, chosen), key.maximum(best)
        return chosen


@dataclass(frozen=True)
class MonteCarloNormalizer(Normalizer):
    r"""The mean over normal draws, the same for all particles: :math:`m(y)\approx\frac1S\sum_se^{-V(y+\sqrt{2\tau T}\,\xi_s)/2\tau}`.

    Shared draws leave in differences of :math:`\log m` between near points only what differs. The variance grows with the dimension
    and with :math:`V/\tau`; the logarithm of a mean is too low by half its relative variance.

    Parameters
    ----------
    samples : int
        :math:`S`; papers use 10 to 50.

    Notes
    -----
    Cost: S n values of V, one draw for all points at a time. Any V, differentiable or not.

    Examples
    --------
    :math:`V=\tfrac12x^2`, :math:`T=\tau=1`: :math:`m(0)=(1+T)^{-1/2}`, 0.7071.

    >>> import torch
    >>> import wgflow as wg
    >>> V, rng = lambda x: 0.5 * x.square().sum(1), torch.Generator().manual_seed(0)
    >>> operator = wg.WassersteinProximal(V, 1.0, temperature=1.0, normalizer=wg.MonteCarloNormalizer(10_000))
    >>> y = torch.zeros(1, 1)
    >>> round(operator.log_mean(y, operator.noise(y, rng)).exp().item(), 1)
    0.7
    """

    samples: Count = 32

    draws = True

    @property
    def proposals(self) -> int:
        """As many as samples."""
        return self.samples

    def noise(self, like: Points, rng: torch.Generator) -> Tensor:
        r"""Return the draws (samples, \*event)."""
        return torch.randn((self.samples, *like.shape[1:]), generator=rng, device=like.device, dtype=like.dtype)

    def log_mean(self, tilt: Tilt, y: Points, noise: Tensor | None) -> Tensor:
        """Return the logarithm of the mean over the given draws."""
        assert noise is not None, "noise() comes before log_mean()"
        logs = torch.stack([tilt.log_weight(y + tilt.std * xi) for xi in noise])
        return torch.logsumexp(logs, 0) - math.log(len(noise))


@dataclass(frozen=True)
class KnownNormalizer(Normalizer):
    r"""A normalizer that somebody knows: :math:`y\mapsto\log m(y)`, from (n, \*event) to (n,).

    Up to a constant it serves scores, in which the constant drops out; densities need it whole.

    Parameters
    ----------
    log_normalizer : callable
        The function, of points in their own coordinates whatever the metric.
    """

    log_normalizer: Function

    def log_mean(self, tilt: Tilt, y: Points, noise: Tensor | None = None) -> Tensor:
        """Return the function's values, checked."""
        return per_point(self.log_normalizer, y, "a log normalizer")

    def whitened(self, metric: Metric) -> "KnownNormalizer":
        """Return the same function of those coordinates."""
        return KnownNormalizer(lambda u: self.log_normalizer(metric.color(u)))


@dataclass(frozen=True)
class QuadratureNormalizer(Normalizer):
    r"""In one dimension: the trapezoidal rule on nodes that all points share.

    .. math:: m(y)\approx h\sum_kN(z_k;y,2\tau T)\,e^{-V(z_k)/2\tau}.

    For smooth V the error falls faster than any power of the spacing h; at a kink like its square. Means and draws of the
    conditional law come from the same nodes; draws are uniform inside of a cell.

    Parameters
    ----------
    low, high : float
        Ends of an interval that holds all points and nearly all of :math:`e^{-V/2\tau}N(y,2\tau T)` for each.
    nodes : int
        Number of nodes.

    Raises
    ------
    BadInput
        For points of more than one coordinate, an empty interval, nodes farther apart than the kernel is wide, and, on a CPU, a point
        outside of the interval.

    Notes
    -----
    Cost: ``nodes`` values of V in all, and ``nodes`` n exponentials.

    Examples
    --------
    :math:`V=\tfrac12x^2`, :math:`T=1`: :math:`m(0)=(1+T)^{-1/2}`, 0.7071.

    >>> import torch
    >>> import wgflow as wg
    >>> V = lambda x: 0.5 * x.square().sum(1)
    >>> operator = wg.WassersteinProximal(V, 1.0, temperature=1.0, normalizer=wg.QuadratureNormalizer(-10, 10))
    >>> operator.log_mean(torch.zeros(1, 1)).exp()
    tensor([0.7071])
    """

    low: Finite
    high: Finite
    nodes: Count = 2001

    def __post_init__(self) -> None:
        if not (self.low < self.high and self.nodes > 1):
            raise BadInput(f"QuadratureNormalizer: expected low < high and two nodes at least, got {self}")

    @property
    def spacing(self) -> float:
        """Distance of two nodes."""
        return (self.high - self.low) / (self.nodes - 1)

    def _nodes(self, tilt: Tilt, y: Points) -> tuple[Points, Tensor]:
        """Return nodes (k, 1) and the logarithms (k,) of their weights beside the Gaussian."""
        if math.prod(y.shape[1:]) != 1:
            raise BadInput(
                f"QuadratureNormalizer is for points of one coordinate, got {tuple(y.shape)}. Use SeparablePotential for a sum "
                "over coordinates, LaplaceNormalizer or MonteCarloNormalizer"
            )
        if self.spacing > tilt.std:
            need = math.ceil((self.high - self.low) / tilt.std * 2) + 1
            raise BadInput(
                f"QuadratureNormalizer(nodes={self.nodes}): nodes are {self.spacing:g} apart, and the kernel has the standard "
                f"deviation {tilt.std:g}. Give it {need} nodes"
            )
        if readable(y) and not bool(((y >= self.low) & (y <= self.high)).all()):
            far = float(y.flatten()[int((y.flatten() - (self.low + self.high) / 2).abs().argmax())])
            raise BadInput(
                f"QuadratureNormalizer: a point is at {far:g}, outside of [{self.low:g}, {self.high:g}]. Widen it"
            )
        z = torch.linspace(self.low, self.high, self.nodes, dtype=y.dtype, device=y.device).view(-1, *y.shape[1:])
        log_w = torch.full_like(z.flatten(), math.log(self.spacing))
        log_w[[0, -1]] -= math.log(2)
        return z, log_w + tilt.log_weight(z).detach()

    def log_mean(self, tilt: Tilt, y: Points, noise: Tensor | None) -> Tensor:
        """Return the logarithm of the rule's value."""
        z, log_w = self._nodes(tilt, y)
        return log_sums(y, z, log_w, 2 * tilt.std**2) - math.log(tilt.std * math.sqrt(2 * math.pi))

    def expect(self, tilt: Tilt, f: Function, y: Points, noise: Tensor) -> Tensor:
        """Return the rule's mean, without draws: one value of f a node, for all points."""
        z, log_w = self._nodes(tilt, y)
        p = (log_w - (y.flatten()[:, None] - z.flatten()).square() / (2 * tilt.std**2)).softmax(1)
        return p @ f(z)

    def draw(self, tilt: Tilt, y: Points, rng: torch.Generator) -> Points:
        """Return draws from the cells of the rule."""
        with torch.no_grad():
            z, log_w = self._nodes(tilt, y)
            drawn = []
            for part in y.split(max(1, 2**20 // self.nodes)):
                p = (log_w - (part.flatten()[:, None] - z.flatten()).square() / (2 * tilt.std**2)).softmax(1)
                drawn.append(z[torch.multinomial(p, 1, generator=rng)[:, 0]])
            x = torch.cat(drawn)
            return x + self.spacing * (torch.rand(x.shape, generator=rng, device=x.device, dtype=x.dtype) - 0.5)

    def whitened(self, metric: Metric) -> "QuadratureNormalizer":
        """Return the rule on the interval in those coordinates."""
        scale = float(metric.root.flatten()[0])
        return replace(self, low=self.low / scale, high=self.high / scale)
