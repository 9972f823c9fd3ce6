"""Ranks that wait for one that works alone: longer than a collective may take, and no longer than it lives."""

from pathlib import Path
from typing import Any

import pytest
from _ranks_child import left_behind
from _waiting_child import CPU, refuse

from wgflow import BadInput
from wgflow.core.ranks import by_first, together

BOTH = {
    "alone": ("late", "late"),
    "late": ("late", "late"),
    "value": (0, 0),
    "refused": ("BadInput: the folder is another's",) * 2,
    "last fails": ("WgflowError: rank 1 failed: KeyError: 'x'", "KeyError: 'x'"),
    "afterwards": ("goes on", "goes on"),
}


@pytest.fixture(scope="module")
def ranks(meeting: Path) -> list[dict[str, Any]]:
    return left_behind(meeting / "waiting")


@pytest.mark.parametrize("case", BOTH)
def test_both_ranks_wait_and_hear_the_same(ranks: list[dict[str, Any]], case: str) -> None:
    """The collectives of the run give up after half a second, and a rank is late by one and a half."""
    assert tuple(found[case] for found in ranks) == BOTH[case]


def test_a_single_process_does_it_itself() -> None:
    assert by_first(lambda: 3, CPU) == together(lambda: 3) == 3
    with pytest.raises(BadInput, match="no"):
        by_first(lambda: refuse(BadInput("no")), CPU)


def test_the_group_that_waits_goes_with_that_of_all_ranks(ranks):
    """Or its threads still run when the interpreter ends."""
    assert [found["left"] for found in ranks] == [False, False]
