"""The Stein variational estimate: kernel means of the first variation, without a density."""

from dataclasses import dataclass
from typing import Any

from wgflow.core.typing import Points
from wgflow.estimators.base import SlopeEstimator, energy_slope, register_estimator
from wgflow.functionals import Functional
from wgflow.kernels import RBF
from wgflow.kernels.features import RadialKernel, check_positive_at_zero
from wgflow.kernels.stein_sums import stein_sums
from wgflow.measures import Particles


@register_estimator("stein")
@dataclass(frozen=True)
class Stein(SlopeEstimator):
    r"""The gradient in the Stein metric, :math:`\int k(x,y)\,\nabla\frac{\delta F}{\delta\rho}(y)\,d\rho(y)`.

    With :math:`F=E+T\int\rho\log\rho` the entropy is integrated by parts, so that no density is needed:

    .. math::
        v(x)=\sum_jw_j\Bigl[-k(x,x_j)\,\nabla\tfrac{\delta E}{\delta\rho}(x_j)+T\,\nabla_{x_j}k(x,x_j)\Bigr].

    For KL to an unnormalized density this is SVGD (Liu and Wang 2016), with a mean, not a sum, over particles. It works for
    every functional whose entropy can be split off.

    Parameters
    ----------
    kernel : Kernel
        ``MedianRBF()`` is the usual choice; in many dimensions (d above n) the variance collapses. Positive definite: with another
        one the energy can grow.

    Raises
    ------
    BadInput
        For a kernel that is not positive where points coincide.

    Notes
    -----
    Cost: one gradient of E, n²/2 kernel values and two products of n² d, one with ``RBF``, whose slope is a multiple of
    its value; memory O(n d). It is no gradient in the Wasserstein metric, and there
    is no first variation to read: reactions (Wasserstein–Fisher–Rao) need another estimator.

    Examples
    --------
    One particle climbs the density, with :math:`k(x,x)=1` and :math:`\nabla k(x,x)=0`:

    >>> import torch
    >>> import wgflow as wg
    >>> wg.Stein(wg.RBF(1.0)).velocity(wg.KL(wg.StandardNormal(1)), wg.Particles(torch.ones(1, 1)), None)
    tensor([[-1.]])
    """

    kernel: RadialKernel

    splits_entropy = True

    def __post_init__(self) -> None:
        check_positive_at_zero(type(self), self.kernel)

    @classmethod
    def example(cls) -> "Stein":
        """Return a tiny instance."""
        return cls(RBF(1.0))

    def slope(self, F: Functional, rho: Particles, es: Any) -> Points:
        r"""Return :math:`-v`."""
        energy, temperature = F.split_entropy()
        slope = energy_slope(energy, rho)
        kernel = self.kernel.fit(rho.x, rho.log_w)
        return stein_sums(kernel, rho.x, rho.w.detach(), slope, temperature)
