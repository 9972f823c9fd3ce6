"""The implicit step of a chain: one new map at its end, in training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from wgflow.core.outputs import with_logdets
from wgflow.core.rng import replayed
from wgflow.maps import TransportMap
from wgflow.measures.base import MovingMeasure
from wgflow.measures.particles import Particles
from wgflow.measures.successor import Successor

if TYPE_CHECKING:
    from wgflow.measures.chain import Chain


@dataclass(eq=False)
class ChainSuccessor(Successor):
    """The map of an implicit step, applied to draws of its predecessor."""

    map: TransportMap

    def parameters(self) -> list[Tensor]:
        """Weights of the map."""
        return list(self.map.parameters())

    def couple(
        self, rho: MovingMeasure, n: int, rng: torch.Generator, latent: str = "shared"
    ) -> tuple[Particles, Particles]:
        """Draw from the frozen chain and map it once more; the log density follows by the change of variables."""
        return self.coupling(rho, n, rng, latent)()

    def coupling(
        self, rho: MovingMeasure, n: int, rng: torch.Generator, latent: str = "shared"
    ) -> Callable[[], tuple[Particles, Particles]]:
        """Draw from the frozen chain, once; every call maps that draw once more.

        Raises
        ------
        BadInput
            When the chain is full.
        """
        chain = cast("Chain", rho)
        chain._check_room(len(chain.maps) + 1)
        x = rho.draw(n, rng)
        return replayed(lambda rng: (x, self._image(x, rng)), rng)

    def _image(self, x: Particles, rng: torch.Generator) -> Particles:
        if x.log_rho is None:
            return Particles(self.map(x.x), x.log_w)
        y, logdet = with_logdets(self.map.with_logdet(x.x, rng), x.x, type(self.map).__name__)
        return Particles(y, x.log_w, x.log_rho - logdet)

    def draw(self, rho: MovingMeasure, n: int, rng: torch.Generator) -> Particles:
        """Draw and map once more, without gradient or density."""
        x = cast("Chain", rho)._draw(n, rng, density=False)
        with torch.no_grad():
            return Particles(self.map(x.x), x.log_w)

    def accept(self, rho: MovingMeasure, snapshot: str = "raw") -> "Chain":
        """Append the map to the chain."""
        chain = cast("Chain", rho)
        chain.append(self.map)
        return chain

    def trained(self, rho: MovingMeasure) -> None:
        """Put the weights back where they are allowed to be."""
        self.map.project()

    def measure(self, rho: MovingMeasure) -> "Chain":
        """View the chain with the map in training at its end."""
        chain = cast("Chain", rho)
        live = chain._moving
        return replace(chain, _live=replace(live, maps=[*live.maps, self.map]))

    def state_dict(self) -> dict[str, Any]:
        """Plain form."""
        return self.map.state_dict()

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore in place: the optimizer holds the same weights."""
        self.map.load_state_dict(saved)
