"""From a solution, or from particles, to what is drawn: times, plane coordinates, weights, limits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.driver.solution import Solution
from wgflow.measures import Measure, Particles

Limits = Sequence[tuple[float, float]]
Dims = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class Frame:
    """Particles at a time, in the one or two coordinates that are drawn: ``x`` (n, 1 or 2) and ``w`` (n,)."""

    t: float
    k: int
    x: np.ndarray
    w: np.ndarray


def saved_particles(solution: Solution) -> list[Particles]:
    """Return the particles a solution has saved.

    Raises
    ------
    BadInput
        When it has saved nothing, or something else.
    """
    if not solution.saved:
        raise BadInput(
            "this solution has no saved states (Save(every=0)): solve with save=Save(every=1), or draw solution.measure"
        )
    found = [Particles(s) if isinstance(s, Tensor) else s for s in solution.saved]
    for s in found:
        if not isinstance(s, Particles):
            raise BadInput(
                f"the saved states are {type(s).__name__}, not particles. For a network save draws: "
                "Save(fn=lambda state: state.measure.inference().draw(1000, generator))"
            )
    return found


def frames(rho: Solution | Particles, dims: Dims | None) -> list[Frame]:
    """Return every saved state of a solution, or the one of particles.

    Raises
    ------
    BadInput
        For something else, no saved states, or points that do not lie in a plane without ``dims``.
    """
    if isinstance(rho, Particles):
        return [_frame(0.0, 0, rho, dims)]
    if not isinstance(rho, Solution):
        raise BadInput(f"expected a Solution or Particles to draw, got {type(rho).__name__}")
    return [_frame(t, k, p, dims) for t, k, p in zip(rho.times, saved_steps(rho), saved_particles(rho), strict=True)]


def saved_steps(solution: Solution) -> list[int]:
    """Return the numbers of the time steps after which states were saved; that of the start, of which there is no record, comes first."""
    steps = {row["t"]: row["k"] for row in solution.history}
    # Not 0 where a flow goes on from a state.
    start = solution.history[0]["k"] - 1 if solution.history else solution.state.k
    return [steps.get(t, start) for t in solution.times]


def _frame(t: float, k: int, p: Particles, dims: Dims | None) -> Frame:
    frame = Frame(t, k, flat(p.x, dims), p.w.detach().cpu().double().numpy())
    if not (np.isfinite(frame.x).all() and np.isfinite(frame.w).all()):
        raise BadInput(f"particles at time {t:g} are not finite and cannot be drawn")
    return frame


def flat(x: Tensor, dims: Dims | None) -> np.ndarray:
    """Return the drawn coordinates of points, float64 (n, 1 or 2)."""
    rows = x.detach().cpu().double().flatten(1)
    return rows[:, chosen(rows.shape[1], dims)].numpy()


def chosen(d: int, dims: Dims | None) -> list[int]:
    """Return which coordinates are drawn."""
    picked = list(range(d)) if dims is None else [dims] if isinstance(dims, int) else list(dims)
    if dims is None and d > 2:
        raise BadInput(f"points have {d} coordinates and a picture has two: choose one or two with dims=(i, j)")
    if len(picked) not in (1, 2) or not all(0 <= i < d for i in picked) or len(set(picked)) < len(picked):
        raise BadInput(f"dims={dims!r}: expected one or two different coordinates between 0 and {d - 1}")
    return picked


def pick(found: list[Any], times: int | Sequence[float] | None, default: int) -> list[Any]:
    """Return so many frames, evenly spread from the first to the last, or those nearest to the times given.

    Raises
    ------
    BadInput
        For fewer than one frame.
    """
    if times is None or isinstance(times, int):
        n = min(default if times is None else times, len(found))
        if n < 1:
            raise BadInput(f"times={times}: expected at least one state to draw")
        if n == 1:
            return found[-1:]
        return [found[round(i * (len(found) - 1) / (n - 1))] for i in range(n)]
    if len(times) == 0:
        raise BadInput("times is empty: expected at least one state to draw")
    return [min(found, key=lambda f: abs(f.t - t)) for t in times]


def window(clouds: Sequence[np.ndarray], limits: Limits | None) -> list[tuple[float, float]]:
    """Return an interval a coordinate: ``limits``, or what holds all but stray points, with a margin.

    Raises
    ------
    BadInput
        For limits of another number of coordinates, or empty ones.
    """
    dim = clouds[0].shape[1]
    if limits is not None:
        pairs = [(float(a), float(b)) for a, b in limits]
        if len(pairs) != dim or not all(a < b and math.isfinite(b - a) for a, b in pairs):
            raise BadInput(f"limits={limits!r}: expected {dim} pair{'s' * (dim > 1)} (low, high)")
        return pairs
    low = np.min([np.quantile(x, 0.002, axis=0) for x in clouds], axis=0)
    high = np.max([np.quantile(x, 0.998, axis=0) for x in clouds], axis=0)
    margin = 0.08 * np.maximum(high - low, 1e-3 * np.max(high - low)) if (high > low).any() else 1.0
    return [(float(a), float(b)) for a, b in zip(low - margin, high + margin, strict=True)]


def draws(target: Measure, dims: Dims | None) -> Frame:
    """Return at most 500 points of a measure, the same every time."""
    with torch.no_grad():
        return _frame(0.0, 0, target.draw(500, torch.Generator(target.device).manual_seed(0)), dims)
