"""Gaussian clouds whose score is known: every flow of KL becomes deterministic, with moments in closed form."""

from dataclasses import dataclass
from typing import Any

import torch
from _exact import double, rng
from torch import Tensor

from wgflow import KL, Gaussian, Particles, PotentialEnergy
from wgflow.estimators.entropic import EntropyEstimator


def moments(rho: Particles) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of weighted particles."""
    m = (rho.w[:, None] * rho.x).sum(0)
    z = rho.x - m
    return m, (rho.w[:, None] * z).T @ z


def cloud(mean, cov, n: int = 40, seed: int = 0) -> Particles:
    """Equally weighted particles with exactly these moments."""
    mean = double(mean).reshape(-1)
    cov = double(cov).reshape(len(mean), len(mean))
    z = torch.randn(n, len(mean), generator=rng(seed), dtype=torch.float64)
    m, c = moments(Particles(z))
    return Particles(
        mean + torch.linalg.solve_triangular(torch.linalg.cholesky(c), (z - m).T, upper=False).T @ chol(cov).T
    )


def chol(cov: Tensor) -> Tensor:
    return torch.linalg.cholesky(cov)


@dataclass(frozen=True)
class ExactScore(EntropyEstimator):
    r"""The entropy of the Gaussian with the particles' moments, -½ log det C: its score is -C⁻¹(x - m), its potential log N(m, C)."""

    def entropy(self, rho: Particles, es: Any) -> Tensor:
        return -0.5 * moments(rho)[1].logdet()


def quadratic(A, centre) -> PotentialEnergy:
    """∫V dρ with V = ½ (x - c)ᵀA(x - c)."""
    A, centre = double(A), double(centre)
    return PotentialEnergy(lambda x: (((x - centre) @ A) * (x - centre)).sum(1) / 2)


def kl_to(A, centre) -> KL:
    """KL to the Gaussian with precision A."""
    A, centre = double(A), double(centre)
    return KL(Gaussian(centre, torch.linalg.inv(A)))


def sqrtm(M: Tensor) -> Tensor:
    w, U = torch.linalg.eigh((M + M.T) / 2)
    return (U * w.clamp(min=0).sqrt()) @ U.T


def jko_step(m: Tensor, C: Tensor, h: float, A: Tensor, centre: Tensor, T: float = 1.0) -> tuple[Tensor, Tensor]:
    """Moments after an exact JKO step of ∫V + T∫ρ log ρ."""
    eye = torch.eye(len(m), dtype=m.dtype)
    B = eye + h * A
    R = torch.linalg.inv(sqrtm(B))
    M, e = R @ C @ R, h * T
    Y = 0.5 * (M + 2 * e * eye + sqrtm(M @ M + 4 * e * M))
    return torch.linalg.solve(B, m + h * A @ centre), R @ Y @ R


def ornstein_uhlenbeck(
    m: Tensor, C: Tensor, t: float, A: Tensor, centre: Tensor, T: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Moments of the exact flow of ∫V + T∫ρ log ρ after a time t."""
    E, S = torch.linalg.matrix_exp(-t * A), T * torch.linalg.inv(A)
    return centre + E @ (m - centre), S + E @ (C - S) @ E


def kl_divergence(m: Tensor, C: Tensor, A: Tensor, centre: Tensor) -> float:
    """KL(N(m, C) | N(centre, A⁻¹))."""
    d = m - centre
    return 0.5 * float((A @ C).trace() + d @ A @ d - len(m) - A.logdet() - C.logdet())
