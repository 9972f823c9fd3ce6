"""Kernels with heavier tails or a corner at 0."""

import math
from dataclasses import dataclass

from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Finite, Positive
from wgflow.kernels.base import Evaluated, Kernel, apart, exp_, register_kernel


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

    def frequency_scales(self, normals: Tensor) -> Tensor:
        r"""Return :math:`\chi_{2\beta}/\ell`, for :math:`2\beta` up to 5."""
        if self.power not in (0.5, 1, 1.5, 2, 2.5):
            raise Unsupported(f"{self} draws no frequencies: its power must be 0.5, 1, 1.5, 2 or 2.5")
        return normals[:, : int(2 * self.power)].norm(dim=1) / self.length


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

    def frequency_scales(self, normals: Tensor) -> Tensor:
        r"""Return :math:`\sqrt{2\nu}/(\ell\chi_{2\nu})`: frequencies have Student's law with :math:`2\nu` degrees of freedom."""
        degrees = int(2 * self.nu)
        return degrees**0.5 / normals[:, :degrees].norm(dim=1) / self.length


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
