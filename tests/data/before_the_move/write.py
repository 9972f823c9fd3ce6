"""Write the checkpoints of this folder: flows killed in the middle, a run folder killed in the middle, and where they end.

They were written by commit 745bdd3, the last one with the modules of wgflow in one folder, and are not to be written anew: what
they show is that a later tree goes on with the files of that one. ``git worktree add ../before 745bdd3``, copy this script and
``tests/driver/_earlier_flows.py`` there, and run it with ``PYTHONPATH=.`` to see how.
"""

import shutil
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "driver"))

from _earlier_flows import DATA, FIRST_FORMAT, FLOWS, RECIPE, Kill, Killed, end, flow, folder_of, here, names_told

import wgflow._describe_1
from wgflow import _files
from wgflow._describe import describe
from wgflow.generative import Recipe, train


class KillTraining:
    """A metric that ends a run at its fourth evaluation, of update 6."""

    calls = 0

    def __call__(self, rho: Any, rng: torch.Generator) -> dict[str, float]:
        self.calls += 1
        if self.calls == 4:
            raise Killed
        return {}


def keep_newest(folder: Path) -> Path:
    newest, *older = _files.files(folder)
    for path in older:
        path.unlink()
    (folder / _files.LOCK).unlink()
    return newest


def in_the_first_format(path: Path, run: dict[str, Any], saved: list[Any]) -> None:
    """Make a checkpoint the one that the first format would have been: its description, and all saved states inside."""
    held = torch.load(path, weights_only=True)
    held |= {"wgflow_checkpoint": 1, "run": run, "saved": saved}
    path.unlink()
    _files.write({k: v for k, v in held.items() if k not in ("processes", "save", "spacing")}, path.parent, 3)
    for states in path.parent.glob("saved-*"):
        states.unlink()


class Watch(Kill):
    """Keeps what the run that it ends has saved, and how the first format described it."""

    def on_start(self, run: Any) -> None:
        self.described, self.saved = wgflow._describe_1.describe_run(run), run.solution.saved


def main() -> None:
    torch.set_num_threads(1)
    ends: dict[str, Any] = {}
    for name in FLOWS:
        folder = folder_of(name)
        shutil.rmtree(folder, ignore_errors=True)
        ends[name] = end(flow(name, folder))
        shutil.rmtree(folder)
        kill = Watch()
        with suppress(Killed):
            flow(name, folder, kill)
        newest = keep_newest(folder)
        if name == FIRST_FORMAT:
            in_the_first_format(newest, kill.described, [{"x": s.x, "log_w": s.log_w} for s in kill.saved[:4]])
    folder = DATA / "training"
    ends["training"] = end(train(Recipe(**RECIPE), folder, device="cpu", checkpoint_seconds=0, progress=False))
    shutil.rmtree(folder)
    with suppress(Killed):
        train(Recipe(**RECIPE), folder, device="cpu", checkpoint_seconds=0, progress=False, metrics=[KillTraining()])
    keep_newest(folder / "checkpoints")
    for pictures in ("samples", "tensorboard"):
        shutil.rmtree(folder / pictures, ignore_errors=True)
    (folder / "curves.png").unlink()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    python, names = sys.version.split()[0], names_told(describe)
    torch.save({"commit": commit, "here": here(), "python": python, "ends": ends, "names": names}, DATA / "ends.pt")


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
