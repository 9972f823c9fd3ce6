"""What may be evaluated along a flow, and the value of a functional as one of them."""

from dataclasses import dataclass
from typing import Protocol

import torch

from wgflow.core.fields import Checked, Count, checked
from wgflow.core.instead import suggest
from wgflow.functionals.base import Functional
from wgflow.measures.base import Measure


class Metric(Protocol):
    """What a driver may evaluate along a flow.

    A metric draws from ``rho`` with the generator it is handed and with nothing else. The caller keeps that
    generator apart from the flow's, so that evaluating more often never changes the flow.
    """

    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        """Return plain floats by name."""
        ...


suggest(Metric, (Functional, "Wrap the functional: FunctionalValue(F)"))


@dataclass(frozen=True, eq=False)
class FunctionalValue(Checked):
    r"""Monte-Carlo value of :math:`F(\rho)`, under the key ``functional``.

    Parameters
    ----------
    F : Functional
        One that has ``value``. Each call freezes it anew, so its batches of targets differ between calls.
    n : int
        Points drawn from the measure.
    """

    F: Functional
    n: Count = 1000

    @checked
    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        """Return ``{"functional": F(rho)}``."""
        with torch.no_grad():
            drawn = rho.draw(self.n, rng)
        return {"functional": float(self.F.freeze(rng).value(drawn).detach())}
