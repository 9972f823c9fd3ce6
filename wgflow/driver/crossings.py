"""Whether a time step has led particles past each other where the density is made of the gaps between them."""

import dataclasses
from typing import Any

from wgflow.core.inner import report
from wgflow.functionals import Functional
from wgflow.kernels.densities import Spacings
from wgflow.measures import Measure, Particles
from wgflow.solvers import Solver, WithReaction


def keeps_order(F: Functional, solver: Solver, measure: Measure) -> bool:
    """Whether neighbors on a line must not pass each other: where :class:`Spacings` models the density of particles.

    No flow of such an energy lets them: its gaps would have to close. A reaction may put particles elsewhere.
    """
    on_a_line = isinstance(measure, Particles) and measure.event_shape.numel() == 1
    return on_a_line and not isinstance(solver, WithReaction) and _held(F, solver)


def report_crossings(before: Measure, after: Measure) -> None:
    """Report how many neighbors on a line have passed each other in a time step."""
    if not (isinstance(before, Particles) and isinstance(after, Particles)) or before.x.shape != after.x.shape:
        return
    order = before.x.flatten().argsort()
    crossed = (after.x.flatten()[order].diff() < 0).sum()
    report(
        "spacings",
        crossed.double(),
        0,
        "Particles on a line have passed each other, which no flow of Spacings() lets them: take smaller time steps, or "
        "JKO(Blob(Spacings()), TridiagonalNewton(), iters=1), which keeps their order at any step.",
    )


def _held(*parts: Any) -> bool:
    """Whether a density model of gaps is among these objects and their fields."""
    for part in parts:
        if isinstance(part, Spacings):
            return True
        if isinstance(part, tuple):
            held = part
        elif dataclasses.is_dataclass(part) and not isinstance(part, (type, Measure)):
            held = tuple(getattr(part, f.name) for f in dataclasses.fields(part))
        else:
            continue
        if _held(*held):
            return True
    return False
