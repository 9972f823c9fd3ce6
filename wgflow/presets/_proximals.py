"""Particle flows of KL by regularized Wasserstein proximals, under the names of their papers."""

from collections.abc import Callable

from torch import Tensor

from wgflow.core.fields import Count, NonNegative, Positive, checked
from wgflow.core.typing import Points
from wgflow.driver.solve import StepSize
from wgflow.estimators import ProximalScore
from wgflow.functionals import KL, PotentialEnergy
from wgflow.measures import Measure, MovingMeasure, Normalizer
from wgflow.presets._flow import Flow
from wgflow.solvers import Accelerated, ForwardBackward, ForwardEuler

LogNormalizer = Normalizer | Callable[[Points], Tensor] | None


@checked
def brwp(
    target: Measure, initial: MovingMeasure, *, time: Positive, step_size: StepSize = 0.05, num_steps: Count = 500
) -> Flow:
    r"""BRWP (Tan, Osher and Li 2024): KL with the score of the regularized Wasserstein proximal over ``time``.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
    time : float
        :math:`T`, the time of the proximal (not the step size).
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
    The repulsion between particles takes half of :math:`\nabla V` away. One particle has only the other half, a step :math:`1-h/2`:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.presets.brwp(wg.StandardNormal(1), start, time=0.1, step_size=0.5, num_steps=1)
    >>> flow.solve().measure.x
    tensor([[0.7500]])
    """
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
    r"""Accelerated BRWP (Tan, Osher and Li 2026): momentum with friction, driven by the velocity of ``brwp``.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
    time : float
        :math:`T`, the time of the proximal (not the step size).
    friction : float or None
        :math:`\gamma` of :class:`Accelerated`; None is Nesterov's :math:`3/t`.
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
    One particle feels :math:`\tfrac12\nabla V` (:func:`brwp`). At critical damping, :math:`\gamma=\sqrt2`, it is at
    :math:`(1+t/\sqrt2)e^{-t/\sqrt2}`, 0.8417 at t = 1:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.presets.arwp(wg.StandardNormal(1), start, time=0.1, friction=2**0.5, step_size=0.05, num_steps=20)
    >>> flow.solve().measure.x
    tensor([[0.8418]])
    """
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
    """Preconditioned BRWP (Tan, Osher and Li 2025): steps and proximals in the metric of a matrix (d, d), or a diagonal (d,).

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
    time : float
        :math:`T`, the time of the proximal (not the step size).
    metric : Tensor, shape (d,) or (d, d)
        :math:`M`, positive definite; an M near the covariance of the target evens out its scales.
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
    With the covariance of the target as the metric, a step of one particle is :math:`1-h/2` in every direction:

    >>> import torch
    >>> import wgflow as wg
    >>> cov = torch.tensor([100.0, 1.0])
    >>> target, start = wg.Gaussian(torch.zeros(2), cov.diag()), wg.Particles(torch.ones(1, 2))
    >>> flow = wg.presets.prwp(target, start, time=0.1, metric=cov, step_size=0.5, num_steps=1)
    >>> flow.solve().measure.x
    tensor([[0.7500, 0.7500]])
    """
    return Flow(KL(target), ForwardEuler(ProximalScore(time, metric=metric)), initial, step_size, num_steps)


@checked
def brwp_splitting(
    target: Measure,
    initial: MovingMeasure,
    *,
    penalty: PotentialEnergy,
    normalizer: LogNormalizer = None,
    step_size: Positive = 0.05,
    num_steps: Count = 500,
) -> Flow:
    r"""BRWP of a target times exp(-g) (Han, Osher and Li 2025), the ``penalty`` g by its proximal map; T is the step.

    Parameters
    ----------
    target : Measure
        The smooth part :math:`e^{-f}` of the target, with ``log_prob``.
    initial : MovingMeasure
        The particles at the start.
    penalty : PotentialEnergy
        :math:`g`, with its proximal map; the target of the flow is :math:`\propto e^{-f-g}`.
    normalizer : Normalizer or callable, optional
        How the normalizer of the proximal kernel of g is found, as for :class:`ProximalScore`.
    step_size : float
        The time step :math:`h`, which is the time of the proximal as well.
    num_steps : int
        How many time steps.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` runs it.

    Examples
    --------
    One particle under :math:`f=\tfrac12x^2`, :math:`g=|x|`: :math:`y=2-h\cdot2=1`, then half of the way from there to its
    soft threshold 1/2:

    >>> import torch
    >>> import wgflow as wg
    >>> V = wg.L1Potential(1.0)
    >>> penalty = wg.PotentialEnergy(V, V.prox)
    >>> start = wg.Particles(torch.tensor([[2.0]]))
    >>> target = wg.StandardNormal(1)
    >>> flow = wg.presets.brwp_splitting(target, start, penalty=penalty, normalizer=V, step_size=0.5, num_steps=1)
    >>> flow.solve().measure.x
    tensor([[0.7500]])
    """
    F = KL(target) + penalty.envelope(step_size)
    backward = ForwardEuler(ProximalScore(step_size, normalizer))
    return Flow(F, ForwardBackward(backward=backward, closed_terms=True), initial, step_size, num_steps)
