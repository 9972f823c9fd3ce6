"""Generative Wasserstein flows: one solver and eight objectives."""

import functools
import inspect
import math
from collections.abc import Callable
from operator import add
from typing import cast

from torch import nn

from wgflow.core.behind import Keeping
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Decay, Positive, PositiveOrInfinite, checked
from wgflow.core.networks import copied
from wgflow.core.registry import near_misses
from wgflow.core.typing import NetSource
from wgflow.estimators import R1, Critic, GradientPenalty, KernelCritic, Penalty
from wgflow.functionals import (
    W1,
    Chi2Signed,
    Functional,
    Identity,
    JSNonSaturating,
    KLDonskerVaradhan,
    KLUncentred,
    LearnedFeatures,
    SquaredMMD,
)
from wgflow.kernels import RBF, Kernel
from wgflow.measures import Measure, Paired, Pushforward
from wgflow.optim import Adam
from wgflow.presets._flow import Flow
from wgflow.solvers import JKO

_R1, _FLAT = R1(0.4), GradientPenalty(10.0, "zero")
_WIDTHS: Kernel = 0.2 * functools.reduce(add, map(RBF, (1.0, 2.0, 4.0, 8.0, 16.0)))
_OBJECTIVES: dict[str, tuple[Callable[[Measure, int, Kernel], Functional], Penalty]] = {
    "chi2": (lambda nu, n, k: Chi2Signed(nu, n), _R1),
    "kl": (lambda nu, n, k: KLUncentred(nu, n), _R1),
    "kl_dv": (lambda nu, n, k: KLDonskerVaradhan(nu, n), _R1),
    "js": (lambda nu, n, k: JSNonSaturating(nu, n), _R1),
    "mmd": (lambda nu, n, k: LearnedFeatures(SquaredMMD(nu, k, n, "distinct")), _FLAT),
    "smmd": (lambda nu, n, k: LearnedFeatures(SquaredMMD(nu, k, n, "distinct"), damping=10.0), _FLAT),
    "ckmmd": (lambda nu, n, k: Identity(nu, n), _FLAT),
    "w1": (lambda nu, n, k: W1(nu, n), GradientPenalty(10.0, "gp")),
}


@checked
def gwf(
    target: Measure,
    latent: Measure,
    generator: NetSource,
    critic: NetSource,
    *,
    objective: str = "mmd",
    features: Count = 128,
    noise: Measure | None = None,
    reference: nn.Module | None = None,
    kernel: Kernel = _WIDTHS,
    lambda2: PositiveOrInfinite = 1.0,
    num_steps: Count = 100,
    first_iters: Count = 2_000,
    iters: Count = 1_000,
    batch: Count = 256,
    lr: tuple[Positive, Positive] = (2e-4, 1e-4),
    ema: Decay = 0.9999,
) -> Flow:
    r"""Generative Wasserstein flows (Caucheteux, Bonet and Korba 2026): JKO steps of a generator, of eight objectives.

    The defaults are the settings of their small network on CIFAR-10.

    Parameters
    ----------
    target, latent, noise : Measure
        Data, source of the generator, and its auxiliary noise if it takes any.
    generator, critic : nn.Module or callable
        The two networks or their factories. A factory of critics that takes ``outputs``, a class such as ``SmallCritic``, is told
        how many: ``features`` of them for ``mmd`` and ``smmd``, as many as the latent has coordinates for ``ckmmd``. The other
        objectives take one.
    objective : str
        With a gradient penalty on data: ``chi2``, ``kl``, ``kl_dv`` (Donsker–Varadhan), ``js`` (non-saturating). With one of slope 0
        between model and data: ``mmd`` of learned features, ``smmd`` (scaled), ``ckmmd`` (conditional kernel). With one of slope 1:
        ``w1``.
    features : int
        Features that ``mmd`` and ``smmd`` compare.
    reference : nn.Module, optional
        The map before the first step; the generator's own start when None.
    kernel : Kernel
        Between features, for the MMDs: by default the mean of five Gaussians. The authors' code also trains the weights of such a sum.
    lambda2 : float
        :math:`\lambda_2` of the authors' code, :math:`\frac1{\lambda_2}\lVert x-y\rVert^2` averaged over coordinates: :math:`2\tau`.
        Infinite for training without the transport cost.
    num_steps, first_iters, iters, batch : int
        JKO steps, updates in the first and in the others, batch size.
    lr : (float, float)
        Learning rates of generator and critic.
    ema : float
        Decay per update of the generator's running average.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Raises
    ------
    BadInput
        For an unknown objective, with near misses.

    Examples
    --------
    KL in the form of Donsker and Varadhan, in steps of :math:`h=d\lambda_2/2`:

    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> flow = wg.presets.gwf(wg.twenty_five_gaussians(), latent, nn.Linear(2, 2), nn.Linear(2, 1), objective="kl_dv")
    >>> flow.functional.__class__.__name__, flow.step_size, flow.solver.cost
    ('KLDonskerVaradhan', 1.0, 'sum')
    """
    if objective not in _OBJECTIVES:
        raise BadInput(f"objective={objective!r}: {near_misses(objective, list(_OBJECTIVES))}")
    make, penalty = _OBJECTIVES[objective]
    shape = tuple(target.event_shape)
    outputs = {"mmd": features, "smmd": features, "ckmmd": latent.event_shape.numel()}.get(objective, 1)
    critic = _with_outputs(critic, outputs)
    if objective == "ckmmd":  # the latent stays behind the point that is made of it, and the critic looks at both
        plain, h = generator, critic
        generator, critic = (lambda: Keeping(_made(plain))), (lambda: KernelCritic(_made(h), kernel, shape))
        target, reference = Paired(target, latent), None if reference is None else Keeping(reference)
    solver = JKO(
        Critic(critic, Adam(lr[1]), penalty=penalty), Adam(lr[0]), iters=iters, first_iters=first_iters, batch=batch
    )
    start = Pushforward(latent, generator, noise=noise, reference=reference, ema=ema)
    return Flow(make(target, batch, kernel), solver, start, math.prod(shape) * lambda2 / 2, num_steps)


def _with_outputs(critic: NetSource, outputs: int) -> NetSource:
    if outputs == 1 or isinstance(critic, nn.Module):
        return critic
    takes = inspect.signature(critic).parameters.values()
    told = any(p.name == "outputs" or p.kind == p.VAR_KEYWORD for p in takes)
    return functools.partial(cast(Callable[..., nn.Module], critic), outputs=outputs) if told else critic


def _made(net: NetSource) -> nn.Module:
    return copied(net) if isinstance(net, nn.Module) else net()
