"""Generators trained by explicit steps: forward Euler with a critic under the names of its papers."""

from dataclasses import replace
from typing import Any, Literal

from torch import nn

from wgflow.core.fields import Count, Decay, NonNegative, Positive, checked
from wgflow.core.typing import NetSource
from wgflow.driver.solve import StepSize
from wgflow.estimators import Critic, GradientPenalty
from wgflow.functionals import W1, SquaredW2
from wgflow.measures import Measure, Pushforward, Regression
from wgflow.optim import Adam
from wgflow.presets._flow import Flow, options_of
from wgflow.solvers import ForwardEuler


@checked
def w1_fe(
    target: Measure,
    latent: Measure,
    generator: NetSource,
    critic: NetSource,
    *,
    noise: Measure | None = None,
    reference: nn.Module | None = None,
    persistent: Count = 3,
    control: Literal["naive"] | None = None,
    penalty: Literal["lp", "gp"] = "lp",
    weight: NonNegative = 10.0,
    step_size: StepSize = 1.0,
    num_steps: Count = 5_000,
    critic_iters: Count = 5,
    batch: Count = 512,
    lr: tuple[Positive, Positive] = (1e-4, 5e-4),
    betas: tuple[Decay, Decay] = (0.9, 0.999),
    ema: Decay = 0.0,
) -> Flow:
    r"""W1-FE (Malik and Huang 2024): forward Euler for :math:`W_1`, every step followed by several generator updates.

    The defaults are the settings of the two-dimensional experiments in the public code, but for ``persistent``, 1 there, and the
    one-sided penalty, an option there.

    Parameters
    ----------
    target, latent, noise : Measure
        Data, source of the generator (noise, or data of another kind), and its auxiliary noise if it takes any.
    generator, critic : nn.Module or callable
        The two networks or their factories.
    reference : nn.Module, optional
        The map before the first step; the generator's own start when None.
    persistent : int
        :math:`K`, generator updates toward the targets of one step; with 1 it is WGAN.
    control : "naive", optional
        For comparisons: K updates of WGAN's generator against one critic, without the targets.
    penalty : {"lp", "gp"}
        Whether slopes below 1 are allowed (W1-FE-LP) or penalized too (W1-FE-GP).
    weight : float
        :math:`\lambda` of the penalty.
    step_size : float or callable
        :math:`\Delta t`. With Adam it has no effect at K = 1.
    num_steps : int
        Steps, each with ``critic_iters`` critic updates and ``persistent`` generator updates.
    critic_iters : int
        Critic updates in one step.
    batch : int
        Points in one draw.
    lr : (float, float)
        Learning rates of generator and critic.
    betas : (float, float)
        Momenta of both Adams.
    ema : float
        Decay per update of a running average of the generator; 0 for none.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    Forward Euler for W1, followed by regression steps toward one set of targets:

    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> flow = wg.presets.w1_fe(wg.twenty_five_gaussians(), latent, nn.Linear(2, 2), nn.Linear(2, 1), persistent=5)
    >>> flow.functional.__class__.__name__, flow.initial.regression.persistent
    ('W1', 5)
    """
    return Flow(
        functional=W1(target, batch),
        solver=ForwardEuler(
            Critic(critic, Adam(lr[1], betas), critic_iters, penalty=GradientPenalty(weight, penalty)), batch=batch
        ),
        initial=Pushforward(
            latent,
            generator,
            noise=noise,
            reference=reference,
            ema=ema,
            regression=Regression(Adam(lr[0], betas), persistent, batch, control),
        ),
        step_size=step_size,
        num_steps=num_steps,
    )


@checked
@options_of(w1_fe, "persistent", "control")
def wgan_gp(
    target: Measure,
    latent: Measure,
    generator: NetSource,
    critic: NetSource,
    *,
    penalty: Literal["lp", "gp"] = "gp",
    num_steps: Count = 100_000,
    batch: Count = 64,
    lr: tuple[Positive, Positive] = (1e-4, 1e-4),
    betas: tuple[Decay, Decay] = (0.0, 0.9),
    **options: Any,
) -> Flow:
    """WGAN-GP (Gulrajani et al. 2017): W1-FE with one generator update a step, and slopes of 1.

    ``options`` are those of :func:`w1_fe`, without ``persistent`` and ``control``.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> flow = wg.presets.wgan_gp(wg.twenty_five_gaussians(), latent, nn.Linear(2, 2), nn.Linear(2, 1))
    >>> flow.initial.regression.persistent, flow.solver.estimator.penalty
    (1, GradientPenalty(kind='gp'))
    """
    options |= {"num_steps": num_steps, "batch": batch, "lr": lr, "betas": betas}
    return w1_fe(target, latent, generator, critic, persistent=1, penalty=penalty, **options)


@checked
@options_of(wgan_gp, "penalty")
def wgan_lp(target: Measure, latent: Measure, generator: NetSource, critic: NetSource, **options: Any) -> Flow:
    """WGAN-LP (Petzka, Fischer and Lukovnikov 2018): WGAN-GP with slopes of at most 1.

    ``options`` are those of :func:`wgan_gp`, without ``penalty``.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> flow = wg.presets.wgan_lp(wg.twenty_five_gaussians(), latent, nn.Linear(2, 2), nn.Linear(2, 1))
    >>> flow.initial.regression.persistent, flow.solver.estimator.penalty
    (1, GradientPenalty())
    """
    return wgan_gp(target, latent, generator, critic, penalty="lp", **options)


@checked
@options_of(w1_fe, "penalty", "weight")
def w2_fe(target: Measure, latent: Measure, generator: NetSource, critic: NetSource, **options: Any) -> Flow:
    r"""W2-FE (Huang and Malik 2024): forward Euler for :math:`\tfrac12W_2^2`; with ``persistent=1`` W2GAN (Leygonie et al. 2019).

    The authors train two potentials, with penalties on pairs of points; here the second is the c-transform of the first
    (:class:`SquaredW2`). A step size of 1 goes all the way. ``options`` are those of :func:`w1_fe`, without ``penalty`` and ``weight``.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    The functional is half of the squared distance:

    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> flow = wg.presets.w2_fe(wg.twenty_five_gaussians(), latent, nn.Linear(2, 2), nn.Linear(2, 1))
    >>> flow.functional.c, flow.functional.term.__class__.__name__
    (0.5, 'SquaredW2')
    """
    flow = w1_fe(target, latent, generator, critic, **options)
    assert isinstance(flow.solver.estimator, Critic)
    solver = replace(flow.solver, estimator=replace(flow.solver.estimator, penalty=None))  # type: ignore[type-var]
    return replace(flow, functional=0.5 * SquaredW2(target, flow.functional.batch), solver=solver)
