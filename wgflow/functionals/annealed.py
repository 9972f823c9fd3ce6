"""Functionals whose scale changes from step to step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Positive
from wgflow.core.outputs import number_of_step
from wgflow.core.typing import Scalar
from wgflow.functionals.base import Functional, View, register_functional
from wgflow.functionals.mmd import SquaredMMD
from wgflow.functionals.wrapped import Wrapped
from wgflow.kernels import RBF
from wgflow.measures import Particles, Stack, StandardNormal


@register_functional("annealed")
@dataclass(frozen=True)
class Annealed(Wrapped):
    r"""The functional :math:`F_{s(k)}` of time step k: a blur or bandwidth that shrinks along the flow.

    Coarse scales move mass between far modes, which fine ones cannot, and fine ones resolve what coarse ones blur: for a Gaussian
    kernel of width s the wave number :math:`\kappa` decays at a rate like :math:`e^{-s^2\kappa^2}`, so that a scale that shrinks
    geometrically takes logarithmic time for what a fixed one takes exponential time for (Turan and Ovsjanikov 2026).

    Parameters
    ----------
    make : callable
        A scale -> a functional.
    scale : callable
        :math:`s`, from the number of the time step to a positive number, such as ``Geometric(4.0, 0.999, floor=0.3)``.

    Raises
    ------
    BadInput
        For a scale that is not positive, or something made that is no functional.

    Examples
    --------
    >>> import torch
    >>> F = Annealed(lambda s: SquaredMMD(StandardNormal(2), RBF(s)), lambda k: 4.0 * 0.5**k)
    >>> F.at(3, 0.0).kernel.bandwidth
    0.5
    """

    make: Callable[[float], Functional]
    scale: Callable[[int], float]

    def __post_init__(self) -> None:
        self._of_step(0)

    def _of_step(self, k: int) -> Functional:
        scale = number_of_step(self.scale, k, Positive, "Annealed: scale")
        try:
            made = self.make(scale)
        except Exception as error:  # of the function given
            raise BadInput(
                f"Annealed(make=...) refuses the scale {scale:g}: {error}. Expected a function of one number"
            ) from error
        if not isinstance(made, Functional):
            raise BadInput(f"Annealed(make=...) returned a {type(made).__name__}: expected a functional of the scale")
        return made

    @property
    def term(self) -> Functional:  # type: ignore[override]
        """The functional of the first step."""
        return self._of_step(0)

    def _of(self, term: Functional) -> Self:
        return term  # type: ignore[return-value]

    def at(self, k: int, t: float) -> Self:
        """Return the functional of that step."""
        return self._of(self._of_step(k).at(k, t))

    def matched(self, n: int, only_open: bool = False) -> Self:
        """Match the functional of every step."""
        return replace(self, make=lambda s: self.make(s).matched(n, only_open))

    def can(self, method: str) -> bool:
        """Whether the functional of the first step does, for a value."""
        return method == "value" and self.term.can(method)

    def value(self, rho: Particles) -> Scalar:
        """Return that of the first step."""
        return self.term.value(rho)

    def values(self, clouds: Stack) -> Tensor:
        """Return those of the first step."""
        return self.term.values(clouds)

    def views(self, clouds: Stack) -> list[View]:
        """Return those of the first step."""
        return self.term.views(clouds)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "Annealed":
        """Return an MMD whose bandwidth halves at every step."""
        return cls(_Example(event_shape), _halving)


@dataclass(frozen=True)
class _Example:
    event_shape: tuple[int, ...]

    def __call__(self, scale: float) -> Functional:
        return SquaredMMD(StandardNormal(*self.event_shape, dtype=torch.get_default_dtype()), RBF(scale), batch=8)


def _halving(k: int) -> float:
    return 2.0 * 0.5**k
