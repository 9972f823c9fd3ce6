"""Ready problems: flows whose exact law is known, with the methods that one would try first."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from wgflow import (
    JKO,
    KL,
    RBF,
    Blob,
    EntropicJKO,
    ForwardBackward,
    ForwardEuler,
    Gaussian,
    GaussianMixture,
    Grid,
    KernelDensity,
    Langevin,
    MetropolisLangevin,
    MovingMeasure,
    Particles,
    PowerEntropy,
    Spacings,
)
from wgflow.bench.forms import (
    EXPLICIT,
    ModelledKL,
    debiased,
    double,
    gaussian_pair,
    implicit,
    levels,
    wide_enough,
    with_moments,
)
from wgflow.bench.line import Line
from wgflow.bench.problem import Method, Problem
from wgflow.bench.scores import DRAWS, cloud
from wgflow.bench.transports import attraction, sliced_gaussians, w1
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, checked
from wgflow.core.registry import Named
from wgflow.optim.tridiagonal import TridiagonalNewton
from wgflow.reference import Barenblatt, GaussianFit, OrnsteinUhlenbeck


@checked
def ornstein_uhlenbeck(d: Count = 2, n: Count = 10_000) -> Problem:
    r"""KL to a Gaussian, from another one: the Ornstein–Uhlenbeck flow.

    The start has exactly the moments of its law and the entropy is that of a Gaussian with the moments of the particles, so that a
    scheme without noise has no error but that in time. The error is the Bures distance of mean and covariance.

    Parameters
    ----------
    d : int
        Dimension.
    n : int
        Particles, more than d.

    Returns
    -------
    Problem
        With its exact law, errors and methods.

    Examples
    --------
    >>> sorted(ornstein_uhlenbeck(n=100).methods)
    ['Adams–Bashforth', 'Heun', 'JKO', 'Langevin', 'Metropolis-adjusted Langevin', 'RK4', 'forward Euler', 'forward-backward']
    """
    start, target = gaussian_pair(d)
    flow, exact = OrnsteinUhlenbeck.towards(target), Blob(GaussianFit())
    methods = {
        **EXPLICIT,
        "forward-backward": ForwardBackward(backward=implicit(exact)),
        "JKO": implicit(),
        "Langevin": Langevin(),
        "Metropolis-adjusted Langevin": MetropolisLangevin(),
    }
    return Problem(
        ModelledKL(target),
        Particles(with_moments(start, n)),
        lambda t: flow.exact(start, t),
        methods=methods,
        name=f"KL to a Gaussian (Ornstein–Uhlenbeck), d = {d}",
    )


@checked
def mixture(n: Count = 1000) -> Problem:
    r"""KL to two Gaussians of unequal mass on a line, from one.

    The reference is a solution of the Fokker–Planck equation in 2000 cells, with quantiles right to 1e-5. The error is :math:`W_2`.
    Entropies of kernel densities have a floor of their own, that of the bandwidth.

    Parameters
    ----------
    n : int
        Particles, at quantiles of the start.

    Returns
    -------
    Problem
        With its exact law, errors and methods.

    Examples
    --------
    >>> sorted(mixture(n=100).methods)
    ['JKO', 'JKO of quantiles', 'JKO on a grid', 'Langevin', 'forward Euler']
    """
    (start, target), line = mixture_pair(), Line(-8.0, 8.0, cells=2000)

    @cache
    def reference(t: float) -> Particles:
        mass = line.flow(start, target, lambda r: r - 1, t)
        return Particles(line.quantiles(mass, DRAWS)[:, None])

    box = Grid.of(start, [line.low], [line.high], [320])
    particles = Particles(start.mean + torch.special.ndtri(levels(n))[:, None] * start.cov.sqrt())
    spaced = ModelledKL(target, model=Spacings())
    methods = {
        "forward Euler": ForwardEuler(),
        "JKO": implicit(),
        "JKO of quantiles": Method(JKO(optim=TridiagonalNewton(), iters=1), spaced),
        "JKO on a grid": Method(wide_enough(debiased, box), KL(target), box),
        "Langevin": Langevin(),
    }
    F = ModelledKL(target, model=KernelDensity(RBF(0.2)))
    return Problem(F, particles, reference, quantile_error, methods=methods, name="KL to a mixture on the line")


def mixture_pair() -> tuple[Gaussian, GaussianMixture]:
    """Return the start and the target of the problem of a mixture."""
    start = Gaussian(double([-0.5]), double([[1.0]]))
    return start, GaussianMixture(double([[-1.5], [1.5]]), 0.6, double([0.4, 0.6]))


def quantile_error(measure: MovingMeasure, exact: Particles) -> float:
    r"""Return :math:`W_2` on a line, of as many quantiles as there are points, which then have no error for being few.

    A point stands for the quantile in the middle of its mass.
    """
    if isinstance(measure, Grid):
        line = Line(measure.low[0], measure.high[0], len(measure.mass))
        mine = Particles(line.quantiles(measure.mass.cpu().numpy(), DRAWS)[:, None])
    else:
        mine = cloud(measure)
    x, order = mine.x[:, 0].cpu().sort()
    w = mine.w.cpu()[order]
    theirs = np.interp(w.cumsum(0) - w / 2, levels(len(exact)), exact.x[:, 0])
    return math.sqrt(float(w @ (x - torch.from_numpy(theirs)).square()))


@checked
def porous_medium(d: Count = 1, n: Count = 1000) -> Problem:
    r"""The power entropy with m = 2 from one Barenblatt profile to a later one; the error is that of the root mean square radius.

    On a line its density is that of the spacings of particles at quantiles, for which explicit steps are unstable unless they are tiny.

    Parameters
    ----------
    d : int
        Dimension, 1 or 2.
    n : int
        Particles: at quantiles for d = 1, drawn for d = 2.

    Returns
    -------
    Problem
        With its exact law, errors and methods.

    Raises
    ------
    BadInput
        For three dimensions or more.

    Examples
    --------
    >>> sorted(porous_medium(n=100).methods)
    ['JKO', 'JKO on a grid', 'forward Euler', 'forward Euler (blob)']
    """
    if d > 2:
        raise BadInput(f"d={d}: expected 1 or 2, on grids of more the flow is out of reach")
    start, horizon = Barenblatt(d, 2.0, 0.05), 0.1
    side = 1.2 * start.flow(horizon).radius
    box = Grid.of(start, [-side] * d, [side] * d, [400 if d == 1 else 100] * d)
    on_grid = wide_enough(lambda h: EntropicJKO(blur=math.sqrt(h / 8), tolerance=1e-8), box)
    blob, spaced = PowerEntropy(KernelDensity(RBF(0.15)), 2.0), PowerEntropy(Spacings(), 2.0)
    methods: dict[str, Any] = {
        "forward Euler (blob)": Method(ForwardEuler(), blob),
        "JKO on a grid": Method(on_grid, PowerEntropy(m=2.0), box),
    }
    if d == 1:
        particles = Particles(start.quantiles(levels(n))[:, None])
        methods = {"forward Euler": ForwardEuler(), "JKO": JKO(optim=TridiagonalNewton(), iters=1)} | methods
    else:
        particles = Particles(start.draw(n, torch.Generator().manual_seed(1)).x)
    return Problem(
        spaced if d == 1 else blob,
        particles,
        start.flow,
        radius_error,
        times=(horizon,),
        step_sizes=(0.02, 0.01, 0.005, 0.0025),
        methods=methods,
        name=f"porous medium, m = 2, d = {d}",
    )


def radius_error(measure: MovingMeasure, exact: Barenblatt) -> float:
    """Return the error of the root mean square distance from the origin."""
    p = cloud(measure)
    return abs(math.sqrt(float(p.mean(p.x.square().sum(1)))) - math.sqrt(exact.second_moment))


PROBLEMS: dict[str, Callable[[], Problem]] = Named(
    "problem",
    {
        "ou": ornstein_uhlenbeck,
        "mixture": mixture,
        "porous_medium": porous_medium,
        "attraction": attraction,
        "w1": w1,
        "sliced_gaussians": sliced_gaussians,
    },
)
"""Ready problems by the names that the command line knows them by."""
