"""Flows with known solutions, and the discretizations that can serve each: the rows of discretizations.py."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.discretizations._flow_rows import DRAWS, Case, once
from benchmarks.discretizations._learned_rows import learned
from benchmarks.discretizations._line_problems import f_divergence, mixture
from wgflow import (
    JKO,
    KL,
    ODE,
    RBF,
    RK4,
    AdamsBashforth,
    Blob,
    Chain,
    Chi2,
    ForwardBackward,
    ForwardEuler,
    Grid,
    Heun,
    JSExact,
    KernelDensity,
    Langevin,
    MetropolisLangevin,
    Particles,
    PowerEntropy,
    Spacings,
    SquaredW2,
    bench,
)
from wgflow.bench import Method, moment_error
from wgflow.bench.forms import EVERY, debiased, gaussian_pair, implicit, levels, wide_enough
from wgflow.maps import Affine
from wgflow.optim import TridiagonalNewton
from wgflow.reference import Barenblatt, GaussianFit
from wgflow.solvers.entropic import EntropicJKO


def gaussian(d: int, quick: bool) -> Case:
    """KL between Gaussians; the covariances do not commute."""
    problem = bench.ornstein_uhlenbeck(d, 4 * d)
    start, target = gaussian_pair(d)
    end, F = problem.reference(problem.horizon), KL(target)
    root = torch.linalg.cholesky(start.cov)
    few = Particles(start.mean + math.sqrt(d) * torch.cat([root.T, -root.T]))  # their moments are those of the law
    exact = Blob(GaussianFit())
    base = Particles(few.x, log_rho=few.x.new_zeros(len(few)))  # KL needs it up to a constant
    methods = {
        "forward Euler, exact score": once(ForwardEuler(exact), F, few),
        "Adams–Bashforth, exact score": once(AdamsBashforth(exact), F, few),
        "Heun, exact score": once(Heun(exact), F, few),
        "RK4, exact score": once(RK4(exact), F, few),
        "dopri5, exact score": once(ODE(exact, method="dopri5", rtol=1e-6, atol=1e-8), F, few),
        "forward-backward, exact entropy": once(ForwardBackward(backward=implicit(exact)), F, few),
        "JKO of particles, exact entropy": once(implicit(exact), F, few),
        "JKO, chain of affine maps": once(implicit(), F, Chain(base, lambda: Affine(d), cached=len(few))),
    }
    rng = torch.Generator().manual_seed(1)
    n = 200 if quick else 10000
    many = Particles(start.gaussian().draw(n, rng).x)
    draws = [moment_error(Particles(end.gaussian().draw(n, rng).x), end) for _ in range(20)]
    floor = sum(draws) / len(draws)
    methods[f"Langevin, {n} particles"] = Method(Langevin(), F, many, floor=floor)
    methods[f"Metropolis-adjusted Langevin, {n} particles"] = Method(MetropolisLangevin(), F, many, floor=floor)
    if d <= 2:
        n = 50 if quick else 1000
        some = (
            Particles(start.mean + torch.special.ndtri(levels(n))[:, None] * root) if d == 1 else Particles(many.x[:n])
        )
        blob = ForwardEuler(Blob(KernelDensity(RBF(0.35))))
        methods[f"forward Euler, blob, {n} particles"] = once(blob, F, some, floor=0.0)
        cells = 24 if quick else 160
        box = Grid.of(start.gaussian(), [-8.0] * d, [8.0] * d, [cells] * d)
        methods[f"JKO on a grid, {cells} cells a side"] = once(wide_enough(debiased, box), F, box, floor=0.0)
    if d == 1:
        n = 50 if quick else 2000
        line = Particles(start.mean + torch.special.ndtri(levels(n))[:, None] * root)
        newton = JKO(Blob(Spacings()), TridiagonalNewton(), iters=1)
        methods[f"JKO of {n} quantiles"] = once(newton, F, line, floor=0.0)
    if d > 1:
        fresh = [moment_error(Particles(end.gaussian().draw(DRAWS, rng).x), end) for _ in range(5)]
        kinds = ("S-JKO", "dual form", "ICNN", "neural ODE") if d == 2 else ("S-JKO", "dual form", "ICNN")
        methods |= learned(problem, KL, start.gaussian(), target, sum(fresh) / len(fresh), quick, kinds)
    return Case("KL to a Gaussian", d, replace(problem, methods=methods))


def porous_medium(d: int, quick: bool) -> Case:
    """The power entropy with m = 2 from one Barenblatt profile to a later one; the error is that of the radius."""
    problem, n = bench.porous_medium(d), 40 if quick else 1000
    start = problem.reference(0.0)
    assert isinstance(start, Barenblatt)
    methods: dict[str, Any] = {}
    if d == 1:
        line, F = Particles(start.quantiles(levels(n))[:, None]), PowerEntropy(Spacings(), 2.0)
        methods[f"forward Euler of {n} quantiles"] = once(ForwardEuler(), F, line, floor=0.0)
        methods[f"JKO of {n} quantiles"] = once(JKO(optim=TridiagonalNewton(), iters=1), F, line, floor=0.0)
    some = Particles(start.draw(n, torch.Generator().manual_seed(1)).x)
    blob = PowerEntropy(KernelDensity(RBF(0.15)), 2.0)
    methods[f"forward Euler, blob, {n} particles"] = once(ForwardEuler(), blob, some, floor=0.0)
    side, cells = 1.2 * start.flow(problem.horizon).radius, (24 if quick else 160 if d == 2 else 400)
    box = Grid.of(start, [-side] * d, [side] * d, [cells] * d)
    solver = wide_enough(lambda h: EntropicJKO(blur=math.sqrt(h / 8), tolerance=1e-8), box)
    methods[f"JKO on a grid, {cells} cells a side"] = once(solver, PowerEntropy(m=2.0), box, floor=0.0)
    return Case("porous medium, m = 2", d, replace(problem, methods=methods))


def w1_on_the_line(quick: bool) -> Case:
    """W1 to a Gaussian: the JKO scheme has no error in time."""
    problem = bench.w1(40 if quick else 400)
    return Case("W1", 1, _without_noise(problem))


def to_samples(d: int, quick: bool) -> Case:
    """Half the squared W2 to a sample: every particle goes straight to its partner, by the factor exp(-t)."""
    n, rng = 20 if quick else 200, torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64)
    y = 2 + 0.5 * torch.randn(n, d, generator=rng, dtype=torch.float64)
    F = 0.5 * SquaredW2(Particles(y), batch=EVERY)
    partner = x + ForwardEuler().estimator.velocity(F, Particles(x), None)
    problem = bench.Problem(F, Particles(x), lambda t: partner + math.exp(-t) * (x - partner))
    return Case("W2²/2 to samples", d, _without_noise(replace(problem, methods=bench.attraction(1).methods)))


def attraction(d: int, quick: bool) -> Case:
    """Quadratic attraction contracts about the centre by the factor exp(-t)."""
    return Case("quadratic attraction", d, _without_noise(bench.attraction(d, 20 if quick else 200)))


def _without_noise(problem: bench.Problem) -> bench.Problem:
    names = {"JKO": "JKO of particles", "JKO in closed form": "JKO of particles in closed form"}
    return replace(problem, methods={names.get(label, label): once(m) for label, m in problem.methods.items()})


def problems(quick: bool) -> list[Case]:
    """Return all of them."""
    return [
        *(gaussian(d, quick) for d in (1, 2, 10)),
        *(porous_medium(d, quick) for d in (1, 2)),
        w1_on_the_line(quick),
        to_samples(2, quick),
        attraction(10, quick),
        mixture(quick),
        f_divergence("Pearson χ²", Chi2, lambda r: r**2 - 1, quick),
        f_divergence("Jensen–Shannon", JSExact, np.log1p, quick),
    ]
