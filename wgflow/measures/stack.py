"""Several clouds at once: the groups of a conditional or local problem, solved together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wgflow.core.typing import Points
from wgflow.measures.base import Measure
from wgflow.measures.particles import Particles


@dataclass(frozen=True, eq=False)
class Stack(Measure, checks=False):
    r"""B clouds of n weighted points each, :math:`\sum_iw_{bi}\delta_{x_{bi}}`, which do not see each other.

    Parameters
    ----------
    x : Tensor, shape (B, n, \*event)
        Positions.
    log_w : Tensor, shape (B, n), optional
        Logarithms of weights, as for :class:`Particles`; -inf fills up a cloud that has fewer points.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.measures import Stack
    >>> stack = Stack.of(wg.Particles(torch.zeros(3, 2)), wg.Particles(torch.ones(2, 2)))
    >>> stack.x.shape, stack[1].w
    (torch.Size([2, 3, 2]), tensor([0.5000, 0.5000, 0.0000]))
    """

    x: Points
    log_w: Tensor | None = None

    @classmethod
    def of(cls, *clouds: Particles) -> Self:
        """Return clouds as a stack; smaller ones are filled up with points of no weight."""
        if len(clouds) == 1:  # a view: what follows from a target is remembered while it stays where it is
            return cls(clouds[0].x[None], None if clouds[0].log_w is None else clouds[0].log_w[None])
        most = max(map(len, clouds))
        if all(len(p) == most and p.log_w is None for p in clouds):
            return cls(torch.stack([p.x for p in clouds]))
        filled = [
            (torch.cat([p.x, p.x[:1].expand(most - len(p), *p.event_shape)]), _filled(p.log_weights, most))
            for p in clouds
        ]
        x, log_w = (torch.stack(parts) for parts in zip(*filled, strict=True))
        return cls(x, log_w)

    @classmethod
    def joined(cls, stacks: Sequence["Stack"]) -> "Stack":
        """Return all clouds of several stacks, in order, in one."""
        if len(stacks) == 1:
            return stacks[0]
        if all(s.log_w is None and s.x.shape[1] == stacks[0].x.shape[1] for s in stacks):
            return cls(torch.cat([s.x for s in stacks]))
        return cls.of(*(s[b] for s in stacks for b in range(len(s))))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, b: int) -> Particles:
        return Particles(self.x[b], None if self.log_w is None else self.log_w[b])

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.x.shape[2:]

    @property
    def device(self) -> torch.device:
        """Where the positions live."""
        return self.x.device

    @property
    def w(self) -> Tensor:
        """Weights that sum to 1 in every cloud, shape (B, n)."""
        if self.log_w is None:
            return self.x.new_full(self.x.shape[:2], 1 / self.x.shape[1])
        return self.log_w.softmax(1)

    @property
    def log_weights(self) -> Tensor:
        """Logarithms of :attr:`w`, also where that underflows."""
        if self.log_w is None:
            return self.x.new_full(self.x.shape[:2], -math.log(self.x.shape[1]))
        return self.log_w.log_softmax(1)

    def pooled(self) -> Particles:
        """Return the points of all clouds as one, of which each has the same part: what a bandwidth rule looks at."""
        if len(self) == 1:
            return self[0]
        return Particles(self.x.flatten(0, 1), None if self.log_w is None else self.log_weights.flatten())

    def draw(self, n: int, rng: torch.Generator) -> Self:  # type: ignore[override]
        """Return the stack itself: its points are drawn already."""
        return self


def _filled(log_w: Tensor, size: int) -> Tensor:
    return torch.cat([log_w, log_w.new_full((size - len(log_w),), -torch.inf)])
