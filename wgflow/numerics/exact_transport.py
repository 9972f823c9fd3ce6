"""Exact transport between two clouds on the CPU: plans and potentials that do not depend on the unit of the points.

Solvers compare costs with a tolerance that is relative to the largest of them (POT's also to 1). So costs are reduced by
potentials, which changes no optimal plan, cut off far above what plans use, and scaled; where one far point or other units have
left the rest unsolved, the remainder is solved again.
"""

import math
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.imports import require
from wgflow.core.inner import report
from wgflow.numerics.distances import Distances, tiles

ROUNDS = 8
"""Solutions of remainders, each of which resolves costs some 1e8 times finer."""
CUT, RESOLVED = 1e4, 1e-9
"""In typical remaining costs: above the first a pair is not offered, below the second a gap is none."""
MANY = 8
"""Coordinates from which on costs are so much alike that augmenting paths are short."""
GAP = 1e-6
"""Duality gap, over the cost of the plan, above which a plan is reported as not optimal."""


class Plan(NamedTuple):
    """An optimal plan: pairs (k,) with their masses, and the potential on the first cloud (n,)."""

    rows: np.ndarray
    columns: np.ndarray
    mass: np.ndarray
    potential: np.ndarray


def unit(*clouds: Tensor) -> float:
    """Return the power of two above the largest coordinate: dividing by it is exact, and squares stay numbers."""
    largest = max(float(z.detach().abs().amax()) for z in clouds)
    if not math.isfinite(largest):
        raise BadInput("exact transport needs finite points: some of the particles or of the target are not")
    return 2.0 ** math.frexp(largest)[1] if largest > 0 else 1.0


def distances(x: Tensor, y: Tensor, unit: float = 1.0) -> np.ndarray:
    """Euclidean distances over ``unit`` in float64 on the CPU, without cancellation."""
    x, y = (t.detach().cpu().double() / unit for t in (x, y))
    between, out = Distances(x, y, smooth=False), x.new_empty(len(x), len(y))
    for i, j in tiles(len(x), len(y), x.device):
        torch.sqrt(between.block(i, j), out=out[i, j])
    return out.numpy()


def assignment(cost: np.ndarray, d: int) -> Plan:
    """Return an optimal permutation between points with ``d`` coordinates.

    In few, by POT's network simplex where it is installed: it is faster than scipy's shortest augmenting paths there. From 8 on
    augmenting paths on reduced costs are faster, the more so the larger d, unless a far point has left these of different orders.
    """
    n = len(cost)
    even, pot = np.full(n, 1 / n), find_spec("ot") is not None
    if not pot or d >= MANY:
        reduced, f = _reduced(cost)
        largest, typical = _sizes(reduced)
        if not pot or largest <= CUT * typical:
            from scipy.optimize import linear_sum_assignment

            return Plan(np.arange(n), linear_sum_assignment(reduced)[1], even, f)
    plan, f = _solve(cost, even, even)
    return Plan(np.arange(n), plan.argmax(1), even, f)  # a vertex: a permutation over n


def weighted(cost: np.ndarray, a: Tensor | None, b: Tensor | None) -> Plan:
    """Return an optimal plan between weights, by POT's network simplex."""
    plan, f = _solve(cost, _masses(a, cost.shape[0]), _masses(b, cost.shape[1]))
    i, j = plan.nonzero()
    return Plan(i, j, plan[i, j], f)


def _reduced(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return costs less the least of their row, then of their column, and what was taken from rows."""
    f = cost.min(1)
    cost = cost - f[:, None]
    cost -= cost.min(0)
    return cost, f


def _solve(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return an optimal plan, a vertex, and the potential on the rows."""
    largest, typical = _sizes(cost)
    if largest <= CUT * typical:
        plan, u, _ = _simplex(cost / largest, a, b)
        return plan, largest * u
    remaining, f = _reduced(cost)
    step, least, best = CUT, math.inf, (cost, f)
    for _ in range(ROUNDS):
        largest, typical = _sizes(remaining)
        cut = min(largest, step * typical)
        plan, u, v = _simplex(np.minimum(remaining, cut) / cut, a, b)
        beyond = bool((remaining[plan > 0] > cut).any())
        remaining -= cut * u[:, None]
        remaining -= cut * v
        f = f + cut * u
        # Of potentials that are lowered until no pair costs less than their sum.
        gap = float((plan * remaining).sum() - a @ remaining.min(1).clip(max=0))
        if not gap < least / 2 and not beyond:
            break
        if gap < least:
            least, best = gap, (plan, f)
        if gap <= RESOLVED * typical:
            break
        step = step * CUT if beyond else CUT
    value = float((best[0] * cost).sum())
    report("exact transport", least / value if value > 0 else 0.0, GAP, "Distances span too many orders of magnitude.")
    return best


def _sizes(cost: np.ndarray) -> tuple[float, float]:
    """Return the largest cost and a typical one, positive where any is."""
    largest = float(cost.max()) or 1.0
    return largest, float(np.median(cost.ravel()[:: max(1, cost.size // 9973)])) or largest


def _simplex(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    plan, log = require("ot", "ot").emd(a, b, np.ascontiguousarray(cost), numItermax=10_000_000, log=True)
    if log["warning"] is not None:
        raise Unsupported(f"POT's network simplex did not finish on a {cost.shape} problem: {log['warning']}")
    return plan, log["u"], log["v"]


def _masses(w: Tensor | None, size: int) -> np.ndarray:
    """Weights in float64, summing to 1 exactly as the simplex demands."""
    if w is None:
        return np.full(size, 1 / size)
    exact = w.detach().cpu().double().numpy()
    if not np.isfinite(exact).all():
        raise BadInput("exact transport needs finite weights: those of the particles or of the target are not")
    return exact / exact.sum()
