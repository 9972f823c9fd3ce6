"""The one bar that shows progress: alive on a terminal and in a notebook, a line a minute in a file that is a log."""

import sys
from typing import Any

from tqdm import tqdm

_LIVE, _LOGGED = 0.5, 60.0
"""Seconds between two drawings of a bar."""


def progress_bar(*arguments: Any, **options: Any) -> "tqdm[Any]":
    """Return a bar of tqdm on the standard error; arguments are those of ``tqdm``."""
    stream: Any = sys.stderr
    # Streams of a notebook are no terminals by their own account, and are drawn over all the same.
    alive = stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel"))
    seconds = _LIVE if alive else _LOGGED
    return tqdm(*arguments, mininterval=seconds, maxinterval=max(10.0, seconds), **options)
