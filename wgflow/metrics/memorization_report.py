"""What a look at a model beside its training data found: numbers with their chance level, a table, and the closest pairs."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from wgflow.measures.particles import Particles
from wgflow.metrics.points import mean

COPY_RATIO = 1 / 3
"""Ratio of the nearest to the second-nearest distance below which a point counts as memorized."""
NEAR = 0.05
"""Part of the real points that lie as near to the training data as a near copy."""
_NORMAL = 1.96
"""Standard deviations on either side that hold 95 % of a normal law."""


@dataclass(frozen=True)
class Neighbors:
    r"""Where points lie among the training data: float64 and int64 of shape (n,), with weights that need not sum to 1.

    Parameters
    ----------
    distance : Tensor
        :math:`d_1`, to the nearest training point.
    ratio : Tensor
        :math:`d_1/d_2`, with the second-nearest one.
    index : Tensor
        Number of the nearest training point.
    w : Tensor
        Weights.
    """

    distance: Tensor
    ratio: Tensor
    index: Tensor
    w: Tensor

    def mean(self, f: Tensor) -> float:
        """Return the weighted mean."""
        return mean(self.w, f)

    @property
    def size(self) -> float:
        """Number of points of equal weight that have means as certain."""
        return float(self.w.sum().square() / self.w.square().sum())

    def within(self, share: float) -> float:
        """Return the distance that so much of the mass is not beyond."""
        distance, order = self.distance.sort()
        mass = self.w[order].cumsum(0)
        return float(distance[int((mass < share * mass[-1]).sum())])


class Compared(NamedTuple):
    """A number of the model, that of real data, and how far apart they come out by chance in 19 of 20 cases."""

    model: float
    chance: float
    margin: float


def compared(model: Neighbors, real: Neighbors) -> dict[str, Compared]:
    """Return the statistics of points of a model beside those of real points."""
    near = real.within(NEAR)
    shares = {
        "memorized": lambda s: s.ratio < COPY_RATIO,
        "near_copies": lambda s: (s.ratio < COPY_RATIO) & (s.distance < near),
    }
    found = {
        "nn_ratio": Compared(model.mean(model.ratio), real.mean(real.ratio), _margin(_variance(real), model, real))
    }
    for name, of in shares.items():
        chance = real.mean(of(real))
        p = (chance * real.size + 2) / (real.size + 4)
        found[name] = Compared(model.mean(of(model)), chance, _margin(p * (1 - p), model, real))
    # Of two samples of one law: the variance of the rank sum statistic is (n + m + 1)/(12 n m).
    found["closer"] = Compared(_closer(model, real), 0.5, _margin(1 / 12, model, real))
    return found


def _variance(s: Neighbors) -> float:
    return s.mean((s.ratio - s.mean(s.ratio)).square()) / max(1 - 1 / s.size, 0.5)


def _margin(variance: float, model: Neighbors, real: Neighbors) -> float:
    return _NORMAL * math.sqrt(variance * (1 / model.size + 1 / real.size))


def _closer(model: Neighbors, real: Neighbors) -> float:
    """Return the probability that a point of the model is nearer than a real one, ties counted half."""
    ours, (theirs, order) = model.distance.cpu().contiguous(), real.distance.cpu().sort()
    mass = torch.cat([torch.zeros(1, dtype=torch.float64), real.w.cpu()[order].cumsum(0)])
    mass = mass / mass[-1]
    beyond = 1 - (mass[torch.searchsorted(theirs, ours)] + mass[torch.searchsorted(theirs, ours, right=True)]) / 2
    return model.mean(beyond.to(model.w.device))


class Pairs(NamedTuple):
    r"""Draws of a model and their nearest training points, (count, \*event) each, and ratios (count,)."""

    generated: Tensor
    training: Tensor
    ratio: Tensor


_ROWS = {
    "nn_ratio": "nearest / second-nearest distance",
    "memorized": "share with a ratio below 1/3",
    "near_copies": "near copies",
    "closer": "nearer than a real point",
}


@dataclass(frozen=True, eq=False, repr=False)
class MemorizationReport:
    """What :meth:`Memorization.report` returns; printed it is a table.

    Parameters
    ----------
    values : dict
        The numbers, as the metric returns them.
    protocol : str
        How they were found.
    drawn : Particles
        What the model drew.
    training : Tensor
        The distinct training points.
    model, real : Neighbors
        Distances and ratios of the draws and of the real points.
    prefix : str
        Of the keys of ``values``.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> rng = torch.Generator().manual_seed(0)
    >>> train, fresh = torch.randn(50, 2, generator=rng), torch.randn(50, 2, generator=rng)
    >>> report = wg.metrics.Memorization(train, fresh).report(wg.Dataset(train))
    >>> report.values["memorized"]
    1.0
    """

    values: dict[str, float]
    protocol: str
    drawn: Particles
    training: Tensor
    model: Neighbors
    real: Neighbors
    prefix: str = ""

    def closest(self, count: int = 16) -> Pairs:
        """Return the pairs of the least ratios, least first."""
        order = self.model.ratio.argsort(stable=True)[:count]
        nearest = self.training[self.model.index[order].to(self.training.device)]
        return Pairs(self.drawn.x[order.to(self.drawn.device)].detach(), nearest, self.model.ratio[order])

    def __str__(self) -> str:
        left = {name.removeprefix(self.prefix): value for name, value in self.values.items()}
        lines = [f"{'':34}{'model':>8}   real data (95 %)"]
        for name, says in _ROWS.items():
            value, chance, margin = (left.pop(key) for key in (name, f"{name}_chance", f"{name}_margin"))
            lines.append(f"{says:34}{value:8.3f}   {chance:.3f} ± {margin:.3f}")
        lines += [f"{name.replace('_', ' '):34}{value:8.3f}" for name, value in left.items()]
        return "\n".join([*lines, self.protocol])

    __repr__ = __str__
