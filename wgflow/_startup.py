"""Ctrl-C in the first seconds of the command line, while packages are imported: one line and status 130, no traceback.

Imported before everything else, and of effect only where this process was started as ``wgflow`` or ``python -m wgflow``.
"""

import os
import signal
import sys
import threading
from typing import Any, NoReturn


def stop(*_: Any) -> NoReturn:
    """Leave at once: nothing has begun, and an exception could get lost in the middle of an import."""
    os.write(2, b"wgflow: stopped\n")
    os._exit(130)


def importing() -> None:
    """Take the signal of Ctrl-C, until :func:`imported`."""
    command = os.path.basename(sys.argv[0]) in ("wgflow", "wgflow.exe")
    module = sys.argv[0] == "-m" and "wgflow" in sys.orig_argv
    ours = threading.current_thread() is threading.main_thread()
    if (command or module) and ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)


def imported() -> None:
    """Give the signal back: from now on Ctrl-C is ``KeyboardInterrupt``."""
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


importing()
