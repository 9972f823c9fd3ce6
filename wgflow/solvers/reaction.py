r"""Reactions: mass that moves without transport, :math:`\partial_t\rho=-r\,(\varphi-E_\rho\varphi)\,\rho`, on particles."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, NonNegative, Share
from wgflow.core.typing import Info
from wgflow.measures import MovingMeasure, Particles
from wgflow.measures._by_weight import systematic
from wgflow.solvers.langevin import normal_like

Potential = Callable[[Particles], Tensor]


class Reaction(Checked, ABC):
    r"""Follows :math:`\partial_t\rho=-r\,(\varphi-E_\rho\varphi)\,\rho`, :math:`\varphi=\delta F/\delta\rho`; ``rate`` is r.

    Examples
    --------
    Both reactions take a rate, and ``WithReaction`` a transport beside them:

    >>> import wgflow as wg
    >>> wg.WithReaction(wg.ForwardEuler(), wg.Reweight(rate=2.0)).reaction.rate
    2.0
    """

    rate: float
    order: int = 1

    def admit(self, measure: MovingMeasure) -> None:
        """Raise ``BadInput`` when it cannot act on this measure; nothing by default."""

    @abstractmethod
    def react(
        self, rho: Particles, phi: Potential, h: float, rng: torch.Generator
    ) -> tuple[Particles, Tensor | None, Info]:
        r"""Return the particles after a time ``h``, which old particle each was (None: the same), and a report.

        ``phi`` maps particles to :math:`\varphi` (n,), centered. What it is asked for moves no particle.
        """


@dataclass(frozen=True)
class Reweight(Reaction):
    r"""Change the weights: :math:`\log w_i\leftarrow\log w_i-rh\,(\varphi_i-\bar\varphi)`, normalized. Weights stay positive.

    Parameters
    ----------
    rate : float
        :math:`r\ge0`, relative to a transport of rate 1.
    order : {1, 2}
        2 takes :math:`\varphi` at the weights of half the time (midpoint rule): twice the cost.
    resample_below : float
        Resample systematically to equal weights where the effective sample size :math:`1/\sum w_i^2` has fallen below this
        fraction of n; 0 never does.

    Notes
    -----
    Cost: none beside the potential. Source: Zhang et al. (2021), "continuous adjusting", in a form that keeps weights positive.

    Examples
    --------
    Two particles in the potentials 0 and 1, which do not move: their weights become proportional to 1 and :math:`e^{-t}`.

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: (x > 0).sum(1) + 0 * x.sum(1))
    >>> start = wg.Particles(torch.tensor([[0.0], [1.0]]))
    >>> flow = wg.solve(F, wg.WithReaction(wg.ForwardEuler(), wg.Reweight()), start, step_size=0.1, num_steps=10)
    >>> flow.measure.log_w.diff()
    tensor([-1.0000])
    """

    rate: NonNegative = 1.0
    order: Literal[1, 2] = 1
    resample_below: Share = 0.0

    def react(
        self, rho: Particles, phi: Potential, h: float, rng: torch.Generator
    ) -> tuple[Particles, Tensor | None, Info]:
        """Reweight, then resample where needed; reports the effective sample size as a fraction of n."""
        f = first = phi(rho)
        if self.order == 2:
            f = phi(replace(rho, log_w=rho.log_weights - self.rate * h / 2 * f))
        log_w = (rho.log_weights - self.rate * h * f).log_softmax(0)
        n, w = len(rho), log_w.exp()
        ess = 1 / (n * w.square().sum())
        info = {"reaction/ess": ess, "reaction/dissipation": self.rate * rho.mean(first.square())}
        if self.resample_below == 0:
            return replace(rho, log_w=log_w, log_rho=None), None, info
        low = ess < self.resample_below
        u = torch.rand((), generator=rng, device=rho.device, dtype=torch.float64)
        index = torch.where(low, systematic(w, u, n), torch.arange(n, device=rho.device))
        log_w = torch.where(low, -torch.full_like(log_w, n).log(), log_w)
        return replace(rho, x=rho.x[index], log_w=log_w, log_rho=None), index, info


@dataclass(frozen=True)
class BirthDeath(Reaction):
    r"""Duplicate and kill particles of equal weight; their number stays n.

    A particle above the mean potential dies, one below it is duplicated, each with probability
    :math:`1-e^{-rh|\varphi_i-\bar\varphi|}`. Uniformly random removals or duplications then restore the number. In expectation, for
    large n and small h, it is ``Reweight``.

    Parameters
    ----------
    rate : float
        :math:`r\ge0`, relative to a transport of rate 1.
    jitter : float
        Standard deviation of the noise added to the second and further copies of a particle, which a deterministic
        transport would never separate; a length.

    Notes
    -----
    Cost: a sort of 2n numbers beside the potential. Sources: Lu, Lu and Nolen (2019), Zhang et al. (2021).

    Examples
    --------
    A particle at high potential is replaced by a copy of one at low potential:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: x.square().sum(1))
    >>> solver = wg.WithReaction(wg.ForwardEuler(), wg.BirthDeath())
    >>> start = wg.Particles(torch.tensor([[0.0], [0.0], [10.0]]))
    >>> wg.solve(F, solver, start, step_size=0.1, num_steps=1).measure.x.flatten()
    tensor([0., 0., 0.])
    """

    rate: NonNegative = 1.0
    jitter: NonNegative = 0.0

    def admit(self, measure: MovingMeasure) -> None:
        """Raise ``BadInput`` for particles with weights."""
        if getattr(measure, "log_w", None) is not None:
            raise BadInput(
                "BirthDeath keeps particles of equal weight, and these carry weights. Use Reweight, or start from "
                "Particles(x) without log_w."
            )

    def react(
        self, rho: Particles, phi: Potential, h: float, rng: torch.Generator
    ) -> tuple[Particles, Tensor | None, Info]:
        """Kill and duplicate; reports the fraction of the particles that did."""
        f, n, device = phi(rho), len(rho), rho.device
        u = torch.rand(n, generator=rng, device=device, dtype=f.dtype)
        event = u < -torch.expm1(-self.rate * h * f.abs())
        copies = 1 - event.long() * f.sign().long()  # 0, 1 or 2 of each
        ends = copies.cumsum(0)
        total = ends[-1]  # at least 1: some particle is not above the mean
        # n of the `total` copies: the first n of a random order, and where there are fewer, some of them again.
        keys = torch.rand(2 * n, generator=rng, device=device)
        keys = torch.where(torch.arange(2 * n, device=device) < total, keys, 2.0)
        order = keys.argsort()[:n]
        again = (torch.rand(n, generator=rng, device=device, dtype=torch.float64) * total).long()
        slots = torch.where(torch.arange(n, device=device) < total, order, again)
        index = torch.searchsorted(ends, slots, right=True).clamp(max=n - 1).sort().values
        x = rho.x[index]
        if self.jitter:
            copied = torch.cat([index.new_zeros(1, dtype=torch.bool), index[1:] == index[:-1]])
            x = x + self.jitter * copied.view(-1, *[1] * (x.dim() - 1)) * normal_like(x, rng)
        info = {
            "reaction/events": event.to(f.dtype).mean(),
            "reaction/dissipation": self.rate * rho.mean(f.square()),
        }
        return replace(rho, x=x, log_rho=None), index, info
