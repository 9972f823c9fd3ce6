"""Score-based generation as a Wasserstein proximal: the fit of a kernel score model, and its reverse processes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wgflow.core.brief import Brief
from wgflow.core.fields import Count, Fraction, NonNegative, Positive, Whole, checked
from wgflow.core.typing import NetSource
from wgflow.driver.callbacks import Callback, Evaluate, KeepBest
from wgflow.driver.checkpoint import Checkpoint
from wgflow.driver.schedules import Geometric
from wgflow.driver.solution import Solution
from wgflow.driver.solve import solve
from wgflow.functionals import (
    CrossEntropy,
    Entropy,
    Functional,
    ImplicitScoreMatching,
    NegativeLogLikelihood,
    PotentialEnergy,
)
from wgflow.measures import (
    Dataset,
    KernelScoreModel,
    LocalGaussians,
    Measure,
    MovingMeasure,
    Noising,
    Particles,
    Reversed,
)
from wgflow.metrics import FunctionalValue
from wgflow.optim import Adam, Optim
from wgflow.presets._flow import Flow
from wgflow.presets._split import PointSplit, split_points
from wgflow.solvers import JKO, Heun, Langevin, Solver

_SATURATED = 0.5


@dataclass(frozen=True, repr=False)
class KernelScoreFit(Brief):
    """A fitted kernel score model.

    Attributes
    ----------
    law : LocalGaussians
        The model: density, score, draws, exact heat evolution. A target for any flow, and its draws are a start.
    log_likelihood : float
        Mean log density of the held-out points, in nats. They have chosen when to stop: fresh points are lower by a little.
    points : PointSplit
        What the data were split into.
    solution : Solution
        Of the fit; ``functional`` in its history is the negative log-likelihood of the held-out points.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    >>> fit = fit_kernel_score(x, num_centres=10, max_iters=20)
    >>> fit.law.score(torch.zeros(1, 2)).shape
    torch.Size([1, 2])
    """

    law: LocalGaussians
    log_likelihood: float
    points: PointSplit
    solution: Solution


@checked
def fit_kernel_score(
    x: Tensor,
    *,
    num_centres: Count | None = None,
    held_out: Fraction = 0.2,
    net: NetSource | None = None,
    rank: Count | Literal["full", "auto"] = "auto",
    floor: Positive | None = None,
    ceiling: Positive = 1e6,
    optim: Optim | None = None,
    batch: Count = 64,
    look_every: Count = 20,
    patience: Count = 15,
    max_iters: Count = 50_000,
    loss: Literal["score_matching", "likelihood"] = "score_matching",
    seed: Whole = 0,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint | None = None,
) -> KernelScoreFit:
    r"""Fit a kernel score model to points by implicit score matching, with early stopping, through :func:`solve`.

    It calls ``solve(ImplicitScoreMatching(train), JKO(optim=Adam()), KernelScoreModel(centres), step_size=math.inf, ...)`` with
    ``KeepBest`` on the negative log-likelihood of points held out.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        Data, split into centers, training points and held-out points that share none (:func:`split_points`).
    num_centres, held_out
        As for :func:`split_points`.
    net, rank, floor, ceiling
        As for ``KernelScoreModel``.
    optim : Optim, optional
        By default ``Adam(2e-3, (0.9, 0.999))``, as in the authors' code.
    batch : int
        Training points in an update.
    look_every : int
        Updates between looks at the held-out likelihood; a look is a time step of the solution.
    patience : int
        Looks without a better likelihood after which the fit ends; the weights of the best look are kept.
    max_iters : int
        Most updates, rounded up to whole looks.
    loss : {"score_matching", "likelihood"}
        What is minimized over the training points.
    seed : int
        Of the split, the network and the batches.
    callbacks, checkpoint
        As for :func:`solve`: progress, logs, resume.

    Returns
    -------
    KernelScoreFit
        The law, the mean log density of the held-out points, the split, and the solution of the fit.

    Raises
    ------
    BadInput
        For data of another shape, entries that are not finite, or too few distinct points for the split.
    Diverged, CheckpointError
        As of :func:`wgflow.solve`.

    Warns
    -----
    RuntimeWarning
        When a precision has come within a factor of two of its ceiling: how many, and which is the largest.

    References
    ----------
    Zhang, Liu, Li, Katsoulakis and Osher (2024).

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> fit = fit_kernel_score(x, num_centres=50, max_iters=40)
    >>> fit.law.draw(3, torch.Generator()).x.shape
    torch.Size([3, 2])
    """
    points = split_points(x, num_centres, held_out, seed)
    model = KernelScoreModel(points.centres, net, rank, floor, ceiling)
    kind = ImplicitScoreMatching if loss == "score_matching" else NegativeLogLikelihood
    best = KeepBest("functional", patience)
    look = FunctionalValue(NegativeLogLikelihood(Particles(points.held_out), batch=len(points.held_out)), n=1)
    solution = solve(
        kind(Dataset(points.train), batch),
        JKO(optim=optim or Adam(2e-3, (0.9, 0.999)), iters=look_every, batch=1),
        model,
        step_size=float("inf"),
        num_steps=-(-max_iters // look_every),
        seed=seed,
        callbacks=[Evaluate([look]), best, *callbacks],
        checkpoint=checkpoint,
    )
    found = best.measure if isinstance(best.measure, KernelScoreModel) else solution.measure
    assert isinstance(found, KernelScoreModel)
    law = found.law
    _say_saturated(law, ceiling / model.unit**2)
    with torch.no_grad():
        held = float(law.log_prob(points.held_out).mean())
    return KernelScoreFit(law, held, points, solution)


def _say_saturated(law: LocalGaussians, ceiling: float) -> None:
    largest = law.precision.largest
    reached = int((largest > _SATURATED * ceiling).sum())
    if reached:
        warnings.warn(
            f"the precisions at {reached} of {len(largest)} centers have come to their ceiling: the largest is {float(largest.max()):.3g}, "
            f"bounded by {ceiling:.3g} in the units of the data. The data may lie on a manifold to within that, or be too few: raise "
            "ceiling, or take more training points than centers",
            RuntimeWarning,
            stacklevel=3,
        )


@checked
def reverse_diffusion(
    target: Measure,
    initial: MovingMeasure,
    *,
    beta: Positive = 0.5,
    drift: NonNegative = 0.0,
    horizon: Positive = 1.0,
    last: Fraction = 1e-4,
    num_steps: Count = 200,
) -> Flow:
    r"""Reverse-time diffusion (Anderson 1982; Zhang et al. 2024): the proximal of :math:`-2\beta\log\pi`, noise back to ``target``.

    The flow of ``2 * beta * CrossEntropy(Reversed(target)) + beta * Entropy()`` by Euler-Maruyama. Start it from draws of ``Reversed(...)``
    at time 0. Remaining times fall geometrically to ``last`` times the horizon, so that a step is a fixed share of what is left.

    Parameters
    ----------
    target : Measure
        Where it ends, with the exact law of its noising (:meth:`Measure.noised`): Gaussians, mixtures, kernel score models.
    initial : MovingMeasure
        Particles, draws of ``Reversed(...)`` at time 0.
    beta : float
        :math:`\beta`, half the variance of the noise in a unit of time.
    drift : float
        As for :class:`Noising`; 0 is variance exploding.
    horizon : float
        The time of the noising.
    last : float
        The remaining time at the end, a fraction of the horizon.
    num_steps : int
        Steps.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` runs it.

    Examples
    --------
    Noise of variance 1 makes N(0, 2) of N(0, 1), and the reverse process N(0, 1) of N(0, 2):

    >>> import torch
    >>> import wgflow as wg
    >>> target = wg.Gaussian(torch.zeros(1), torch.eye(1))
    >>> noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    >>> flow = wg.presets.reverse_diffusion(target, wg.Particles(2**0.5 * noise), num_steps=50)
    >>> round(flow.solve().measure.x.var().item(), 1)
    1.0
    """
    back = Reversed(target, Noising(beta, drift), horizon)
    F = 2 * beta * CrossEntropy(back) + beta * Entropy()
    return _backwards(F, Langevin(), initial, drift, horizon, last, num_steps)


@checked
def probability_flow(
    target: Measure,
    initial: MovingMeasure,
    *,
    beta: Positive = 0.5,
    drift: NonNegative = 0.0,
    horizon: Positive = 1.0,
    last: Fraction = 1e-4,
    num_steps: Count = 100,
) -> Flow:
    r"""Probability-flow equation (Song et al. 2021): the same laws as :func:`reverse_diffusion` without noise, by Heun's rule.

    Parameters
    ----------
    target, initial, beta, drift, horizon, last, num_steps
        As for :func:`reverse_diffusion`.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` runs it.

    Examples
    --------
    From N(0, 2) back to N(0, 1) every point is divided by :math:`\sqrt2`:

    >>> import torch
    >>> import wgflow as wg
    >>> target = wg.Gaussian(torch.zeros(1), torch.eye(1))
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> wg.presets.probability_flow(target, start, num_steps=50).solve().measure.x
    tensor([[0.7070]])
    """
    back = Reversed(target, Noising(beta, drift), horizon)
    return _backwards(beta * CrossEntropy(back), Heun(), initial, drift, horizon, last, num_steps)


def _backwards(
    F: Functional, solver: Solver, initial: MovingMeasure, drift: float, horizon: float, last: float, num_steps: int
) -> Flow:
    """Add the potential that takes the drift of the noise back, and steps that are one share of the time left."""
    if drift:
        F = F + drift * PotentialEnergy(_minus_half_square)
    ratio = last ** (1 / num_steps)
    return Flow(F, solver, initial, Geometric(horizon * (1 - ratio), ratio), num_steps)


def _minus_half_square(x: Tensor) -> Tensor:
    return -0.5 * x.flatten(1).square().sum(1)
