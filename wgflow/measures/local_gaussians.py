r"""Mixtures of Gaussians that each have a covariance of their own, and what score matching asks of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import NonNegative, Positive, Whole, checked
from wgflow.core.finite import require_finite
from wgflow.core.typing import Points
from wgflow.measures.base import Measure, register_measure
from wgflow.measures.factor_covariance import FactorCovariance
from wgflow.measures.particles import Particles
from wgflow.measures.precisions import FullPrecision, LocalPrecision
from wgflow.numerics.by_blocks import by_blocks


@register_measure("local_gaussians")
@dataclass(frozen=True, eq=False)
class LocalGaussians(Measure):
    r"""The mixture :math:`\eta=\tfrac1K\sum_kN(Z_k,\Gamma_k^{-1})`: what a kernel score model is at one time.

    Parameters
    ----------
    centres : Tensor, shape (K, d)
        :math:`Z_k`.
    precision : LocalPrecision
        :math:`\Gamma_k`: :class:`FullPrecision` for few dimensions, :class:`FactorCovariance` for many.

    Raises
    ------
    BadInput
        For centers that are not as many, or of as many coordinates, as the precisions.

    Notes
    -----
    With :math:`p_k` the softmax of :math:`\log N_k(x)` and :math:`u_k=\Gamma_k(x-Z_k)`,

    .. math:: \nabla\log\eta=-\sum_kp_ku_k,\qquad\frac{\Delta\eta}\eta=\sum_kp_k\bigl(|u_k|^2-\operatorname{tr}\Gamma_k\bigr).

    Everything is computed from logarithms and from differences, for blocks of points whose arrays (rows, K, d) hold 4 million numbers;
    a backward pass computes a block again. Source: Zhang, Liu, Li, Katsoulakis and Osher (2024).

    Examples
    --------
    >>> import torch
    >>> eta = LocalGaussians(torch.zeros(1, 2), FullPrecision.of(torch.diag(torch.tensor([4.0, 1.0]))[None]))
    >>> eta.score(torch.ones(1, 2))
    tensor([[-4., -1.]])
    >>> eta.noised(1.0, 0.75).score(torch.ones(1, 2))
    tensor([[-1.0000, -0.5714]])
    """

    centres: Tensor
    precision: LocalPrecision

    def __post_init__(self) -> None:
        if self.centres.dim() != 2 or tuple(self.centres.shape) != self.precision.shape:
            raise BadInput(
                f"LocalGaussians: expected centers (K, d) and a precision for each, got {tuple(self.centres.shape)} and "
                f"precisions of {self.precision.shape[0]} Gaussians in {self.precision.shape[1]} dimensions"
            )
        if self.centres.dtype != self.precision.dtype:
            raise BadInput(
                f"LocalGaussians: centres are {self.centres.dtype}, precisions {self.precision.dtype}: convert one of them"
            )

    @classmethod
    @checked
    def isotropic(cls, centres: Tensor, std: Positive) -> "LocalGaussians":
        r"""Return the kernel density estimate :math:`\tfrac1K\sum_kN(Z_k,\sigma^2I)`; with a tiny ``std`` the data themselves."""
        if centres.dim() != 2 or centres.numel() == 0:
            raise BadInput(f"LocalGaussians.isotropic: expected centers (K, d), got {tuple(centres.shape)}")
        require_finite("LocalGaussians.isotropic", centres=centres)
        least = torch.finfo(centres.dtype).tiny
        if not least <= std**2 <= 1 / least:
            raise BadInput(
                f"LocalGaussians.isotropic: the variance {std:g}² or its inverse is no number of {centres.dtype}: change the unit of "
                "the data"
            )
        return cls(centres, FactorCovariance(torch.full_like(centres, std**2), centres.new_zeros(*centres.shape, 0)))

    @classmethod
    def example(cls) -> "LocalGaussians":
        """Return a tiny instance."""
        precision = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.0], [0.0, 3.0]]])
        return cls(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), FullPrecision.of(precision))

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.centres.shape[1:]

    @property
    def device(self) -> torch.device:
        """Where draws live."""
        return self.centres.device

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` independent points."""
        with torch.no_grad():
            return Particles(self.pushed(n, rng), source=self)

    def pushed(self, n: int, rng: torch.Generator) -> Points:
        """Return ``n`` independent points (n, d), differentiable in the precisions: the same random numbers meet the same centers."""
        index = torch.randint(len(self.centres), (n,), generator=rng, device=self.device)
        return self.centres[index] + self.precision.drawn(index, rng)

    def log_prob(self, x: Points) -> Tensor:
        """Normalized log density, shape (n,)."""
        return self._by_blocks(lambda r: torch.logsumexp(self._log_parts(self.precision.quadratic(r)), 1), x)

    def score(self, x: Points) -> Points:
        r"""Return :math:`-\sum_kp_ku_k`, of the shape of ``x``; differentiable in the precisions."""

        def of_block(r: Tensor) -> Points:
            u, quadratic = self.precision.applied(r)
            p = self._log_parts(quadratic).softmax(1)
            return -torch.einsum("nk,nkd->nd", p, u)

        return self._by_blocks(of_block, x)

    def laplacian_ratio(self, x: Points) -> Tensor:
        r"""Return :math:`\Delta\eta/\eta=\sum_kp_k(|u_k|^2-\operatorname{tr}\Gamma_k)`, shape (n,)."""
        return self._by_blocks(lambda r: self._ratio_and_speed(r)[0], x)

    def hyvarinen_score(self, x: Points) -> Tensor:
        r"""Return :math:`2\Delta\eta/\eta-|\nabla\log\eta|^2`, shape (n,), the same rule in closed form."""

        def of_block(r: Tensor) -> Tensor:
            ratio, speed = self._ratio_and_speed(r)
            return 2 * ratio - speed

        return self._by_blocks(of_block, x)

    @checked
    def noised(self, scale: Positive, variance: NonNegative) -> "LocalGaussians":
        r"""Return the law of :math:`aX+\sqrt v\,\xi`, exactly: :math:`\tfrac1K\sum_kN(aZ_k,a^2\Gamma_k^{-1}+vI)`."""
        return LocalGaussians(scale * self.centres, self.precision.noised(scale, variance))

    @checked
    def marginal(self, coordinates: Sequence[Whole]) -> "LocalGaussians":
        """Return the law of some of the coordinates; raises ``BadInput`` for one that is not there."""
        d = self.centres.shape[1]
        if not coordinates or max(coordinates) >= d or len(set(coordinates)) < len(coordinates):
            raise BadInput(f"marginal({list(coordinates)}): expected distinct coordinates from 0 to {d - 1}")
        return LocalGaussians(self.centres[:, list(coordinates)], self.precision.marginal(coordinates))

    def _log_parts(self, quadratic: Tensor) -> Tensor:
        """Logarithms (n, K) of the terms of the mixture, weights included."""
        K, d = self.centres.shape
        return 0.5 * (self.precision.log_det - quadratic) - 0.5 * d * math.log(2 * math.pi) - math.log(K)

    def _ratio_and_speed(self, r: Tensor) -> tuple[Tensor, Tensor]:
        u, quadratic = self.precision.applied(r)
        p = self._log_parts(quadratic).softmax(1)
        ratio = (p * (u.square().sum(2) - self.precision.trace)).sum(1)
        return ratio, torch.einsum("nk,nkd->nd", p, u).square().sum(1)

    def _by_blocks(self, of_differences: Callable[[Tensor], Tensor], x: Points) -> Tensor:
        self.precision.ready()  # or the first block alone would compute what all of them share
        return by_blocks(lambda block: of_differences(block[:, None] - self.centres), x, self.centres.numel())
