"""Kernels with heavier tails or a corner at 0, and the potentials of interaction energies."""

import math
from dataclasses import dataclass

import torch.nn.functional as nnf
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Finite, Positive, checked
from wgflow.kernels.base import Evaluated, Kernel, KernelSum, apart, exp_, register_kernel


@register_kernel("laplace")
@dataclass(frozen=True)
class Laplace(Kernel):
    r"""The Laplace kernel :math:`k=e^{-r/\ell}`, :math:`r=|x-y|`; not smooth at 0.

    Parameters
    ----------
    length : float
        :math:`\ell`.

    Examples
    --------
    >>> import torch
    >>> Laplace(2.0)(torch.zeros(1, 1), torch.tensor([[2.0]]))  # exp(-1)
    tensor([[0.3679]])
    """

    length: Positive
    smooth = False

    @classmethod
    def example(cls) -> "Laplace":
        """Return a tiny instance."""
        return cls(1.0)

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`e^{-\sqrt s/\ell}`."""
        return exp_(s.sqrt() * (-1 / self.length))

    def log_profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`-\sqrt s/\ell`."""
        return s.sqrt() * (-1 / self.length)

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-k/(2\ell r)`."""
        return self.profile(s) * apart(s).rsqrt() * (-0.5 / self.length)

    def evaluate(self, s: Tensor) -> Evaluated:
        """Share the root and the exponential."""
        inverse = apart(s).rsqrt_()
        k = exp_(s.mul_(inverse).mul_(-1 / self.length))
        return k, inverse.mul_(k), -0.5 / self.length


@register_kernel("inverse_multiquadric")
@dataclass(frozen=True)
class InverseMultiquadric(Kernel):
    r"""The inverse multiquadric :math:`k=(1+r^2/\ell^2)^{-\beta}`, with heavy tails.

    Parameters
    ----------
    length : float
        :math:`\ell`.
    power : float
        :math:`\beta`.

    Examples
    --------
    :math:`(1+3)^{-1/2}=\tfrac12` at :math:`r=\sqrt3`:

    >>> import torch
    >>> InverseMultiquadric(1.0).profile(torch.tensor(3.0))
    tensor(0.5000)
    """

    length: Positive
    power: Positive = 0.5

    @classmethod
    def example(cls) -> "InverseMultiquadric":
        """Return a tiny instance."""
        return cls(1.0)

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


@register_kernel("matern")
@dataclass(frozen=True)
class Matern(Kernel):
    r"""The Matérn kernel with :math:`\nu=\tfrac32` or :math:`\tfrac52`, :math:`a=\sqrt{2\nu}\,r/\ell`.

    :math:`(1+a)e^{-a}` and :math:`(1+a+a^2/3)e^{-a}`; :math:`\nu=\tfrac12` is :class:`Laplace`.

    Parameters
    ----------
    length : float
        :math:`\ell`.
    nu : {1.5, 2.5}
        :math:`\nu`; the kernel has :math:`2\nu-1` derivatives at 0 (two and four).

    Raises
    ------
    BadInput
        For another ``nu``.

    Examples
    --------
    At :math:`\nu=\tfrac32`, :math:`r=\ell/\sqrt3` gives :math:`a=1` and :math:`2e^{-1}`:

    >>> import torch
    >>> Matern(1.0).profile(torch.tensor(1 / 3))
    tensor(0.7358)
    """

    length: Positive
    nu: Positive = 1.5

    def __post_init__(self) -> None:
        if self.nu not in (1.5, 2.5):
            raise BadInput(f"Matern(nu={self.nu}): expected 1.5 or 2.5 (0.5 is Laplace, infinity is RBF)")

    def _a(self, s: Tensor) -> Tensor:
        return s.sqrt() * (math.sqrt(2 * self.nu) / self.length)

    @classmethod
    def example(cls) -> "Matern":
        """Return a tiny instance."""
        return cls(1.0)

    def profile(self, s: Tensor) -> Tensor:
        """Return the value."""
        a = self._a(s)
        return (1 + a if self.nu == 1.5 else 1 + a + a.square() / 3) * exp_(-a)

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-\frac{\nu}{\ell^2}e^{-a}` and :math:`-\frac{\nu}{3\ell^2}(1+a)e^{-a}`."""
        a = self._a(s)
        c = -self.nu / self.length**2
        return c * exp_(-a) if self.nu == 1.5 else c / 3 * (1 + a) * exp_(-a)


@register_kernel("riesz")
@dataclass(frozen=True)
class Riesz(Kernel):
    r"""The Riesz kernel :math:`k=-r^p`, :math:`0<p<2`; its MMD² at :math:`p=1` is the energy distance.

    :math:`-r`, not :math:`\tfrac12(|x|+|y|-r)`: the latter's MMD² is half as large. Unit forces at :math:`p=1`, no
    bandwidth; coincident particles do not act on each other, so they never separate: jitter ties in the start.

    Parameters
    ----------
    power : float
        :math:`p`.

    Raises
    ------
    BadInput
        For a power outside (0, 2).

    Examples
    --------
    >>> import torch
    >>> Riesz()(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
    tensor([[-5.]])
    """

    power: Finite = 1.0
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
        return apart(s) ** (self.power / 2 - 1) * (-self.power / 2)

    def evaluate(self, s: Tensor) -> Evaluated:
        """Share the power."""
        inverse = apart(s).pow_(self.power / 2 - 1)
        return s.mul_(inverse).neg_(), inverse, -self.power / 2


@register_kernel("logarithmic")
@dataclass(frozen=True)
class Logarithmic(Kernel):
    r"""The logarithmic potential :math:`-\log r`: repulsion in an :class:`InteractionEnergy`, Newtonian up to :math:`2\pi` in the plane.

    0 at :math:`r=0` by convention: a particle does not act on itself, nor on one at the same place.

    Examples
    --------
    >>> import torch
    >>> Logarithmic()(torch.zeros(1, 1), torch.tensor([[0.0], [1.0], [0.1]]))  # -log 0.1 = log 10
    tensor([[-0.0000, -0.0000, 2.3026]])
    """

    smooth = False
    characteristic = False

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`-\tfrac12\log s`, 0 at 0."""
        return -0.5 * nnf.threshold(s, 0.0, 1.0).log()

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-1/(2s)`, 0 at 0."""
        return -0.5 / apart(s)

    def evaluate(self, s: Tensor) -> Evaluated:
        """Take fewer passes."""
        return nnf.threshold(s, 0.0, 1.0).log_().mul_(-0.5), apart(s).reciprocal_(), -0.5


@register_kernel("power_law")
@dataclass(frozen=True)
class PowerLaw(Kernel):
    r"""The power law :math:`r^p/p`, :math:`p\ne0`: attraction in an interaction energy.

    :math:`p=2` is the quadratic one, :math:`p=2-d` minus the Newtonian potential up to a constant (:math:`p=1` in one
    dimension). 0 at :math:`r=0` by convention, also for :math:`p<0`. Not positive definite: not for an MMD.

    Parameters
    ----------
    power : float
        :math:`p`.

    Raises
    ------
    BadInput
        For a power of 0; :class:`Logarithmic` is that limit.

    Examples
    --------
    >>> import torch
    >>> PowerLaw(2.0)(torch.zeros(1, 1), torch.tensor([[3.0]]))  # 9 / 2
    tensor([[4.5000]])
    """

    power: Finite
    characteristic = False

    def __post_init__(self) -> None:
        if self.power == 0:
            raise BadInput(f"PowerLaw(power={self.power}): expected a number other than 0 (its limit is Logarithmic)")

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        """From the square up."""
        return self.power >= 2

    @classmethod
    def example(cls) -> "PowerLaw":
        """Return a tiny instance."""
        return cls(2.0)

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`s^{p/2}/p`."""
        return (s if self.power > 0 else apart(s)) ** (self.power / 2) / self.power

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`\tfrac12s^{p/2-1}`."""
        return 0.5 * (s if self.power >= 2 else apart(s)) ** (self.power / 2 - 1)


@checked
def Morse(repulsion: Finite, repulsion_length: Positive, attraction: Finite, attraction_length: Positive) -> KernelSum:
    r"""Return the Morse potential :math:`C_re^{-r/\ell_r}-C_ae^{-r/\ell_a}` of swarming models (D'Orsogna et al. 2006).

    Parameters
    ----------
    repulsion : float
        :math:`C_r`.
    repulsion_length : float
        :math:`\ell_r`.
    attraction : float
        :math:`C_a`.
    attraction_length : float
        :math:`\ell_a`.

    Returns
    -------
    Kernel
        The sum of two :class:`Laplace` kernels.

    Examples
    --------
    >>> import torch
    >>> Morse(2.0, 0.5, 1.0, 2.0).profile(torch.tensor(0.0))  # 2 - 1
    tensor(1.)
    """
    return repulsion * Laplace(repulsion_length) + (-attraction) * Laplace(attraction_length)
