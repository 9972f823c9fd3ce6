"""The callbacks of a run, called together: what one of them cannot do on one rank ends the run on all."""

from collections.abc import Sequence
from typing import Any

from wgflow.core.ranks import from_all, parallel, said_anywhere, together
from wgflow.driver.callbacks import Callback


class Readers:
    """Calls all callbacks, and keeps an error of one until all ranks agree.

    Raised at once it would leave the others waiting in the next sum over ranks, which says nothing of the reason. A single process
    raises at once.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.callbacks = callbacks
        self.failed: Exception | None = None
        self.anywhere = any(from_all(bool(callbacks)))
        """Whether a rank has some."""

    def call(self, name: str, *about: Any) -> list[Any]:
        """Return what the method of that name returns, callback by callback; those after one that failed are called too."""
        found = []
        for c in self.callbacks:
            try:
                found.append(getattr(c, name)(*about))
            except Exception as error:
                if not parallel() or hasattr(error, "known_to_all"):
                    raise
                self.failed = self.failed or error
        return found

    def agree(self, stop: bool = False) -> bool:
        """Return whether one rank says ``stop``, or raise on all what has failed on one. All ranks must call it together.

        They wait here, for days if need be, for one that has worked alone in its callbacks, as other collectives would not.
        """
        if not (self.anywhere and parallel()):
            return stop
        stops, failed = said_anywhere(stop, self.failed is not None)
        if failed:
            together(self._tell)
        return stops

    def _tell(self) -> None:
        if self.failed is not None:
            raise self.failed
