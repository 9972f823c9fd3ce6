"""Particle flows of KL whose entropy is noise, under the names of their papers."""

from wgflow.core.fields import Count, NonNegative, checked
from wgflow.driver.solve import StepSize
from wgflow.estimators import Blob
from wgflow.functionals import KL
from wgflow.kernels import Kernel, NearestRBF
from wgflow.kernels.densities import KernelDensity
from wgflow.measures import Measure, MovingMeasure
from wgflow.presets._flow import Flow
from wgflow.solvers import BirthDeath, Langevin, MetropolisLangevin, WithReaction

_NEAREST = NearestRBF()


@checked
def ula(target: Measure, initial: MovingMeasure, *, step_size: StepSize = 0.01, num_steps: Count = 1000) -> Flow:
    """Unadjusted Langevin (Roberts and Tweedie 1996): KL with its entropy as noise; biased in the step size.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
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
    For N(0, 1) the stationary variance is :math:`1/(1-h/2)`:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.zeros(20_000, 1))
    >>> flow = wg.presets.ula(wg.StandardNormal(1), start, step_size=0.5, num_steps=20)
    >>> round(flow.solve().measure.x.var().item(), 1)
    1.3
    """
    return Flow(KL(target), Langevin(), initial, step_size, num_steps)


@checked
def mala(target: Measure, initial: MovingMeasure, *, step_size: StepSize = 0.1, num_steps: Count = 1000) -> Flow:
    """Metropolis-adjusted Langevin (Roberts and Tweedie 1996): the target is invariant at every step size.

    Parameters
    ----------
    target, initial : Measure, MovingMeasure
        The law to go to, with ``log_prob``, and the particles at the start.
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
    For N(0, 1) the variance is 1 at this step size, too:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.zeros(20_000, 1))
    >>> flow = wg.presets.mala(wg.StandardNormal(1), start, step_size=0.5, num_steps=20)
    >>> round(flow.solve().measure.x.var().item(), 1)
    1.0
    """
    return Flow(KL(target), MetropolisLangevin(), initial, step_size, num_steps)


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
    r"""Birth-death Langevin (Lu, Lu and Nolen 2019): noise moves the particles, a kernel density decides who dies.

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
    Of two equal clouds, one at the mode of the target and one in its tail, noise alone would carry the second over in its
    own time. Here its particles are replaced by copies from the mode:

    >>> import torch
    >>> import wgflow as wg
    >>> x = 0.1 * torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    >>> x[50:] += 4
    >>> flow = wg.presets.birth_death_langevin(wg.StandardNormal(1), wg.Particles(x), step_size=0.05, num_steps=20)
    >>> flow.solve().measure.x.max() < 3
    tensor(True)
    """
    solver = WithReaction(Langevin(), BirthDeath(rate), Blob(KernelDensity(kernel)))
    return Flow(KL(target), solver, initial, step_size, num_steps)
