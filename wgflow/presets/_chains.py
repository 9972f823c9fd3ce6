"""The classic neural JKO scheme: a new map for every step."""

import functools
import math

from torch import nn

from wgflow.core.fields import Count, NonNegative, Positive, checked
from wgflow.core.typing import NetSource
from wgflow.driver.solve import StepSize
from wgflow.estimators import R1, Critic
from wgflow.functionals import entropy
from wgflow.maps import Residual
from wgflow.measures import Chain, Measure
from wgflow.optim import Adam
from wgflow.presets._flow import Flow
from wgflow.solvers import JKO


@checked
def classic_jko(
    target: Measure,
    latent: Measure,
    critic: NetSource,
    *,
    divergence: str = "kl",
    width: Count = 128,
    cached: Count | None = None,
    step_size: StepSize = 0.1,
    num_steps: Count = 10,
    iters: Count = 500,
    critic_iters: Count = 3,
    batch: Count = 256,
    lr: tuple[Positive, Positive] = (1e-3, 1e-3),
    r1: NonNegative = 0.0,
) -> Flow:
    r"""Classic neural JKO from samples (Fan et al. 2022): one new residual map a step, an f-divergence by a critic.

    Parameters
    ----------
    target : Measure
        Data.
    latent : Measure
        Where the chain starts, of points like those of the data.
    critic : nn.Module or callable
        The network of the critic, or its factory.
    divergence : str
        Name of an f-divergence.
    width : int
        Features of the two hidden layers of a map.
    cached : int, optional
        Points that go through every accepted map once; fresh ones go through all maps when None.
    step_size : float
        :math:`h`, with the cost summed over coordinates.
    num_steps : int
        Maps, one a time step.
    iters : int
        Updates of each map.
    critic_iters : int
        Updates of the critic before one of the map.
    batch : int
        Points in one draw.
    lr : (float, float)
        Learning rates of map and critic.
    r1 : float
        :math:`\gamma` of R1 on data; 0 for none.

    Returns
    -------
    Flow
        What ``solve`` asks for; ``.solve()`` trains it.

    Raises
    ------
    BadInput
        For a divergence that is none of the f-divergences.

    Examples
    --------
    What moves is a chain, which grows by one map a step:

    >>> import wgflow as wg
    >>> from torch import nn
    >>> latent = wg.StandardNormal(2)
    >>> flow = wg.presets.classic_jko(wg.twenty_five_gaussians(), latent, nn.Linear(2, 1), num_steps=2, iters=1, batch=32)
    >>> len(flow.solve().measure.maps)
    2
    """
    return Flow(
        functional=entropy(divergence, target, batch),
        solver=JKO(
            Critic(critic, Adam(lr[1]), iters=critic_iters, r1=R1(r1) if r1 else None),
            optim=Adam(lr[0]),
            iters=iters,
            batch=batch,
        ),
        initial=Chain(
            latent, functools.partial(_residual, tuple(target.event_shape), width), cached=cached, density=False
        ),
        step_size=step_size,
        num_steps=num_steps,
    )


def _residual(shape: tuple[int, ...], width: int) -> Residual:
    size = math.prod(shape)
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(size, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, size),
        nn.Unflatten(1, shape),
    )
    return Residual(*shape, net=net, logdet=None)
