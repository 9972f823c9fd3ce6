"""The order of a solver, observed on flows whose end is known."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow import Functional, InteractionEnergy, Particles, PotentialEnergy, PowerLaw, solve, why_not
from wgflow.testing._checks import applies
from wgflow.testing._precision import double_precision
from wgflow.testing._solvers import SOLVER, SolverCase, quadratic


@dataclass(frozen=True)
class _Problem:
    """A flow of particles whose end at time 1 is known."""

    name: str
    F: Functional
    start: Particles
    end: Tensor


def _problems() -> list[_Problem]:
    with double_precision():
        x = torch.tensor([[0.1], [-0.6]])
        well = PotentialEnergy(lambda x: (x.square() - 1).square().sum(1) / 4)
        ends = x * math.e / (1 + x * x * math.expm1(2.0)).sqrt()
        cloud = Particles(torch.tensor([[0.0, 1.0], [2.0, 0.5], [-1.0, 3.0]]), torch.tensor([0.2, 0.3, 0.5]).log())
        mean = (cloud.w[:, None] * cloud.x).sum(0)
        attraction = InteractionEnergy(1.5 * PowerLaw(2))
        return [
            _Problem("the double well (x²-1)²/4", well, Particles(x), ends),
            _Problem("quadratic attraction", attraction, cloud, mean + math.exp(-1.5) * (cloud.x - mean)),
            _Problem("a quadratic potential", quadratic(), Particles(x), x / math.e),
        ]


def _observed(case: SolverCase, errors: Callable[[list[Tensor], _Problem], list[Tensor]], against: str) -> None:
    """Hold a solver to its order by the errors that are made of its ends at successively halved steps."""
    solver, order = case.solver, case.solver.order
    applies(order is not None, "it declares no order")
    assert order is not None
    problems = [q for q in _problems() if why_not(q.F, solver, q.start) is None]
    applies(problems, "it accepts no smooth problem of particles whose solution is known")
    coarsest = 5 if solver.implicit else 16
    for q in problems[:2]:
        flows = [
            solve(q.F, solver, q.start, step_size=1 / n, num_steps=n) for n in (coarsest, 2 * coarsest, 4 * coarsest)
        ]
        sizes = [float(e.norm()) for e in errors([flow.measure.x for flow in flows], q)]  # type: ignore[attr-defined]
        orders = [math.log2(a / b) if a > 0 < b else math.inf for a, b in itertools.pairwise(sizes)]
        advice = " An implicit solver shows it with an exact inner minimizer only, such as optim=LBFGS(), iters=1."
        assert all(abs(s - order) <= 0.15 for s in orders), (
            f"order = {order} is declared, and {against} on {q.name}, {', '.join(f'{e:.2g}' for e in sizes)} with halved steps, shows "
            f"{', '.join(f'{s:.2f}' for s in orders)}.{advice if solver.implicit else ''}"
        )


@SOLVER.check
def order_shows_against_the_exact_flow(case: SolverCase) -> None:
    """Halving the step divides the error to the exact gradient flow by 2^order, on smooth problems of particles."""
    _observed(case, lambda ends, q: [x - q.end for x in ends], "the error to the exact flow")


@SOLVER.check
def order_shows_between_its_own_steps(case: SolverCase) -> None:
    """Halving the step divides its effect by 2^order, whatever flow the solver converges to."""
    _observed(case, lambda ends, q: [y - x for x, y in itertools.pairwise(ends)], "the effect of halving the step")
