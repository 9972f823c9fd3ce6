"""Particle flows of distances between laws, under the names of their papers."""

import math
from collections.abc import Callable

from wgflow.core.fields import Count, NonNegative, Positive, checked
from wgflow.driver.solve import StepSize
from wgflow.estimators import Autograd
from wgflow.estimators.evaluation_noise import EvaluationNoise
from wgflow.functionals import SinkhornDivergence, SlicedWasserstein, SquaredKSD, SquaredMMD
from wgflow.kernels import Kernel
from wgflow.measures import Measure, MovingMeasure
from wgflow.optim import LBFGS
from wgflow.presets._flow import Flow
from wgflow.solvers import JKO, ForwardEuler


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
    """MMD flow (Arbel et al. 2019): half the squared MMD, velocities looked up at points perturbed by ``noise``, a std.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, which is drawn from, and the particles at the start.
    kernel : Kernel
        :math:`k` of the MMD.
    noise : float or callable
        Standard deviation of the points where velocities are looked up, around the particles, or a function of the step; 0 for none.
    batch : int, optional
        Target points in one step; by default all of a finite target, and 256 of one with infinitely many.
    step_size : float or callable
        The time step :math:`h`, or a function of the number of the step.
    num_steps : int
        How many time steps.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` runs it.

    Examples
    --------
    Of the kernel :math:`-|x-y|` and two points it is :math:`|x-y|`, so that the particle moves at unit speed:

    >>> import torch
    >>> import wgflow as wg
    >>> target, start = wg.Particles(torch.ones(1, 1)), wg.Particles(torch.zeros(1, 1))
    >>> flow = wg.presets.mmd_flow(target, start, kernel=wg.Riesz(), step_size=0.1, num_steps=3)
    >>> flow.solve().measure.x
    tensor([[0.3000]])
    """
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
    """Sliced-Wasserstein flow (Liutkus et al. 2019) without its noise: half of SW2², new directions in every step.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, which is drawn from, and the particles at the start.
    directions : int
        Random directions in one step.
    batch : int
        Target points in one step.
    step_size : float or callable
        The time step :math:`h`, or a function of the number of the step.
    num_steps : int
        How many time steps.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` runs it.

    Examples
    --------
    On a line a step of size 1 is the whole way, each particle to its partner in the order:

    >>> import torch
    >>> import wgflow as wg
    >>> target = wg.Particles(torch.tensor([[5.0], [2.0]]))
    >>> start = wg.Particles(torch.tensor([[0.0], [1.0]]))
    >>> flow = wg.presets.sliced_w_flow(target, start, step_size=1.0, num_steps=1)
    >>> flow.solve().measure.x.flatten()
    tensor([2.0000, 5.0000])
    """
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
    r"""Flow of the Sinkhorn divergence (Feydy et al. 2019) for the cost ½|x - y|²; in a step h mass goes about h of the way.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, which is drawn from, and the particles at the start.
    blur : float
        :math:`\sqrt\varepsilon`, a length.
    batch : int
        Target points in one step.
    step_size : float or callable
        The time step :math:`h`, or a function of the number of the step.
    num_steps : int
        How many time steps.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` runs it.

    Examples
    --------
    Between two points the divergence is :math:`\tfrac12|x-y|^2` whatever the blur, and a step goes :math:`h` of the way:

    >>> import torch
    >>> import wgflow as wg
    >>> target, start = wg.Particles(torch.ones(1, 1)), wg.Particles(torch.zeros(1, 1))
    >>> flow = wg.presets.sinkhorn_flow(target, start, blur=0.5, step_size=0.25, num_steps=1)
    >>> flow.solve().measure.x
    tensor([[0.2500]])
    """
    return Flow(SinkhornDivergence(target, blur, batch=batch), ForwardEuler(), initial, step_size, num_steps)


@checked
def ksd_descent(target: Measure, initial: MovingMeasure, *, kernel: Kernel, max_iter: Count = 1000) -> Flow:
    """KSD descent (Korba et al. 2021): half the squared KSD minimized by L-BFGS, that is a JKO step of infinite size.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob`` and second derivatives, and the particles at the start.
    kernel : Kernel
        :math:`k` of the discrepancy, with two derivatives.
    max_iter : int
        Iterations of L-BFGS.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` runs it.

    Examples
    --------
    One particle goes to where the score of the target is 0:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.presets.ksd_descent(wg.Gaussian(2 * torch.ones(1), torch.eye(1)), start, kernel=wg.RBF(1.0))
    >>> flow.solve().measure.x
    tensor([[2.]])
    """
    solver = JKO(optim=LBFGS(max_iter), iters=1)
    return Flow(0.5 * SquaredKSD(target, kernel), solver, initial, step_size=math.inf, num_steps=1)
