"""Line searches of two processes: they see the mean of both objectives, so both take the same steps."""

from pathlib import Path

import pytest
import torch
from _ranks_child import left_behind
from _searching_child import CASES, X


@pytest.fixture(scope="module")
def ranks(meeting: Path) -> list[dict]:
    return left_behind(meeting / "line searches")


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_take_the_same_steps_to_the_minimum_of_the_mean(ranks, case):
    """One process that has the mean itself differs by rounding, which a minimum (gradient left: 1e-6 or less) damps."""
    mine, other, single = ranks[0][case], ranks[1][case], CASES[case](0, 1)
    assert torch.equal(mine["x"], other["x"])
    assert mine["evaluations"] == other["evaluations"] > 3
    torch.testing.assert_close(mine["x"], single["x"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["lbfgs", "newton"])
def test_the_comparison_can_fail(case):
    """The minimum of one rank's own objective is far away, and the particles have moved."""
    alone, single = (CASES[case](0, world)["x"] for world in (2, 1))
    assert (alone - single).abs().max() > 0.1
    assert (single - X).abs().max() > 0.1
