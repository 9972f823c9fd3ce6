"""What ready problems, and the repository's own benchmarks, put together: forms of a functional, solvers solved to the end, starts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from wgflow import (
    JKO,
    KL,
    LBFGS,
    RK4,
    AdamsBashforth,
    DensityModel,
    EntropicJKO,
    Estimator,
    ForwardEuler,
    Gaussian,
    Grid,
    Heun,
    Particles,
    Solver,
)
from wgflow.core.typing import Scalar
from wgflow.reference import GaussianFit, Moments

EVERY = 10**9
"""A batch that takes all points."""

EXPLICIT: dict[str, Any] = {
    "forward Euler": ForwardEuler(),
    "Adams–Bashforth": AdamsBashforth(),
    "Heun": Heun(),
    "RK4": RK4(),
}
"""Explicit solvers by their names in tables."""


@dataclass(frozen=True)
class ModelledKL(KL):
    """KL with the entropy of a density model in its value, so that every solver serves it; split, it is the exact one."""

    model: DensityModel = field(default_factory=GaussianFit)

    needs_density = False

    def value(self, rho: Particles) -> Scalar:
        """Return the entropy of the model less the mean log density of the target."""
        return self.model.expect(rho, lambda log_rho: log_rho) - rho.mean(self.target.log_density(rho.x))


def implicit(estimator: Estimator | None = None) -> JKO:
    """Return a JKO step of particles that is solved far below the errors in time.

    A line search compares values, and below the root of their rounding error they all look the same: 1e-9 is out of its reach.
    """
    optim = LBFGS(max_iter=500, tolerance=1e-6)
    return JKO(optim=optim, iters=1, batch=EVERY) if estimator is None else JKO(estimator, optim, iters=1, batch=EVERY)


def levels(n: int) -> Tensor:
    """Return the middles of n equal parts of the unit interval."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def wide_enough(make: Callable[[float], EntropicJKO], box: Grid) -> Callable[[float], Solver]:
    """Keep the kernel of a step on a grid wider than the cells."""
    return lambda h: replace(s := make(h), blur=max(s.blur, 0.75 * max(box.spacing)))


def debiased(h: float) -> EntropicJKO:
    """Return a step on a grid whose blur leaves an error below that in time: the bias is of order blur⁴ / h."""
    return EntropicJKO(blur=math.sqrt(h / 4), tolerance=1e-8)


def with_moments(moments: Moments, n: int) -> Tensor:
    """Return n points, drawn and then moved affinely so that their mean and covariance are exactly those given, (n, d)."""
    d = len(moments.mean)
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = z - z.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / n), z.T, upper=False).T
    return moments.mean + white @ torch.linalg.cholesky(moments.cov).T


def gaussian_pair(d: int) -> tuple[Moments, Gaussian]:
    """Return the start and the target of the Ornstein–Uhlenbeck problem; their covariances do not commute."""
    if d == 1:
        A, center, start = double([[1.0]]), double([0.0]), Moments(double([2.0]), double([[4.0]]))
    elif d == 2:
        A, center = double([[2, 0.5], [0.5, 1]]), double([1, -1])
        start = Moments(double([-1, 2]), double([[1, -0.3], [-0.3, 2]]))
    else:
        U, _ = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        A = (U * torch.linspace(0.5, 2.0, d, dtype=torch.float64)) @ U.T
        center, start = double([1.0] * d), Moments(double([0.0] * d), torch.linspace(0.5, 2, d).double().diag())
    return start, Gaussian(center, torch.linalg.inv(A))


def double(values: Any) -> Tensor:
    """Return a tensor in float64."""
    return torch.as_tensor(values, dtype=torch.float64)
