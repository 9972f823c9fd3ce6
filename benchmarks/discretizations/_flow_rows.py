"""What a row of discretizations.py is: a flow that is known, and a discretization of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from wgflow import JKO, Functional, Measure, MovingMeasure, Particles, Solver
from wgflow.measures.chain import Chain
from wgflow.measures.grid import Grid
from wgflow.optim import LBFGS
from wgflow.solvers.entropic import EntropicJKO

Error = Callable[[MovingMeasure], float]
EVERY = 10**9
"""A batch that takes all points."""
DRAWS = 50_000
"""Fresh points that score a trained law."""


def double(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def levels(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def implicit(estimator: Any = None) -> JKO:
    """A JKO step of particles, solved to the end."""
    optim = LBFGS(max_iter=500, tolerance=1e-9)
    return JKO(optim=optim, iters=1, batch=EVERY) if estimator is None else JKO(estimator, optim, iters=1, batch=EVERY)


def debiased(h: float) -> EntropicJKO:
    # The bias that is left is of order blur^4 / h: with blur^2 = h / 4 below the error in time.
    return EntropicJKO(blur=math.sqrt(h / 4), tolerance=1e-8)


def wide_enough(make: Callable[[float], EntropicJKO], box: Grid) -> Callable[[float], Solver]:
    """Keep the kernel wider than the cells."""
    return lambda h: replace(s := make(h), blur=max(s.blur, 0.75 * max(box.spacing)))


@dataclass(frozen=True)
class Method:
    """One discretization of one flow. The solver is a function of the step size, for those with a scale to adapt."""

    label: str
    solver: Callable[[float], Solver]
    F: Functional
    start: MovingMeasure
    error: Error
    points: int | None
    floor: float = 0.0
    seeds: int = 1
    steps: tuple[int, ...] | None = None
    """Numbers of steps, where they are fewer than those of the problem."""


@dataclass(frozen=True)
class Problem:
    """A flow that is known: errors are relative to the distance between its ends."""

    name: str
    d: int
    horizon: float
    steps: tuple[int, ...]
    methods: list[Method] = field(default_factory=list)

    def add(
        self,
        label: str,
        solver: Solver | Callable[[float], Solver],
        F: Functional,
        start: MovingMeasure,
        error: Error,
        **more: Any,
    ) -> None:
        make = (lambda h: solver) if isinstance(solver, Solver) else solver
        self.methods.append(Method(label, make, F, start, error, _points(start), **more))


def _points(m: Measure) -> int | None:
    """Of a cloud or a grid; nothing for what makes as many as it is asked for."""
    if isinstance(m, Grid):
        return m.mass.numel()
    if isinstance(m, Chain):
        return m.cached or _points(m.base)
    return len(m) if isinstance(m, Particles) else None


def cloud(m: MovingMeasure) -> Particles:
    """Return the points of a measure; fresh draws, never those of training, where it can make them."""
    if isinstance(m, Grid):
        return m.nodes()
    if isinstance(m, Chain):
        m = replace(m, density=False)  # points are all that is asked for
    drawn = m.inference().draw(DRAWS, torch.Generator().manual_seed(1))
    return replace(drawn, x=drawn.x.double())
