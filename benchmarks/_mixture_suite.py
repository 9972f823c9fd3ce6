"""Convergence to a Gaussian mixture (Mokrov et al. 2021): targets, published scores, and how a law is scored.

A wide Gaussian falls into equally heavy unit Gaussians whose centres are uniform in a cube, for a time of 4. Between the components
lie barriers that hardly anything crosses in that time. So even the exact flow ends with wrong masses, and a law is
scored by its masses too, which needs no density.
"""

import math
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wgflow import EnergyDistance, Gaussian, GaussianMixture, Particles, SlicedWasserstein
from wgflow.measures import Measure
from wgflow.measures.chain import Chain

HORIZON, START_VARIANCE = 4.0, 16.0
SETTINGS = {
    # Of the public configurations: word of the seed, components, half a side of the cube.
    2: ("venus", 5, 5.0),
    4: ("earth", 6, 5.0),
    6: ("mars", 7, 5.0),
    8: ("saturn", 8, 5.0),
    10: ("jupiter", 9, 5.0),
    12: ("uran", 10, 5.0),
    32: ("earth", 10, 3.0),
}
PUBLISHED = {
    # Result files of github.com/PetrMokrov/Large-Scale-Wasserstein-Gradient-Flows (MIT): log10 of the sum of both KL, mean over 5
    # runs. The particles of both baselines are scored there by a kernel density estimate, whose error it mostly is.
    "ICNN-JKO (published)": {2: -1.37, 4: -0.81, 6: -0.54, 8: -0.40, 10: -0.49, 12: -0.30},
    "Euler–Maruyama, 50,000 particles, KDE (published)": {2: -1.16, 4: -0.37, 6: 0.17, 8: 0.53, 10: 0.75, 12: 1.01},
    "proximal recursion, 1000 particles, KDE (published)": {2: -0.66, 4: 0.58, 6: 1.45, 8: 3.43, 10: 4.36, 12: 5.59},
}
PUBLISHED_ENERGY = {
    # Energy distance to the target at the end, of the same files: it needs no density, and shows that the targets are the same.
    "ICNN-JKO (published)": {2: 0.0655, 4: 0.1279, 6: 0.2364, 8: 0.1860, 10: 0.0893, 12: 0.1005},
    "Euler–Maruyama, 50,000 particles, KDE (published)": {
        2: 0.0661,
        4: 0.1113,
        6: 0.2188,
        8: 0.1789,
        10: 0.0961,
        12: 0.1002,
    },
}


def target(d: int, run: int, dtype: torch.dtype = torch.float32) -> GaussianMixture:
    """Return the target of a run, from the seeds of the published experiments (0 to 4; in 32 dimensions 0)."""
    word, k, side = SETTINGS[d]
    name = f"{word}@{d}" if (d, run) == (32, 0) else f"{word}@{d}@{run}"
    rng = torch.Generator().manual_seed(zlib.crc32(f"{name}pytorch".encode()))
    return GaussianMixture((torch.rand(k, d, generator=rng) * 2 * side - side).to(dtype), 1.0)


def start(d: int, dtype: torch.dtype = torch.float32) -> Gaussian:
    """Return the wide Gaussian that every run begins with."""
    return Gaussian(torch.zeros(d, dtype=dtype), START_VARIANCE * torch.eye(d, dtype=dtype))


def masses(pi: GaussianMixture, x: Tensor) -> Tensor:
    """Return the mean posterior probabilities of the components: of draws of the mixture itself, its weights."""
    squares = torch.cdist(x, pi.means).square() / (2 * pi.std**2)
    return (pi.weights.log() - squares).softmax(1).mean(0).double()


def mass_errors(pi: GaussianMixture, x: Tensor) -> dict[str, float]:
    r"""Return the total variation of the masses, and :math:`\mathrm{KL}(p|w)` and its symmetric form.

    To be assigned to a component is a random map. It takes the mixture to its weights, and no map raises a divergence: they are
    lower bounds of those between the laws.
    """
    p, w = masses(pi, x).clamp(min=1e-12), pi.weights.double()
    logs = (p / w).log()
    return {
        "mass_tv": float((p - w).abs().sum() / 2),
        "mass_kl": float((p * logs).sum()),
        "mass_symkl": float(((p - w) * logs).sum()),
    }


@torch.no_grad()
def density_errors(rho: Chain, pi: GaussianMixture, n: int, rng: torch.Generator) -> dict[str, float]:
    r"""Return KL both ways and their sum from fresh draws and the densities, with standard errors.

    :math:`\mathrm{KL}(\rho|p)=E_\rho[\ell+e^{-\ell}-1]` with :math:`\ell=\log\rho/p`; the sum also by the mean of :math:`\ell` alone,
    as published.
    """
    p, y = rho.inference().draw(n, rng), pi.draw(n, rng).x
    assert p.log_rho is not None
    logs = [p.log_rho - pi.log_prob(p.x), pi.log_prob(y) - rho.log_prob(y)]
    terms = [(r + torch.expm1(-r)).double() for r in logs]
    kl = [float(t.mean()) for t in terms]
    return {
        "kl": kl[0],
        "reverse_kl": kl[1],
        "symkl": sum(kl),
        "symkl_se": math.sqrt(sum(float(t.var()) for t in terms) / n),
        "symkl_plain": sum(float(r.double().mean()) for r in logs),
    }


@torch.no_grad()
def sample_errors(x: Tensor, pi: GaussianMixture, n: int, rng: torch.Generator) -> dict[str, float]:
    """Return energy distance and sliced W2 to ``n`` fresh draws of the target, and the same of as many draws of its own."""
    y, exact = pi.draw(n, rng), pi.draw(min(n, len(x)), rng)
    x = x[torch.randperm(len(x), generator=rng)[: len(exact)]]
    energy, sliced = EnergyDistance(y), SlicedWasserstein(y, directions=100).freeze(rng)
    found = {}
    for end, cloud in ("", Particles(x)), ("_floor", exact):
        found[f"energy_distance{end}"] = float(energy.value(cloud))
        found[f"sliced_w2{end}"] = math.sqrt(float(sliced.value(cloud)))
    return found


@dataclass
class Progression:
    """A metric along a flow: masses, and KL of a law that knows its density. It keeps the time that it takes."""

    pi: GaussianMixture
    n: int
    seconds: float = field(default=0.0)

    @torch.no_grad()
    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        begun = time.process_time()
        drawn: Any = rho if isinstance(rho, Particles) else rho.draw(self.n, rng)
        found = mass_errors(self.pi, drawn.x)
        if drawn.log_rho is not None:
            found["kl"] = float((drawn.log_rho - self.pi.log_prob(drawn.x)).mean())
        self.seconds += time.process_time() - begun
        return found
