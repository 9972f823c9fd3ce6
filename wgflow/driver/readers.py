"""The callbacks of a run, called together: what one of them cannot do on one rank ends the run on all."""

from collections.abc import Sequence
from typing import Any

import torch

from wgflow.core.ranks import on_any, parallel, together
from wgflow.driver.callbacks import Callback


class Readers:
    """Calls all callbacks, and keeps an error of one until all ranks wait for each other anyway.

    Raised at once it would leave the others waiting in the next sum over ranks, which says nothing of the reason. A single process
    raises at once.
    """

    def __init__(self, callbacks: Sequence[Callback], device: torch.device) -> None:
        self.callbacks, self.device = callbacks, device
        self.failed: Exception | None = None

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

    def agree(self) -> None:
        """Raise on all ranks what has failed on one. All ranks must call it together."""
        if parallel() and on_any(self.failed is not None, self.device):
            together(self._tell)

    def _tell(self) -> None:
        if self.failed is not None:
            raise self.failed
