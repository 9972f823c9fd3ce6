"""What functionals share that look at something computed from the points: features, or the points of every class."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Self

import torch

from wgflow.core.parts import own_parts, parts_of
from wgflow.core.typing import Scalar
from wgflow.functionals.base import Functional, View, views_of
from wgflow.functionals.wrapped import Wrapped
from wgflow.kernels import Kernel
from wgflow.kernels.densities import DensityModel
from wgflow.kernels.features import at_one_place
from wgflow.measures import Measure, Particles

Held = tuple[Functional, ...] | None


class Viewing(Wrapped):
    r"""A functional whose :meth:`views` show other points than those of the flow: a bandwidth rule is one of what they show.

    A subclass is a dataclass with the fields ``_held`` and ``_in_units``, and returns ``self._as_held(views)`` from :meth:`views`.
    """

    _held: Held
    _in_units: Held
    """The term of every feature or class, once units in it are held: each is found at other points."""

    def can(self, method: str) -> bool:
        """The value, where the term has one."""
        return method == "value" and self.term.can(method)

    def value(self, rho: Particles) -> Scalar:
        """Return the sum over what is looked at."""
        return torch.stack([view.value for view in views_of(self, rho)]).sum()

    def fit(self, rho: Particles) -> Self:
        """Apply rules to what is seen of ``rho``, in every view by itself; itself when there are none."""
        if not has_rules(self.term):
            return self
        with torch.no_grad():
            held = tuple(view.functional.fit(view.clouds.pooled()) for view in views_of(self._now(None), rho))
        return self._now(held)

    def contrast(self, other: Particles) -> Functional:
        """Contrast the term, and what is held of it."""
        new = super().contrast(other)
        if not isinstance(new, Viewing):
            return new
        return replace(new, _held=_contrasted(self._held, other), _in_units=_contrasted(self._in_units, other))  # type: ignore[type-var]

    def _term(self, number: int, measures: Iterable[Measure]) -> Functional:
        """Return the term of one feature or class, of what is seen of the measures there, in their order."""
        return of_measures(self.term if self._in_units is None else self._in_units[number], measures)

    def _now(self, held: Held) -> Self:
        return replace(self, _held=held)  # type: ignore[type-var]

    def _as_held(self, views: Sequence[View]) -> list[View]:
        """Return views with the rules that are held, of the measures that they have now."""
        if self._held is None:
            return list(views)
        return [_with_targets_of(view, F) for view, F in zip(views, self._held, strict=True)]


def _contrasted(held: Held, other: Particles) -> Held:
    return None if held is None else tuple(F.contrast(other) for F in held)


def _with_targets_of(view: View, held: Functional) -> View:
    return replace(view, functional=of_measures(held, view.functional.targets()))


def of_measures(F: Functional, measures: Iterable[Measure]) -> Functional:
    """Return a functional of other measures, in the order of its targets."""
    others = iter(measures)
    return F.with_measures(lambda m: next(others))


def has_rules(F: Functional) -> bool:
    """Whether a bandwidth in a functional is found from the points."""
    held = [part for functional in parts_of(F, Functional) for part in own_parts(functional)]  # type: ignore[type-abstract]
    return any(
        isinstance(part, DensityModel) or (isinstance(part, Kernel) and at_one_place(part) is not part) for part in held
    )
