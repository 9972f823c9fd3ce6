"""Solvers inside of a step say how far they came, and a flow that rests on one that did not converge is not called done."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import wgflow as wg
from wgflow.core.inner import gathered, report


@dataclass(frozen=True)
class Reporting(wg.Functional):
    """A quadratic potential whose value claims to have been found by an iteration."""

    reached: tuple[Any, ...]  # NaN is no number as a setting
    asked: float = 1e-6

    def value(self, rho: wg.Particles) -> torch.Tensor:
        for r in self.reached:
            report("mock", r, self.asked, "Ask for less.")
        return rho.mean(rho.x.square().flatten(1).sum(1))


def flow(F: wg.Functional, **options: Any) -> wg.Solution:
    return wg.solve(F, wg.ForwardEuler(), wg.Particles(torch.ones(2, 1)), step_size=0.1, num_steps=3, **options)


def test_converged_solvers_leave_a_flow_done() -> None:
    solution = flow(Reporting((1e-7, 1e-8)))
    assert (solution.status, solution.unconverged) == ("done", {})
    assert [row["mock/residual"] for row in solution.history] == pytest.approx([1e-7] * 3)


@pytest.mark.parametrize("reached", [(1e-8, 1e-3), (math.inf,), (math.nan,)])
def test_a_missed_tolerance_is_in_the_status_the_history_and_a_warning(reached: tuple[float, ...]) -> None:
    with pytest.warns(wg.NotConverged, match=r"mock missed its tolerance in 100% of the steps .*Ask for less") as said:
        solution = flow(Reporting(reached))
    assert f"(residual up to {max(reached):.2g})" in str(said[0].message)
    assert said[0].filename == __file__, "the warning is of the line that calls solve"
    assert (solution.status, solution.unconverged) == ("unconverged", {"mock": 1.0})
    assert solution.history[-1]["mock/unconverged"] == 1


def test_a_resumed_run_remembers(tmp_path: Any) -> None:
    for _ in range(2):
        with pytest.warns(wg.NotConverged):
            assert flow(Reporting((1.0,)), checkpoint=wg.Checkpoint(tmp_path)).status == "unconverged"


def test_a_stopped_run_stays_stopped() -> None:
    with pytest.warns(wg.NotConverged):
        assert flow(Reporting((1.0,)), callbacks=[wg.StopAt(0.1)]).status == "stopped"


def test_outside_of_a_flow_it_warns_at_once() -> None:
    with pytest.warns(wg.NotConverged, match="mock has not converged: residual nan, asked for 1e-06"):
        report("mock", math.nan, 1e-6, "")
    with gathered() as reports:
        report("mock", torch.tensor([1.0, 3.0]), 2.0, "")
    assert {k: float(v) for k, v in reports.info().items()} == {"mock/residual": 3.0, "mock/unconverged": 1.0}
