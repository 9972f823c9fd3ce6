"""Runs from before ``batch=None``: where nobody had given a batch they drew 256 points, and they go on with as many."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wgflow.driver.run import Run

VERSION = 3
"""Of the descriptions that tell an open batch from a given one."""
_EARLIER = 256


def is_earlier(theirs: dict[str, Any]) -> bool:
    """Whether a description was written before batches could be left open."""
    return theirs.get("version", 1) < VERSION


def as_earlier(ours: dict[str, Any]) -> dict[str, Any]:
    """Return a description as it was written then: with a number in the place of every open batch of the functional."""
    found = ours | {"functional": _given(ours.get("functional"))}
    return found | ({"version": 2} if "version" in ours else {})


def give_batches(run: "Run") -> None:
    """Give every functional of a run the batch that it had then, where none is given."""
    run.F = run.F.matched(_EARLIER, only_open=True)


def _given(found: Any) -> Any:
    if isinstance(found, list):
        return [_given(part) for part in found]
    if not isinstance(found, dict):
        return found
    return {key: _EARLIER if key == "batch" and part is None else _given(part) for key, part in found.items()}
