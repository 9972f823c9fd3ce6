"""Distances to samples on random lines: the sliced Wasserstein distance, and the energy distance by sorting."""

import math
from copy import copy
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from wgflow.core.context import full_precision
from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Count
from wgflow.core.ranks import shares
from wgflow.core.typing import Scalar
from wgflow.functionals._clouds import comparable, weights
from wgflow.functionals.base import Functional, drawn, register_functional
from wgflow.measures import Measure, Particles, StandardNormal
from wgflow.numerics.cache import remember
from wgflow.numerics.projected_energy import projected_energy
from wgflow.numerics.quantiles import Line, projected_cost


class _OnLines(Functional):
    """What functionals of projections share: directions that are given, or drawn for every realization."""

    target: Measure
    directions: Count | Tensor
    needs_samples = True

    def __post_init__(self) -> None:
        theta = self.directions
        if not isinstance(theta, Tensor):
            return
        d = self.target.event_shape.numel()
        if theta.dim() != 2 or theta.shape[1] != d or len(theta) == 0 or not theta.is_floating_point():
            raise BadInput(f"directions must be a float tensor (L, {d}), got {tuple(theta.shape)} {theta.dtype}")
        if not bool(((theta.norm(dim=1) - 1).abs() < 1e-3).all()):
            raise BadInput("directions must be unit vectors: divide them by their lengths")

    def freeze(self, rng: torch.Generator) -> Self:
        """Draw the target and, where they are a number, the directions; what is fixed stays."""
        frozen = super().freeze(rng)
        if isinstance(frozen.directions, Tensor):
            return frozen
        like = drawn(frozen.target).x
        theta = torch.randn(frozen.directions, like[0].numel(), generator=rng, device=rng.device, dtype=like.dtype)
        theta = theta / theta.norm(dim=1, keepdim=True).clamp(min=torch.finfo(like.dtype).tiny)
        frozen = copy(frozen)  # not replace(): its checks of the directions would wait for the device in every step
        object.__setattr__(frozen, "directions", theta.to(like.device))
        return frozen

    def _lines(self) -> Tensor:
        if isinstance(self.directions, Tensor):
            return self.directions
        raise Unsupported("draw the directions first: F.freeze(rng) returns the functional on fixed ones")


@register_functional("sliced_w")
@dataclass(frozen=True, eq=False)
class SlicedWasserstein(_OnLines):
    r"""The sliced Wasserstein distance, to the power p.

    .. math:: F(\rho)=\frac1L\sum_{l=1}^L W_p^p(\langle\theta_l,\cdot\rangle_\#\rho,\ \langle\theta_l,\cdot\rangle_\#\nu)

    **No 1/2**: the usual flow is that of ``0.5 * SlicedWasserstein(target)``. Its velocity is the mean over directions of
    the displacement along each, so a translation of the target by :math:`u` moves particles by :math:`u/d` in unit time,
    and Euler steps of size below :math:`2d` decrease it; :math:`h=d` is the natural size. Inner products are those of the
    flattened points.

    Parameters
    ----------
    target : Measure
        :math:`\nu`.
    p : int
        1 or 2.
    directions : int or Tensor of shape (L, d)
        How many directions :meth:`freeze` draws, uniform on the sphere, every time; or fixed unit vectors. Fixed
        directions make local minima: where the target is matched on each of them and nowhere else.
    batch : int, optional
        Target points in one realization, drawn anew in every step, by weight. By default all of a finite target and 256 draws of one with
        infinitely many (:class:`Functional`).

    Raises
    ------
    BadInput
        For another ``p``, no direction, directions that are not of length 1 (to 1e-3), or whose length is not that of a
        flattened point.

    Notes
    -----
    Exact on every line, with weights on both sides. Cost O(L (n d + n log n)): one product of the points with all directions, L
    sorts, one product back. One sort gives value and gradient; the fastest case is equal weights with one count a multiple of the
    other. Memory is that of the inner products, L n numbers beside the n d of the points. Where these are more than 2²³ and more than
    n d, directions are taken by groups that are not. The sorted target is kept (L m numbers, up to 2²³) for the next evaluation on
    the same directions.

    Differentiable once, in positions and weights of the particles, not in the target. At p = 1 a particle that coincides
    with its partner along a direction gets no force from it. Particles with equal projections are taken one after
    the other, so coincident particles may separate.

    Rabin, Peyré, Delon and Bernot (2012); Bonneel, Rabin, Peyré and Pfister (2015); flows: Liutkus et al. (2019).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> F = SlicedWasserstein(Particles(x + torch.tensor([0.0, 2.0])), directions=torch.eye(2))
    >>> F.value(Particles(x))
    tensor(2.)
    """

    target: Measure
    p: Literal[1, 2] = 2
    directions: Count | Tensor = 50
    batch: Count | None = None

    reference = ("rabin2012wasserstein", "bonneel2015sliced", "liutkus2019sliced")

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`F(\rho)`, 0-d, differentiable once in ``rho.x`` and ``rho.log_w``."""
        nu, theta, share = comparable(rho, self.target), self._lines(), shares()
        mine = theta[share.rank :: share.world]

        def line() -> Line:
            return Line(nu.x.flatten(1), weights(nu), mine.to(nu.x))

        with full_precision(rho.device):
            known, w = remember("line", (nu.x, nu.log_w, mine), line), weights(rho)
            x, a = share.seen(rho.x.flatten(1)), None if w is None else share.seen(w)
            return share.total(projected_cost(x, a, known, self.p, len(theta)))

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "SlicedWasserstein":
        """Return the squared distance to a standard normal."""
        return cls(StandardNormal(*event_shape), directions=10, batch=16)


@register_functional("sliced_energy")
@dataclass(frozen=True, eq=False)
class SlicedEnergyDistance(_OnLines):
    r"""The energy distance on random lines, by sorting: :func:`EnergyDistance` for many points, up to a stated error.

    .. math:: F(\rho)=\frac1{c_dL}\sum_{l=1}^L 2\int(F_{\langle\theta_l,\cdot\rangle_\#\rho}-F_{\langle\theta_l,\cdot\rangle_\#\nu})^2,
        \qquad c_d=E|\theta_1|=\frac{\Gamma(d/2)}{\sqrt\pi\,\Gamma((d+1)/2)},

    with distribution functions :math:`F`. Since :math:`E|\langle\theta,z\rangle|=c_d|z|`, its mean over the directions is
    :math:`2E|X-Y|-E|X-X'|-E|Y-Y'|`. **No 1/2**: ``0.5 * SlicedEnergyDistance(target)`` has forces of size one, as for
    :func:`EnergyDistance`.

    Parameters
    ----------
    target : Measure
        :math:`\nu`.
    directions : int or Tensor of shape (L, d)
        How many directions :meth:`freeze` draws, uniform on the sphere, every time; or fixed unit vectors.
    batch : int, optional
        Target points in one realization, drawn anew in every step, by weight. By default all of a finite target and 256 draws of one with
        infinitely many (:class:`Functional`).

    Raises
    ------
    BadInput
        For no direction, directions that are not of length 1 (to 1e-3), or whose length is not that of a flattened point.

    Notes
    -----
    Cost O(L (n + m) (d + log(n + m))), memory O((n + m) d), where all pairs cost (n + m)² d. Random directions leave a noise with
    mean 0 in the force at every particle: that of a pair is a mean over directions of
    :math:`\mathrm{sgn}\langle\theta,z\rangle\theta/c_d`, of variance :math:`c_d^{-2}-1\le\pi d/2` each. So the root mean square error of
    a force of ``0.5 * SlicedEnergyDistance(target)``, a difference of two means over pairs, is at most :math:`2\sqrt{\pi d/(2L)}`. It
    averages out over time steps, each with fresh directions, and is 0 in one dimension.

    Differentiable once, in positions and weights of the particles, not in the target. Coincident points exert no force on each other, as
    for :func:`EnergyDistance`; different ones with equal projections are taken one after the other. Hertrich, Wald, Altekrüger and
    Hagemann (2024).

    Examples
    --------
    >>> import torch
    >>> F = SlicedEnergyDistance(Particles(torch.zeros(1, 1)), directions=torch.ones(1, 1))
    >>> F.value(Particles(torch.tensor([[3.0]])))  # 2 |3 - 0|
    tensor(6.)
    """

    target: Measure
    directions: Count | Tensor = 50
    batch: Count | None = None

    reference = ("hertrich2024generative",)

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`F(\rho)`, 0-d, differentiable once in ``rho.x`` and ``rho.log_w``."""
        nu, theta, share = comparable(rho, self.target), self._lines().to(rho.x), shares()
        d, mine = theta.shape[1], theta[share.rank :: share.world]
        mean = math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
        with full_precision(rho.device):
            x, a, y = share.seen(rho.x.flatten(1)), share.seen(rho.w), nu.x.detach().flatten(1)
            total = share.total(projected_energy(x, a, y, nu.w.detach(), mine))
        return (total / (mean * len(theta))).to(rho.x.dtype)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "SlicedEnergyDistance":
        """Return the distance to a standard normal."""
        return cls(StandardNormal(*event_shape), directions=10, batch=16)
