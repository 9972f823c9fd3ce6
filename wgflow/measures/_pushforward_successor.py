"""The implicit step of a pushforward: its network, in training."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.networks import called
from wgflow.core.outputs import counted
from wgflow.core.typing import Points
from wgflow.measures.base import MovingMeasure
from wgflow.measures.particles import Particles
from wgflow.measures.successor import Successor

if TYPE_CHECKING:
    from wgflow.measures.pushforward import Pushforward


@dataclass(eq=False)
class PushforwardSuccessor(Successor):
    r"""The network :math:`T` of an implicit step, coupled to its predecessor through the same latent draw.

    With a shared latent the transport cost is :math:`E_x\lVert T(x)-T_{old}(x)\rVert^2`, an upper bound of
    :math:`W_2^2`, tight when the displacement is optimal (Choi et al. 2024, Section 4.2).
    """

    net: nn.Module

    persistent = True

    def parameters(self) -> list[Tensor]:
        """Weights of the trained network."""
        return list(self.net.parameters())

    def couple(
        self, rho: MovingMeasure, n: int, rng: torch.Generator, latent: str = "shared"
    ) -> tuple[Particles, Particles]:
        r"""One latent batch through the frozen and the trained network.

        With ``latent="independent"`` the source :math:`x` is shared and the auxiliary :math:`z` drawn twice, as in
        Algorithm 2 of Choi et al.; the cost then also holds the conditional variances of both maps.
        """
        old = cast("Pushforward", rho)
        inputs, log_w = old.latents(n, rng)
        theirs = inputs
        if latent == "independent" and old.noise is not None:
            theirs = (inputs[0], old._noise(len(inputs[0]), rng))
        with torch.no_grad():
            before = old.apply(theirs)
        return Particles(before, log_w), Particles(self._made(inputs), log_w)

    def draw(self, rho: MovingMeasure, n: int, rng: torch.Generator) -> Particles:
        """The fake batch of a critic step, without gradient."""
        inputs, log_w = cast("Pushforward", rho).latents(n, rng)
        with torch.no_grad():
            return Particles(self._made(inputs), log_w)

    def _made(self, inputs: tuple[Tensor, ...]) -> Points:
        return mapped(self.net, inputs)

    def accept(self, rho: MovingMeasure, snapshot: str = "raw") -> "Pushforward":
        """Copy the weights (``"raw"``) or their running average (``"ema"``) into the frozen network of ``rho``."""
        old = cast("Pushforward", rho)
        live = old._moving
        source = live.average if snapshot == "ema" else self.net
        if source is None:
            raise BadInput("snapshot='ema' needs a running average: Pushforward(..., ema=0.9999), say")
        old._network.load_state_dict(source.state_dict())
        live.moved = True
        return old

    def trained(self, rho: MovingMeasure) -> None:
        """Update the running average that ``rho`` keeps."""
        cast("Pushforward", rho).update_average(self.net)

    def measure(self, rho: MovingMeasure) -> "Pushforward":
        """View the network in training as a measure; evaluate it through :meth:`Pushforward.inference`."""
        return replace(cast("Pushforward", rho), net=self.net, reference=None)

    def state_dict(self) -> dict[str, Any]:
        """Plain form."""
        return self.net.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore in place: the optimizer holds the same weights."""
        self.net.load_state_dict(saved)


def mapped(net: Any, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return what a network makes of ``(x,)`` or ``(x, z)``, one point a row; raises ``BadInput`` for anything else."""
    who = "the network of a Pushforward"
    return counted(called(net, who, *inputs), len(inputs[0]), who)
