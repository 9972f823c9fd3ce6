"""Everything a run needs, in one object."""

from dataclasses import dataclass
from typing import Any

from wgflow.core.fields import Checked, Count
from wgflow.driver.solution import Solution
from wgflow.driver.solve import StepSize, solve
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure
from wgflow.solvers import Solver


@dataclass(frozen=True)
class Flow(Checked):
    """A functional, a solver and a start with their step size: everything :func:`solve` asks for.

    Examples
    --------
    >>> import torch
    >>> from wgflow import Particles, PotentialEnergy, ForwardEuler
    >>> V = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> Flow(V, ForwardEuler(), Particles(torch.ones(1, 1)), step_size=0.5, num_steps=1).solve().measure.x
    tensor([[0.5000]])
    """

    functional: Functional
    solver: Solver
    initial: MovingMeasure
    step_size: StepSize
    num_steps: Count

    def solve(self, **options: Any) -> Solution:
        """Run it; ``options`` are those of :func:`solve` (seed, callbacks, checkpoint, ...)."""
        return solve(
            self.functional, self.solver, self.initial, step_size=self.step_size, num_steps=self.num_steps, **options
        )
