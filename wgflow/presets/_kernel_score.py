"""Score-based generation as a Wasserstein proximal: the fit of a kernel score model, and its reverse processes."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Fraction, NonNegative, Positive, Whole, checked
from wgflow.core.finite import require_finite
from wgflow.core.rng import generator, mixed
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
from wgflow.solvers import JKO, Heun, Langevin, Solver

_SATURATED = 0.5


@dataclass(frozen=True)
class PointSplit:
    """Points in three parts that share none.

    Attributes
    ----------
    centres, train, held_out : Tensor, shapes (K, d), (n, d), (m, d)
    """

    centres: Tensor
    train: Tensor
    held_out: Tensor


@checked
def split_points(x: Tensor, num_centres: Count | None = None, held_out: Fraction = 0.2, seed: Whole = 0) -> PointSplit:
    r"""Split points at random into centres, training points and held-out points, so that no point is in two parts.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        The data. Of points that occur several times one is a centre at most, and then the others are left out.
    num_centres : int, optional
        By default half of the points, 1000 at most.
    held_out : float
        Share of the other points that is held out, at least one and at most 1000.
    seed : int
        Of the split.

    Raises
    ------
    BadInput
        For a tensor of another shape, entries that are not finite, or fewer than two distinct points beside the centres.
    """
    if x.dim() != 2 or x.numel() == 0:
        raise BadInput(f"expected data of shape (n, d), got {tuple(x.shape)}; flatten images first: x.flatten(1)")
    require_finite("split_points", x=x)
    distinct, copy_of = torch.unique(x, dim=0, return_inverse=True)
    K = min(1000, len(distinct) // 2) if num_centres is None else num_centres
    if K < 1 or len(distinct) < K + 2:
        raise BadInput(
            f"num_centres={K}: there are {len(distinct)} distinct points of {len(x)}, and beside the centres one to fit to and one to "
            "hold out are needed: give more points or fewer centres"
        )
    rng = generator(mixed(seed), "cpu")
    order = torch.randperm(len(distinct), generator=rng).to(x.device)
    m = min(max(1, round(held_out * (len(distinct) - K))), len(distinct) - K - 1, 1000)
    part = torch.empty_like(order)
    part[order] = torch.arange(len(order), device=x.device)
    place = part[copy_of]
    return PointSplit(distinct[order[:K]], x[place >= K + m], x[(place >= K) & (place < K + m)])


@dataclass(frozen=True)
class KernelScoreFit:
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

    The sentence: ``solve(ImplicitScoreMatching(train), JKO(optim=Adam()), KernelScoreModel(centres), step_size=math.inf, ...)`` with
    ``KeepBest`` on the negative log-likelihood of points held out.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        Data, split into centres, training points and held-out points that share none (:func:`split_points`).
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
        What is minimised over the training points.
    seed : int
        Of the split, the network and the batches.
    callbacks, checkpoint
        As for :func:`solve`: progress, logs, resume.

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
    >>> fit = fit_kernel_score(x, num_centres=50, max_iters=100)
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
            f"the precisions at {reached} of {len(largest)} centres have come to their ceiling: the largest is {float(largest.max()):.3g}, "
            f"bounded by {ceiling:.3g} in the units of the data. The data may lie on a manifold to within that, or be too few: raise "
            "ceiling, or take more training points than centres",
            RuntimeWarning,
            stacklevel=3,
        )


@checked
def isotropic_kde(points: PointSplit, stds: Sequence[Positive] = ()) -> LocalGaussians:
    r"""Return the kernel density estimate at the centres whose bandwidth the held-out points find most likely.

    Parameters
    ----------
    points : PointSplit
        Centres and held-out points.
    stds : sequence of float
        Bandwidths to choose from, standard deviations; by default 40, from 0.01 to 1 times the standard deviation of a coordinate.
    """
    unit = float((points.centres - points.centres.mean(0)).square().mean().sqrt())
    tried = list(stds) or [unit * 10 ** (-2 + 2 * i / 39) for i in range(40)]
    laws = [LocalGaussians.isotropic(points.centres, std) for std in tried]
    return max(laws, key=lambda law: float(law.log_prob(points.held_out).mean()))


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
    r"""Probability-flow equation (Song et al. 2021): the same laws as :func:`reverse_diffusion` without noise, by Heun's rule."""
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
