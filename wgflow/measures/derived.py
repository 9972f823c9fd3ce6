"""Measures that are made from another one."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from wgflow.core.typing import Points
from wgflow.measures.base import Measure


@dataclass(frozen=True, eq=False)
class Derived(Measure):
    """A measure made from another one, on the same points and the same device, and at every time step of the flow.

    Attributes
    ----------
    base : Measure
        The other one, a field of the subclass.

    Examples
    --------
    The mirror image of a measure:

    >>> from dataclasses import dataclass, replace
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.measures import Derived
    >>> @dataclass(frozen=True)
    ... class Mirrored(Derived):
    ...     base: wg.Measure
    ...
    ...     def draw(self, n, rng):
    ...         p = self.base.draw(n, rng)
    ...         return replace(p, x=-p.x)
    >>> Mirrored(wg.Particles(torch.tensor([[1.0, 2.0]]))).draw(1, torch.Generator()).x
    tensor([[-1., -2.]])
    """

    base: Measure

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.base.event_shape

    @property
    def device(self) -> torch.device:
        """Where draws live."""
        return self.base.device

    def normals(self, like: Points, rng: torch.Generator) -> Points:
        """Return those of the base."""
        return self.base.normals(like, rng)

    @property
    def behind(self) -> int:  # type: ignore[override]
        """As many as the base has."""
        return self.base.behind

    @property
    def parts_in_turn(self) -> int:  # type: ignore[override]
        """As many as the base has."""
        return self.base.parts_in_turn

    def at(self, k: int, t: float) -> Self:
        """Return the measure made from the base of step ``k``; itself where that does not change."""
        base = self.base.at(k, t)
        return self if base is self.base else replace(self, base=base)
