"""Labeled points with every class equally often, and points that belong to every class: what conditional flows compare."""

from dataclasses import dataclass

import torch

from wgflow.core.behind import joined
from wgflow.core.fields import Count
from wgflow.measures.base import register_measure
from wgflow.measures.dataset import Dataset
from wgflow.measures.derived import Derived
from wgflow.measures.labelled import Labelled, LabelledLatent
from wgflow.measures.particles import Particles


@register_measure("balanced")
@dataclass(frozen=True, eq=False)
class Balanced(Derived):
    r"""Labeled points with every class equally often: a draw takes the classes in turn, and independent points of each.

    Two draws of n points then have as many points of every class, as the terms of a conditional two-batch field must. Of n that is no
    multiple of the number of classes the first ones have one more; of fewer points the last classes have none. Without a ``batch``
    it counts as a law with infinitely many points.

    Parameters
    ----------
    base : Labelled or LabelledLatent
        Data with their labels, or the latent of a generator that keeps them.

    Examples
    --------
    >>> import torch
    >>> data = Labelled(Dataset(torch.tensor([[5.0], [6.0], [7.0]]), labels=torch.tensor([0, 1, 1])))
    >>> Balanced(data).draw(4, torch.Generator().manual_seed(0)).x[:, 1:].argmax(1)
    tensor([0, 1, 0, 1])
    """

    base: Labelled | LabelledLatent

    def __post_init__(self) -> None:
        labels = self.base.labels
        counts = torch.ones(1, dtype=torch.int64) if labels is None else labels.bincount()
        # Places of the points in order of their class, how many each has, and where they begin.
        order = None if labels is None else labels.argsort(stable=True)
        object.__setattr__(self, "_places", (order, counts, counts.cumsum(0) - counts))

    @classmethod
    def example(cls) -> "Balanced":
        """Return a tiny instance."""
        return cls(Labelled.example())

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.base.classes if isinstance(self.base, LabelledLatent) else self.base.num_classes

    @property
    def parts_in_turn(self) -> int:  # type: ignore[override]
        """The classes."""
        return self.num_classes

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points, the i-th of class i modulo the number of classes."""
        turn = torch.arange(n, device=self.device) % self.num_classes
        if isinstance(self.base, LabelledLatent):
            return self.base.labelled(self.base.base.draw(n, rng), turn)
        order, counts, first = self._places  # type: ignore[attr-defined]
        turn = turn.to(order.device)
        level = torch.rand(n, generator=rng, device=rng.device, dtype=torch.float64).to(order.device)
        within = (level * counts[turn]).long().clamp(max=counts[turn] - 1)
        return self.base.take(order[first[turn] + within], rng)


@register_measure("of_every_class")
@dataclass(frozen=True, eq=False)
class OfEveryClass(Derived):
    r"""Points with a label of ones behind them, (n, d + C): of every class, for :class:`wgflow.functionals.PerClass`.

    The data as a whole, to guide a conditional flow away from.

    Parameters
    ----------
    base : Measure
        The points.
    classes : int
        Number of classes C.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> wg.OfEveryClass(wg.Particles(torch.tensor([[5.0]])), classes=2).draw(1, torch.Generator()).x
    tensor([[5., 1., 1.]])
    """

    classes: Count

    @classmethod
    def example(cls) -> "OfEveryClass":
        """Return a tiny instance."""
        return cls(Dataset(torch.arange(8.0)[:, None]), 1)

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape (d + C,)."""
        return torch.Size((self.base.event_shape.numel() + self.classes,))

    @property
    def behind(self) -> int:  # type: ignore[override]
        """C."""
        return self.classes

    @property
    def num_points(self) -> int | None:
        """Number of points of the base."""
        return self.base.num_points

    def whole(self, rng: torch.Generator) -> Particles:
        """Return all points of the base."""
        return self._of_all(self.base.whole(rng))

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points of the base."""
        return self._of_all(self.base.draw(n, rng))

    def _of_all(self, p: Particles) -> Particles:
        return Particles(joined(p.x, p.x.new_ones(len(p), self.classes)), p.log_w)
