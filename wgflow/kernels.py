r"""Radial kernels :math:`k(x,y)=\kappa(|x-y|^2)`, with named bandwidths, that add and multiply.

Distances are Euclidean over the flattened event. A length is a length: nothing here is a squared bandwidth, and nothing
is inferred unless a class says so (:class:`MedianRBF`, :class:`NearestRBF`).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor

from wgflow._ops import Distances
from wgflow._typing import Points
from wgflow.errors import BadInput, Unsupported

Evaluated = tuple[Tensor, Tensor, float | Tensor]


def _apart(s: Tensor) -> Tensor:
    """Squared distances with infinity for 0, so that negative powers vanish there; one cheap pass, no comparison."""
    return nnf.threshold(s, 0.0, math.inf)


def _exp_(exponent: Tensor) -> Tensor:
    """Exponential in place, of no less than the smallest normal number: below it a CPU takes up to 15 times as long."""
    return exponent.clamp_(min=math.log(torch.finfo(exponent.dtype).tiny) + 0.1).exp_()


def _positive(name: str, **values: float | Tensor) -> None:
    for what, value in values.items():
        if not isinstance(value, Tensor) and not (value > 0 and math.isfinite(value)):
            raise BadInput(f"{name}({what}={value}): expected a positive, finite number")


class Kernel(ABC):
    r"""A function of the squared distance :math:`s=|x-y|^2`.

    A subclass gives :meth:`profile` and :meth:`slope`; everything else follows. The slope at :math:`s=0` only ever
    multiplies :math:`x-y=0`: it must be finite, and is 0 by convention where the kernel is not smooth, so that coincident
    particles do not act on each other.
    """

    smooth: ClassVar[bool] = True
    """Differentiable at coincident points."""
    characteristic: ClassVar[bool] = True
    """The MMD of this kernel is a distance: 0 between equal laws only."""

    @property
    def sorts(self) -> bool:
        r"""Whether it is :math:`-|x-y|`, whose sums in one dimension need a sort instead of all pairs."""
        return False

    @abstractmethod
    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`\kappa(s)`, elementwise."""

    @abstractmethod
    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`\kappa'(s)`, elementwise: :math:`\nabla_xk(x,y)=2\kappa'(s)(x-y)`."""

    def curvature(self, s: Tensor) -> Tensor:
        r"""Return :math:`\kappa''(s)`, elementwise; Stein kernels need it.

        Raises
        ------
        Unsupported
            For a kernel that is not twice differentiable, or does not say how.
        """
        raise Unsupported(f"{self} has no second derivative: a Stein kernel needs RBF or InverseMultiquadric")

    def evaluate(self, s: Tensor) -> Evaluated:
        r"""Return ``(k, q, c)`` with :math:`k=\kappa(s)` and :math:`\kappa'(s)=c\,q`; may overwrite ``s``.

        The default calls the two methods. A kernel whose slope is a multiple of its value saves a pass over the block.
        """
        return self.profile(s), self.slope(s), 1.0

    def log_integral(self, d: int) -> float | Tensor:
        r"""Return :math:`\log\int k(x,0)\,dx` in :math:`d` dimensions, which makes the kernel a density."""
        raise Unsupported(f"{self} is not used as a density: take RBF, whose integral is known")

    def fit(self, x: Points) -> "Kernel":
        """Return the kernel for these points: itself, unless its bandwidth is a rule."""
        return self

    def __call__(self, x: Points, y: Points) -> Tensor:
        r"""Return the dense matrix :math:`k(x_i,y_j)`, shape (n, m), without gradient; memory n m.

        Raises
        ------
        Unsupported
            For points that require gradient: it would be lost.
        """
        if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
            raise Unsupported(
                "a dense kernel matrix has no gradient: detach() the points, or apply profile() to squared distances"
            )
        return self.profile(Distances(x, y, self.smooth).block(slice(0, len(x)), slice(0, len(y))))

    def __add__(self, other: "Kernel") -> "KernelSum":
        if not isinstance(other, Kernel):
            return NotImplemented
        parts = [p.terms if isinstance(p, KernelSum) else ((1.0, p),) for p in (self, other)]
        return KernelSum(parts[0] + parts[1])

    def __radd__(self, other: int) -> "Kernel":
        return self if other == 0 else NotImplemented  # so that sum() works

    def __rmul__(self, c: float) -> "KernelSum":
        if not isinstance(c, (int, float)):
            return NotImplemented
        terms = self.terms if isinstance(self, KernelSum) else ((1.0, self),)
        return KernelSum(tuple((c * weight, kernel) for weight, kernel in terms))


@dataclass(frozen=True)
class KernelSum(Kernel):
    r"""A linear combination :math:`\sum_lc_lk_l`; several bandwidths at once, or attraction minus repulsion.

    Examples
    --------
    >>> import torch
    >>> k = sum(RBF(b) for b in (0.5, 1.0, 2.0))
    >>> k.profile(torch.zeros(1))
    tensor([3.])
    """

    terms: tuple[tuple[float, Kernel], ...]

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        """Whether all terms are."""
        return all(k.smooth for _, k in self.terms)

    @property
    def characteristic(self) -> bool:  # type: ignore[override]
        """Whether one term is, and none is subtracted."""
        return all(c > 0 for c, _ in self.terms) and any(k.characteristic for _, k in self.terms)

    def profile(self, s: Tensor) -> Tensor:
        """Return the combination of the values."""
        return sum(c * k.profile(s) for c, k in self.terms)  # type: ignore[return-value]

    def slope(self, s: Tensor) -> Tensor:
        """Return the combination of the slopes."""
        return sum(c * k.slope(s) for c, k in self.terms)  # type: ignore[return-value]

    def curvature(self, s: Tensor) -> Tensor:
        """Return the combination of the second derivatives."""
        return sum(c * k.curvature(s) for c, k in self.terms)  # type: ignore[return-value]

    def evaluate(self, s: Tensor) -> Evaluated:
        """Return the combination of the terms' evaluations."""
        value, slope = torch.zeros_like(s), torch.zeros_like(s)
        for weight, kernel in self.terms:
            k, q, c = kernel.evaluate(s.clone())
            value += weight * k
            slope += (weight * c) * q
        return value, slope, 1.0

    def log_integral(self, d: int) -> float | Tensor:
        """Return the logarithm of the combination of the integrals; raises ``Unsupported`` where a term is subtracted."""
        if any(c <= 0 for c, _ in self.terms):
            raise Unsupported(f"{self} is not used as a density: it needs positive factors")
        logs = [math.log(c) + k.log_integral(d) for c, k in self.terms]
        known = [x for x in logs if isinstance(x, Tensor)]
        if not known:
            return math.log(sum(math.exp(x - max(logs)) for x in logs)) + max(logs)
        return torch.logsumexp(torch.stack([torch.as_tensor(x).to(known[0]) for x in logs]), 0)

    def fit(self, x: Points) -> "Kernel":
        """Fit every term; itself where no term has a rule."""
        fitted = [k.fit(x) for _, k in self.terms]
        if all(new is k for new, (_, k) in zip(fitted, self.terms, strict=True)):
            return self
        return KernelSum(tuple((c, new) for new, (c, _) in zip(fitted, self.terms, strict=True)))


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

    bandwidth: float | Tensor

    def __post_init__(self) -> None:
        _positive("RBF", bandwidth=self.bandwidth)

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`e^{-s/2\sigma^2}`."""
        return _exp_(s * (-0.5 / self.bandwidth**2))

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-k/2\sigma^2`."""
        return self.profile(s) * (-0.5 / self.bandwidth**2)

    def curvature(self, s: Tensor) -> Tensor:
        r"""Return :math:`k/4\sigma^4`."""
        return self.profile(s) * (0.25 / self.bandwidth**4)

    def evaluate(self, s: Tensor) -> Evaluated:
        """Return the value, whose multiple the slope is."""
        c = -0.5 / self.bandwidth**2
        k = _exp_(s.mul_(c))
        return k, k, c

    def log_integral(self, d: int) -> float | Tensor:
        r"""Return :math:`\frac d2\log(2\pi\sigma^2)`."""
        log = math.log(self.bandwidth) if not isinstance(self.bandwidth, Tensor) else self.bandwidth.log()
        return d * (0.5 * math.log(2 * math.pi) + log)


@dataclass(frozen=True)
class _Rule(Kernel):
    """An RBF whose bandwidth is found from the particles at every evaluation and then held fixed."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        _positive(type(self).__name__, scale=self.scale)

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


@dataclass(frozen=True)
class Laplace(Kernel):
    r"""The Laplace kernel :math:`k=e^{-r/\ell}`, :math:`r=|x-y|`; not smooth at 0."""

    length: float
    smooth = False

    def __post_init__(self) -> None:
        _positive("Laplace", length=self.length)

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`e^{-\sqrt s/\ell}`."""
        return _exp_(s.sqrt() * (-1 / self.length))

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-k/(2\ell r)`."""
        return self.profile(s) * _apart(s).rsqrt() * (-0.5 / self.length)

    def evaluate(self, s: Tensor) -> Evaluated:
        """Share the root and the exponential."""
        inverse = _apart(s).rsqrt_()
        k = _exp_(s.mul_(inverse).mul_(-1 / self.length))
        return k, inverse.mul_(k), -0.5 / self.length


@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    r"""The inverse multiquadric :math:`k=(1+r^2/\ell^2)^{-\beta}`, with heavy tails.

    Parameters
    ----------
    length : float
        :math:`\ell`.
    power : float
        :math:`\beta`.
    """

    length: float
    power: float = 0.5

    def __post_init__(self) -> None:
        _positive("InverseMultiquadric", length=self.length, power=self.power)

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`(1+s/\ell^2)^{-\beta}`."""
        return (1 + s / self.length**2) ** -self.power

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-\beta\ell^{-2}(1+s/\ell^2)^{-\beta-1}`."""
        return (1 + s / self.length**2) ** (-self.power - 1) * (-self.power / self.length**2)

    def curvature(self, s: Tensor) -> Tensor:
        r"""Return :math:`\beta(\beta+1)\ell^{-4}(1+s/\ell^2)^{-\beta-2}`."""
        return (1 + s / self.length**2) ** (-self.power - 2) * (self.power * (self.power + 1) / self.length**4)

    def evaluate(self, s: Tensor) -> Evaluated:
        """Share the power."""
        inverse = s.mul_(self.length**-2).add_(1).reciprocal_()
        k = inverse**self.power
        return k, inverse.mul_(k), -self.power / self.length**2


@dataclass(frozen=True)
class Matern(Kernel):
    r"""The Matérn kernel with :math:`\nu=\tfrac32` or :math:`\tfrac52`, :math:`a=\sqrt{2\nu}\,r/\ell`.

    :math:`(1+a)e^{-a}` and :math:`(1+a+a^2/3)e^{-a}`; :math:`\nu=\tfrac12` is :class:`Laplace`.
    """

    length: float
    nu: float = 1.5

    def __post_init__(self) -> None:
        _positive("Matern", length=self.length)
        if self.nu not in (1.5, 2.5):
            raise BadInput(f"Matern(nu={self.nu}): expected 1.5 or 2.5 (0.5 is Laplace, infinity is RBF)")

    def _a(self, s: Tensor) -> Tensor:
        return s.sqrt() * (math.sqrt(2 * self.nu) / self.length)

    def profile(self, s: Tensor) -> Tensor:
        """Return the value."""
        a = self._a(s)
        return (1 + a if self.nu == 1.5 else 1 + a + a.square() / 3) * _exp_(-a)

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-\frac{\nu}{\ell^2}e^{-a}` and :math:`-\frac{\nu}{3\ell^2}(1+a)e^{-a}`."""
        a = self._a(s)
        c = -self.nu / self.length**2
        return c * _exp_(-a) if self.nu == 1.5 else c / 3 * (1 + a) * _exp_(-a)


@dataclass(frozen=True)
class Riesz(Kernel):
    r"""The Riesz kernel :math:`k=-r^p`, :math:`0<p<2`; its MMD² at :math:`p=1` is the energy distance.

    :math:`-r`, not :math:`\tfrac12(|x|+|y|-r)`: the latter's MMD² is half as large. Unit forces at :math:`p=1`, no
    bandwidth; coincident particles do not act on each other, so they never separate: jitter ties in the start.
    """

    power: float = 1.0
    smooth = False

    def __post_init__(self) -> None:
        if not 0 < self.power < 2:
            raise BadInput(f"Riesz(power={self.power}): expected a power between 0 and 2 (2 compares means only)")

    @property
    def sorts(self) -> bool:
        """At power 1."""
        return self.power == 1

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`-s^{p/2}`."""
        return -s.sqrt() if self.power == 1 else -(s ** (self.power / 2))

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-\tfrac p2s^{p/2-1}`, 0 at 0."""
        return _apart(s) ** (self.power / 2 - 1) * (-self.power / 2)

    def evaluate(self, s: Tensor) -> Evaluated:
        """Share the power."""
        inverse = _apart(s).pow_(self.power / 2 - 1)
        return s.mul_(inverse).neg_(), inverse, -self.power / 2


@dataclass(frozen=True)
class Logarithmic(Kernel):
    r"""The logarithmic potential :math:`-\log r`: repulsion in an :class:`InteractionEnergy`, Newtonian up to :math:`2\pi` in the plane.

    0 at :math:`r=0` by convention: a particle does not act on itself, nor on one at the same place.
    """

    smooth = False
    characteristic = False

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`-\tfrac12\log s`, 0 at 0."""
        return -0.5 * nnf.threshold(s, 0.0, 1.0).log()

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-1/(2s)`, 0 at 0."""
        return -0.5 / _apart(s)


@dataclass(frozen=True)
class PowerLaw(Kernel):
    r"""The power law :math:`r^p/p`, :math:`p\ne0`: attraction in an interaction energy.

    :math:`p=2` is the quadratic one, :math:`p=2-d` minus the Newtonian potential up to a constant (:math:`p=1` in one
    dimension). 0 at :math:`r=0` by convention, also for :math:`p<0`. Not positive definite: not for an MMD.
    """

    power: float
    characteristic = False

    def __post_init__(self) -> None:
        if self.power == 0 or not math.isfinite(self.power):
            raise BadInput(f"PowerLaw(power={self.power}): expected a number other than 0 (its limit is Logarithmic)")

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        """From the square up."""
        return self.power >= 2

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`s^{p/2}/p`."""
        return (s if self.power > 0 else _apart(s)) ** (self.power / 2) / self.power

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`\tfrac12s^{p/2-1}`."""
        return 0.5 * (s if self.power >= 2 else _apart(s)) ** (self.power / 2 - 1)


def Morse(repulsion: float, repulsion_length: float, attraction: float, attraction_length: float) -> KernelSum:
    r"""Return the Morse potential :math:`C_re^{-r/\ell_r}-C_ae^{-r/\ell_a}` of swarming models (D'Orsogna et al. 2006)."""
    return repulsion * Laplace(repulsion_length) + (-attraction) * Laplace(attraction_length)
