"""The Gaussian kernel."""

import math
from dataclasses import dataclass

from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Positive, Tensor0d
from wgflow.kernels.base import Evaluated, Kernel, exp_, register_kernel
from wgflow.numerics.distances import readable


@register_kernel("rbf")
@dataclass(frozen=True)
class RBF(Kernel):
    r"""The Gaussian :math:`k=e^{-|x-y|^2/(2\sigma^2)}`.

    Parameters
    ----------
    bandwidth : float or 0-d Tensor
        :math:`\sigma`, a length. :math:`e^{-r^2/h}` of the SVGD papers is :math:`\sigma=\sqrt{h/2}`. Sums over pairs of points
        pass no gradient to a tensor; :meth:`profile` does.

    Raises
    ------
    BadInput
        For a bandwidth that is not positive and finite; a tensor on another device than the CPU is not looked at.

    Examples
    --------
    >>> import torch
    >>> RBF(1.0).profile(torch.tensor([0.0, 2.0]))
    tensor([1.0000, 0.3679])
    """

    bandwidth: Positive | Tensor0d

    def __post_init__(self) -> None:
        if not isinstance(self.bandwidth, Tensor):
            return
        b = self.bandwidth.detach()
        if readable(b) and not 0 < float(b) < math.inf:
            raise BadInput(f"RBF(bandwidth=tensor({float(b):g})): expected a positive, finite length")

    @classmethod
    def example(cls) -> "RBF":
        """Return a tiny instance."""
        return cls(1.0)

    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`e^{-s/2\sigma^2}`."""
        return exp_(s * (-0.5 / self.bandwidth**2))

    def log_profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`-s/2\sigma^2`."""
        return s * (-0.5 / self.bandwidth**2)

    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`-k/2\sigma^2`."""
        return self.profile(s) * (-0.5 / self.bandwidth**2)

    def curvature(self, s: Tensor) -> Tensor:
        r"""Return :math:`k/4\sigma^4`."""
        return self.profile(s) * (0.25 / self.bandwidth**4)

    def evaluate(self, s: Tensor) -> Evaluated:
        """Return the value, whose multiple the slope is."""
        c = -0.5 / self.bandwidth**2
        k = exp_(s.mul_(c))
        return k, k, c

    def frequency_scales(self, normals: Tensor) -> float | Tensor:
        r"""Return :math:`1/\sigma`."""
        return 1 / self.bandwidth

    def log_integral(self, d: int) -> float | Tensor:
        r"""Return :math:`\frac d2\log(2\pi\sigma^2)`."""
        log = math.log(self.bandwidth) if not isinstance(self.bandwidth, Tensor) else self.bandwidth.log()
        return d * (0.5 * math.log(2 * math.pi) + log)
