"""Particle flows under the names of their papers."""

import math
from collections.abc import Callable

from torch import Tensor

from wgflow.core.fields import Count, NonNegative, Positive, checked
from wgflow.core.typing import Points
from wgflow.driver.solve import StepSize
from wgflow.estimators import Autograd, Blob, KDEScore, ProximalScore, Stein
from wgflow.estimators.evaluation_noise import EvaluationNoise
from wgflow.functionals import KL, PotentialEnergy, SinkhornDivergence, SlicedWasserstein, SquaredKSD, SquaredMMD
from wgflow.kernels import Kernel, MedianRBF, NearestRBF
from wgflow.kernels.densities import KernelDensity
from wgflow.measures import Measure, MovingMeasure, Normalizer
from wgflow.optim import LBFGS
from wgflow.presets._flow import Flow
from wgflow.solvers import (
    JKO,
    Accelerated,
    BirthDeath,
    ForwardBackward,
    ForwardEuler,
    Langevin,
    MetropolisLangevin,
    Reweight,
    WithReaction,
)

_MEDIAN, _NEAREST = MedianRBF(), NearestRBF()
LogNormaliser = Normalizer | Callable[[Points], Tensor] | None


@checked
def svgd(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _MEDIAN,
    step_size: StepSize = 0.1,
    num_steps: Count = 500,
) -> Flow:
    """SVGD (Liu and Wang 2016): KL in the Stein metric, a mean over particles, RBF kernel with the median rule."""
    return Flow(KL(target), ForwardEuler(Stein(kernel)), initial, step_size, num_steps)


@checked
def ula(target: Measure, initial: MovingMeasure, *, step_size: StepSize = 0.01, num_steps: Count = 1000) -> Flow:
    """Unadjusted Langevin (Roberts and Tweedie 1996): KL with its entropy as noise; biased in the step size."""
    return Flow(KL(target), Langevin(), initial, step_size, num_steps)


@checked
def mala(target: Measure, initial: MovingMeasure, *, step_size: StepSize = 0.1, num_steps: Count = 1000) -> Flow:
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996): the target is invariant at every step size."""
    return Flow(KL(target), MetropolisLangevin(), initial, step_size, num_steps)


@checked
def mmd_flow(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel,
    noise: NonNegative | Callable[[int], float] = 0.0,
    batch: Count | None = None,
    step_size: StepSize = 0.1,
    num_steps: Count = 1000,
) -> Flow:
    """MMD flow (Arbel et al. 2019): half the squared MMD, velocities looked up at points perturbed by ``noise``, a std."""
    e = EvaluationNoise(Autograd(), noise) if noise else Autograd()
    return Flow(0.5 * SquaredMMD(target, kernel, batch), ForwardEuler(e), initial, step_size, num_steps)


@checked
def sliced_w_flow(
    target: Measure,
    initial: MovingMeasure,
    *,
    directions: Count = 50,
    batch: Count = 1024,
    step_size: StepSize = 1.0,
    num_steps: Count = 200,
) -> Flow:
    """Sliced-Wasserstein flow (Liutkus et al. 2019) without its noise: half of SW2², new directions in every step."""
    F = 0.5 * SlicedWasserstein(target, directions=directions, batch=batch)
    return Flow(F, ForwardEuler(), initial, step_size, num_steps)


@checked
def sinkhorn_flow(
    target: Measure,
    initial: MovingMeasure,
    *,
    blur: Positive,
    batch: Count = 1024,
    step_size: StepSize = 0.1,
    num_steps: Count = 100,
) -> Flow:
    """Flow of the Sinkhorn divergence (Feydy et al. 2019) for the cost ½|x - y|²; in a step h mass goes about h of the way."""
    return Flow(SinkhornDivergence(target, blur, batch=batch), ForwardEuler(), initial, step_size, num_steps)


@checked
def ksd_descent(target: Measure, initial: MovingMeasure, *, kernel: Kernel, max_iter: Count = 1000) -> Flow:
    """KSD descent (Korba et al. 2021): half the squared KSD minimised by L-BFGS, that is a JKO step of infinite size."""
    solver = JKO(optim=LBFGS(max_iter), iters=1)
    return Flow(0.5 * SquaredKSD(target, kernel), solver, initial, step_size=math.inf, num_steps=1)


@checked
def blob(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _NEAREST,
    step_size: StepSize = 0.05,
    num_steps: Count = 500,
) -> Flow:
    """Blob method (Carrillo, Craig and Patacchini 2019): KL with the entropy of a mollified density."""
    return Flow(KL(target), ForwardEuler(Blob(KernelDensity(kernel))), initial, step_size, num_steps)


@checked
def gfsd(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _NEAREST,
    step_size: StepSize = 0.05,
    num_steps: Count = 500,
) -> Flow:
    """GFSD (Liu et al. 2019): KL with the score of a kernel density estimate."""
    return Flow(KL(target), ForwardEuler(KDEScore(kernel)), initial, step_size, num_steps)


@checked
def brwp(
    target: Measure, initial: MovingMeasure, *, time: Positive, step_size: StepSize = 0.05, num_steps: Count = 500
) -> Flow:
    """BRWP (Tan, Osher and Li 2024): KL with the score of the regularised Wasserstein proximal over ``time``."""
    return Flow(KL(target), ForwardEuler(ProximalScore(time)), initial, step_size, num_steps)


@checked
def arwp(
    target: Measure,
    initial: MovingMeasure,
    *,
    time: Positive,
    friction: NonNegative | None = 1.0,
    step_size: StepSize = 0.1,
    num_steps: Count = 500,
) -> Flow:
    """Accelerated BRWP (Tan, Osher and Li 2026): momentum with friction, driven by the velocity of ``brwp``."""
    return Flow(KL(target), Accelerated(ProximalScore(time), friction), initial, step_size, num_steps)


@checked
def prwp(
    target: Measure,
    initial: MovingMeasure,
    *,
    time: Positive,
    metric: Tensor,
    step_size: StepSize = 0.05,
    num_steps: Count = 500,
) -> Flow:
    """Preconditioned BRWP (Tan, Osher and Li 2025): steps and proximals in the metric of a matrix (d, d), or a diagonal (d,)."""
    return Flow(KL(target), ForwardEuler(ProximalScore(time, metric=metric)), initial, step_size, num_steps)


@checked
def brwp_splitting(
    target: Measure,
    initial: MovingMeasure,
    *,
    penalty: PotentialEnergy,
    normalizer: LogNormaliser = None,
    step_size: Positive = 0.05,
    num_steps: Count = 500,
) -> Flow:
    """BRWP of a target times exp(-g) (Han, Osher and Li 2025), the ``penalty`` g by its proximal map; T is the step."""
    F = KL(target) + penalty.envelope(step_size)
    backward = ForwardEuler(ProximalScore(step_size, normalizer))
    return Flow(F, ForwardBackward(backward=backward, closed_terms=True), initial, step_size, num_steps)


@checked
def proximal_gradient(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _NEAREST,
    step_size: StepSize = 0.1,
    num_steps: Count = 200,
) -> Flow:
    """Wasserstein proximal gradient (Salim, Korba and Luise 2020): explicit in the potential, implicit in a blob entropy."""
    backward = JKO(Blob(KernelDensity(kernel)), LBFGS(), iters=1)
    return Flow(KL(target), ForwardBackward(backward=backward), initial, step_size, num_steps)


@checked
def accelerated(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _NEAREST,
    friction: NonNegative | None = None,
    restart: bool = True,
    step_size: StepSize = 0.1,
    num_steps: Count = 200,
) -> Flow:
    """Accelerated information gradient (Wang and Li 2022): KL with a blob entropy, momentum and restarts."""
    solver = Accelerated(Blob(KernelDensity(kernel)), friction, restart)
    return Flow(KL(target), solver, initial, step_size, num_steps)


@checked
def wfr(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _NEAREST,
    rate: NonNegative = 1.0,
    step_size: StepSize = 0.05,
    num_steps: Count = 500,
) -> Flow:
    """Wasserstein-Fisher-Rao flow of KL: a blob entropy moves the particles and, at ``rate``, their weights (Zhang et al. 2021)."""
    solver = WithReaction(ForwardEuler(Blob(KernelDensity(kernel))), Reweight(rate))
    return Flow(KL(target), solver, initial, step_size, num_steps)


@checked
def birth_death_langevin(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _NEAREST,
    rate: NonNegative = 1.0,
    step_size: StepSize = 0.01,
    num_steps: Count = 1000,
) -> Flow:
    """Birth-death Langevin (Lu, Lu and Nolen 2019): noise moves the particles, a kernel density decides who dies."""
    solver = WithReaction(Langevin(), BirthDeath(rate), Blob(KernelDensity(kernel)))
    return Flow(KL(target), solver, initial, step_size, num_steps)
