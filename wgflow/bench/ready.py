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
    RK4,
    W1,
    AdamsBashforth,
    Blob,
    EntropicJKO,
    ForwardBackward,
    ForwardEuler,
    Gaussian,
    GaussianMixture,
    Grid,
    Heun,
    InteractionEnergy,
    KernelDensity,
    Langevin,
    MetropolisLangevin,
    MovingMeasure,
    Particles,
    PowerEntropy,
    PowerLaw,
    Proximal,
    SlicedWasserstein,
    Spacings,
)
from wgflow.bench.forms import (
    EVERY,
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
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, checked
from wgflow.core.registry import Named
from wgflow.optim.tridiagonal import TridiagonalNewton
from wgflow.reference import Barenblatt, GaussianFit, OrnsteinUhlenbeck, w1_flow

_EXPLICIT: dict[str, Any] = {
    "forward Euler": ForwardEuler(),
    "Adams–Bashforth": AdamsBashforth(),
    "Heun": Heun(),
    "RK4": RK4(),
}


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
    """
    start, target = gaussian_pair(d)
    flow, exact = OrnsteinUhlenbeck.towards(target), Blob(GaussianFit())
    methods = {
        **_EXPLICIT,
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

    Raises
    ------
    BadInput
        For three dimensions or more.
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


@checked
def attraction(d: Count = 10, n: Count = 200) -> Problem:
    r"""Aggregation: particles that attract each other with the force :math:`x-y`, so that all contract by :math:`e^{-t}`.

    The error is the root mean square distance of the particles to where they should be.

    Parameters
    ----------
    d : int
        Dimension.
    n : int
        Particles.
    """
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = x.mean(0)
    return Problem(
        InteractionEnergy(PowerLaw(2)),
        Particles(x),
        lambda t: mean + math.exp(-t) * (x - mean),
        methods=_EXPLICIT | {"JKO": implicit()},
        name=f"quadratic attraction, d = {d}",
    )


@checked
def w1(n: Count = 400) -> Problem:
    r""":math:`W_1` to a Gaussian on a line: mass moves at unit speed and stops, and the JKO scheme has no error in time.

    The error is :math:`W_2`.

    Parameters
    ----------
    n : int
        Particles, and points of the target, at quantiles.
    """
    z = torch.special.ndtri(levels(n))
    start, target = 2 + 1.5 * z, z
    return Problem(
        W1(Particles(target[:, None]), batch=EVERY),
        Particles(start[:, None]),
        lambda t: Particles(w1_flow(start, target, t)[:, None]),
        methods={
            "forward Euler": ForwardEuler(),
            "Heun": Heun(),
            "JKO": implicit(),
            "JKO in closed form": Proximal(),
        },
        name="W1 on the line",
    )


@checked
def sliced_gaussians(d: Count = 2, n: Count = 500, directions: Count = 100) -> Problem:
    r"""Half of the squared sliced Wasserstein distance between a Gaussian cloud and its image under scaling and translation.

    Every direction sees the same partners, so that a particle goes to its own at the rate :math:`1/d`:
    :math:`x(t)=y+e^{-t/d}(x_0-y)`. Directions are drawn anew in every step, and their noise has order 1/2 in the step size.

    Parameters
    ----------
    d : int
        Dimension.
    n : int
        Particles, and points of the target.
    directions : int
        Drawn in a step.
    """
    y = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = 3 + 0.5 * y
    return Problem(
        0.5 * SlicedWasserstein(Particles(y), directions=directions, batch=EVERY),
        Particles(x),
        lambda t: y + math.exp(-t / d) * (x - y),
        methods=_EXPLICIT | {"JKO": implicit()},
        name=f"sliced W2 between Gaussians, d = {d}",
    )


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
