"""Particle flows of KL that estimate the entropy from the particles, under the names of their papers."""

from wgflow.core.fields import Count, NonNegative, checked
from wgflow.driver.solve import StepSize
from wgflow.estimators import Blob, KDEScore, Stein
from wgflow.functionals import KL
from wgflow.kernels import Kernel, MedianRBF, NearestRBF
from wgflow.kernels.densities import KernelDensity
from wgflow.measures import Measure, MovingMeasure
from wgflow.optim import LBFGS
from wgflow.presets._flow import Flow
from wgflow.solvers import JKO, Accelerated, ForwardBackward, ForwardEuler, Reweight, WithReaction

_MEDIAN = MedianRBF()
_NEAREST = NearestRBF()


@checked
def svgd(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _MEDIAN,
    step_size: StepSize = 0.1,
    num_steps: Count = 500,
) -> Flow:
    """SVGD (Liu and Wang 2016): KL in the Stein metric, a mean over particles, RBF kernel with the median rule.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
    kernel : Kernel
        :math:`k`; by default Gaussian by the median rule (:class:`MedianRBF`).
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
    With one particle SVGD climbs the density: for N(0, 1) a step is :math:`1-h` times x.

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.presets.svgd(wg.StandardNormal(1), start, kernel=wg.RBF(1.0), step_size=0.5, num_steps=1)
    >>> flow.solve().measure.x
    tensor([[0.5000]])
    """
    return Flow(KL(target), ForwardEuler(Stein(kernel)), initial, step_size, num_steps)


@checked
def blob(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _NEAREST,
    step_size: StepSize = 0.05,
    num_steps: Count = 500,
) -> Flow:
    """Blob method (Carrillo, Craig and Patacchini 2019): KL with the entropy of a mollified density.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
    kernel : Kernel
        Of the density estimate; by default Gaussian, as wide as the gaps between particles (:class:`NearestRBF`).
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
    The forces between particles cancel in the mean, which goes to that of N(0, 1) by :math:`1-h` a step:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.tensor([[1.0], [3.0]]))
    >>> flow = wg.presets.blob(wg.StandardNormal(1), start, step_size=0.5, num_steps=1)
    >>> flow.solve().measure.x.mean()
    tensor(1.)
    """
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
    """GFSD (Liu et al. 2019): KL with the score of a kernel density estimate.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
    kernel : Kernel
        Of the density estimate; by default Gaussian, as wide as the gaps between particles (:class:`NearestRBF`).
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
    The forces between two particles are opposite, so their mean goes to that of N(0, 1) by :math:`1-h` a step:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.tensor([[1.0], [3.0]]))
    >>> flow = wg.presets.gfsd(wg.StandardNormal(1), start, step_size=0.5, num_steps=1)
    >>> flow.solve().measure.x.mean()
    tensor(1.)
    """
    return Flow(KL(target), ForwardEuler(KDEScore(kernel)), initial, step_size, num_steps)


@checked
def proximal_gradient(
    target: Measure,
    initial: MovingMeasure,
    *,
    kernel: Kernel = _NEAREST,
    step_size: StepSize = 0.1,
    num_steps: Count = 200,
) -> Flow:
    """Wasserstein proximal gradient (Salim, Korba and Luise 2020): explicit in the potential, implicit in a blob entropy.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
    kernel : Kernel
        Of the density estimate; by default Gaussian, as wide as the gaps between particles (:class:`NearestRBF`).
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
    The forces between particles cancel in the mean, which the explicit half takes to that of N(0, 1) by :math:`1-h`:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.tensor([[1.0], [3.0]]))
    >>> flow = wg.presets.proximal_gradient(wg.StandardNormal(1), start, step_size=0.5, num_steps=1)
    >>> flow.solve().measure.x.mean()
    tensor(1.)
    """
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
    r"""Accelerated information gradient (Wang and Li 2022): KL with a blob entropy, momentum and restarts.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
    kernel : Kernel
        Of the density estimate; by default Gaussian, as wide as the gaps between particles (:class:`NearestRBF`).
    friction : float or None
        :math:`\gamma` of :class:`Accelerated`; None is Nesterov's :math:`3/t`.
    restart : bool
        Set the momentum to zero where it has come to point uphill.
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
    The mean follows :math:`\ddot m+\gamma\dot m+m=0`: at critical damping :math:`2(1+t)e^{-t}`, 1.4715 at t = 1.

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.tensor([[1.0], [3.0]]))
    >>> flow = wg.presets.accelerated(wg.StandardNormal(1), start, friction=2.0, restart=False, step_size=0.05, num_steps=20)
    >>> flow.solve().measure.x.mean()
    tensor(1.4717)
    """
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
    r"""Wasserstein-Fisher-Rao flow of KL: a blob entropy moves the particles and, at ``rate``, their weights (Zhang et al. 2021).

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
    kernel : Kernel
        Of the density estimate; by default Gaussian, as wide as the gaps between particles (:class:`NearestRBF`).
    rate : float
        :math:`r\ge0`, how fast mass moves against the rate 1 of the transport.
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
    The particle where the target has more mass gains weight:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.tensor([[0.0], [3.0]]))
    >>> flow = wg.presets.wfr(wg.StandardNormal(1), start, step_size=0.1, num_steps=1)
    >>> flow.solve().measure.log_w.exp()
    tensor([0.5918, 0.4082])
    """
    solver = WithReaction(ForwardEuler(Blob(KernelDensity(kernel))), Reweight(rate))
    return Flow(KL(target), solver, initial, step_size, num_steps)
