"""One-step generators: pushforwards that follow a drift in feature space, under the names of their papers."""

import math
from collections.abc import Callable

from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Decay, NonNegative, Positive, checked
from wgflow.core.typing import NetSource, Points
from wgflow.driver.solve import StepSize
from wgflow.estimators import Estimator, MeanShift, MixedNegatives, Total, TwoBatch, UnitSpeed
from wgflow.functionals import (
    KL,
    Annealed,
    EnergyDistance,
    Functional,
    InFeatures,
    PerClass,
    SinkhornDivergence,
    SquaredMMD,
    guided,
)
from wgflow.kernels import RBF, Kernel, Laplace
from wgflow.measures import Balanced, Labelled, Measure, OfEveryClass, Pushforward, Regression
from wgflow.optim import Adam
from wgflow.presets._flow import Flow
from wgflow.solvers import ForwardEuler

Features = nn.Module | Callable[[Points], Tensor | list[Tensor]] | None
Scale = Positive | Callable[[int], float]
_BLUR, _BANDWIDTHS = math.sqrt(0.05), RBF(0.2) + RBF(0.5) + RBF(1.0)


def _flow(F: Functional, field: Estimator, encoder: Features, start: Pushforward, h: StepSize, num_steps: int) -> Flow:
    """Return the flow of a functional of normalized features, of every class by itself where the data are labeled."""
    seen: Functional = InFeatures(F, nn.Flatten() if encoder is None else encoder, normalized=True)
    if all(isinstance(m, (Balanced, Labelled, OfEveryClass)) for m in F.targets()):
        seen = PerClass(seen)
    assert start.regression is not None
    return Flow(seen, ForwardEuler(field, batch=start.regression.batch), start, h, num_steps)


def _follower(
    latent: Measure, generator: NetSource, noise: Measure | None, lr: float, ema: float, persistent: int, batch: int
) -> Pushforward:
    """Return a generator with the optimizer of both papers."""
    regression = Regression(Adam(lr, (0.9, 0.95)), persistent, batch)
    return Pushforward(latent, generator, noise, ema=ema, regression=regression)


@checked
def w_flow(
    target: Measure,
    latent: Measure,
    generator: NetSource,
    *,
    encoder: Features = None,
    noise: Measure | None = None,
    blur: Scale = _BLUR,
    tol: Positive = 1e-2,
    whole: Measure | None = None,
    guidance: NonNegative = 0.0,
    unit_speed: bool = True,
    persistent: Count = 1,
    batch: Count = 64,
    lr: Positive = 2e-4,
    ema: Decay = 0.999,
    step_size: StepSize = 1.0,
    num_steps: Count = 30_000,
) -> Flow:
    r"""W-Flow (Han et al. 2026): the Sinkhorn divergence in feature space against an independent batch.

    The settings are those of the ablation on ImageNet: :math:`\varepsilon=0.05` in units of the mean squared distance of every
    feature, field over its size, Adam (0.9, 0.95), running average 0.999. The authors make 10 sweeps to a plan; here a plan is
    solved to ``tol``, after which theirs are, in high dimension. Their weight decay and clipping of gradients are left out.

    Parameters
    ----------
    target, latent, noise : Measure
        Data, source of the generator, and its auxiliary noise if it takes any. Every class is a flow of its own where data and source
        are ``Balanced`` labeled ones.
    generator : nn.Module or callable
        The network or its factory.
    encoder : nn.Module or callable, optional
        Frozen features of :class:`InFeatures`; the points themselves when None.
    blur : float or callable
        :math:`\sqrt\varepsilon`, a fraction of the root mean squared distance; or a function of the step.
    tol : float
        Largest violation of a marginal at which Sinkhorn's iterations end.
    whole : Measure, optional
        For ``guidance``, which needs it: the data as a whole, where ``target`` is conditional.
    guidance : float
        w of :func:`guided`.
    unit_speed : bool
        Whether the field in every feature is divided by its size; without it this is the flow of a functional.
    persistent : int
        Regression steps a batch.
    batch : int
        Points of each of the three batches.
    lr : float
        Learning rate.
    ema : float
        Decay of the generator's running average.
    step_size : float or callable
        The time step, in units of the field, or a function of the number of the step.
    num_steps : int
        How many time steps.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Raises
    ------
    BadInput
        For ``guidance`` without ``whole``.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> from torch import nn
    >>> data, latent = wg.twenty_five_gaussians(), wg.StandardNormal(2)
    >>> flow = wg.presets.w_flow(data, latent, nn.Linear(2, 2), batch=32, num_steps=2)
    >>> flow.solve().measure.draw(5, torch.Generator()).x.shape
    torch.Size([5, 2])
    """
    if guidance and whole is None:
        raise BadInput(f"guidance={guidance:g}: it leads away from the data as a whole, give them, whole=...")

    def at(s: float) -> Functional:
        F, G = (None if nu is None else SinkhornDivergence(nu, s, tol=tol, batch=batch) for nu in (target, whole))
        assert F is not None
        return F if G is None else guided(F, G, guidance)

    field = UnitSpeed(TwoBatch()) if unit_speed else TwoBatch()
    F = Annealed(at, blur) if callable(blur) else at(blur)
    start = _follower(latent, generator, noise, lr, ema, persistent, batch)
    return _flow(F, field, encoder, start, step_size, num_steps)


@checked
def mmd_drift(
    target: Measure,
    latent: Measure,
    generator: NetSource,
    *,
    encoder: Features = None,
    noise: Measure | None = None,
    kernel: Kernel = _BANDWIDTHS,
    persistent: Count = 1,
    batch: Count = 64,
    lr: Positive = 2e-4,
    ema: Decay = 0.999,
    step_size: StepSize = 1.0,
    num_steps: Count = 30_000,
) -> Flow:
    r"""MMD drift (Gretton et al. 2026; the MMD row of Han et al. 2026): half the squared MMD in feature space.

    Parameters
    ----------
    target, latent, generator, encoder, noise
        As for :func:`w_flow`.
    kernel : Kernel
        Its bandwidths are in units of the root mean squared distance of every feature; the sources name none, three are the default.
    persistent, batch, lr, ema, step_size, num_steps
        As for :func:`w_flow`.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> from torch import nn
    >>> data, latent = wg.twenty_five_gaussians(), wg.StandardNormal(2)
    >>> flow = wg.presets.mmd_drift(data, latent, nn.Linear(2, 2), kernel=wg.RBF(0.5), batch=32, num_steps=2)
    >>> flow.solve().measure.draw(5, torch.Generator()).x.shape
    torch.Size([5, 2])
    """
    F = 0.5 * SquaredMMD(target, kernel, batch)
    start = _follower(latent, generator, noise, lr, ema, persistent, batch)
    return _flow(F, UnitSpeed(TwoBatch()), encoder, start, step_size, num_steps)


@checked
def energy_drift(
    target: Measure,
    latent: Measure,
    generator: NetSource,
    *,
    encoder: Features = None,
    noise: Measure | None = None,
    persistent: Count = 1,
    batch: Count = 64,
    lr: Positive = 2e-4,
    ema: Decay = 0.999,
    step_size: StepSize = 1.0,
    num_steps: Count = 30_000,
) -> Flow:
    """Energy drift: half the energy distance in feature space, with forces of one size and no bandwidth.

    Parameters
    ----------
    target, latent, generator, encoder, noise, persistent, batch, lr, ema, step_size, num_steps
        As for :func:`w_flow`.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> from torch import nn
    >>> data, latent = wg.twenty_five_gaussians(), wg.StandardNormal(2)
    >>> flow = wg.presets.energy_drift(data, latent, nn.Linear(2, 2), batch=32, num_steps=2)
    >>> flow.solve().measure.draw(5, torch.Generator()).x.shape
    torch.Size([5, 2])
    """
    F = 0.5 * EnergyDistance(target, batch)
    start = _follower(latent, generator, noise, lr, ema, persistent, batch)
    return _flow(F, TwoBatch(), encoder, start, step_size, num_steps)


@checked
def drifting(
    target: Measure,
    latent: Measure,
    generator: NetSource,
    *,
    encoder: Features = None,
    noise: Measure | None = None,
    temperatures: tuple[Positive, ...] = (0.02, 0.05, 0.2),
    floor: Decay = 1e-6,
    negatives: MixedNegatives | None = None,
    persistent: Count = 1,
    batch: Count = 64,
    lr: Positive = 2e-4,
    ema: Decay = 0.999,
    step_size: StepSize = 1.0,
    num_steps: Count = 30_000,
) -> Flow:
    r"""Drifting (Deng et al. 2026): their Algorithm 2 at three temperatures, each field over its size.

    A batch repels itself. Features are averaged (theirs: summed, which for Adam is no change). Their weight decay and clipping of
    gradients are left out.

    Parameters
    ----------
    target, latent, generator, encoder, noise
        As for :func:`w_flow`.
    temperatures : tuple of float
        Lengths :math:`T` of the kernels ``Laplace(T)``, in units of the root mean squared distance of every feature (theirs: of the
        mean distance).
    floor : float
        As for :class:`MeanShift`; the default is that of the published code. Take 0 in few dimensions.
    negatives : MixedNegatives, optional
        Points mixed into those that repel.
    persistent, batch, lr, ema, step_size, num_steps
        As for :func:`w_flow`.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> from torch import nn
    >>> data, latent = wg.twenty_five_gaussians(), wg.StandardNormal(2)
    >>> flow = wg.presets.drifting(data, latent, nn.Linear(2, 2), floor=0.0, batch=32, num_steps=2)
    >>> flow.solve().measure.draw(5, torch.Generator()).x.shape
    torch.Size([5, 2])
    """
    fields = (
        UnitSpeed(MeanShift(Laplace(T), "joint", own=True, floor=floor, negatives=negatives)) for T in temperatures
    )
    start = _follower(latent, generator, noise, lr, ema, persistent, batch)
    return _flow(KL(target, batch), Total(tuple(fields)), encoder, start, step_size, num_steps)
