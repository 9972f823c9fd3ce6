"""What functionals of two clouds of points share: the target is samples, fixed by ``freeze``."""

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import torch

from wgflow.errors import BadInput, Unsupported
from wgflow.functionals.base import Functional
from wgflow.measures import Measure, Particles

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class ToSamples(Functional):
    """A functional of the particles and of ``batch`` points of a target.

    A cloud of at most ``batch`` points is its own realisation. Then the object stays as it is, with what it has
    computed from the target.
    """

    target: Measure

    def at(self, k: int, t: float) -> Self:
        """Take the target at that step."""
        return self._to(self.target.at(k, t))

    def freeze(self, rng: torch.Generator) -> Self:
        """Draw the target, unless it is a cloud of at most ``batch`` points already."""
        whole = isinstance(self.target, Particles) and len(self.target) <= self.batch
        return self if whole else self._to(self.target.draw(self.batch, rng))

    def _to(self: "DataclassInstance", target: Measure) -> "DataclassInstance":
        return self if target is self.target else replace(self, target=target)

    @property
    def samples(self) -> Particles:
        """The target points.

        Raises
        ------
        Unsupported
            Before the target has been drawn.
        """
        if not isinstance(self.target, Particles):
            raise Unsupported("draw the target first: F.freeze(rng) returns the functional on one fixed batch")
        return self.target

    def check_alike(self, rho: Particles) -> None:
        """Raise ``BadInput`` unless the particles and the target points can be compared."""
        for what, ours, theirs in (
            ("shape of a point", tuple(rho.x.shape[1:]), tuple(self.samples.x.shape[1:])),
            ("dtype", rho.x.dtype, self.samples.x.dtype),
            ("device", rho.x.device, self.samples.x.device),
        ):
            if ours != theirs:
                raise BadInput(f"{type(self).__name__}: the particles have {what} {ours}, the target {theirs}")
        if rho.x.dtype not in (torch.float32, torch.float64):
            raise BadInput(f"{type(self).__name__} needs float32 or float64, got {rho.x.dtype}: convert with .float()")


def weights(rho: Particles) -> torch.Tensor | None:
    """Return the weights, None for equal ones."""
    return None if rho.log_w is None else rho.w
