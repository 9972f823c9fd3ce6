"""What commands do when their run starts, and not before: nothing stands against it any more."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wgflow import Callback
from wgflow.storage.files import replacing


class Opening(Callback):
    """Prints what is trained."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.text = "\n".join(f"{name}: {value}" for name, value in settings.items())

    def on_start(self, run: Any) -> None:
        """Print it above the bar of progress."""
        from tqdm import tqdm

        with tqdm.external_write_mode():
            print(self.text, flush=True)


class Claim(Callback):
    """Opens the file of a result when the flow starts: a folder that refuses it says so before anything is computed."""

    temporary: Path

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path, self.stack = path, stack

    def on_start(self, run: Any) -> None:
        """Make it; the stack puts it in its place."""
        self.temporary = self.stack.enter_context(replacing(self.path))
