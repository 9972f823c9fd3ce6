"""What may be evaluated along a flow, and the value of a functional as one of them."""

from dataclasses import dataclass
from typing import Protocol

import torch

from wgflow.core.brief import brief
from wgflow.core.fields import Checked, Count, checked
from wgflow.core.instead import suggest
from wgflow.functionals.base import Functional
from wgflow.measures.base import Measure
from wgflow.measures.weighed import drawn, require_weights


class Metric(Protocol):
    """What a driver may evaluate along a flow.

    A metric draws from ``rho`` with the generator it is handed and with nothing else. The caller keeps that
    generator apart from the flow's, so that evaluating more often never changes the flow.

    Examples
    --------
    The mean of the first coordinate:

    >>> import torch
    >>> import wgflow as wg
    >>> def mean(rho, rng):
    ...     return {"mean": rho.draw(100, rng).x[:, 0].mean().item()}
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=2, callbacks=[wg.Evaluate([mean])])
    >>> flow.history[-1]["mean"]
    0.25
    """

    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        """Return plain floats by name."""
        ...


suggest(Metric, (Functional, "Wrap the functional: FunctionalValue(F)"))


@dataclass(frozen=True, eq=False)
class FunctionalValue(Checked):
    r"""Monte-Carlo value of :math:`F(\rho)`.

    Parameters
    ----------
    F : Functional
        One that has ``value``. Each call freezes it anew, so its batches of targets differ between calls.
    n : int
        Points drawn from the measure.
    name : str
        The key in the record; another one for each where several functionals are watched.

    Raises
    ------
    BadInput
        For weights that are no numbers: on construction those of a target, in a call those of the measure.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> value = wg.metrics.FunctionalValue(V, n=10)
    >>> value(wg.Particles(torch.full((10, 1), 2.0)), torch.Generator())
    {'functional': 2.0}
    """

    F: Functional
    n: Count = 1000
    name: str = "functional"

    def __post_init__(self) -> None:
        for target in self.F.targets():
            require_weights(target)

    @checked
    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        """Return ``{name: F(rho)}``."""
        with torch.no_grad():
            p = drawn(rho, self.n, rng)
        return {self.name: float(self.F.freeze(rng).value(p).detach())}

    @property
    def protocol(self) -> str:
        """All that is needed to compare the numbers with others."""
        return f"{self.name}: {brief(self.F)} n={self.n}"
