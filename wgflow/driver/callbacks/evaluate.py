"""Metrics along a flow."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count
from wgflow.core.outputs import numbers
from wgflow.core.ranks import from_all, rank, together, world
from wgflow.core.rng import generator, global_generators, mixed
from wgflow.driver.callbacks.base import Callback
from wgflow.measures import Measure
from wgflow.metrics import Metric

if TYPE_CHECKING:
    from wgflow.driver.run import Run


_OF_A_RECORD = {"k", "t", "update", "seconds", "kind"}
"""What a record of a time step says besides what is measured."""


@dataclass
class Evaluate(Callback):
    r"""Evaluates metrics at the end of time steps and puts them into the history.

    Put it before callbacks that write the record. The generator of an evaluation is a function of the run's seed and
    the step, so evaluating more often changes neither the flow nor the other evaluations.

    Parameters
    ----------
    metrics : sequence of Metric
        From a measure and a generator to a dictionary of numbers.
    every : int
        Time steps between evaluations; the first law and the last one, of a run that is stopped as well, are always
        evaluated.
    initial : dict
        Metrics of the law before the first step; filled in by the run.

    Examples
    --------
    The energy :math:`\tfrac12E|x|^2` falls by :math:`(1-h)^2` a step:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> look = wg.Evaluate([wg.metrics.FunctionalValue(F)])
    >>> start = wg.Particles(torch.ones(1, 1))
    >>> flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=2, callbacks=[look])
    >>> [row["functional"] for row in flow.history]
    [0.125, 0.03125]
    """

    metrics: Sequence[Metric]
    every: Count = 1
    initial: dict[str, float] = field(default_factory=dict)

    def evaluate(self, run: "Run") -> dict[str, float]:
        """Evaluate now."""
        return evaluate_all(self.metrics, run.state.present.inference(), run.seed, run.state.k)

    def on_start(self, run: "Run") -> None:
        """Evaluate the initial law of a run that is not resumed."""
        if run.resumed_from is None:
            self.initial = self.evaluate(run)

    def on_step(self, run: "Run", row: dict[str, Any]) -> None:
        """Evaluate when it is time."""
        if self._turn(run) or run.state.k == run.num_steps:
            run.record(self.evaluate(run))

    def _turn(self, run: "Run") -> bool:
        return run.state.k % self.every == 0

    def on_stop(self, run: "Run", row: dict[str, Any]) -> None:
        """Evaluate the last law of a run that is stopped between two evaluations."""
        if not self._turn(run) and run.state.k < run.num_steps:
            run.record(self.evaluate(run))

    def state_dict(self) -> dict[str, Any]:
        """Return the initial values."""
        return {"initial": self.initial}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the initial values."""
        self.initial = saved["initial"]


def evaluate_all(metrics: Sequence[Metric], rho: Measure, *seeds: int, shared: bool = False) -> dict[str, float]:
    """Evaluate metrics on a measure, each with generators of its own that depend on ``seeds`` and its place only.

    ``shared`` deals them to the ranks, all of which must call it together with the same measure; the numbers are the same.

    Raises
    ------
    BadInput
        When a metric uses a name that a record has already: one of the numbers would be lost.
    """
    first, step = (rank(), world()) if shared else (0, 1)

    def mine() -> dict[int, dict[str, float]]:
        return {j: _evaluated(metrics[j], rho, mixed(*seeds, j)) for j in range(first, len(metrics), step)}

    parts = from_all(together(mine)) if shared else [mine()]
    by_metric, found = {j: new for part in parts for j, new in part.items()}, dict[str, float]()
    for j, new in sorted(by_metric.items()):
        taken = sorted(new.keys() & (found.keys() | _OF_A_RECORD))
        if taken:
            who = type(metrics[j]).__name__
            raise BadInput(f"metric {j}, {who}, reports {taken[0]!r}, which a record has already: give it another name")
        found |= new
    return found


def _evaluated(metric: Metric, rho: Measure, seed: int) -> dict[str, float]:
    with global_generators(seed, rho.device):
        return numbers(metric(rho, generator(seed, rho.device)), type(metric).__name__)
