"""Ctrl-C and SIGTERM in the first seconds of the command line, while packages are imported: one line, no traceback.

Imported before everything else, and of effect only where this process was started as ``wgflow`` or ``python -m wgflow``.
"""

import os
import signal
import sys
import threading
from typing import Any, NoReturn

_HANDLERS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def stop(number: int, frame: Any) -> NoReturn:
    """Leave at once: nothing has begun, and an exception could get lost in the middle of an import."""
    os.write(2, b"wgflow: stopped\n")
    os._exit(128 + number)


def importing() -> None:
    """Take the signals, until :func:`imported`."""
    command = os.path.basename(sys.argv[0]) in ("wgflow", "wgflow.exe")
    module = sys.argv[0] == "-m" and "wgflow" in sys.orig_argv
    if (command or module) and threading.current_thread() is threading.main_thread():
        for number, usual in _HANDLERS.items():
            if signal.getsignal(number) == usual:
                signal.signal(number, stop)


def imported() -> None:
    """Give the signals back."""
    for number, usual in _HANDLERS.items():
        if signal.getsignal(number) is stop:
            signal.signal(number, usual)


importing()
