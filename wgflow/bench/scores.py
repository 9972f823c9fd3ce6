"""How far a law is from the exact one: the errors that need no more than what the reference is."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from wgflow import Chain, Gaussian, Grid, Measure, MovingMeasure, Particles, SquaredW2
from wgflow.core.errors import BadInput
from wgflow.core.instead import shown
from wgflow.core.rng import generator
from wgflow.reference import Moments, squared_w2

Error = Callable[[MovingMeasure, Any], float]
DRAWS = 50_000
"""Fresh points that stand for a law that can make as many as it is asked for."""


def cloud(measure: MovingMeasure) -> Particles:
    """Return the points of a measure, in float64.

    Particles are their own, a grid gives its nodes with their masses, and any other law 50,000 fresh draws, never those of its training.
    """
    if isinstance(measure, Grid):
        return measure.nodes()
    if isinstance(measure, Chain):
        measure = replace(measure, density=False)  # points are all that is asked for
    drawn = measure.inference().draw(DRAWS, generator(1, measure.device))
    log_w = None if drawn.log_w is None else drawn.log_w.double()
    return Particles(drawn.x.double(), log_w)


def path_error(measure: MovingMeasure, exact: Tensor) -> float:
    r"""Return :math:`\bigl(\sum_iw_i|x_i-y_i|^2\bigr)^{1/2}` between particles and where each should be, an upper bound of :math:`W_2`.

    Parameters
    ----------
    measure : MovingMeasure
        Particles.
    exact : Tensor, shape (n, \*event)
        Where they should be, in the same order.

    Returns
    -------
    float
        The distance, not its square.

    Raises
    ------
    BadInput
        For a measure that is not as many particles.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> round(path_error(wg.Particles(torch.zeros(2, 1)), torch.tensor([[3.0], [4.0]])) ** 2, 6)  # (9 + 16) / 2
    12.5
    """
    if not isinstance(measure, Particles) or measure.x.shape != exact.shape:
        found = tuple(measure.x.shape) if isinstance(measure, Particles) else type(measure).__name__
        raise BadInput(
            f"the reference gives exact positions {tuple(exact.shape)}, one a particle, and the flow has {found}: compare "
            "laws, Problem(error=w2_error) with Particles as the reference"
        )
    far = (measure.x.detach() - exact.to(measure.device)).double().square().flatten(1).sum(1)
    return math.sqrt(float(measure.w.double() @ far))


def moment_error(measure: MovingMeasure, exact: Moments | Gaussian) -> float:
    r"""Return :math:`W_2` between the Gaussians with the means and covariances of the two laws; a lower bound of :math:`W_2`.

    Parameters
    ----------
    measure : MovingMeasure
        A law; one that is no cloud or grid is drawn from.
    exact : wgflow.reference.Moments or Gaussian
        The exact mean and covariance.

    Returns
    -------
    float
        The distance, not its square.

    Examples
    --------
    Two points at -1 and 1 have the moments of N(0, 1):

    >>> import torch
    >>> import wgflow as wg
    >>> rho = wg.Particles(torch.tensor([[-1.0], [1.0]]))
    >>> moment_error(rho, wg.Gaussian(torch.tensor([3.0]), torch.eye(1)))
    3.0
    """
    moments = Moments(*(t.to(measure.device, torch.float64) for t in (exact.mean, exact.cov)))
    return math.sqrt(float(squared_w2(Moments.of(cloud(measure)), moments)))


def w2_error(measure: MovingMeasure, exact: Particles) -> float:
    r"""Return the exact :math:`W_2` to a cloud; see ``SquaredW2`` for the sizes that are possible.

    Parameters
    ----------
    measure : MovingMeasure
        A law; one that is no cloud or grid is drawn from.
    exact : Particles
        The cloud, with its weights.

    Returns
    -------
    float
        The distance, not its square.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> rho = wg.Particles(torch.tensor([[0.0], [1.0]]))
    >>> w2_error(rho, wg.Particles(torch.tensor([[3.0], [2.0]])))
    2.0
    """
    x, log_w = (None if t is None else t.to(measure.device, torch.float64) for t in (exact.x, exact.log_w))
    assert x is not None
    F = SquaredW2(Particles(x, log_w), batch=len(x)).freeze(generator(0, measure.device))
    value = F.value(cloud(measure))
    return math.sqrt(max(float(value), 0.0))


def error_for(exact: Any) -> Error:
    """Return the error that goes with what a reference returns; raises ``BadInput`` where there is none."""
    if isinstance(exact, Tensor):
        return path_error
    if isinstance(exact, (Moments, Gaussian)):
        return moment_error
    if isinstance(exact, Particles):
        return w2_error
    raise BadInput(
        f"the reference returned {shown(exact)}: expected the exact positions of the particles as a tensor, Moments, a Gaussian or "
        "Particles. For another law say how far one is from it: Problem(error=f), with f(measure, exact) a number"
    )


def drawable(exact: Any) -> Measure | None:
    """Return the exact law itself, or None where it cannot be drawn from."""
    if isinstance(exact, Moments):
        try:
            exact = exact.gaussian()
        except BadInput:  # a singular covariance
            return None
    return exact if isinstance(exact, Measure) and exact.can_draw else None
