"""The potentials of interaction energies."""

from dataclasses import dataclass

import torch.nn.functional as nnf
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Finite, Positive, checked
from wgflow.kernels.base import Evaluated, Kernel, KernelSum, apart, register_kernel
from wgflow.kernels.radial import Laplace


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
