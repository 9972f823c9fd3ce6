"""Ready problems in which particles move without diffusion: each goes to a place that is known."""

import math

import torch

from wgflow import (
    W1,
    ForwardEuler,
    Heun,
    InteractionEnergy,
    Particles,
    PowerLaw,
    Proximal,
    SlicedWasserstein,
)
from wgflow.bench.forms import (
    EVERY,
    EXPLICIT,
    implicit,
    levels,
)
from wgflow.bench.problem import Problem
from wgflow.core.fields import Count, checked
from wgflow.reference import w1_flow


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

    Returns
    -------
    Problem
        With its exact law, errors and methods.

    Examples
    --------
    >>> sorted(attraction().methods)
    ['Adams–Bashforth', 'Heun', 'JKO', 'RK4', 'forward Euler']
    """
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = x.mean(0)
    return Problem(
        InteractionEnergy(PowerLaw(2)),
        Particles(x),
        lambda t: mean + math.exp(-t) * (x - mean),
        methods=EXPLICIT | {"JKO": implicit()},
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

    Returns
    -------
    Problem
        With its exact law, errors and methods.

    Examples
    --------
    >>> sorted(w1(n=50).methods)
    ['Heun', 'JKO', 'JKO in closed form', 'forward Euler']
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

    Returns
    -------
    Problem
        With its exact law, errors and methods.

    Examples
    --------
    >>> sorted(sliced_gaussians(n=50).methods)
    ['Adams–Bashforth', 'Heun', 'JKO', 'RK4', 'forward Euler']
    """
    y = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = 3 + 0.5 * y
    return Problem(
        0.5 * SlicedWasserstein(Particles(y), directions=directions, batch=EVERY),
        Particles(x),
        lambda t: y + math.exp(-t / d) * (x - y),
        methods=EXPLICIT | {"JKO": implicit()},
        name=f"sliced W2 between Gaussians, d = {d}",
    )
