"""The one bar that shows progress: alive on a terminal and in a notebook, a line a minute in a file that is a log."""

import sys
import warnings
from typing import Any

_LIVE, _LOGGED = 0.5, 60.0
"""Seconds between two drawings of a bar."""


class Lines:
    """A stream that a bar is written to as lines, where it cannot be drawn over."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        """Write what there is of a bar as a line."""
        if shown := text.strip():
            self.stream.write(f"{shown}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def progress_bar(*arguments: Any, **options: Any) -> Any:
    """Return a bar of tqdm on the standard error, in a notebook a widget where it has some; arguments are those of ``tqdm``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a notebook without widgets has the bar of a terminal
        from tqdm.auto import tqdm
    stream: Any = sys.stderr
    # Streams of a notebook are no terminals by their own account, and are drawn over all the same.
    alive = stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel"))
    seconds = _LIVE if alive else _LOGGED
    if stream is not None and not alive:
        options = {"file": Lines(stream), "ascii": True} | options
    return tqdm(*arguments, mininterval=seconds, maxinterval=max(10.0, seconds), **options)
