"""A density model that is exact on Gaussians, so that time errors can be seen alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.typing import Scalar
from wgflow.kernels.densities import DensityModel
from wgflow.measures import Particles
from wgflow.reference.gaussian import Moments


@dataclass(frozen=True)
class GaussianFit(DensityModel):
    r"""The Gaussian with the mean and covariance of the particles.

    ``Blob(GaussianFit())`` has the exact entropy and score of a Gaussian law: any solver on a quadratic energy then moves
    the moments of any particles (even of 2d well-chosen points) as it would move the Gaussian itself, with no error but its own
    in time. For other laws it is the coarsest of models. Needs more than d particles. Cost O(n d² + d³).

    Examples
    --------
    >>> import torch
    >>> p = Particles(torch.tensor([[-1.0], [1.0]]))
    >>> GaussianFit().expect(p, lambda log_rho: log_rho)  # -(1 + log(2 pi)) / 2
    tensor(-1.4189)
    """

    def log_density(self, rho: Particles) -> Tensor:
        """Log density at the particles, shape (n,)."""
        mean, cov = Moments.of(rho)
        chol, failed = torch.linalg.cholesky_ex(cov)
        # What rounding alone leaves of a direction is no variance.
        noise = len(mean) * torch.finfo(cov.dtype).eps * cov.diagonal()
        if bool((failed > 0) | (chol.diagonal().square() <= noise).any()):
            raise BadInput(f"GaussianFit: the covariance of {len(rho)} particles in {len(mean)} dimensions is singular")
        r = torch.linalg.solve_triangular(chol, (rho.x.flatten(1) - mean).mT, upper=False)
        return -0.5 * r.square().sum(0) - chol.diagonal().log().sum() - 0.5 * len(mean) * math.log(2 * math.pi)

    def expect(self, rho: Particles, f: Callable[[Tensor], Tensor]) -> Scalar:
        """Return the mean of ``f`` over the particles."""
        return rho.mean(f(self.log_density(rho)))
