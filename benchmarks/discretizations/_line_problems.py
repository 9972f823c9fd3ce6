"""Flows on a line without a closed form: to a mixture, and of other f-divergences; the reference is that of ``wgflow.bench.line``."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch

from benchmarks.discretizations._flow_rows import DRAWS, Case, once
from benchmarks.discretizations._learned_rows import learned
from wgflow import (
    JKO,
    KL,
    RBF,
    Blob,
    FDivergence,
    ForwardEuler,
    Gaussian,
    Grid,
    KernelDensity,
    Langevin,
    Particles,
    Spacings,
    bench,
)
from wgflow.bench import Method, Problem
from wgflow.bench.forms import debiased, double, implicit, levels, wide_enough
from wgflow.bench.line import Line, Pressure
from wgflow.bench.ready import mixture_pair, quantile_error
from wgflow.optim import TridiagonalNewton

LINE = Line(-8.0, 8.0, cells=2000)
"""Its quantiles are right to 1e-5."""


def floor(problem: Problem, n: int) -> float:
    """Return the mean error of n draws of the law at the end."""
    rng, exact = torch.Generator().manual_seed(1), problem.reference(problem.horizon)
    draws = (exact.x[torch.randint(len(exact), (n,), generator=rng)] for _ in range(5))
    return sum(quantile_error(Particles(x), exact) for x in draws) / 5


def quantiles(law: Gaussian, n: int) -> Particles:
    return Particles((law.mean + torch.special.ndtri(levels(n)) * law.cov[0].sqrt())[:, None])


def mixture(quick: bool) -> Case:
    """KL to two Gaussians of unequal mass, from one."""
    problem = bench.mixture(50 if quick else 1000)
    start, target = mixture_pair()
    F = KL(target)
    n = 200 if quick else 10000
    many = Particles(start.draw(n, torch.Generator().manual_seed(1)).x)
    methods: dict[str, Any] = {f"Langevin, {n} particles": Method(Langevin(), F, many, floor=floor(problem, n))}
    n, blob = 50 if quick else 1000, Blob(KernelDensity(RBF(0.2)))
    methods[f"forward Euler, blob, {n} particles"] = once(ForwardEuler(blob), F, quantiles(start, n))
    methods[f"JKO of particles, blob, {n} particles"] = once(implicit(blob), F, quantiles(start, n))
    cells = 24 if quick else 320
    box = Grid.of(start, [LINE.low], [LINE.high], [cells])
    methods[f"JKO on a grid, {cells} cells a side"] = once(wide_enough(debiased, box), F, box, floor=0.0)
    n = 50 if quick else 2000
    exact = JKO(Blob(Spacings()), TridiagonalNewton(), iters=1)
    methods[f"JKO of {n} quantiles"] = once(exact, F, quantiles(start, n))
    methods |= learned(problem, KL, start, target, floor(problem, DRAWS), quick)
    return Case("KL to a mixture", 1, replace(problem, methods=methods))


def f_divergence(name: str, divergence: type[FDivergence], pressure: Pressure, quick: bool) -> Case:
    """Another divergence to a Gaussian, from one whose density ratio is bounded."""
    start, target = Gaussian(double([1.0]), double([[0.49]])), Gaussian(double([0.0]), double([[1.0]]))

    @cache
    def reference(t: float) -> Particles:
        return Particles(LINE.quantiles(LINE.flow(start, target, pressure, t), DRAWS)[:, None])

    problem = Problem(
        divergence(target), quantiles(start, DRAWS), reference, quantile_error, times=(0.5,), step_sizes=(0.1, 0.05)
    )
    methods = learned(problem, divergence, start, target, floor(problem, DRAWS), quick)
    return Case(f"{name} to a Gaussian", 1, replace(problem, methods=methods), counts=(5, 10))
