r"""The divergences of Pearson: :math:`f(p)=(p-1)^2`, as a convex function, without its edge, and scale-free."""

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from wgflow.core.typing import Info, Scalar
from wgflow.functionals.base import Potential, drawn, register_functional
from wgflow.functionals.divergences import FDivergence
from wgflow.measures import Particles


@register_functional("chi2")
@dataclass(frozen=True)
class Chi2(FDivergence):
    r"""Pearson :math:`\chi^2`: :math:`f(p)=(p-1)^2`, :math:`f^*(u)=u+u^2/4` for :math:`u\ge-2` and :math:`-1` below.

    Data points with :math:`u<-2` get no gradient.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F, u = wg.Chi2(wg.StandardNormal(1)), torch.tensor(2.0)
    >>> F.f_star(u), F.ratio(u)  # 2 + 1, and its slope 1 + 2 / 2
    (tensor(3.), tensor(2.))
    """

    def f(self, p: Tensor) -> Tensor:
        """Return (p - 1)^2."""
        return (p - 1).square()

    def f_star(self, u: Tensor) -> Tensor:
        """Return u + u^2/4, constant below -2."""
        u = u.clamp(min=-2)
        return u + u.square() / 4

    def ratio(self, u: Tensor) -> Tensor:
        """Return max(1 + u/2, 0)."""
        return (1 + u / 2).clamp(min=0)

    def perspective(self, log_r: Tensor) -> Tensor:
        """Return r - 1."""
        return torch.expm1(log_r)


@register_functional("chi2_signed")
@dataclass(frozen=True)
class Chi2Signed(Chi2):
    r""":math:`\chi^2` with :math:`f(p)=(p-1)^2` on all of :math:`\mathbb R`: :math:`f^*(u)=u+u^2/4` everywhere (GWF's ``chi2``).

    The ratio :math:`1+u/2` can be negative: a confident critic on data is pushed back.

    Examples
    --------
    Below -2, where :class:`Chi2` is flat, the slope goes on:

    >>> import torch
    >>> import wgflow as wg
    >>> Chi2Signed(wg.StandardNormal(1)).ratio(torch.tensor(-4.0))
    tensor(-1.)
    """

    def f_star(self, u: Tensor) -> Tensor:
        """Return u + u^2/4."""
        return u + u.square() / 4

    def ratio(self, u: Tensor) -> Tensor:
        """Return 1 + u/2."""
        return 1 + u / 2


@register_functional("chi2_tight")
@dataclass(frozen=True)
class Chi2Tight(Chi2):
    r""":math:`\chi^2` by its scale-free variational form (GWF's ``chi2_tight``).

    .. math:: \chi^2(\rho|\nu)=\sup_{d\ge0}\frac{(E_\rho d-E_\nu d)^2}{\operatorname{Var}_\nu d},
       \qquad d=\operatorname{softplus}(-v).

    The variance is floored at 1e-4. Not linear in :math:`\rho`: the moving measure descends the same ratio. The
    supremum is reached at :math:`d\propto d\rho/d\nu`.

    Examples
    --------
    :math:`\chi^2(N(m,1)|N(0,1))=e^{m^2}-1`, 0.284 for :math:`m=\tfrac12`, here by its value at 10,000 draws:

    >>> import torch
    >>> import wgflow as wg
    >>> law = wg.Gaussian(torch.full((1,), 0.5), torch.eye(1))
    >>> x = law.draw(10_000, torch.Generator().manual_seed(0)).x
    >>> F = Chi2Tight(wg.StandardNormal(1))
    >>> round(F.value(wg.Particles(x, log_rho=law.log_prob(x))).item(), 1)
    0.3
    """

    def variational(self, net: Potential, rho: Particles) -> Scalar:
        """Return the ratio on the batch."""
        nu = drawn(self.target)
        d_nu = nnf.softplus(-net(nu.x))
        mean = nu.mean(d_nu)
        variance = nu.mean((d_nu - mean).square()).clamp(min=1e-4)
        return (rho.mean(nnf.softplus(-net(rho.x))) - mean).square() / variance

    def surrogate(self, net: Potential, rho: Particles) -> Scalar:
        """Return the same ratio: every part of it moves with the model."""
        return self.variational(net, rho)

    def diagnostics(self, net: Potential) -> Info:
        """Return nothing: the critic's scale is free, so its mass says nothing."""
        return {}
