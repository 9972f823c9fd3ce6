"""What one rank alone cannot start, or stops, ends the flow on all of them: or the others would wait for it."""

from pathlib import Path
from typing import Any

import pytest
from _ranks_child import left_behind
from _starting_child import CASES

ERRORS = {
    "an argument": ("BadInput", "step_size=-1.0: expected a positive number"),
    "a schedule": ("BadInput", "step_size=-1.0 at step 0"),
    "parts that do not fit": ("Incompatible", "Entropy.value needs the density"),
    "numbers": ("BadInput", "state.measure.x has entries that are not finite"),
    "a callback": ("BadInput", "the log is another's"),
    "its update": ("BadInput", "the log is another's"),
    "its look": ("BadInput", "the log is another's"),
    "its step": ("BadInput", "the log is another's"),
    "its end": ("BadInput", "the log is another's"),
}


@pytest.fixture(scope="module")
def ranks(meeting: Path) -> list[dict[str, Any]]:
    return left_behind(meeting / "starts")


@pytest.mark.parametrize("case", ERRORS)
def test_both_ranks_hear_of_the_error_of_one_and_the_other_names_it(ranks: list[dict[str, Any]], case: str) -> None:
    place, (kind, reason) = CASES[case][0], ERRORS[case]
    assert ranks[place][case].startswith(f"{kind}: ")
    assert reason in ranks[place][case]
    assert ranks[1 - place][case] == ranks[place][case].replace(f"{kind}: ", f"{kind}: rank {place}: ", 1)


def test_an_error_of_another_library_is_named_too(ranks: list[dict[str, Any]]) -> None:
    assert [found["a network"] for found in ranks] == [
        "WgflowError: rank 1 failed: KeyError: 'weights'",
        "KeyError: 'weights'",
    ]


def test_within_shared_sums_too(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["shared sums"].startswith("BadInput: rank 1: step_size=-1.0")


@pytest.mark.parametrize("k", [0, 2])
def test_a_callback_of_one_rank_stops_all(ranks: list[dict[str, Any]], k: int) -> None:
    """And the callbacks of the others are told."""
    assert [found[f"stopped at {k}"] for found in ranks] == [f"stopped after {k}, told {1.0 if k else None}"] * 2
