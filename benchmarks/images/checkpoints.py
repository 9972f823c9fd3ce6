"""What checkpoints cost a run: how long it waits for them, in line and beside it, and how they grow over many time steps."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._record import parser, write
from wgflow import (
    JKO,
    Callback,
    Checkpoint,
    Critic,
    ForwardEuler,
    Particles,
    PotentialEnergy,
    Pushforward,
    Save,
    Softplus,
    StandardNormal,
    solve,
)
from wgflow.storage import files
from wgflow.storage.growing import Growing

WAYS = ("in line", "beside")


class Timed(Checkpoint):
    """Takes checkpoints in line and beside the run by turns, and notes how long the run waited for each."""

    def write(self, run: Any, callbacks: Any, *, wait: bool = True) -> None:
        way = WAYS[0] if wait else WAYS[len(self.waited[WAYS[0]]) > len(self.waited[WAYS[1]])]
        self._writer.wait()
        begun = time.perf_counter()
        super().write(run, callbacks, wait=way == WAYS[0])
        if not wait:
            self.waited[way].append(time.perf_counter() - begun)


class Updates(Callback):
    """Notes the wall time of updates, those apart in which a checkpoint is being written."""

    def __init__(self, save: Checkpoint) -> None:
        self.save, self.seconds = save, {"alone": list[float](), "while one is written": list[float]()}

    def on_start(self, run: Any) -> None:
        self.last = time.perf_counter()

    def on_update(self, run: Any, info: Any) -> None:
        now, busy = time.perf_counter(), self.save._writer.busy
        self.seconds["while one is written" if busy else "alone"].append(now - self.last)
        self.last = now


def generator(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 64))


def waits(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Train a generator and a critic of so many weights, with a checkpoint after every so many updates."""
    normal = StandardNormal(64, device=device)
    solver = JKO(Critic(lambda: nn.Linear(64, 1)), iters=args.updates, batch=256)
    flow = (Softplus(normal, batch=256), solver, Pushforward(normal, lambda: generator(args.width)))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        save = Timed(folder, every_updates=args.every)
        save.waited = {way: [] for way in WAYS}
        seen = Updates(save)
        solve(*flow, step_size=0.1, num_steps=1, callbacks=[seen], checkpoint=save)
        held = files.files(Path(folder))[0].stat().st_size
    usual = {way: statistics.median(taken) for way, taken in save.waited.items()}
    return {
        "megabytes_of_a_checkpoint": held / 1e6,
        "checkpoints": {way: len(taken) for way, taken in save.waited.items()},
        "seconds_that_the_run_waits": usual,
        "in_line_over_beside": usual["in line"] / usual["beside"],
        "seconds_of_an_update": {way: statistics.median(s) for way, s in seen.seconds.items() if s},
    }


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """Compare the last checkpoint of many steps with what it would be, had it the history inside, as in format 2."""

    def quadratic(x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1)

    flow = (PotentialEnergy(quadratic), ForwardEuler(), Particles(torch.ones(1000, 2)))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        save = Checkpoint(folder, every_updates=max(args.steps // 100, 1))
        solve(*flow, step_size=1e-4, num_steps=args.steps, save=Save(0), checkpoint=save)
        last = files.files(Path(folder))[0]
        saved = files.read(last)
        inside = saved | Growing(Path(folder)).read(saved)
        found = {}
        for name, payload in {"history beside": saved, "history inside": inside}.items():
            begun = time.perf_counter()
            path = files.write(payload, Path(folder), args.steps + len(found) + 1)
            found[name] = {"seconds": time.perf_counter() - begun, "kilobytes": path.stat().st_size / 1e3}
        grown = (Path(folder) / saved["saved"]["file"]).stat().st_size / 1e3
    return {"rows": args.steps, "a_checkpoint": found, "kilobytes_of_the_file_that_grows": grown}


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--width", type=int, default=3000, help="of the generator's layers")
    options.add_argument("--updates", type=int, default=60)
    options.add_argument("--every", type=int, default=6, help="updates between checkpoints")
    options.add_argument("--steps", type=int, default=10_000, help="of the flow of particles")
    options.add_argument("--folder", type=Path, default=None, help="a disk; by default that of temporary files")
    args = options.parse_args(argv)
    if args.quick:
        args.width, args.updates, args.every, args.steps = 8, 8, 2, 20
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    kept = {k: getattr(args, k) for k in ("width", "updates", "every", "steps", "quick")}
    results = {"waiting": waits(args, device), "growth": growth(args)}
    print(results)
    return write("checkpoints", args.results, kept, results, device)


if __name__ == "__main__":
    print(main())
