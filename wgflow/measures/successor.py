"""What an implicit step trains."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from wgflow.core.rng import replayed
from wgflow.measures.base import MovingMeasure

if TYPE_CHECKING:
    from wgflow.measures.particles import Particles


class Successor(ABC):
    r"""A trainable :math:`\rho'` that is coupled to its predecessor :math:`\rho`.

    It holds no reference to :math:`\rho`: a checkpoint would hold the network twice and lose aliases on loading.

    Examples
    --------
    That of particles has their positions as its parameters:

    >>> import torch
    >>> import wgflow as wg
    >>> rho = wg.Particles(torch.zeros(3, 2))
    >>> [p.shape for p in rho.propose(torch.Generator()).parameters()]
    [torch.Size([3, 2])]
    """

    persistent: ClassVar[bool] = False
    """It is trained further in the next step, together with its optimizer (the S-JKO warm start)."""

    @abstractmethod
    def parameters(self) -> list[Tensor]:
        """What the implicit solver minimizes over."""

    @abstractmethod
    def couple(self, rho: MovingMeasure, n: int, rng: torch.Generator, latent: str) -> tuple["Particles", "Particles"]:
        r"""Draw ``(x, y)`` with :math:`x \sim \rho` (no gradient) and :math:`y = T(x) \sim \rho'` (differentiable).

        ``latent`` is ``"shared"`` or ``"independent"``: whether both maps see the same auxiliary noise.
        """

    def coupling(
        self, rho: MovingMeasure, n: int, rng: torch.Generator, latent: str
    ) -> Callable[[], tuple["Particles", "Particles"]]:
        """Return :meth:`couple` as a function of the parameters alone: every call sees the same random numbers."""
        return replayed(lambda rng: self.couple(rho, n, rng, latent), rng)

    @abstractmethod
    def draw(self, rho: MovingMeasure, n: int, rng: torch.Generator) -> "Particles":
        r"""Draw from :math:`\rho'` without gradient."""

    @abstractmethod
    def accept(self, rho: MovingMeasure, snapshot: str) -> MovingMeasure:
        r"""Return :math:`\rho'` as a measure. ``rho`` is consumed: its memory may be reused."""

    @abstractmethod
    def measure(self, rho: MovingMeasure) -> MovingMeasure:
        r"""View :math:`\rho'` as a measure while it is still being trained."""

    def trained(self, rho: MovingMeasure) -> None:
        """Take note of one finished update (running averages); nothing by default."""
