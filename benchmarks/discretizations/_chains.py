"""Incremental JKO maps in plain PyTorch, the way it was done before S-JKO: what phase_cost.py compares with.

Every phase trains a new map on samples of the law so far, :math:`mu_{k+1} = T_k # mu_k`. Those samples either pass
through all the maps before (uncached, work in phase k grows like k) or come from a buffer of particles that is pushed
once a phase (cached, constant work, but the samples never change).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

Draw = Callable[[int, torch.Generator], Tensor]


@dataclass
class Phase:
    """A phase in training: the maps before it, the new one, and the critic."""

    frozen: list[nn.Module]
    buffer: Tensor | None
    net: nn.Module
    critic: nn.Module
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    rng: torch.Generator
    i: int = 0

    def copy(self) -> "Phase":
        """Return a copy to train; the frozen maps and the buffer, which never change, are shared."""
        live = copy.deepcopy((self.net, self.critic, self.optimizers, self.rng))
        return Phase(self.frozen, self.buffer, *live, self.i)


@dataclass(frozen=True)
class Incremental:
    """Softplus divergence plus proximal term, losses and updates as S-JKO's, one map after the other.

    ``buffer`` is the number of cached particles, 0 for none. Maps are called as ``net(x, z)``.
    """

    generator: Callable[[], nn.Module]
    critic: Callable[[], nn.Module]
    data: Draw
    source: Draw
    noise: Draw
    h: float
    batch: int
    iters: int
    buffer: int = 0

    def begin(self, seed: int, device: torch.device) -> Phase:
        """Return the first phase."""
        torch.manual_seed(seed)
        rng = torch.Generator(device).manual_seed(seed)
        net, critic = self.generator().to(device), self.critic().to(device)
        particles = self.source(self.buffer, rng) if self.buffer else None
        return Phase([], particles, net, critic, (_adam(net, 2e-4), _adam(critic, 1e-4)), rng)

    def update(self, s: Phase) -> Phase:
        """One step of the critic and one of the map; the last one of a phase freezes the map."""
        x = self._law_so_far(s)
        with torch.no_grad():
            y = s.net(x, self.noise(self.batch, s.rng))
        nu = self.data(self.batch, s.rng)
        _descend(s.optimizers[1], s.critic(y).mean() + 2 * softplus(-s.critic(nu)).mean())

        x = self._law_so_far(s)
        y = s.net(x, self.noise(self.batch, s.rng))
        proximal = (x - y).square().mean(1).mean() / 2
        _descend(s.optimizers[0], proximal / self.h - s.critic(y).mean())
        s.i += 1
        return s if s.i < self.iters else self._accept(s)

    def _law_so_far(self, s: Phase) -> Tensor:
        if s.buffer is not None:
            return s.buffer[torch.randint(len(s.buffer), (self.batch,), generator=s.rng, device=s.rng.device)]
        return self.sample(s, self.batch)

    @torch.no_grad()
    def sample(self, s: Phase, n: int) -> Tensor:
        """Draw fresh points: one pass through every map."""
        x = self.source(n, s.rng)
        for net in s.frozen:
            x = net(x, self.noise(n, s.rng))
        return x

    @torch.no_grad()
    def _accept(self, s: Phase) -> Phase:
        buffer = s.buffer
        if buffer is not None:
            buffer = torch.cat([s.net(x, self.noise(len(x), s.rng)) for x in buffer.split(self.batch)])
        net = copy.deepcopy(s.net)
        frozen = [*s.frozen, s.net.requires_grad_(False)]
        for p in s.net.parameters():
            p.grad = None
        return Phase(frozen, buffer, net, s.critic, (_adam(net, 2e-4), s.optimizers[1]), s.rng)


def _adam(net: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr, (0.5, 0.9))


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
    optimizer.step()
