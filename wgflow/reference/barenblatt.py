r"""The source solution of the porous medium equation, in any dimension: a measure with its exact flow and its exact JKO step."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Count, Device, Positive
from wgflow.core.typing import Points
from wgflow.measures import Measure, Particles


@dataclass(frozen=True, eq=False)
class Barenblatt(Measure):
    r"""The self-similar solution of :math:`\partial_t\rho=\Delta\rho^m`, the flow of ``PowerEntropy(m)``, at time t.

    .. math::
        \rho(x)=t^{-d\beta}\bigl(C-k|x|^2t^{-2\beta}\bigr)_+^{1/(m-1)},\qquad\beta=\frac1{d(m-1)+2},\quad k=\frac{\beta(m-1)}{2m},

    of mass 1 and radius :math:`R=\sqrt{C/k}\,t^\beta`. A JKO step leads from a profile to a profile, see :meth:`jko`.

    Parameters
    ----------
    d : int
        Dimension.
    m : float
        Exponent, above 1.
    time : float
        t, positive; at 0 it is a point mass.
    dtype, on
        Of the draws; ``on`` is their device.

    Raises
    ------
    BadInput
        For parameters out of range.

    Examples
    --------
    >>> rho = Barenblatt(d=2, m=2.0, time=0.05)
    >>> round(rho.jko(0.01).radius / rho.radius, 6), round(rho.flow(0.01).radius / rho.radius, 6)
    (1.043947, 1.046635)
    """

    d: Count
    m: Positive
    time: Positive
    dtype: torch.dtype = torch.float64
    on: Device = "cpu"

    def __post_init__(self) -> None:
        if not self.m > 1:
            raise BadInput(
                f"Barenblatt(d={self.d}, m={self.m}, time={self.time}): expected d >= 1, m > 1 and a positive time"
            )

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point, (d,)."""
        return torch.Size((self.d,))

    @property
    def device(self) -> torch.device:
        """Where draws live."""
        return torch.empty(0, device=self.on).device

    @property
    def beta(self) -> float:
        r"""Exponent of growth: radii are proportional to :math:`t^\beta`."""
        return 1 / (self.d * (self.m - 1) + 2)

    @property
    def _k(self) -> float:
        return self.beta * (self.m - 1) / (2 * self.m)

    @property
    def _log_C(self) -> float:
        # mass(C) = C^(1/(m-1) + d/2) (pi/k)^(d/2) Gamma(p) / Gamma(p + d/2), p = m/(m-1): a Beta function, as p may be large
        from scipy.special import betaln

        p, half = self.m / (self.m - 1), self.d / 2
        log_mass = half * math.log(math.pi / self._k) + float(betaln(p, half)) - math.lgamma(half)
        return -log_mass / (1 / (self.m - 1) + half)

    @property
    def radius(self) -> float:
        """Radius of the support."""
        return math.exp((self._log_C - math.log(self._k)) / 2) * self.time**self.beta

    @property
    def second_moment(self) -> float:
        r"""Return :math:`E|x|^2`. Two profiles of radii R and R' are at :math:`W_2=|R/R'-1|\sqrt{E'|x|^2}`."""
        return self.radius**2 * self.d / (self.d + 2 * self.m / (self.m - 1))

    @property
    def energy(self) -> float:
        r"""Return :math:`\frac1{m-1}\int\rho^m`."""
        return self.beta * self.second_moment / (self.time * self.d * (self.m - 1))

    def flow(self, t: float) -> "Barenblatt":
        """Return the solution a time t later."""
        return replace(self, time=self.time + t)

    def jko(self, h: float) -> "Barenblatt":
        r"""Return the exact JKO step: the dilation by :math:`\lambda` with :math:`\lambda^{d(m-1)+1}(\lambda-1)=h\beta/t`.

        It is again a profile, of time :math:`t\lambda^{1/\beta}`.
        """
        if not 0 < h < math.inf:
            raise BadInput(f"h={h}: expected a positive step")
        n, log_c = self.d * (self.m - 1) + 1, math.log(h) + math.log(self.beta) - math.log(self.time)
        # With s = log of the dilation: n s + log(e^s - 1) = log c, convex and increasing in log s. So Newton's method falls
        # monotonically from an upper bound, of which e^s - 1 <= c and e^s - 1 >= s give two.
        s = min(_log1p_exp(log_c), max(1.0, log_c + math.log(n)) / n)
        while True:
            slope = n + 1 / -math.expm1(-s)
            lower = s * math.exp(-(n * s + s + math.log(-math.expm1(-s)) - log_c) / (s * slope))
            if not lower < s * (1 - 4e-16):
                break
            s = lower
        return replace(self, time=self.time * math.exp(s / self.beta))

    def velocity(self, x: Points) -> Points:
        r"""Return the velocity of the flow, :math:`\beta x/t`."""
        return self.beta / self.time * x

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        r"""Return n independent points with their log density; no rejection: :math:`|x|^2/R^2\sim\mathrm{Beta}(d/2,m/(m-1))`."""
        z = torch.randn(n, self.d, generator=rng, device=self.device, dtype=self.dtype)
        shape = torch.full((n, 1), self.m / (self.m - 1), device=self.device, dtype=self.dtype)
        g = torch._standard_gamma(shape, generator=rng)
        x = self.radius * z / (z.square().sum(1, keepdim=True) + 2 * g).sqrt()
        return Particles(x, log_rho=self.log_prob(x), source=self)

    def log_prob(self, x: Points) -> Tensor:
        r"""Log density, shape (n,); :math:`-\infty` outside of the ball."""
        log_inside = (-(x / self.radius).square().sum(1).clamp(max=1)).log1p()
        peak = self._log_C / (self.m - 1) - self.d * self.beta * math.log(self.time)
        return log_inside / (self.m - 1) + peak

    def quantiles(self, u: Tensor) -> Tensor:
        r"""Return the quantiles at levels u (n,) in one dimension.

        Raises
        ------
        Unsupported
            In more dimensions.
        """
        if self.d != 1:
            raise Unsupported(f"quantiles are of one dimension, this profile has {self.d}: use draw")
        from scipy.special import betaincinv

        signed = 2 * u.detach().cpu().double().numpy() - 1  # |x|²/R² is Beta(1/2, m/(m-1))
        fraction = betaincinv(0.5, self.m / (self.m - 1), np.abs(signed))
        return torch.from_numpy(self.radius * np.sign(signed) * np.sqrt(fraction)).to(u)


def _log1p_exp(t: float) -> float:
    """Return log(1 + e^t)."""
    return t + math.log1p(math.exp(-t)) if t > 0 else math.log1p(math.exp(t))
