"""The particle steps that are compared: their problems, the library's way of doing them, and float64 references."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import wgflow as wg

# Returns the value, where the method has one on the way, and the velocity.
Step = Callable[[], tuple[Tensor | None, Tensor]]
CASES = ("mmd_rbf", "energy", "stein", "blob", "sliced")
LINES = 50


@dataclass(frozen=True)
class Problem:
    """Particles ``x``, target points ``y`` as many, directions ``theta``, and the width of Gaussian kernels."""

    case: str
    x: Tensor
    y: Tensor
    theta: Tensor
    sigma: float

    @classmethod
    def make(cls, case: str, n: int, d: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        """Return standard normal particles and a narrower target beside them."""
        rng = torch.Generator().manual_seed(0)
        x, y, theta = (torch.randn(k, d, generator=rng) for k in (n, n, LINES))
        theta = theta / theta.norm(dim=1, keepdim=True)
        # Of the order of the distances that matter: of all pairs, and of neighbours in the plane for the blob's density.
        sigma = 0.3 if case == "blob" and d <= 2 else math.sqrt(d)
        return cls(case, *(t.to(device, dtype) for t in (x, 0.8 * y + 0.5, theta)), sigma)


def functional(p: Problem) -> wg.Functional:
    """Return the library's functional; its flow is the one that all methods step along."""
    target = wg.Particles(p.y)
    if p.case == "mmd_rbf":
        return 0.5 * wg.SquaredMMD(target, wg.RBF(p.sigma))
    if p.case == "energy":
        return 0.5 * wg.EnergyDistance(target)
    if p.case == "sliced":
        return 0.5 * wg.SlicedWasserstein(target, directions=p.theta)
    return wg.KL(wg.Unnormalised(log_prob, p.x.shape[1]))


def log_prob(x: Tensor) -> Tensor:
    """Return the log density that the entropic flows go to, the standard normal's."""
    return -0.5 * x.square().sum(1)


def library(p: Problem, rows: int | None = None) -> Step:
    """Return the library's step, with what depends on the target alone already done."""
    F, rho = functional(p), wg.Particles(p.x)
    estimators = {"stein": wg.Stein(wg.RBF(p.sigma)), "blob": wg.Blob(wg.KernelDensity(wg.RBF(p.sigma)))}
    estimator = estimators.get(p.case, wg.Autograd())
    if p.case not in estimators:
        F.value(wg.Particles(p.x[:1]))
    return lambda: (None, estimator.velocity(F, rho, None))


def value(p: Problem) -> Tensor | None:
    """Return the library's value, where there is one."""
    return None if p.case in ("stein", "blob") else functional(p).value(wg.Particles(p.x))


def reference_value(p: Problem) -> float | None:
    """Return the value in float64; quadratic in memory."""
    x, y, theta = p.x.double(), p.y.double(), p.theta.double()
    if p.case == "sliced":
        return float(0.5 * ((x @ theta.T).sort(0)[0] - (y @ theta.T).sort(0)[0]).square().mean())
    if p.case in ("stein", "blob"):
        return None
    k = lambda u, v: _kernel(p, _squares(u, v))[0].mean()  # noqa: E731
    return float(0.5 * (k(x, x) - 2 * k(x, y) + k(y, y)))


def reference_velocity(p: Problem, rows: Tensor) -> Tensor:
    """Return the velocity of some particles in float64."""
    x, y, theta = p.x.double(), p.y.double(), p.theta.double()
    r, n = x[rows], len(x)
    if p.case == "sliced":
        xs, order = (x @ theta.T).sort(0)
        gap = torch.empty_like(xs).scatter_(0, order, xs - (y @ theta.T).sort(0)[0])
        return -(gap @ theta)[rows] / len(theta)
    k, slope = _kernel(p, _squares(r, x))
    if p.case == "stein":
        return (-k @ x - _pull(slope, r, x)) / n
    if p.case == "blob":
        sums = torch.cat([_kernel(p, _squares(part, x))[0].mean(1) for part in x.split(500)])
        return -r - _pull(slope * (1 / sums[rows, None] + 1 / sums), r, x) / n
    return (_pull(_kernel(p, _squares(r, y))[1], r, y) - _pull(slope, r, x)) / n


def _squares(x: Tensor, y: Tensor) -> Tensor:
    # Without products, so that a particle is at distance 0 from itself.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def _kernel(p: Problem, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return the kernel and its derivative in the squared distance ``s``."""
    if p.case == "energy":
        r = s.sqrt()
        return -r, torch.where(r > 0, -0.5 / r, 0.0)
    k = torch.exp(-s / (2 * p.sigma**2))
    return k, -k / (2 * p.sigma**2)


def _pull(slope: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the sum over j of the gradients in x_i."""
    return 2 * (slope.sum(1, keepdim=True) * x - slope @ y)
