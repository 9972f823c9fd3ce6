"""What torch.compile makes of an update of S-JKO: seconds of eager and of compiled code side by side, and how far they are apart."""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import Clock, parser, write
from benchmarks.images._loops import Loop
from benchmarks.images.hot_loop import times
from wgflow.core import compiling
from wgflow.generative import ImageData, Recipe, Runtime, load_images

PAIRS: dict[str, dict[str, Any]] = {"fine": {}, "small": {"channels": 32}}
QUICK: dict[str, dict[str, Any]] = {"fine": {"channels": 4}}


def compared(recipe: Recipe, data: ImageData, updates: int, device: torch.device) -> dict[str, Any]:
    """Time updates of one recipe in both ways, in random order in every round."""
    compiling.check_compiles(True, device)
    how = {"eager": False, "compiled": True}
    loops = {name: Loop.of(recipe.flow(data, Runtime(device, compile=value))) for name, value in how.items()}
    clock, first = Clock(device), {}
    for name, loop in loops.items():
        begun = clock()[0]
        loop.run(1)
        first[name] = clock()[0] - begun
    nets = [loop.state.estimator.net for loop in loops.values()]
    with torch.no_grad():
        gaps = [
            (a - b).norm() / a.norm().clamp_min(1e-30) for a, b in zip(*(n.parameters() for n in nets), strict=True)
        ]
    usual = {n: statistics.median(t for t, _ in found) for n, found in times(loops, updates, device).items()}
    return {
        "seconds_per_update": usual,
        "eager_over_compiled": usual["eager"] / usual["compiled"],
        "seconds_of_first_update": first,
        "critics_differ_by_after_one_update": max(gap.item() for gap in gaps),
    }


def settings(args: argparse.Namespace) -> dict[str, Recipe]:
    """Return the recipes, of images of the bundled set."""
    usual = {"method": "s_jko", "r1": 0.2, "batch": 4 if args.quick else args.batch, "instance_noise": True}
    return {name: Recipe(network=name, **usual, **sizes) for name, sizes in (QUICK if args.quick else PAIRS).items()}


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--updates", type=int, default=15, help="that are timed")
    args = options.parse_args(argv)
    if args.quick:
        compiling.BACKEND, args.updates = "aot_eager", 2
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    data = ImageData(load_images("fashion-mnist-10k").images.to(device), flip=True)
    results = {name: compared(recipe, data, args.updates, device) for name, recipe in settings(args).items()}
    kept = {k: getattr(args, k) for k in ("batch", "updates", "quick")} | {"clock": Clock(device).name}
    for name, found in results.items():
        print(f"{name}: eager over compiled {found['eager_over_compiled']:.2f}, {found['seconds_of_first_update']}")
    return write("compiled", args.results, kept, results, device)


if __name__ == "__main__":
    print(main())
