"""Ctrl-C and SIGTERM during a command: what is open is closed, and what the same command will do is said."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from wgflow.core.startup import stop


class Terminated(BaseException):
    """SIGTERM, as ``KeyboardInterrupt`` is Ctrl-C: what is open is closed before the command leaves."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise :class:`Terminated` on SIGTERM, where nobody else has taken it."""

    def terminate(*_: Any) -> NoReturn:
        raise Terminated

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) in (
        signal.SIG_DFL,
        stop,
    )
    if ours:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def saying_what_is_saved(checkpoints: Path) -> Iterator[None]:
    """Add to a signal that ends a run whether the same command goes on or begins anew."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as signalled:
        saved = any(checkpoints.glob("update-*.pt"))
        signalled.add_note(
            f"the same command {'goes on from the last checkpoint' if saved else 'begins anew: nothing is saved yet'}"
        )
        raise
