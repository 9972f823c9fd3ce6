"""The kernel Stein discrepancy."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.typing import Points, Scalar
from wgflow.functionals.base import Functional, register_functional
from wgflow.kernels import RBF
from wgflow.kernels.features import RadialKernel, check_positive_at_zero
from wgflow.kernels.stein_blocks import stein_pairs
from wgflow.measures import Measure, Particles, StandardNormal
from wgflow.numerics.distances import Distances
from wgflow.numerics.pairs import pair_energy


@register_functional("squared_ksd")
@dataclass(frozen=True)
class SquaredKSD(Functional):
    r"""The squared kernel Stein discrepancy to a density, :math:`\mathrm{KSD}^2(\rho|\pi)=\iint k_\pi\,d\rho\,d\rho`.

    With the score :math:`s=\nabla\log\pi` and a kernel :math:`k=\kappa(r^2)` in d coordinates

    .. math::
        k_\pi(x,y)=\kappa\,\langle s_x,s_y\rangle-2\kappa'\,\langle x-y,s_x-s_y\rangle-2d\,\kappa'-4r^2\kappa''.

    The flow of the literature is that of **half** of it, ``0.5 * SquaredKSD(...)`` (Korba et al. 2021); it is deterministic,
    so that ``JKO`` with ``LBFGS`` suits it. Particles get stuck where the score is symmetric between modes.

    Parameters
    ----------
    target : Measure
        :math:`\pi`, with ``log_prob`` (up to a constant); it is never drawn from.
    kernel : Kernel
        ``RBF``, ``InverseMultiquadric``, sums of them, or a rule.

    Notes
    -----
    Cost: n² pairs through autograd block by block, one score and, for the gradient, one product of the Hessian of
    :math:`\log\pi` with a vector; memory O(n d) and one block's graph.

    Raises
    ------
    BadInput
        When the target has no log density, and for a kernel that is not positive where points coincide.

    Examples
    --------
    One particle at x, target N(0, 1) and an RBF kernel of width 1: :math:`k_\pi(x,x)=x^2+1`.

    >>> import torch
    >>> import wgflow as wg
    >>> F = SquaredKSD(wg.StandardNormal(1), wg.RBF(1.0))
    >>> F.value(wg.Particles(torch.tensor([[2.0]])))
    tensor(5.)
    """

    target: Measure
    kernel: RadialKernel

    reference = ("korba2021kernel",)

    def __post_init__(self) -> None:
        if not self.target.has_density:
            raise BadInput(
                f"target={type(self.target).__name__}: a Stein discrepancy needs log_prob. Use Unnormalised or a Gaussian, or "
                "SquaredMMD, which needs samples only."
            )
        check_positive_at_zero(type(self), self.kernel)

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`\sum_{ij}w_iw_jk_\pi(x_i,x_j)`: the V-statistic, never negative."""
        kernel, s = self.kernel.fit(rho.x, rho.log_w), score(self.target, rho.x)

        def block(x: Tensor, s_x: Tensor, y: Tensor, s_y: Tensor) -> Tensor:
            r2, along = stein_pairs(x, s_x, y, s_y)
            slope = kernel.slope(r2)
            return kernel.profile(r2) * (s_x @ s_y.T) - 2 * slope * (along + x.shape[1]) - 4 * r2 * kernel.curvature(r2)

        x = rho.x.flatten(1)
        dtype = Distances(x, x, kernel.smooth).dtype  # double precision where squares need it
        parts = [t.to(dtype) for t in (x, s.flatten(1))]
        w = rho.w.to(dtype)
        return pair_energy(block, parts, w, parts, w).to(rho.x.dtype)

    def freeze(self, rng: torch.Generator) -> Self:
        """Return itself: nothing is random."""
        return self

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "SquaredKSD":
        """Return the one to a standard normal."""
        return cls(StandardNormal(*event_shape), RBF(1.0))


def score(target: Measure, x: Points) -> Tensor:
    r"""Return :math:`\nabla\log\pi(x)`, shape (n, \*event), differentiable in ``x`` where that requires gradient."""
    create = x.requires_grad and torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if create else x.detach().requires_grad_(True)
        log_prob = target.log_density(at)
        (s,) = torch.autograd.grad(log_prob.sum(), at, create_graph=create)
    return s
