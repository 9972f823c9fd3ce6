"""The order that errors show, and how well they show it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNSTABLE = 3.0
"""Times the error of the start from which a run counts as unstable."""
ABOVE_FLOOR = 3.0
"""Times the sampling floor up to which an error says nothing of the step."""
_ROUNDINGS = 1000
"""A relative error of so many units of rounding may be nothing but rounding."""


@dataclass(frozen=True)
class Order:
    r"""The slope of :math:`\log` error against :math:`\log h`, by least squares.

    Attributes
    ----------
    value : float or None
        None where fewer than two errors are fit to show it; ``reason`` then says what is wrong with the others.
    spread : float or None
        How well it is known: how far at most the slope between two neighboring step sizes is from it, or its standard error by the
        error bars over seeds, whichever is larger. None for two errors of one seed. It does not bound what larger steps add to the slope.
    step_sizes : tuple of float
        The step sizes whose errors it rests on.
    reason : str
        Why errors were left out.

    Examples
    --------
    >>> Order(value=1.02, spread=0.05, step_sizes=(0.1, 0.05, 0.025)).value
    1.02
    """

    value: float | None
    spread: float | None
    step_sizes: tuple[float, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        """Return the order and its spread as text, empty for none."""
        if self.value is None:
            return ""
        return f"{self.value:.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")


def fit(
    h: Sequence[float],
    errors: Sequence[float | None],
    spreads: Sequence[float],
    *,
    floor: float,
    scale: float,
    eps: float,
) -> Order:
    """Fit an order to errors that are neither unstable nor noise.

    Parameters
    ----------
    h : sequence of float
        Step sizes.
    errors : sequence of float or None
        Mean errors; None for a run that failed.
    spreads : sequence of float
        Their standard errors; 0 where unknown.
    floor : float
        Error of a law that is exact but for sampling: below three times that, an error says nothing of the step.
    scale : float
        Error of the start; above three times that, a run is unstable. Infinite for unknown.
    eps : float
        Unit of rounding of the numbers that were computed with.
    """
    rounding = _ROUNDINGS * eps * scale if math.isfinite(scale) else 0.0
    kept, out = [], set[str]()
    for step, e, s in zip(h, errors, spreads, strict=True):
        if e is None:
            out.add("no error")
        elif e > UNSTABLE * scale:
            out.add("unstable")
        elif e <= rounding:
            out.add("rounding")
        elif e <= ABOVE_FLOOR * floor:
            out.add(f"within {ABOVE_FLOOR:g} times the sampling floor {floor:.1e}")
        elif 2 * s > e:
            out.add("error bars")
        else:
            kept.append((step, e, s))
    reason = ", ".join(sorted(out))
    if len({step for step, _, _ in kept}) < 2:
        return Order(None, None, tuple(step for step, _, _ in kept), reason or "one step size")
    steps, e, s = np.array(sorted(kept, reverse=True)).T
    x, y = np.log(steps), np.log(e)
    x = x - x.mean()
    weights = x / (x @ x)
    slope = float(weights @ y)
    bent = float(np.abs(np.diff(y) / np.diff(x) - slope).max())
    noise = float(np.sqrt(weights**2 @ (s / e) ** 2))
    spread = max(bent, noise) if len(x) > 2 or noise > 0 else None
    return Order(slope, spread, tuple(map(float, steps)), reason)
