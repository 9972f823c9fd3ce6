r"""Potentials whose proximal kernel has its normalizer, its means and its draws in closed form: quadratic and :math:`\ell^1`."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Positive
from wgflow.core.finite import require_finite
from wgflow.core.typing import Points
from wgflow.measures.normalizers import Function, Normalizer, Tilt
from wgflow.measures.targets import Gaussian
from wgflow.numerics.cache import Kept
from wgflow.numerics.distances import readable
from wgflow.numerics.metric import Metric


class ExactPotential(Normalizer):
    r"""A potential that is called with points (n, \*event), and knows the normalizer of its own proximal kernel.

    Examples
    --------
    :class:`QuadraticPotential` is one: :math:`m(0)=(1+T)^{-1/2}`, 0.7071 at :math:`T=1`.

    >>> import torch
    >>> import wgflow as wg
    >>> operator = wg.WassersteinProximal(wg.QuadraticPotential(torch.eye(1)), 1.0, temperature=1.0)
    >>> operator.log_mean(torch.zeros(1, 1)).exp()
    tensor([0.7071])
    """

    @abstractmethod
    def __call__(self, x: Points) -> Tensor:
        r"""Return :math:`V(x)`, shape (n,)."""

    def prox(self, x: Points, h: float) -> Points:
        r"""Return :math:`\operatorname{argmin}_y|x-y|^2/2h+V(y)`, of the shape of ``x``."""
        raise Unsupported(f"{type(self).__name__} does not know its proximal map")

    @abstractmethod
    def whitened(self, metric: Metric) -> "ExactPotential":
        r"""Return the same potential of the coordinates :math:`u=L^{-1}x` of a metric."""


@dataclass(frozen=True, eq=False)
class QuadraticPotential(ExactPotential):
    r"""The quadratic potential :math:`V(x)=\tfrac12(x-c)^\top H(x-c)`.

    With :math:`P=(I+TH)^{-1}` the conditional law is :math:`N(c+P(y-c),\,2\tau TP)` and
    :math:`\log m(y)=\tfrac12\log\det P-(y-c)^\top HP(y-c)/4\tau`.

    Parameters
    ----------
    hessian : Tensor, shape (d, d)
        :math:`H`, symmetric; not the covariance of :math:`e^{-V/\tau}`, which is :math:`\tau H^{-1}` (see :meth:`towards`).
    center : Tensor, shape (d,), optional
        :math:`c`; the origin when None.

    Raises
    ------
    BadInput
        For mismatched shapes or a matrix that is not symmetric; later for a time with :math:`1+T\lambda\le0` of an eigenvalue
        :math:`\lambda` of H, which is named.

    Examples
    --------
    >>> import torch
    >>> V = QuadraticPotential(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    >>> V(torch.tensor([[1.0, 1.0]]))
    tensor([1.5000])
    >>> V.prox(torch.tensor([[1.0, 1.0]]), 1.0)
    tensor([[0.3333, 0.5000]])
    """

    hessian: Tensor
    center: Tensor | None = None

    def __post_init__(self) -> None:
        H, c = self.hessian, self.center
        if H.dim() != 2 or len(H) == 0 or len(H) != H.shape[1] or (c is not None and c.shape != H.shape[:1]):
            got = f"{tuple(H.shape)} and {None if c is None else tuple(c.shape)}"
            raise BadInput(f"QuadraticPotential: expected hessian (d, d) and center (d,), got {got}")
        require_finite("QuadraticPotential", hessian=H, **({} if c is None else {"center": c}))
        if not torch.allclose(H, H.mT, rtol=0, atol=1e-6 * float(H.detach().abs().max())):
            raise BadInput("QuadraticPotential: the hessian is not symmetric. Give (A + A.T) / 2")
        object.__setattr__(self, "_spectrum", Kept(torch.linalg.eigh))

    @classmethod
    def towards(cls, target: Gaussian, temperature: Positive = 1.0) -> "QuadraticPotential":
        r"""Return V with :math:`e^{-V/\tau}\propto` the target: :math:`H=\tau C^{-1}`."""
        precision = temperature * torch.linalg.inv(target.cov)
        return cls((precision + precision.mT) / 2, target.mean)

    @property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (d,) in ascending order, and eigenvectors (d, d) in columns."""
        return self._spectrum.of(self.hessian)  # type: ignore[attr-defined]

    def _from_center(self, x: Points) -> Tensor:
        flat = x.flatten(1)
        if flat.shape[1] != len(self.hessian):
            raise BadInput(
                f"QuadraticPotential: it is one of {len(self.hessian)} coordinates, and points have {flat.shape[1]}"
            )
        return flat if self.center is None else flat - self.center

    def __call__(self, x: Points) -> Tensor:
        r"""Return :math:`\tfrac12(x-c)^\top H(x-c)`, shape (n,)."""
        r = self._from_center(x)
        return 0.5 * ((r @ self.hessian) * r).sum(1)

    def shrunk(self, time: float) -> Tensor:
        r"""Return the eigenvalues :math:`1/(1+T\lambda)` of P, raises ``BadInput`` where one is not positive, on a CPU."""
        values, _ = self.spectrum
        if readable(values) and not bool(values[0] * time > -1):  # elsewhere logarithms of negative numbers say it
            raise BadInput(
                f"time={time:g}: the potential has the eigenvalue {float(values[0]):g}, for which 1 + T times it is not positive and "
                "the proximal kernel has no integral. Shorten the time"
            )
        return 1 / (1 + time * values)

    def contracted(self, x: Points, time: float) -> Points:
        r"""Return :math:`c+P(x-c)`, the proximal point and the mean of the conditional law."""
        p, (_, U) = self.shrunk(time), self.spectrum
        r = self._from_center(x)
        moved = (r @ U * p) @ U.mT
        return (moved if self.center is None else moved + self.center).view_as(x)

    def prox(self, x: Points, h: float) -> Points:
        """Return :meth:`contracted`."""
        return self.contracted(x, h)

    def log_mean(self, tilt: Tilt, y: Points, noise: Tensor | None = None) -> Tensor:
        r"""Return :math:`\tfrac12\log\det P-(y-c)^\top HP(y-c)/4\tau`."""
        p, (values, U) = self.shrunk(tilt.time), self.spectrum
        r = self._from_center(y) @ U
        return 0.5 * p.log().sum() - (r.square() * (values * p)).sum(1) / (4 * tilt.temperature)

    def _spread(self, tilt: Tilt, noise: Tensor) -> Tensor:
        """Scale standard normal numbers to the conditional law around its mean."""
        p, (_, U) = self.shrunk(tilt.time), self.spectrum
        return (tilt.std * (noise.flatten(1) * p.sqrt()) @ U.mT).view_as(noise)

    def expect(self, tilt: Tilt, f: Function, y: Points, noise: Tensor) -> Tensor:
        """Return the mean of f over draws of the conditional law itself."""
        x = self.contracted(y, tilt.time) + self._spread(tilt, noise)[:, None]
        return f(x.flatten(0, 1)).view(len(noise), len(y)).mean(0)

    def draw(self, tilt: Tilt, y: Points, rng: torch.Generator) -> Points:
        """Return exact draws."""
        noise = torch.randn(y.shape, generator=rng, device=y.device, dtype=y.dtype)
        return (self.contracted(y, tilt.time) + self._spread(tilt, noise)).detach()

    def whitened(self, metric: Metric) -> "QuadraticPotential":
        r"""Return the potential with Hessian :math:`L^\top HL` and center :math:`L^{-1}c`."""
        L = metric.root.diag() if metric.diagonal else metric.root
        H = L.mT @ self.hessian @ L
        c = None if self.center is None else metric.whiten(self.center[None])[0]
        return QuadraticPotential((H + H.mT) / 2, c)


def collapse(V: QuadraticPotential, time: float) -> str | None:
    r"""Return why BRWP has no stationary law for this potential, naming an eigenvalue; None where it has one."""
    values, _ = V.spectrum
    if not float(values[0]) > 0:
        return f"the Hessian has the eigenvalue {float(values[0]):g}: exp(-V/temperature) is no probability law. Expected positive ones"
    if float(values[-1]) * time < 1:
        return None
    return (
        f"time={time:g}: the Hessian has the eigenvalue {float(values[-1]):g}, and BRWP has no stationary law unless time times every "
        f"eigenvalue is below 1: particles collapse in that direction. Take a time below {1 / float(values[-1]):g}, or precondition it "
        "by a metric"
    )


@dataclass(frozen=True, eq=False)
class L1Potential(ExactPotential):
    r"""The potential :math:`V(x)=\sum_i\lambda_i|x_i|`, of the Laplace law :math:`e^{-V/\tau}`.

    Coordinate by coordinate, with :math:`s^2=2\tau T` and :math:`k=\lambda/2\tau`, the conditional law consists of two truncated Gaussians
    and

    .. math:: \log m(y)=\tfrac12k^2s^2+\log\Bigl\{e^{-ky}\Phi\Bigl(\frac{y-ks^2}{s}\Bigr)+e^{ky}\Phi\Bigl(\frac{-y-ks^2}{s}\Bigr)\Bigr\},

    computed with the scaled complementary error function, so that nothing cancels or underflows however large ks is.

    Parameters
    ----------
    scale : float or Tensor, shape (d,)
        :math:`\lambda`, positive; one for all coordinates, or one for each.

    Raises
    ------
    BadInput
        For scales that are not positive numbers or a vector of them.

    Examples
    --------
    >>> import torch
    >>> L1Potential(2.0).prox(torch.tensor([[1.0, -0.1]]), 0.25)
    tensor([[0.5000, -0.0000]])
    """

    scale: Positive | Tensor

    def __post_init__(self) -> None:
        if isinstance(self.scale, Tensor):
            require_finite("L1Potential", scale=self.scale)
            if self.scale.dim() != 1 or not bool((self.scale > 0).all()):
                raise BadInput(f"L1Potential: expected a positive number or positive numbers (d,), got {self.scale}")

    def __call__(self, x: Points) -> Tensor:
        r"""Return :math:`\sum_i\lambda_i|x_i|`, shape (n,)."""
        return (self.scale * x.flatten(1).abs()).sum(1)

    def prox(self, x: Points, h: float) -> Points:
        r"""Return soft thresholding at :math:`\lambda h`."""
        flat = x.flatten(1)
        return (flat.sign() * (flat.abs() - h * self.scale).clamp(min=0)).view_as(x)

    def _halves(self, tilt: Tilt, y: Points) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return :math:`t_\pm=ks\mp y/s` and the logarithms of the two terms of m, (2, n, d), these less an offset (n, d), and that."""
        z = y.flatten(1) / tilt.std
        z = torch.stack([z, -z])
        ks = self.scale * tilt.std / (2 * tilt.temperature)
        t = ks - z
        tail = t > 0
        # exp((ks)²/2 - ks z) Phi(-t) is erfcx(t/sqrt 2)/2 exp(-z²/2), in which nothing cancels where t > 0. Where that holds of both,
        # the common factor is kept apart: it may be so small that the two could not be compared.
        offset = torch.where(tail.all(0), -0.5 * z[0].square(), 0)
        far = torch.special.erfcx(torch.where(tail, t, 0) / math.sqrt(2)).log() - math.log(2)
        far = far + torch.where(tail.all(0), 0, -0.5 * z.square())
        near = 0.5 * ks * (ks - 2 * z) + torch.special.log_ndtr(-torch.where(tail, 0, t))
        return t, torch.where(tail, far, near), offset

    def log_mean(self, tilt: Tilt, y: Points, noise: Tensor | None = None) -> Tensor:
        """Return the formula above, summed over coordinates."""
        _, logs, offset = self._halves(tilt, y)
        return (torch.logsumexp(logs, 0) + offset).sum(1)

    def draw(self, tilt: Tilt, y: Points, rng: torch.Generator) -> Points:
        """Return exact draws: a side of 0 by its mass, and a truncated Gaussian there by inversion, in double precision."""
        wide = L1Potential(self.scale.double() if isinstance(self.scale, Tensor) else self.scale)
        with torch.no_grad():
            t, logs, _ = wide._halves(tilt, y.double())
            u, v = torch.rand(t.shape, generator=rng, device=y.device, dtype=torch.float64).clamp_(min=1e-300)
            right = u < torch.sigmoid(logs[0] - logs[1])
            t = torch.where(right, t[0], t[1])
            beyond = -_inverse_log_ndtr(v.log() + torch.special.log_ndtr(-t)) - t
            return (tilt.std * torch.where(right, beyond, -beyond)).to(y.dtype).view_as(y)

    def whitened(self, metric: Metric) -> "L1Potential":
        r"""Return the norm with :math:`\lambda_i\sqrt{M_{ii}}`; raises ``BadInput`` for a metric that mixes coordinates."""
        return L1Potential(self.scale * diagonal_of(metric, self))


def diagonal_of(metric: Metric, potential: ExactPotential) -> Tensor:
    r"""Return :math:`\sqrt{M_{ii}}` for a sum over coordinates; raises ``BadInput`` for a metric that mixes them."""
    if not metric.diagonal:
        raise BadInput(
            f"{type(potential).__name__} is a sum over coordinates, and the metric mixes them: give the diagonal (d,) of one, or "
            "another normalizer"
        )
    return metric.root


def _inverse_log_ndtr(log_p: Tensor) -> Tensor:
    r"""Return t with :math:`\log\Phi(t)=\log p`, also where p underflows: Newton's method from the left, where it is monotone."""
    tail = log_p < -1.0
    middle = -torch.special.ndtri(-torch.expm1(torch.where(tail, -1.0, log_p)))
    c = torch.where(tail, log_p, -1.0)
    t = -(-2 * (c + math.log(2))).sqrt()
    for _ in range(8):
        ratio = torch.special.erfcx(-t / math.sqrt(2)) * math.sqrt(math.pi / 2)  # Phi / phi
        t = t - (torch.special.log_ndtr(t) - c) * ratio
    return torch.where(tail, t, middle)
