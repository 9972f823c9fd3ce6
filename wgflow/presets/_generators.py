"""Generators trained by implicit steps: JKO with a critic under the names of its papers."""

import math
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from wgflow.core.fields import Count, Decay, NonNegative, Positive, checked
from wgflow.core.typing import NetSource
from wgflow.driver.solve import StepSize
from wgflow.estimators import R1, Critic
from wgflow.functionals import entropy
from wgflow.measures import Measure, Pushforward, Smoothed
from wgflow.measures import instance_noise as decaying_noise
from wgflow.optim import Adam, Cosine
from wgflow.presets._flow import Flow, options_of
from wgflow.solvers import JKO


@checked
def s_jko(
    target: Measure,
    latent: Measure,
    generator: NetSource,
    critic: NetSource,
    *,
    noise: Measure | None = None,
    reference: nn.Module | None = None,
    divergence: str = "kl",
    variant: Literal["wgflow", "paper", "code"] = "wgflow",
    step_size: StepSize = 0.1,
    num_steps: Count | None = None,
    first_iters: Count = 10_000,
    iters: Count = 2_000,
    batch: Count = 256,
    lr: tuple[Positive, Positive] = (2e-4, 1e-4),
    lr_floor: NonNegative | None = 5e-5,
    warmup: Count | None = None,
    betas: tuple[Decay, Decay] = (0.5, 0.9),
    clip: Positive | None = None,
    accumulate: Count | None = None,
    critic_iters: Count = 1,
    r1: NonNegative | None = None,
    r1_every: Count = 1,
    latent_coupling: Literal["shared", "independent"] | None = None,
    instance_noise: bool | None = None,
    snapshot: Literal["raw", "ema"] = "raw",
    ema: Decay = 0.9999,
) -> Flow:
    r"""S-JKO (Choi, Choi and Kang 2024): one generator and one critic through all JKO steps of an f-divergence.

    The defaults are the CIFAR-10 settings. ``step_size`` is the paper's :math:`h`, with the cost averaged over
    coordinates (:math:`h_{JKO}=d\,h`).

    Parameters
    ----------
    target, latent, noise : Measure
        Data, source of the generator, and its auxiliary noise if it takes any.
    generator, critic : nn.Module or callable
        The two networks or their factories.
    reference : nn.Module, optional
        The map :math:`Q` before the first step (identity or upsampling); the generator's own start when None.
    divergence : str
        Name of an f-divergence: ``kl``, ``softplus``, ``js_nonsat`` (S-JKO-JSD), ...
    variant : {"wgflow", "paper", "code"}
        Where the sources disagree. ``wgflow``: shared auxiliary noise, :math:`\gamma=0.2`, 50 steps. ``paper``:
        independent noise, :math:`\gamma=0.4` (:math:`\lambda=0.2` without the half), 50 steps. ``code``:
        independent noise, :math:`\gamma=0.2`, instance noise :math:`1/(32(k+1))` on data, 100 steps.
    step_size : float or callable
        :math:`h`, or a function of the step.
    num_steps : int, optional
        JKO steps; the variant's when None.
    first_iters : int
        Updates in the first time step.
    iters : int
        Updates in each of the others.
    batch : int
        Points in one draw.
    lr : (float, float)
        Learning rates of generator and critic.
    lr_floor : float or None
        Where a cosine over the whole run takes both; None keeps them constant.
    warmup : int, optional
        Updates of the generator in which both grow linearly to what they are without it.
    betas : (float, float)
        Momenta of both Adams.
    clip : float, optional
        Largest norm of the gradient of either network.
    accumulate : int, optional
        Updates whose gradients are averaged before a network moves: a batch of so many times the points in the memory of one. It
        divides ``first_iters`` and ``iters``.
    critic_iters : int
        Critic updates before each update of the generator.
    r1 : float, optional
        :math:`\gamma` of R1 instead of the variant's; 0 for none.
    r1_every : int
        Critic updates between two applications of R1.
    latent_coupling : {"shared", "independent"}, optional
        Auxiliary noise of old and new generator, instead of the variant's.
    instance_noise : bool, optional
        Noise of standard deviation :math:`1/(32(k+1))` on data in the critic step, instead of the variant's.
    snapshot : {"raw", "ema"}
        Weights that a finished step leaves behind: the trained ones or their running average.
    ema : float
        Decay per update of the generator's running average.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Raises
    ------
    BadInput
        When ``accumulate`` does not divide ``first_iters`` and ``iters``; for a warm-up longer than the run.

    Examples
    --------
    The functional is KL, the solver JKO with a critic, and what moves a network's output:

    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> flow = wg.presets.s_jko(wg.twenty_five_gaussians(), latent, nn.Linear(2, 2), nn.Linear(2, 1))
    >>> flow.functional.__class__.__name__, flow.solver.iters, flow.num_steps
    ('KL', 2000, 50)
    """
    settings: dict[str, tuple[Literal["shared", "independent"], float, int]] = {
        "wgflow": ("shared", 0.2, 50),
        "paper": ("independent", 0.4, 50),
        "code": ("independent", 0.2, 100),
    }
    coupling, gamma, steps = settings[variant]
    gamma = gamma if r1 is None else r1
    steps = steps if num_steps is None else num_steps

    def adam(rate: float, times: int = 1) -> Adam:
        floor = rate if lr_floor is None else lr_floor
        constant = lr_floor is None and warmup is None
        updates = times * (first_iters + (steps - 1) * iters)
        schedule = None if constant else Cosine(updates, floor, None if warmup is None else times * warmup)
        return Adam(rate, betas, schedule=schedule, clip=clip, accumulate=accumulate)

    moves = adam(lr[0])
    noisy = variant == "code" if instance_noise is None else instance_noise
    if noisy:
        target = Smoothed(target, decaying_noise)
    return Flow(
        functional=entropy(divergence, target, batch),
        solver=JKO(
            Critic(critic, adam(lr[1], critic_iters), critic_iters, r1=R1(gamma, r1_every) if gamma else None),
            optim=moves,
            iters=iters,
            first_iters=first_iters,
            batch=batch,
            cost="mean",
            latent=latent_coupling or coupling,
            snapshot=snapshot,
        ),
        initial=Pushforward(latent, generator, noise=noise, reference=reference, ema=ema),
        step_size=step_size,
        num_steps=steps,
    )


@checked
@options_of(s_jko, "step_size", "num_steps", "first_iters")
def uotm_source_fixed(
    target: Measure,
    latent: Measure,
    generator: NetSource,
    critic: NetSource,
    *,
    tau: NonNegative = 1e-3,
    iters: Count = 108_000,
    divergence: str = "kl",
    **options: Any,
) -> Flow:
    r"""Source-fixed UOTM: unbalanced optimal transport with a hard source marginal, cost :math:`\tau\lVert x-y\rVert^2` (sum).

    One JKO step of size :math:`h_{JKO}=1/(2\tau)` from the reference map. The networks and the other options are those of
    :func:`s_jko`.

    Parameters
    ----------
    tau : float
        Weight of the cost, as in UOTM; 0 leaves it out.
    iters : int
        Updates of the whole run.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    The step size is :math:`1/(2\tau)`:

    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> flow = wg.presets.uotm_source_fixed(wg.twenty_five_gaussians(), latent, nn.Linear(2, 2), nn.Linear(2, 1), tau=0.1)
    >>> flow.step_size, flow.num_steps
    (5.0, 1)
    """
    flow = s_jko(
        target, latent, generator, critic, divergence=divergence, num_steps=1, first_iters=iters, iters=iters, **options
    )
    assert isinstance(flow.solver, JKO)
    solver = replace(flow.solver, cost="sum")
    return replace(flow, solver=solver, step_size=math.inf if tau == 0 else 1 / (2 * tau))


@checked
@options_of(uotm_source_fixed, "divergence")
def otm(target: Measure, latent: Measure, generator: NetSource, critic: NetSource, **options: Any) -> Flow:
    """OTM (Rout, Korotin and Burnaev 2022): the semi-dual of plain optimal transport, both marginals hard.

    Source-fixed UOTM with the entropy ``identity``; ``options`` are those of :func:`uotm_source_fixed`.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> flow = wg.presets.otm(wg.twenty_five_gaussians(), latent, nn.Linear(2, 2), nn.Linear(2, 1), tau=0.1)
    >>> flow.functional.__class__.__name__, flow.step_size
    ('Identity', 5.0)
    """
    return uotm_source_fixed(target, latent, generator, critic, divergence="identity", **options)


@checked
@options_of(uotm_source_fixed, "tau")
def f_gan(
    target: Measure, latent: Measure, generator: NetSource, critic: NetSource, *, divergence: str = "kl", **options: Any
) -> Flow:
    """f-GAN (Nowozin et al. 2016), model first and data second: one JKO step of infinite size, so without a cost.

    ``js_nonsat`` is the usual non-saturating GAN. ``options`` are those of :func:`uotm_source_fixed`, without ``tau``.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Examples
    --------
    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> data = wg.twenty_five_gaussians()
    >>> flow = wg.presets.f_gan(data, latent, nn.Linear(2, 2), nn.Linear(2, 1), divergence="js_nonsat")
    >>> flow.functional.__class__.__name__, flow.step_size
    ('JSNonSaturating', inf)
    """
    return uotm_source_fixed(target, latent, generator, critic, tau=0.0, divergence=divergence, **options)
