"""What tests of trainings share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wgflow import Checkpoint
from wgflow.generative import Recipe, train


class Stopped(Exception):
    pass


@pytest.fixture
def cut() -> Callable[[Recipe, Path, int], None]:
    """Begin a training that saves after every update, and stop it when it has saved so many times."""

    def begin(recipe: Recipe, folder: Path, saves: int) -> None:
        write, count = Checkpoint.write, []

        def stopping(self: Checkpoint, *about: Any, **how: Any) -> Any:
            count.append(write(self, *about, **how))
            if len(count) == saves:
                raise Stopped
            return count[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Checkpoint, "write", stopping)
            patch.setattr(Checkpoint, "due", lambda self, run, **when: True)
            with pytest.raises(Stopped):
                train(recipe, folder, device="cpu", progress=False)

    return begin
