"""The KALE divergence: a regularised KL between samples."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wgflow._context import full_precision
from wgflow._fields import Count, Positive
from wgflow._ops import kernel_energy, kernel_sums
from wgflow._typing import Scalar
from wgflow.errors import BadInput
from wgflow.functionals.base import Functional, drawn, register_functional
from wgflow.kernels import RBF, Kernel
from wgflow.measures import Measure, Particles, StandardNormal


@dataclass(frozen=True)
class KALESolution:
    r"""What the inner problem found.

    Attributes
    ----------
    value : Tensor
        KALE, 0-d.
    ratio : Tensor, shape (m,)
        :math:`\alpha_j/b_j=e^{h^*(y_j)}`: the density ratio at the target's points.
    gap : Tensor
        Duality gap, 0-d, nonnegative: the value is that far from the supremum at most.
    """

    value: Tensor
    ratio: Tensor
    gap: Tensor


@register_functional("kale")
@dataclass(frozen=True)
class KALE(Functional):
    r"""KALE, a lower bound of KL between samples that a kernel regularises.

    .. math::
        \mathrm{KALE}_\lambda(\rho|\nu)=(1+\lambda)\sup_h\Bigl\{1+E_\rho h-E_\nu e^h-\tfrac\lambda2\lVert h\rVert_{\mathcal H}^2\Bigr\}.

    KL as :math:`\lambda\to0`, half the squared MMD as :math:`\lambda\to\infty`; finite for disjoint supports. The first variation is
    :math:`(1+\lambda)h^*`. Source: Glaser, Arbel and Gretton (2021).

    Parameters
    ----------
    target : Measure
        :math:`\nu`, drawn from.
    kernel : Kernel
        Of the space :math:`\mathcal H`.
    penalty : float
        :math:`\lambda`, positive; below about 1e-3 the inner problem becomes ill-conditioned.
    iterations : int
        Newton steps of the inner problem; each is damped to keep :math:`e^h` bounded, and 20 to 30 reach rounding.
    batch : int
        Target points in one realisation; of more particles so many are drawn by weight, anew in every step.

    Notes
    -----
    The inner problem lives on the m target points and is solved by damped Newton in :math:`h` there, without reading
    the device. Cost: n m kernel values twice and O(m³) an inner step, memory O(n + m²).
    """

    target: Measure
    kernel: Kernel
    penalty: Positive = 0.1
    iterations: Count = 30
    batch: Count = 256

    needs_samples = True
    reference = ("glaser2021kale",)

    def __post_init__(self) -> None:
        if not self.kernel.characteristic:
            raise BadInput(f"kernel={self.kernel}: expected a positive definite one such as RBF, Laplace or Matern")

    def solve(self, rho: Particles) -> KALESolution:
        """Solve the inner problem for these particles; nothing is differentiated."""
        with torch.no_grad(), full_precision(rho.device):
            return self._solve(rho)[0]

    def value(self, rho: Particles) -> Scalar:
        r"""Return KALE; its derivatives are those of :math:`(1+\lambda)E_\rho h^*` with :math:`h^*` held fixed."""
        nu = drawn(self.target)
        with torch.no_grad(), full_precision(rho.device):
            found, kernel, alpha = self._solve(rho)
        # h*(x) = (int k(x,.) d rho - sum_j alpha_j k(x,y_j)) / lambda, as a function of x alone.
        own = kernel_sums(kernel, rho.x, rho.x.detach(), rho.w.detach())
        h = (own - kernel_sums(kernel, rho.x, nu.x, alpha)) / self.penalty
        linear = (1 + self.penalty) * (rho.w * h).sum()
        return found.value + linear - linear.detach()

    def _solve(self, rho: Particles) -> tuple[KALESolution, Kernel, Tensor]:
        nu, lam = drawn(self.target), self.penalty
        kernel = self.kernel.fit(rho.x, rho.log_w)
        K, b = kernel(nu.x, nu.x), nu.w
        m = kernel_sums(kernel, nu.x, rho.x, rho.w)
        # Stationarity in h at the target's points: lambda h + K (b e^h) - m = 0, the gradient of a convex function in
        # the coordinates alpha = b e^h. Newton in h, with its length capped.
        h = torch.zeros_like(m)
        eye = torch.eye(len(m), dtype=K.dtype, device=K.device)
        for _ in range(self.iterations):
            alpha = b * h.exp()
            step = torch.linalg.solve(lam * eye + K * alpha, m - lam * h - K @ alpha)
            h = h + step * (1.0 / step.abs().amax().clamp(min=1.0))
        alpha = b * h.exp()
        rho_rho = kernel_energy(kernel, rho.x, rho.w).to(rho.x.dtype)
        square = (rho_rho - 2 * alpha @ m + alpha @ K @ alpha) / lam**2  # |h|^2 of h = (mu_rho - sum alpha k) / lambda
        at_nu = (m - K @ alpha) / lam
        mean = (rho_rho - alpha @ m) / lam
        primal = 1 + mean - b @ at_nu.exp() - lam / 2 * square
        dual = (
            1
            + torch.xlogy(alpha, alpha / b.clamp(min=torch.finfo(b.dtype).tiny)).sum()
            - alpha.sum()
            + lam / 2 * square
        )
        return KALESolution((1 + lam) * primal, h.exp(), (1 + lam) * (dual - primal)), kernel, alpha

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> Self:
        """Return the one to a standard normal."""
        return cls(StandardNormal(*event_shape), RBF(1.0), batch=16)
