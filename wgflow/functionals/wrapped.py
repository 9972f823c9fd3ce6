"""What functionals share that are made from another one."""

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import torch

from wgflow.functionals.base import Functional
from wgflow.measures import Measure, MovingMeasure, Particles


class Wrapped(Functional):
    """A functional made from another one, whose measures, steps and realizations it shares.

    Attributes
    ----------
    term : Functional
        The other one, a field of the subclass.

    Examples
    --------
    A functional from another one's value:

    >>> from dataclasses import dataclass
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.functionals import Wrapped
    >>> @dataclass(frozen=True)
    ... class Squared(Wrapped):
    ...     term: wg.Functional
    ...
    ...     def value(self, rho):
    ...         return self.term.value(rho).square()
    >>> Squared(wg.PotentialEnergy(lambda x: x.sum(1))).value(wg.Particles(torch.tensor([[2.0], [4.0]])))
    tensor(9.)
    """

    term: Functional

    @property
    def batch(self) -> int | None:  # type: ignore[override]
        """Target points a realization of the term uses."""
        return self.term.batch

    @property
    def needs_density(self) -> bool:  # type: ignore[override]
        """Whether the term does."""
        return self.term.needs_density

    @property
    def reads_law(self) -> bool:  # type: ignore[override]
        """Whether the term does."""
        return self.term.reads_law

    @property
    def learns_features(self) -> bool:  # type: ignore[override]
        """Whether the term does."""
        return self.term.learns_features

    def _of(self, term: Functional) -> Self:
        return replace(self, term=term)  # type: ignore[type-var]

    def at(self, k: int, t: float) -> Self:
        """Take the term at that step; itself where it does not change."""
        new = self.term.at(k, t)
        return self if new is self.term else self._of(new)

    def freeze(self, rng: torch.Generator) -> Self:
        """Freeze the term."""
        return self._of(self.term.freeze(rng))

    def matched(self, n: int, only_open: bool = False) -> Self:
        """Match the term."""
        return self._of(self.term.matched(n, only_open))

    def fit(self, rho: Particles) -> Self:
        """Fit the term."""
        return self._of(self.term.fit(rho))

    def refuses_measure(self, measure: MovingMeasure) -> str | None:
        """Return what the term says."""
        return self.term.refuses_measure(measure)

    def with_measures(self, change: Callable[[Measure], Measure]) -> Self:
        """Change those of the term."""
        new = self.term.with_measures(change)
        return self if new is self.term else self._of(new)

    def contrast(self, other: Particles) -> Functional:
        """Contrast the term."""
        new = self.term.contrast(other)
        return self if new is self.term else self._of(new)

    def data(self) -> Measure | None:
        """Return the term's."""
        return self.term.data()

    def targets(self) -> list[Measure]:
        """Return the term's."""
        return self.term.targets()

    def samples(self) -> list[Measure]:
        """Return the term's."""
        return self.term.samples()
