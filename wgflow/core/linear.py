"""Operators of what can be added and multiplied by numbers: functionals and kernels."""

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from torch import Tensor

from wgflow.core.fields import Finite
from wgflow.core.rules import rule_of

_NUMBER = rule_of(Finite)


class Linear:
    """Sums and multiples, made of :meth:`_plus` and :meth:`_times`; a factor may be a number of NumPy or a 0-d tensor.

    Raises
    ------
    BadInput
        For a factor that is no finite number.
    """

    __array_ufunc__ = None  # NumPy leaves its own numbers on the left to __rmul__

    @abstractmethod
    def _plus(self, other: Any) -> Any:
        """Return the sum with another one, or ``NotImplemented``."""

    @abstractmethod
    def _times(self, c: float) -> Any:
        """Return the multiple."""

    def __add__(self, other: Self) -> Any:
        return self._plus(other)

    def __radd__(self, other: Any) -> Any:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # so that sum() works

    def __sub__(self, other: Self) -> Any:
        return self._plus(-other) if isinstance(other, Linear) else NotImplemented

    def __neg__(self) -> Any:
        return self._times(-1.0)

    def __mul__(self, c: Any) -> Any:
        return self._times(_factor(c, "c={}")) if _numeric(c) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, c: Any) -> Any:
        if not _numeric(c):
            return NotImplemented
        divisor = _factor(c, "c={}")
        return self._times(1 / divisor if divisor else _factor(np.inf, f"1/{c}={{}}"))


def _numeric(c: Any) -> bool:
    return isinstance(c, (int, float, np.generic, np.ndarray, Tensor))


def _factor(c: Any, name: str) -> float:
    assert _NUMBER is not None
    return float(_NUMBER(c, f"a factor {name}"))
