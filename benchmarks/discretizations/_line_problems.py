"""Flows on a line without a closed form: to a mixture, and of other f-divergences; the reference is that of ``_line.py``."""

from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.discretizations._flow_rows import DRAWS, Problem, cloud, debiased, double, implicit, levels, wide_enough
from benchmarks.discretizations._learned_rows import learned
from wgflow import (
    JKO,
    KL,
    RBF,
    Blob,
    FDivergence,
    ForwardEuler,
    Gaussian,
    GaussianMixture,
    KernelDensity,
    Langevin,
    MovingMeasure,
    Particles,
    Spacings,
)
from wgflow.bench.line import Line, Pressure
from wgflow.measures.grid import Grid
from wgflow.optim import TridiagonalNewton

LINE = Line(-8.0, 8.0, cells=2000)
"""Its quantiles are right to 1e-5."""


@dataclass(frozen=True, eq=False)
class End:
    """The law at the end, as masses of cells, and the distance travelled."""

    mass: np.ndarray
    travelled: float = 1.0

    def error(self, m: MovingMeasure) -> float:
        """Return W2 from quantiles, relative to the distance travelled."""
        if isinstance(m, Grid):
            mine = Line(m.low[0], m.high[0], len(m.mass)).quantiles(m.mass.numpy(), DRAWS)
        else:
            mine = cloud(m).x[:, 0].sort()[0]
        return float((mine - LINE.quantiles(self.mass, len(mine))).square().mean().sqrt()) / self.travelled

    def floor(self, n: int) -> float:
        """Return the mean error of n draws of the law itself."""
        rng, fine = torch.Generator().manual_seed(1), LINE.quantiles(self.mass, 10**6)
        draws = (fine[torch.randint(len(fine), (n, 1), generator=rng)] for _ in range(5))
        return sum(self.error(Particles(x)) for x in draws) / 5


def quantiles(law: Gaussian, n: int) -> Particles:
    return Particles((law.mean + torch.special.ndtri(levels(n)) * law.cov[0].sqrt())[:, None])


def reach(problem: Problem, start: Gaussian, target: Gaussian | GaussianMixture, pressure: Pressure) -> End:
    """Solve the flow."""
    mass = LINE.flow(start, target, pressure, problem.horizon)
    return End(mass, End(mass).error(quantiles(start, DRAWS)))


def mixture(quick: bool) -> Problem:
    """KL to two Gaussians of unequal mass, from one."""
    target = GaussianMixture(double([[-1.5], [1.5]]), 0.6, double([0.4, 0.6]))
    start, F = Gaussian(double([-0.5]), double([[1.0]])), KL(target)
    problem = Problem("KL to a mixture", 1, 1.0, (5, 10, 20, 40))
    end = reach(problem, start, target, lambda r: r - 1)

    n = 200 if quick else 10000
    many = Particles(start.draw(n, torch.Generator().manual_seed(1)).x)
    seeds = 1 if quick else 3
    problem.add(f"Langevin, {n} particles", Langevin(), F, many, end.error, floor=end.floor(n), seeds=seeds)
    n = 50 if quick else 1000
    blob = Blob(KernelDensity(RBF(0.2)))
    problem.add(f"forward Euler, blob, {n} particles", ForwardEuler(blob), F, quantiles(start, n), end.error)
    problem.add(f"JKO of particles, blob, {n} particles", implicit(blob), F, quantiles(start, n), end.error)
    cells = 24 if quick else 320
    box = Grid.of(start, [LINE.low], [LINE.high], [cells])
    problem.add(f"JKO on a grid, {cells} cells a side", wide_enough(debiased, box), F, box, end.error)
    n = 50 if quick else 2000
    exact = JKO(Blob(Spacings()), TridiagonalNewton(), iters=1)
    problem.add(f"JKO of {n} quantiles", exact, F, quantiles(start, n), end.error)
    learned(problem, KL, start, target, end.error, end.floor(DRAWS), quick)
    return problem


def f_divergence(name: str, divergence: type[FDivergence], pressure: Pressure, quick: bool) -> Problem:
    """Another divergence to a Gaussian, from one whose density ratio is bounded."""
    start, target = Gaussian(double([1.0]), double([[0.49]])), Gaussian(double([0.0]), double([[1.0]]))
    problem = Problem(f"{name} to a Gaussian", 1, 0.5, (5, 10))
    end = reach(problem, start, target, pressure)
    learned(problem, divergence, start, target, end.error, end.floor(DRAWS), quick)
    return problem
