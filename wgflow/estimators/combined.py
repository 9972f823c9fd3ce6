"""Estimators made of others: at unit speed, and added up."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch

from wgflow.core.errors import BadInput
from wgflow.core.typing import Info, Points, Scalar
from wgflow.estimators.autograd import Autograd
from wgflow.estimators.base import Draw, Estimator, pulled_back, register_estimator
from wgflow.functionals import Functional
from wgflow.functionals.base import View
from wgflow.measures import Particles


class _Asks(Estimator):
    """What asks other estimators, and needs what they need."""

    gives_potential = False
    is_function = False

    @abstractmethod
    def _asked(self) -> tuple[Estimator, ...]:
        """Return the estimators it is made of."""

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the estimators that are asked."""
        return tuple(dict.fromkeys(name for e in self._asked() for name in e.needs))

    @property
    def needs_samples(self) -> bool:  # type: ignore[override]
        """Whether one of them does."""
        return any(e.needs_samples for e in self._asked())

    @property
    def needs_fresh_points(self) -> bool:  # type: ignore[override]
        """Whether one of them does."""
        return any(e.needs_fresh_points for e in self._asked())

    def refuses(self, F: Functional) -> str | None:
        """Refuse what one of them does, and those that treat an entropy or learn."""
        for e in self._asked():
            if e.splits_entropy or "conjugate" in e.needs:
                name, kind = type(self).__name__, type(e).__name__
                return f"{name} is made of velocities in the parts of a functional, and {kind} looks at all of it. Use {kind} itself."
            if (why := e.refuses(F)) is not None:
                return why
        return None

    def sees(self, F: Functional) -> int | None:
        """As many points as one of them must see."""
        return next((n for e in self._asked() if (n := e.sees(F)) is not None), None)

    def init(self, F: Functional, rng: torch.Generator) -> list[Any]:
        """Return their states."""
        return [e.init(F, rng) for e in self._asked()]

    def refine(self, F: Functional, draw: Draw, es: list[Any], rng: torch.Generator) -> Info:
        """Refine each."""
        return {k: v for e, own in zip(self._asked(), es, strict=True) for k, v in e.refine(F, draw, own, rng).items()}

    def surrogate(self, F: Functional, rho: Particles, es: list[Any]) -> Scalar:
        """Return the linear function with this velocity."""
        return pulled_back(self.velocities(F, rho, es))


@register_estimator("unit_speed")
@dataclass(frozen=True)
class UnitSpeed(_Asks):
    r"""The velocity of another estimator over its root mean square, :math:`v/\sqrt{E|v|^2}`, in every part of a functional by itself.

    The parts are the terms of a sum (several bandwidths) and the features of :class:`InFeatures`, each with all its places
    and classes: every one of them gets the same say, and a step has the same length at the end as at the start.

    Parameters
    ----------
    estimator : Estimator
        The one that is asked, such as ``TwoBatch()`` or ``MeanShift(kernel)``.

    Notes
    -----
    A step goes on to move points at equilibrium, where the velocity is noise: keep a running average of the generator (``ema``).
    The loss of the regression says nothing either. No flow of a functional; source: Deng et al. (2026), Section A.

    Examples
    --------
    Far away or near, a step of size h has length h:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> solver = wg.ForwardEuler(wg.UnitSpeed(wg.Autograd()))
    >>> wg.solve(F, solver, wg.Particles(torch.tensor([[100.0]])), step_size=0.25, num_steps=2).measure.x
    tensor([[99.5000]])
    """

    estimator: Estimator

    reference = ("deng2026drifting",)

    @classmethod
    def example(cls) -> "UnitSpeed":
        """Return a tiny instance."""
        return cls(Autograd())

    def _asked(self) -> tuple[Estimator, ...]:
        return (self.estimator,)

    def fit(self, rho: Particles) -> "UnitSpeed":
        """Hold the rules of the one that is asked."""
        return replace(self, estimator=self.estimator.fit(rho))

    def velocities(self, F: Functional, rho: Particles, es: list[Any]) -> list[tuple[View, Points]]:
        """Return the velocities of every part over their size."""
        return [(view, _over_its_size(view, v)) for view, v in self.estimator.velocities(F, rho, es[0])]


@register_estimator("total")
@dataclass(frozen=True)
class Total(_Asks):
    r"""The sum of the velocities of several estimators of one functional, such as mean shifts of several bandwidths.

    Parameters
    ----------
    estimators : tuple of Estimator
        At least one.

    Raises
    ------
    BadInput
        For no estimator.

    Examples
    --------
    Two mean shifts, each the whole way to one datum:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.KL(wg.Particles(torch.tensor([[3.0]])))
    >>> field = wg.Total(tuple(wg.MeanShift(wg.RBF(s), own=True) for s in (0.5, 2.0)))
    >>> wg.solve(F, wg.ForwardEuler(field), wg.Particles(torch.zeros(1, 1)), step_size=0.5, num_steps=1).measure.x
    tensor([[3.]])
    """

    estimators: tuple[Estimator, ...]

    def __post_init__(self) -> None:
        if not self.estimators:
            raise BadInput("Total(estimators=()): expected at least one")

    @classmethod
    def example(cls) -> "Total":
        """Return a tiny instance."""
        return cls((Autograd(), UnitSpeed(Autograd())))

    def _asked(self) -> tuple[Estimator, ...]:
        return self.estimators

    def fit(self, rho: Particles) -> "Total":
        """Hold the rules of all that are asked."""
        return replace(self, estimators=tuple(e.fit(rho) for e in self.estimators))

    def velocities(self, F: Functional, rho: Particles, es: list[Any]) -> list[tuple[View, Points]]:
        """Return those of all estimators."""
        return [part for e, own in zip(self.estimators, es, strict=True) for part in e.velocities(F, rho, own)]


def _over_its_size(view: View, v: Points) -> Points:
    share = view.weight.abs() / view.weight.abs().sum()
    tiny = torch.finfo(v.dtype).tiny  # a field of no size stays 0
    v = v / v.abs().amax().clamp(min=tiny)  # no unit is so small or large that a square is lost
    square = (share * (view.clouds.w.detach() * v.square().flatten(2).sum(2)).sum(1)).sum()
    return v / square.clamp(min=tiny).sqrt()
