"""Two processes that share a batch: the run of one process, and one answer of both to everything that goes wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from _distributed_child import UPDATES, run, weights
from _ranks_child import WORLD, left_behind

import wgflow
from wgflow.storage.files import files
from wgflow.storage.shares import as_one


@pytest.fixture(scope="module")
def folder(meeting: Path) -> Path:
    return meeting / "shared batch"


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return left_behind(folder)


@pytest.fixture(scope="module")
def single() -> dict[str, torch.Tensor]:
    return weights(run())


@pytest.mark.parametrize("name", ["generator", "critic", "average", "rng"])
def test_both_ranks_hold_the_same(ranks, name):
    assert torch.equal(ranks[0]["whole"][name], ranks[1]["whole"][name])


@pytest.mark.parametrize("name", ["generator", "critic", "average"])
def test_two_ranks_with_half_a_batch_are_one_process_with_the_whole(ranks, single, name):
    torch.testing.assert_close(ranks[0]["whole"][name], single[name], rtol=0, atol=1e-10)


def test_the_ranks_draw_what_one_process_draws(ranks, single):
    assert torch.equal(ranks[0]["whole"]["rng"], single["rng"])


def test_the_comparison_can_fail(single):
    """Another seed, or one update fewer, is far outside the tolerance."""
    assert (weights(run(seed=4))["generator"] - single["generator"]).abs().max() > 1e-2
    assert (weights(run(num_steps=1))["generator"] - single["generator"]).abs().max() > 1e-3


@pytest.mark.parametrize("case", ["resumed", "finished", "timed"])
@pytest.mark.parametrize("rank", range(WORLD))
def test_a_run_of_several_ranks_is_resumed_bit_for_bit(ranks, rank, case):
    assert ranks[rank]["interrupted"].startswith("InterruptedError")
    for name, value in ranks[rank]["whole"].items():
        assert torch.equal(ranks[rank][case][name], value)


def test_two_processes_go_on_with_the_run_of_one(ranks, single):
    for found in ranks:
        torch.testing.assert_close(found["taken over"]["generator"], single["generator"], rtol=0, atol=1e-10)


def test_one_process_goes_on_with_the_run_of_two(ranks, single, folder):
    assert ranks[0]["handed over"].startswith("InterruptedError")
    with pytest.warns(UserWarning, match="begun with 2 processes and goes on with 1: the same up to the order of sums"):
        found = weights(run(checkpoint=wgflow.Checkpoint(folder / "from two", every_updates=4)))
    torch.testing.assert_close(found["generator"], single["generator"], rtol=0, atol=1e-10)
    with pytest.raises(wgflow.CheckpointError, match="batch is 24 here and 12 there"):  # as much as each of two had
        run(batch=24, checkpoint=wgflow.Checkpoint(folder / "from two"))


def test_a_run_in_shares_is_described_as_the_whole():
    share = {"class": "Sharded", "base": {"class": "Normal"}, "rank": 1, "world": 4}
    run = {"target": share, "batch": 8, "parts": [{"batch": 2}], "net": {"closure": {"batch": 32}}}
    assert as_one(run) == {
        "target": {"class": "Normal"},
        "batch": 32,
        "parts": [{"batch": 8}],
        "net": {"closure": {"batch": 32}},
    }
    assert as_one({"target": {"class": "Normal"}, "batch": 8}) == {"target": {"class": "Normal"}, "batch": 8}


def test_the_run_was_resumed_in_the_middle(folder):
    rows = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert [row["update"] for row in rows] == [6, 7, 9, 12, 12]


def test_one_rank_writes_and_all_agree_when(folder):
    counts = sorted(int(path.name[7:17]) for path in files(folder / "timed"))
    assert {0, UPDATES} < set(counts) <= {0, 3, 6, 7, 9, UPDATES}, "at the windows of the log and the ends of the steps"


CASES = {
    "poisoned": ("Diverged: jko/energy became nan", "at update 8, in time step 1"),
    "no folder": ("CheckpointError: cannot write to the folder", "meet"),
    "other run": ("CheckpointError", "another run: seed is 4 here and 3 there"),
    "full": ("CheckpointError: no checkpoint could be written", "the disk is full"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rank", range(WORLD))
def test_what_happens_to_one_rank_stops_all(ranks, rank, case):
    """Or the others would wait for it for ever."""
    begins, holds = CASES[case]
    assert ranks[rank][case].startswith(begins)
    assert holds in ranks[rank][case]
