"""Ctrl-C and SIGTERM while a run can be saved: they wait for the end of an update and its checkpoint, and then do what they do."""

import signal
import threading
from types import FrameType
from typing import Any

import torch

from wgflow.core.ranks import on_any, parallel


class Interrupts:
    """Notes the first signal, for :meth:`asked`, and delivers it at the end of the block; the second one acts at once.

    Handlers belong to the main thread: elsewhere, and for signals that are ignored, nothing is changed.
    """

    def __init__(self, signals: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self.signals = signals
        self.noted: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            handlers = {s: signal.getsignal(s) for s in self.signals}
            self.before = {s: h for s, h in handlers.items() if h is not None and h != signal.SIG_IGN}
            for s in self.before:
                signal.signal(s, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is not None:
            self._put_back()
            signal.raise_signal(number)
        self.noted = number

    def _put_back(self) -> None:
        for s, handler in self.before.items():
            signal.signal(s, handler)
        self.before = {}

    def asked(self, *, looked: bool, device: torch.device) -> bool:
        """Whether to leave now. Several ranks agree, which they can only where they wait for each other anyway."""
        if not parallel():
            return self.noted is not None
        return looked and on_any(self.noted is not None, device)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self._put_back()
        if self.noted is not None and kind is None:
            signal.raise_signal(self.noted)
