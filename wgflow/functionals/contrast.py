"""The difference of one functional between two targets: to the data, less to an independent copy of the moving law."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from wgflow.core.typing import Scalar
from wgflow.functionals.base import Functional
from wgflow.measures import Measure, Particles, Stack


@dataclass(frozen=True)
class Contrast(Functional):
    r"""The difference :math:`F(\rho|\nu)-F(\rho|\rho')`, one problem with two sides; made by :meth:`Functional.contrast`."""

    term: Functional
    other: Functional

    def value(self, rho: Particles) -> Scalar:
        """Return the difference of the values."""
        return self.term.value(rho) - self.other.value(rho)

    def values(self, clouds: Stack) -> Tensor:
        """Return the differences of the values."""
        return self.term.values(clouds) - self.other.values(clouds)

    def with_measures(self, change: Callable[[Measure], Measure]) -> Self:
        """Change those of both sides."""
        return type(self)(self.term.with_measures(change), self.other.with_measures(change))

    def targets(self) -> list[Measure]:
        """Return those of both sides."""
        return self.term.targets() + self.other.targets()

    def data(self) -> Measure | None:
        """Return the data that attract."""
        return self.term.data()

    def fit(self, rho: Particles) -> Self:
        """Fit both sides."""
        return type(self)(self.term.fit(rho), self.other.fit(rho))
