"""Flows with known solutions, and the discretizations that can serve each: the rows of discretizations.py."""

import math

import numpy as np
import torch
from torch import Tensor

from benchmarks.discretizations._flow_rows import (
    DRAWS,
    EVERY,
    Problem,
    cloud,
    debiased,
    double,
    implicit,
    levels,
    wide_enough,
)
from benchmarks.discretizations._learned_rows import learned
from benchmarks.discretizations._line_problems import f_divergence, mixture
from wgflow import (
    JKO,
    KL,
    ODE,
    RBF,
    RK4,
    W1,
    Blob,
    Chi2,
    ForwardBackward,
    ForwardEuler,
    Functional,
    Gaussian,
    Heun,
    InteractionEnergy,
    JSExact,
    KernelDensity,
    Langevin,
    MetropolisLangevin,
    MovingMeasure,
    Particles,
    PowerEntropy,
    PowerLaw,
    Proximal,
    Spacings,
    SquaredW2,
)
from wgflow.maps import Affine
from wgflow.measures.chain import Chain
from wgflow.measures.grid import Grid
from wgflow.optim import TridiagonalNewton
from wgflow.reference import Barenblatt, GaussianFit, Moments, OrnsteinUhlenbeck, squared_w2, w1_flow
from wgflow.solvers.entropic import EntropicJKO


def gaussian(d: int, quick: bool) -> Problem:
    """KL between Gaussians; the covariances do not commute."""
    if d == 1:
        A, center, start = double([[1.0]]), double([0.0]), Moments(double([2.0]), double([[4.0]]))
    elif d == 2:
        A, center = double([[2, 0.5], [0.5, 1]]), double([1, -1])
        start = Moments(double([-1, 2]), double([[1, -0.3], [-0.3, 2]]))
    else:
        U, _ = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        A = (U * torch.linspace(0.5, 2.0, d, dtype=torch.float64)) @ U.T
        center, start = double([1.0] * d), Moments(double([0.0] * d), torch.linspace(0.5, 2, d).double().diag())
    target = Gaussian(center, torch.linalg.inv(A))
    flow, problem = OrnsteinUhlenbeck.towards(target), Problem("KL to a Gaussian", d, 1.0, (5, 10, 20, 40))
    end, F = flow.exact(start, problem.horizon), KL(target)
    travelled = float(squared_w2(start, end).sqrt())

    def error(m: MovingMeasure) -> float:
        return float(squared_w2(Moments.of(cloud(m)), end).sqrt()) / travelled

    root = torch.linalg.cholesky(start.cov)
    few = Particles(start.mean + math.sqrt(d) * torch.cat([root.T, -root.T]))  # their moments are those of the law
    exact = Blob(GaussianFit())
    problem.add("forward Euler, exact score", ForwardEuler(exact), F, few, error)
    problem.add("Heun, exact score", Heun(exact), F, few, error)
    problem.add("RK4, exact score", RK4(exact), F, few, error)
    problem.add("dopri5, exact score", ODE(exact, method="dopri5", rtol=1e-6, atol=1e-8), F, few, error)
    problem.add("forward-backward, exact entropy", ForwardBackward(backward=implicit(exact)), F, few, error)
    problem.add("JKO of particles, exact entropy", implicit(exact), F, few, error)
    base = Particles(few.x, log_rho=few.x.new_zeros(len(few)))  # KL needs it up to a constant
    problem.add("JKO, chain of affine maps", implicit(), F, Chain(base, lambda: Affine(d), cached=len(few)), error)

    rng = torch.Generator().manual_seed(1)
    n = 200 if quick else 10000
    many = Particles(start.gaussian().draw(n, rng).x)
    exact_draws = [error(Particles(end.gaussian().draw(n, rng).x)) for _ in range(20)]
    floor, seeds = sum(exact_draws) / len(exact_draws), 1 if quick else 3
    for name, noisy in (("Langevin", Langevin()), ("Metropolis-adjusted Langevin", MetropolisLangevin())):
        problem.add(f"{name}, {n} particles", noisy, F, many, error, floor=floor, seeds=seeds)
    if d <= 2:
        n = 50 if quick else 1000
        some = (
            Particles(start.mean + torch.special.ndtri(levels(n))[:, None] * root) if d == 1 else Particles(many.x[:n])
        )
        problem.add(f"forward Euler, blob, {n} particles", ForwardEuler(Blob(KernelDensity(RBF(0.35)))), F, some, error)
        cells = (24,) if quick else (160,)
        box = Grid.of(start.gaussian(), [-8.0] * d, [8.0] * d, cells * d)
        problem.add(f"JKO on a grid, {cells[0]} cells a side", wide_enough(debiased, box), F, box, error)
    if d == 1:
        n = 50 if quick else 2000
        line = Particles(start.mean + torch.special.ndtri(levels(n))[:, None] * root)
        problem.add(f"JKO of {n} quantiles", JKO(Blob(Spacings()), TridiagonalNewton(), iters=1), F, line, error)
    if d > 1:
        fresh = [error(Particles(end.gaussian().draw(DRAWS, rng).x)) for _ in range(5)]
        kinds = ("S-JKO", "dual form", "ICNN", "neural ODE") if d == 2 else ("S-JKO", "dual form", "ICNN")
        learned(problem, KL, start.gaussian(), target, error, sum(fresh) / len(fresh), quick, kinds)
    return problem


def porous_medium(d: int, quick: bool) -> Problem:
    """The power entropy with m = 2 from one Barenblatt profile to a later one; the error is that of the radius."""
    start, problem = Barenblatt(d, 2.0, 0.05), Problem("porous medium, m = 2", d, 0.1, (5, 10, 20, 40))
    end = start.flow(problem.horizon)
    travelled = abs(math.sqrt(start.second_moment) - math.sqrt(end.second_moment))

    def error(m: MovingMeasure) -> float:
        p = cloud(m)
        return abs(math.sqrt(float(p.mean(p.x.square().sum(1)))) - math.sqrt(end.second_moment)) / travelled

    n = 40 if quick else 1000
    if d == 1:
        line, F = Particles(start.quantiles(levels(n))[:, None]), PowerEntropy(Spacings(), 2.0)
        problem.add(f"forward Euler of {n} quantiles", ForwardEuler(), F, line, error)
        problem.add(f"JKO of {n} quantiles", JKO(optim=TridiagonalNewton(), iters=1), F, line, error)
    some = Particles(start.draw(n, torch.Generator().manual_seed(1)).x)
    blob = PowerEntropy(KernelDensity(RBF(0.15)), 2.0)
    problem.add(f"forward Euler, blob, {n} particles", ForwardEuler(), blob, some, error)
    side, cells = 1.2 * end.radius, (24 if quick else 160 if d == 2 else 400)
    box = Grid.of(start, [-side] * d, [side] * d, [cells] * d)
    solver = wide_enough(lambda h: EntropicJKO(blur=math.sqrt(h / 8), tolerance=1e-8), box)
    problem.add(f"JKO on a grid, {cells} cells a side", solver, PowerEntropy(m=2.0), box, error)
    return problem


def w1_on_the_line(quick: bool) -> Problem:
    """W1 to a Gaussian: the JKO scheme has no error in time."""
    n, problem = 40 if quick else 400, Problem("W1", 1, 1.0, (5, 10, 20, 40))
    z = torch.special.ndtri(levels(n))
    x, y = 2 + 1.5 * z, z
    end = w1_flow(x, y, problem.horizon)
    travelled = float((x - end).square().mean().sqrt())

    def error(m: MovingMeasure) -> float:
        return float((cloud(m).x[:, 0].sort()[0] - end).square().mean().sqrt()) / travelled

    F, start = W1(Particles(y[:, None]), batch=EVERY), Particles(x[:, None])
    for label, solver in (
        ("forward Euler", ForwardEuler()),
        ("Heun", Heun()),
        ("JKO of particles", implicit()),
        ("JKO of particles in closed form", Proximal()),
    ):
        problem.add(label, solver, F, start, error)
    return problem


def to_samples(d: int, quick: bool) -> Problem:
    """Half the squared W2 to a sample: every particle goes straight to its partner, by the factor exp(-t)."""
    n, problem = 20 if quick else 200, Problem("W2²/2 to samples", d, 1.0, (5, 10, 20, 40))
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64)
    y = 2 + 0.5 * torch.randn(n, d, generator=rng, dtype=torch.float64)
    distance = SquaredW2(Particles(y), batch=EVERY)
    partner = x + ForwardEuler().estimator.velocity(0.5 * distance, Particles(x), None)
    end = partner + math.exp(-problem.horizon) * (x - partner)
    return _paths(problem, 0.5 * distance, x, end)


def attraction(d: int, quick: bool) -> Problem:
    """Quadratic attraction contracts about the centre by the factor exp(-t)."""
    problem = Problem("quadratic attraction", d, 1.0, (5, 10, 20, 40))
    x = torch.randn(20 if quick else 200, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = x.mean(0) + math.exp(-problem.horizon) * (x - x.mean(0))
    return _paths(problem, InteractionEnergy(PowerLaw(2)), x, end)


def _paths(problem: Problem, F: Functional, x: Tensor, end: Tensor) -> Problem:
    travelled = float((x - end).square().sum(1).mean().sqrt())

    def error(m: MovingMeasure) -> float:
        return float((cloud(m).x - end).square().sum(1).mean().sqrt()) / travelled

    for label, solver in (
        ("forward Euler", ForwardEuler()),
        ("Heun", Heun()),
        ("RK4", RK4()),
        ("JKO of particles", implicit()),
    ):
        problem.add(label, solver, F, Particles(x), error)
    return problem


def problems(quick: bool) -> list[Problem]:
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
