r"""Schedules: numbers that depend on the step, for step sizes, noise levels and whatever else takes a function of :math:`k`."""

import math
from bisect import bisect_right
from dataclasses import dataclass

from wgflow.errors import BadInput


@dataclass(frozen=True)
class Geometric:
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

    start: float
    ratio: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not (_positive(self.start) and _positive(self.ratio) and 0 <= self.floor < math.inf):
            raise BadInput(f"{self}: expected a positive start and ratio and a nonnegative floor, all of them finite")

    def __call__(self, k: int) -> float:
        """Value at step ``k``."""
        return max(self.start * self.ratio**k, self.floor)


@dataclass(frozen=True)
class PowerDecay:
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

    start: float
    power: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not (_positive(self.start) and 0 <= self.power < math.inf and _positive(self.scale)):
            raise BadInput(f"{self}: expected a positive start and scale and a nonnegative power, all of them finite")

    def __call__(self, k: int) -> float:
        """Value at step ``k``."""
        return self.start * (1 + k / self.scale) ** -self.power


@dataclass(frozen=True)
class Piecewise:
    """Constant pieces: ``values[0]`` before step ``starts[0]``, then ``values[1]`` before step ``starts[1]``, and so on.

    Parameters
    ----------
    values : tuple of float
        Positive, one more than there are changes.
    starts : tuple of int
        The steps at which the value changes, increasing and positive.

    Examples
    --------
    >>> h = Piecewise((0.1, 0.05), starts=(100,))
    >>> h(99), h(100)
    (0.1, 0.05)
    """

    values: tuple[float, ...]
    starts: tuple[int, ...]

    def __post_init__(self) -> None:
        increasing = list(self.starts) == sorted(set(self.starts)) and all(s > 0 for s in self.starts)
        if len(self.values) != len(self.starts) + 1 or not increasing or not all(map(_positive, self.values)):
            raise BadInput(
                f"{self}: expected increasing, positive steps and one positive value more than there are steps"
            )

    def __call__(self, k: int) -> float:
        """Value at step ``k``."""
        return self.values[bisect_right(self.starts, k)]


@dataclass(frozen=True)
class Halving:
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

    start: float
    every: int

    def __post_init__(self) -> None:
        if not _positive(self.start) or self.every < 1:
            raise BadInput(f"{self}: expected a positive, finite start and at least 1 step between halvings")

    def __call__(self, k: int) -> float:
        """Value at step ``k``."""
        return self.start * 0.5 ** (k // self.every)


def _positive(x: float) -> bool:
    return 0 < x < math.inf
