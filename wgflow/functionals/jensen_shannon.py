r"""Entropies of the Jensen–Shannon family: softplus, and what the two GAN generators descend."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from wgflow.core.typing import Scalar
from wgflow.functionals.base import Potential, drawn, register_functional
from wgflow.functionals.divergences import LOG2, LOG_RATIO_CAP, FDivergence, capped_exp
from wgflow.measures import Particles


def _log1p_over(log_r: Tensor) -> Tensor:
    """Return log(1+r) / r from log r: 1 for small r, where the quotient of rounded numbers would be anything."""
    r = log_r.clamp(min=-20, max=80).exp()
    return torch.log1p(r) / r


@register_functional("softplus")
@dataclass(frozen=True)
class Softplus(FDivergence):
    r""":math:`f(p)=p\log p+(2-p)\log(2-p)` on :math:`[0,2]`, :math:`\infty` above; :math:`f^*(u)=2\,\mathrm{softplus}(u)-2\log 2`.

    Equal to :math:`2\,\mathrm{JS}(\rho,2\nu-\rho)`. The ratio lies in (0, 2), so gradients are bounded: numerically the
    safest entropy. It also *imposes* :math:`d\rho/d\nu\le2`: one step, however small, must jump inside :math:`2\nu`.

    Examples
    --------
    The ratio :math:`2/(1+e^{-u})` stays below 2, however large u is:

    >>> import torch
    >>> import wgflow as wg
    >>> Softplus(wg.StandardNormal(1)).ratio(torch.tensor([0.0, 100.0]))
    tensor([1., 2.])
    """

    def f(self, p: Tensor) -> Tensor:
        """Return p log p + (2-p) log(2-p), infinite above 2."""
        inside = torch.xlogy(p, p) + torch.xlogy(2 - p.clamp(max=2), 2 - p.clamp(max=2))
        return torch.where(p <= 2, inside, torch.inf)

    def f_star(self, u: Tensor) -> Tensor:
        """Return 2 softplus(u) - 2 log 2."""
        return 2 * nnf.softplus(u) - 2 * LOG2

    def ratio(self, u: Tensor) -> Tensor:
        """Return 2 sigmoid(u)."""
        return 2 * u.sigmoid()

    def perspective(self, log_r: Tensor) -> Tensor:
        """Return log(2r) + (2-r) log(1 - r/2) / r, infinite for r above 2."""
        half = (log_r - LOG2).clamp(min=-20, max=0).exp()
        inside = log_r + LOG2 + torch.special.xlog1py(1 - half, -half) / half
        return torch.where(log_r <= LOG2, inside, torch.inf)


@register_functional("js_exact")
@dataclass(frozen=True)
class JSExact(FDivergence):
    r"""Twice the Jensen–Shannon divergence: :math:`f(p)=p\log p-(p+1)\log\frac{p+1}2`, :math:`f^*(u)=-\log(2-e^u)`, :math:`u<\log2`.

    The critic is a logit: :math:`\varphi=\log 2-\mathrm{softplus}(v)`. What it ascends is the usual GAN objective; the
    moving measure descends the saturating generator loss. At most :math:`2\log2`, so its gradient vanishes for disjoint
    supports. :class:`JSNonSaturating` is what the public S-JKO-JSD code follows.

    Examples
    --------
    The critic's potential 0 stands for the ratio 1; where the model has no mass the integrand is :math:`f(0)=\log2`.

    >>> import torch
    >>> import wgflow as wg
    >>> F = JSExact(wg.StandardNormal(1))
    >>> F.ratio(torch.tensor(0.0)), F.f(torch.tensor(0.0))
    (tensor(1.), tensor(0.6931))
    """

    def f(self, p: Tensor) -> Tensor:
        """Return p log p - (p+1) log((p+1)/2)."""
        return torch.xlogy(p, p) - torch.xlogy(p + 1, (p + 1) / 2)

    def f_star(self, u: Tensor) -> Tensor:
        """Return -log(2 - e^u) for u < log 2, infinite above."""
        inside = -LOG2 - torch.log(-torch.expm1(u.clamp(max=LOG2) - LOG2))
        return torch.where(u < LOG2, inside, torch.inf)

    def ratio(self, u: Tensor) -> Tensor:
        """Return e^u / (2 - e^u), at most e^20: it overflows at the end of its domain."""
        return 1 / torch.expm1(LOG2 - u).clamp(min=math.exp(-LOG_RATIO_CAP))

    def perspective(self, log_r: Tensor) -> Tensor:
        """Return log(2r) - log(1+r) - log(1+r) / r + log 2."""
        return log_r - nnf.softplus(log_r) - _log1p_over(log_r) + 2 * LOG2

    def witness(self, v: Tensor) -> Tensor:
        """Return log 2 - softplus(v)."""
        return LOG2 - nnf.softplus(v)

    def variational(self, net: Potential, rho: Particles) -> Scalar:
        r"""Return :math:`2\log2-E_\rho\,\mathrm{softplus}(v)-E_\nu\,\mathrm{softplus}(-v)`: no digits lost for large :math:`|v|`."""
        nu = drawn(self.target)
        return 2 * LOG2 - rho.mean(nnf.softplus(net(rho.x))) - nu.mean(nnf.softplus(-net(nu.x)))


@register_functional("js_nonsat")
@dataclass(frozen=True)
class JSNonSaturating(JSExact):
    r"""What the non-saturating GAN generator descends: :math:`2\,\mathrm{KL}(\tfrac{\rho+\nu}2|\nu)`.

    :math:`f(p)=(p+1)\log\frac{p+1}2-(p-1)`; :math:`f^*(u)=2e^u-u-2` for :math:`u\ge-\log2` and :math:`\log2-1` below. The
    critic ascends the same GAN objective as :class:`JSExact` and the moving measure sees
    :math:`\varphi=\mathrm{softplus}(-v)-\log2`, the first variation of this functional at the critic's optimum: an
    adversarial game whose equilibrium is this functional's, not a saddle point of it. This is the S-JKO-JSD of Choi et
    al. (2024), Algorithm 3.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F = JSNonSaturating(wg.StandardNormal(1))
    >>> F.ratio(torch.tensor(0.0)), F.ratio(torch.tensor(1.0))  # 2 e - 1 at u = 1
    (tensor(1.), tensor(4.4366))
    """

    def f(self, p: Tensor) -> Tensor:
        """Return (p+1) log((p+1)/2) - (p-1)."""
        return torch.xlogy(p + 1, (p + 1) / 2) - (p - 1)

    def f_star(self, u: Tensor) -> Tensor:
        """Return 2 e^u - u - 2, constant below -log 2."""
        u = u.clamp(min=-LOG2)
        return 2 * capped_exp(u) - u - 2

    def ratio(self, u: Tensor) -> Tensor:
        """Return max(2 e^u - 1, 0)."""
        return (2 * u.clamp(max=LOG_RATIO_CAP).exp() - 1).clamp(min=0)

    def perspective(self, log_r: Tensor) -> Tensor:
        """Return log((1+r)/2) + log(1+r) / r - log 2."""
        return nnf.softplus(log_r) + _log1p_over(log_r) - 2 * LOG2

    def witness(self, v: Tensor) -> Tensor:
        """Return softplus(-v) - log 2."""
        return nnf.softplus(-v) - LOG2
