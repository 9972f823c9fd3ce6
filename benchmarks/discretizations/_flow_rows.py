"""What a flow of discretizations.py is: a problem of ``wgflow.bench`` with a method a row."""

from dataclasses import dataclass
from typing import Any

from wgflow.bench import Method, Problem
from wgflow.bench.scores import DRAWS

__all__ = ["COUNTS", "DRAWS", "Case", "once"]

COUNTS = (5, 10, 20, 40)
"""Numbers of steps over the time of a flow."""


@dataclass(frozen=True)
class Case:
    """A flow, in one dimension or another."""

    name: str
    d: int
    problem: Problem
    counts: tuple[int, ...] = COUNTS


def once(*parts: Any, **more: Any) -> Method:
    """A method without noise, or one too long to be repeated."""
    return Method(*parts, seeds=1, **more)
