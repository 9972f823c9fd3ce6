"""Sums and multiples of functionals: the algebra of the maths is the algebra of the objects."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from wgflow.core.brief import Pieces
from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Finite
from wgflow.core.typing import Info, Points, Scalar
from wgflow.functionals.base import Functional, Potential, View
from wgflow.functionals.linear import linear_part
from wgflow.functionals.penalties import GradientPenalty
from wgflow.functionals.wrapped import Wrapped
from wgflow.measures import Measure, MovingMeasure, Particles, Stack


@dataclass(frozen=True)
class Scaled(Wrapped):
    r"""The multiple :math:`cF`; for :math:`c>0` its conjugate is :math:`(cF)^*(\varphi)=c\,F^*(\varphi/c)`.

    A negative multiple of a convex functional is concave: it has a value, and no conjugate or implicit step. The difference
    :math:`F-G` is :math:`F+(-1)G`; where what is left of an entropy in it is negative, a flow is refused.

    Parameters
    ----------
    c : float
        The factor.
    term : Functional
        :math:`F`. ``c * F`` makes it.

    Raises
    ------
    BadInput
        Unless ``c`` is finite and not 0.
    Unsupported
        From what a negative multiple does not have.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> V = wg.PotentialEnergy(lambda x: x.square().sum(1))
    >>> (0.5 * V).value(wg.Particles(torch.tensor([[3.0]])))
    tensor(4.5000)
    """

    c: Finite
    term: Functional

    def __post_init__(self) -> None:
        if self.c == 0:
            raise BadInput("a functional times 0 has no flow, and its conjugate is infinite: leave the term out")

    def _pieces(self, inner: Callable[[Any], str]) -> Pieces:
        text = inner(self.term)
        return Pieces("", [f"{self.c:g} * {f'({text})' if isinstance(self.term, Sum) else text}"], "")

    @property
    def _convex(self) -> Functional:
        if self.c < 0:
            raise Unsupported(f"{self.c:g} times {type(self.term).__name__} is concave: it has a value and no more")
        return self.term

    @property
    def has_witness(self) -> bool:
        """Whether the term has."""
        return self.term.has_witness

    def value(self, rho: Particles) -> Scalar:
        """Return ``c`` times the value of the term."""
        return self.c * self.term.value(rho)

    def conjugate(self, phi: Potential) -> Scalar:
        r"""Return :math:`c\,F^*(\varphi/c)`."""
        return self.c * self._convex.conjugate(lambda y: phi(y) / self.c)

    def prox(self, rho: Particles, h: float) -> Points:
        """Return the term's, over ``c`` times the time."""
        return self._convex.prox(rho, self.c * h)

    def remaining(self, rho: Particles) -> Tensor:
        """Return the term's: a multiple has the same destinations."""
        return self._convex.remaining(rho)

    def witness(self, v: Tensor) -> Tensor:
        """Return ``c`` times the term's."""
        return self.c * self.term.witness(v)

    def variational(self, net: Potential, rho: Particles) -> Scalar:
        """Return ``c`` times the term's: one critic output stands for the term's own witness."""
        return self.c * self._convex.variational(net, rho)

    def surrogate(self, net: Potential, rho: Particles) -> Scalar:
        """Return ``c`` times the term's."""
        return self.c * self.term.surrogate(net, rho)

    def critic_penalty(self) -> GradientPenalty | None:
        """Return the term's with ``c`` times its weight, so that the critic of a multiple is that of the term."""
        own = self.term.critic_penalty()
        return None if own is None else replace(own, weight=self.c * own.weight)

    def diagnostics(self, net: Potential) -> Info:
        """Return the term's."""
        return self.term.diagnostics(net)

    def split_entropy(self) -> tuple[Functional | None, float]:
        """Scale both parts."""
        energy, temperature = self.term.split_entropy()
        return None if energy is None else Scaled(self.c, energy), self.c * temperature

    def values(self, clouds: Stack) -> Tensor:
        """Return ``c`` times the values of the term."""
        return self.c * self.term.values(clouds)

    def views(self, clouds: Stack) -> list[View]:
        """Return the term's, ``c`` times."""
        return [replace(view, weight=self.c * view.weight) for view in self.term.views(clouds)]

    def can(self, method: str) -> bool:
        """Whether the term does; a negative multiple has a value only."""
        return self.term.can(method) and (self.c > 0 or method == "value")


@dataclass(frozen=True)
class Sum(Functional):
    r"""The sum :math:`\sum_j F_j`.

    ``value`` adds. Under a critic the one term with a conjugate is estimated by the critic, the others by their value.
    The conjugate exists when every other term is a potential energy:
    :math:`(F+\langle V,\cdot\rangle)^*(\varphi)=F^*(\varphi-V)`.

    Parameters
    ----------
    terms : tuple of Functional
        :math:`F_j`. ``+``, ``-`` and ``sum`` make it.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> V, W = wg.PotentialEnergy(lambda x: x.square().sum(1)), wg.InteractionEnergy(wg.PowerLaw(2.0))
    >>> (V + W).value(wg.Particles(torch.tensor([[0.0], [3.0]])))  # 9 / 2 + 9 / 8
    tensor(5.6250)
    """

    terms: tuple[Functional, ...]

    @classmethod
    def of(cls, *terms: Functional) -> "Sum":
        """Add functionals, with nested sums made flat."""
        return cls(tuple(t for term in terms for t in (term.terms if isinstance(term, Sum) else (term,))))

    def _pieces(self, inner: Callable[[Any], str]) -> Pieces:
        return Pieces("", [inner(t) for t in self.terms], "", " + ")

    @property
    def batch(self) -> int | None:  # type: ignore[override]
        """Largest batch of the terms with a target; None where one of them has none."""
        batches = [t.batch for t in self.terms if t.targets()]
        return None if None in batches else max(batches, default=None)  # type: ignore[type-var]

    @property
    def needs_density(self) -> bool:  # type: ignore[override]
        """Whether a term does."""
        return any(t.needs_density for t in self.terms)

    @property
    def reads_law(self) -> bool:  # type: ignore[override]
        """Whether a term does."""
        return any(t.reads_law for t in self.terms)

    @property
    def learns_features(self) -> bool:  # type: ignore[override]
        """Whether the critic term does."""
        dual = self.dual_terms()
        return len(dual) == 1 and dual[0].learns_features

    @property
    def has_witness(self) -> bool:
        """Whether the critic term has, and the others are potential energies."""
        dual = self.dual_terms()
        rest = [t for t in self.terms if all(t is not d for d in dual)]
        return len(dual) == 1 and dual[0].has_witness and all(linear_part(t) is not None for t in rest)

    def dual_terms(self) -> list[Functional]:
        """Return the terms that a critic would estimate; a solvable sum has one at most.

        Of several with a dual, those that know their value on points (W1) leave the critic to the one that does not.
        """
        dual = [t for t in self.terms if t.can("conjugate") or t.can("variational")]
        return [t for t in dual if t.needs_density or not t.can("value")] or dual

    def _split(self) -> tuple[Functional, list[Functional]]:
        dual = self.dual_terms()
        if len(dual) != 1:
            names = ", ".join(type(t).__name__ for t in self.terms)
            raise Unsupported(
                f"a critic estimates exactly one term of a sum; {len(dual)} of ({names}) have a conjugate. Use Autograd "
                "where every term has a value."
            )
        return dual[0], [t for t in self.terms if t is not dual[0]]

    def value(self, rho: Particles) -> Scalar:
        """Return the sum of the values."""
        return torch.stack([t.value(rho) for t in self.terms]).sum()

    def conjugate(self, phi: Potential) -> Scalar:
        r"""Return :math:`F^*(\varphi-\sum_j V_j)` for one functional plus potential energies."""
        dual, rest = self._split()
        linear = [v for t in rest if (v := linear_part(t)) is not None]
        if len(linear) < len(rest):
            names = ", ".join(type(t).__name__ for t in rest if linear_part(t) is None)
            raise Unsupported(f"the conjugate of this sum is not known: {names} is not a potential energy")

        def shifted(y: Points) -> Tensor:
            return phi(y) - torch.stack([v(y) for v in linear]).sum(0)

        return dual.conjugate(shifted)

    def witness(self, v: Tensor) -> Tensor:
        """Return the critic term's: the part of the first variation that the critic stands for."""
        return self._split()[0].witness(v)

    def variational(self, net: Potential, rho: Particles) -> Scalar:
        """Return the critic term's objective: the other terms do not depend on the critic."""
        return self._split()[0].variational(net, rho)

    def surrogate(self, net: Potential, rho: Particles) -> Scalar:
        """Return the critic term's surrogate plus the values of the other terms."""
        dual, rest = self._split()
        return torch.stack([dual.surrogate(net, rho), *(t.value(rho) for t in rest)]).sum()

    def critic_penalty(self) -> GradientPenalty | None:
        """Return the critic term's."""
        return self._split()[0].critic_penalty()

    def diagnostics(self, net: Potential) -> Info:
        """Return the critic term's."""
        return self._split()[0].diagnostics(net)

    def split_entropy(self) -> tuple[Functional | None, float]:
        """Add the energies and the temperatures."""
        parts = [t.split_entropy() for t in self.terms]
        energies = [e for e, _ in parts if e is not None]
        energy = None if not energies else energies[0] if len(energies) == 1 else Sum.of(*energies)
        return energy, sum(temperature for _, temperature in parts)

    def _each(self, change: Callable[[Functional], Functional]) -> Self:
        """Return the sum of what is made of every term, in order; itself where none changes."""
        new = tuple(map(change, self.terms))
        return self if all(a is b for a, b in zip(new, self.terms, strict=True)) else type(self)(new)

    def at(self, k: int, t: float) -> Self:
        """Take every term at that step."""
        return self._each(lambda F: F.at(k, t))

    def freeze(self, rng: torch.Generator) -> Self:
        """Freeze every term, in order."""
        return self._each(lambda F: F.freeze(rng))

    def matched(self, n: int, only_open: bool = False) -> Self:
        """Match every term."""
        return self._each(lambda F: F.matched(n, only_open))

    def fit(self, rho: Particles) -> Self:
        """Fit every term."""
        return self._each(lambda F: F.fit(rho))

    def with_units(self, rho: Particles) -> Self:
        """Hold those of every term."""
        return self._each(lambda F: F.with_units(rho))

    def with_measures(self, change: Callable[[Measure], Measure]) -> Self:
        """Change those of every term, in order."""
        return self._each(lambda F: F.with_measures(change))

    def contrast(self, other: Particles) -> Functional:
        """Contrast every term."""
        return self._each(lambda F: F.contrast(other))

    def values(self, clouds: Stack) -> Tensor:
        """Return the sum of the values."""
        return torch.stack([term.values(clouds) for term in self.terms]).sum(0)

    def views(self, clouds: Stack) -> list[View]:
        """Return those of all terms."""
        return [view for term in self.terms for view in term.views(clouds)]

    def data(self) -> Measure | None:
        """Return the critic term's; None when no single term is for a critic."""
        dual = self.dual_terms()
        return dual[0].data() if len(dual) == 1 else None

    def targets(self) -> list[Measure]:
        """Return those of all terms."""
        return [m for t in self.terms for m in t.targets()]

    def samples(self) -> list[Measure]:
        """Return those of all terms."""
        return [m for t in self.terms for m in t.samples()]

    def refuses_measure(self, measure: MovingMeasure) -> str | None:
        """Return what the first term says that refuses."""
        return next((reason for t in self.terms if (reason := t.refuses_measure(measure))), None)

    def can(self, method: str) -> bool:
        """Whether the sum does, given what its terms do."""
        if method == "value":
            return all(t.can("value") for t in self.terms)
        dual = self.dual_terms()
        rest = [t for t in self.terms if all(t is not d for d in dual)]
        if len(dual) != 1:
            return False
        if method == "conjugate":
            return dual[0].can("conjugate") and all(linear_part(t) is not None for t in rest)
        return method == "variational" and all(t.can("value") for t in rest)
