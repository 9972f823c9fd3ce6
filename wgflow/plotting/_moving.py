"""A law that moves by itself, such as an exact solution."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.fields import Finite
from wgflow.core.typing import Points
from wgflow.measures import Measure, Particles


@dataclass(frozen=True, eq=False)
class Moving(Measure):
    r"""A measure that is ``law(t)`` at time t: an exact solution, drawn behind the particles of a flow.

    Parameters
    ----------
    law : callable
        From a time to a measure; the event shape is that at time 0.
    t : float
        The time in force; :meth:`at` sets it.

    Examples
    --------
    >>> from wgflow import plotting
    >>> from wgflow.reference import Barenblatt
    >>> exact = plotting.Moving(Barenblatt(d=1, m=2.0, time=0.1).flow)
    >>> exact.at(3, 0.4).law(0.4).time
    0.5
    """

    law: Callable[[float], Measure]
    t: Finite = 0.0

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.law(self.t).event_shape

    @property
    def device(self) -> torch.device:
        """Where draws live."""
        return self.law(self.t).device

    @property
    def can_draw(self) -> bool:  # type: ignore[override]
        """Whether the law of the time in force can be drawn from."""
        return self.law(self.t).can_draw

    @property
    def has_density(self) -> bool:
        """Whether its density is known."""
        return self.law(self.t).has_density

    def at(self, k: int, t: float) -> "Moving":
        """Return the measure at time ``t``."""
        return Moving(self.law, t)

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return draws of the law of the time in force."""
        return self.law(self.t).draw(n, rng)

    def log_prob(self, x: Points) -> Tensor:
        """Log density of the law of the time in force."""
        return self.law(self.t).log_prob(x)
