r"""Schedules: numbers that depend on the step, for step sizes, noise levels and whatever else takes a function of :math:`k`."""

import math
import sys
from bisect import bisect_right
from dataclasses import dataclass

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, NonNegative, Positive


@dataclass(frozen=True)
class Geometric(Checked):
    r"""Geometric decay, :math:`\max(a\,q^k,\ \text{floor})`.

    Parameters
    ----------
    start : float
        :math:`a>0`, the value at step 0.
    ratio : float
        :math:`q>0`; above 1 it grows, to no more than what a float holds.
    floor : float
        The least value.

    Examples
    --------
    >>> h = Geometric(1.0, 0.5, floor=0.2)
    >>> [h(k) for k in range(4)]
    [1.0, 0.5, 0.25, 0.2]
    """

    start: Positive
    ratio: Positive
    floor: NonNegative = 0.0

    def __call__(self, k: int) -> float:
        """Value at step ``k``."""
        try:
            value = self.start * self.ratio**k
        except OverflowError:
            value = math.inf
        return max(min(value, sys.float_info.max), self.floor)


@dataclass(frozen=True)
class PowerDecay(Checked):
    r"""Polynomial decay, :math:`a\,(1+k/k_0)^{-p}`.

    With :math:`\tfrac12<p\le1` the steps add up to infinity and their squares do not: what removes the bias of noisy
    schemes with decreasing steps.

    Parameters
    ----------
    start : float
        :math:`a>0`, the value at step 0.
    power : float
        :math:`p\ge0`.
    scale : float
        :math:`k_0>0`, the number of steps after which the decay sets in.

    Examples
    --------
    >>> h = PowerDecay(0.6, 1.0, scale=10)
    >>> h(0), h(10), h(20)
    (0.6, 0.3, 0.19999999999999998)
    """

    start: Positive
    power: NonNegative
    scale: Positive = 1.0

    def __call__(self, k: int) -> float:
        """Value at step ``k``."""
        return self.start * (1 + k / self.scale) ** -self.power


@dataclass(frozen=True)
class Piecewise(Checked):
    """Constant pieces: ``values[0]`` before step ``starts[0]``, then ``values[1]`` before step ``starts[1]``, and so on.

    Parameters
    ----------
    values : tuple of float
        Positive, one more than there are changes.
    starts : tuple of int
        The steps at which the value changes, increasing and positive.

    Raises
    ------
    BadInput
        When there is not one value more than changes, or the steps do not increase.

    Examples
    --------
    >>> h = Piecewise((0.1, 0.05), starts=(100,))
    >>> h(99), h(100)
    (0.1, 0.05)
    """

    values: tuple[Positive, ...]
    starts: tuple[Count, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.starts) + 1 or list(self.starts) != sorted(set(self.starts)):
            raise BadInput(
                f"{self}: expected increasing, positive steps and one positive value more than there are steps"
            )

    def __call__(self, k: int) -> float:
        """Value at step ``k``."""
        return self.values[bisect_right(self.starts, k)]


@dataclass(frozen=True)
class Halving(Checked):
    r"""Halve at every so many steps, :math:`a\,2^{-\lfloor k/m\rfloor}`.

    Parameters
    ----------
    start : float
        :math:`a>0`, the value at step 0.
    every : int
        :math:`m\ge1`, steps between halvings.

    Examples
    --------
    >>> beta = Halving(1.0, every=1000)
    >>> beta(999), beta(1000), beta(2500)
    (1.0, 0.5, 0.25)
    """

    start: Positive
    every: Count

    def __call__(self, k: int) -> float:
        """Value at step ``k``."""
        return self.start * 0.5 ** (k // self.every)
