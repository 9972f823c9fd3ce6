"""What commands do when their run starts, and not before: nothing stands against it any more."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wgflow import Callback, Solution
from wgflow.generative.folder import sign_folder
from wgflow.storage.files import check_writable, remove_strays, replacing


class Opening(Callback):
    """Prints what is trained."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.text = "\n".join(f"{name}: {value}" for name, value in settings.items())

    def on_start(self, run: Any) -> None:
        """Print it above the bar of progress."""
        from tqdm import tqdm

        with tqdm.external_write_mode():
            print(self.text, flush=True)


class Result(Callback):
    """Signs the folder of a run when it starts, and leaves its result there when all steps are made: both under the lock of the run.

    A file of the result that could not be written is said before anything is computed.
    """

    def __init__(
        self, folder: Path, record: dict[str, Any], name: str, write: Callable[[Solution, Path], None]
    ) -> None:
        self.folder, self.record, self.path, self.write = folder, record, folder / name, write

    def on_start(self, run: Any) -> None:
        """Write whose the folder is."""
        remove_strays(self.folder)
        check_writable(self.path)
        sign_folder(self.folder, self.record)

    def on_end(self, run: Any) -> None:
        """Write the result, not that of a run that was stopped on its way or has failed."""
        if run.state.k >= run.num_steps and run.solution.status != "diverged":
            with replacing(self.path) as file:
                self.write(run.solution, file)
