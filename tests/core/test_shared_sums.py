"""Two processes that share the sums over pairs of one cloud: the flow of one process, on both of them to the last bit."""

from pathlib import Path

import pytest
import torch
from _ranks_child import WORLD, left_behind
from _sharing_child import FLOWS, cloud, ends, flow
from torch import Tensor

import wgflow as wg


@pytest.fixture(scope="module")
def folder(meeting: Path) -> Path:
    return meeting / "shared sums"


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Tensor]]:
    return left_behind(folder)


@pytest.fixture(scope="module")
def single() -> dict[str, Tensor]:
    return ends()


@pytest.mark.parametrize("name", FLOWS)
def test_two_processes_find_what_one_finds(ranks, single, name):
    mine, other = (found[name] for found in ranks)
    assert torch.equal(mine, other)
    start = FLOWS[name].get("initial", cloud(len(mine), 2, 0)).x
    moved = (single[name] - start).norm()
    rounding = 1e-5 if mine.dtype == torch.float32 else 1e-8 if name == "adaptive" else 1e-11
    assert moved > 1e-3 * start.norm()
    assert (mine - single[name]).norm() < rounding * moved


def test_each_does_its_part(ranks):
    assert [found["pieces"].tolist() for found in ranks] == [[0, 2, 4], [1, 3]]
    assert all(found["alone again"] for found in ranks)


def test_processes_that_begin_with_other_particles_are_refused(ranks):
    assert all(found["other starts"] for found in ranks)


def test_a_process_without_numbers_leaves_nobody_waiting(ranks):
    assert all(found["no numbers"] for found in ranks)


def test_a_callback_of_one_rank_waits_for_nobody(ranks):
    for found in ranks:
        assert torch.equal(found["watched by one"], found["mmd"])


def test_two_processes_go_on_with_the_run_of_one(ranks, single):
    for found in ranks:
        torch.testing.assert_close(found["from one"], single["noise"], rtol=0, atol=1e-11)


def test_one_process_goes_on_with_the_run_of_two(single, folder):
    with pytest.warns(UserWarning, match="begun with 2 processes"):
        found = flow("noise", checkpoint=wg.Checkpoint(folder / "from two"))
    torch.testing.assert_close(found.measure.x, single["noise"], rtol=0, atol=1e-11)


def test_in_one_process_nothing_changes(single):
    with wg.shared_sums():
        assert torch.equal(flow("blob").measure.x, single["blob"])
    assert WORLD == 2
