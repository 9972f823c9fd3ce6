"""One piece of work at a time in a thread beside a run, whose error comes back to the run."""

import threading
import time
from collections.abc import Callable


class Beside:
    """Does one piece of work in a thread of its own; the end of the process waits for it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """How long the last piece has taken."""
        self.failed: Exception | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether the work is still in progress."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, work: Callable[[], None]) -> None:
        """Begin, once the last piece is done, whose error is raised."""
        self.wait()
        self._thread = threading.Thread(target=self._do, args=(work,))
        self._thread.start()

    def _do(self, work: Callable[[], None]) -> None:
        begun = time.monotonic()
        try:
            work()
        except Exception as error:
            self.failed = error
        self.seconds = time.monotonic() - begun

    def wait(self) -> None:
        """Wait for the last piece, and raise its error, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failed, self.failed = self.failed, None
        if failed is not None:
            raise failed
