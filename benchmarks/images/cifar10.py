"""CIFAR-10 with a small network: S-JKO, source-fixed UOTM and a non-saturating GAN, at equal updates and with equal tricks.

The control that the S-JKO paper does not have: the same code, networks, optimisers, schedule, mirror images, R1 and
running average; only the number of phases differs (and the step size, by UOTM's own cost weight). How many updates fit
into the budget is measured first, for every method; all then get the number that the slowest of them can do.

The Fréchet distance is in the features of a CIFAR-10 classifier, or of an untrained network where its weights are not
given. It is not the FID and cannot be set beside published numbers; it compares these runs with each other.
"""

import argparse
import csv
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._record import ROOT, Clock, parser, peak_memory_mb, reset_peak, write
from wgflow import BadInput, Callback, Diverged
from wgflow.generative import FID, RECIPES, ImageData, ImageSet, Recipe, Runtime, load_images, runtime
from wgflow.generative.evaluate import features_by_name
from wgflow.generative.sample import sample, save_grid
from wgflow.generative.train import fit
from wgflow.measures import ema_decay

TAU = 1e-3  # UOTM's cost weight on CIFAR-10
LABELS = {"kl": "KL", "js_nonsat": "JSD"}
COLUMNS = 16


@dataclass(frozen=True)
class Size:
    """What a size of the experiment fixes."""

    network: str
    lr: tuple[float, float]
    channels: int | None
    batch: int
    phases: int
    evaluate_n: int
    evaluations: int
    seconds: float


SIZES = {
    "small": Size(
        "small", (2e-4, 1e-4), channels=None, batch=256, phases=10, evaluate_n=10_000, evaluations=5, seconds=150.0
    ),
    "tiny": Size("conv", (1e-3, 5e-4), channels=16, batch=32, phases=4, evaluate_n=500, evaluations=2, seconds=40.0),
}


def recipes(args: argparse.Namespace, size: Size, updates: int) -> dict[str, Recipe]:
    """Return the methods as recipes with the same number of updates, named by method and divergence."""
    # The first phase has five times the updates of the others, as in the paper.
    iters = max(1, updates // (size.phases + 4))
    common = RECIPES["cifar10-small"].changed(
        data=str(args.data) if args.data.suffix in (".npy", ".npz") else "cifar10",
        data_root=None if args.data.suffix in (".npy", ".npz") else str(args.data),
        network=size.network,
        lr=size.lr,
        channels=size.channels,
        batch=size.batch,
        instance_noise=args.instance_noise,
        precision=args.precision,
        # The paper's half-life is this fraction of its 108,000 updates.
        ema_half_life=1_774_000 / (108_000 * 256) * updates * size.batch,
        evaluate_every=-(-updates // size.evaluations),
        sinkhorn_n=0,
        seed=args.seed,
    )
    found = {}
    for divergence in LABELS:
        found[f"s_jko-{divergence}"] = common.changed(
            divergence=divergence,
            num_steps=size.phases,
            first_iters=updates - iters * (size.phases - 1),
            iters=iters,
        )
        found[f"source_fixed-{divergence}"] = common.changed(
            divergence=divergence, num_steps=1, first_iters=updates, step_size=1 / (2 * TAU * 3 * 32 * 32)
        )
    # Without the transport cost, the second control: with this entropy a non-saturating GAN.
    found["gan-js_nonsat"] = common.changed(
        divergence="js_nonsat", num_steps=1, first_iters=updates, step_size=math.inf
    )
    return found


def seconds_per_update(recipe: Recipe, data: ImageData, here: Runtime, updates: int) -> float:
    """Time some updates after a warm-up, wall time."""
    flow = recipe.flow(data, here)
    clock = Clock(here.device)
    state = flow.solver.init(flow.functional, flow.initial, torch.Generator(here.device).manual_seed(0))
    taken = []
    for i in range(updates + 5):
        begun = clock()[1]
        state, _ = flow.solver.update(flow.functional, state, flow.step_size)
        if i >= 5:
            taken.append(clock()[1] - begun)
    return statistics.median(taken)


def plan(args: argparse.Namespace, size: Size, data: ImageData, here: Runtime) -> dict[str, Any]:
    """Choose the common number of updates; a plan in the folder of the runs is kept, so that they can be resumed."""
    path = args.runs / "plan.json"
    asked = {k: getattr(args, k) for k in ("size", "seconds", "updates", "quick")} | {"device": str(here.device)}
    if path.exists():
        found = json.loads(path.read_text())
        if found["asked"] != asked:
            raise BadInput(f"{args.runs} holds runs of another plan, {found['asked']}: choose another --runs")
        return found
    trial = recipes(args, size, updates=1000)
    timed = 2 if args.quick else 20
    taken = {name: seconds_per_update(recipe, data, here, timed) for name, recipe in trial.items()}
    fits = int(args.seconds / max(taken.values()))
    updates = args.updates or max(size.phases + 4, fits)
    found = {"asked": asked, "calibration_seconds_per_update": taken, "updates": updates}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return found


class Pace(Callback):
    """Times the log windows. The driver waits for the device at the end of each, so that they can be timed."""

    def __init__(self) -> None:
        self.seconds_per_update: list[float] = []
        self.last: tuple[int, float] | None = None

    def on_start(self, run: Any) -> None:
        self.last = None

    def on_log(self, run: Any, window: dict[str, float]) -> None:
        now = run.updates, time.perf_counter()
        if self.last is not None:
            self.seconds_per_update.append((now[1] - self.last[1]) / (now[0] - self.last[0]))
        self.last = now


def train(
    name: str, recipe: Recipe, args: argparse.Namespace, data: ImageData, fid: FID, here: Runtime, calibrated: float
) -> tuple[dict[str, Any], Tensor]:
    """Train one method; return its numbers and some images of it."""
    folder, pace = args.runs / name, Pace()
    reset_peak(here.device)
    begun = time.perf_counter()
    try:
        solution = fit(
            recipe.flow(data, here),
            folder,
            here,
            record=recipe.plain() | {"image_shape": list(data.event_shape)},
            metrics=[fid],
            every=recipe.evaluate_every,
            seed=recipe.seed,
            callbacks=[pace],
            progress=sys.stderr.isatty(),
        )
    except Diverged as error:
        solution = error.solution
    last = solution.history[-1] if solution.history else {}
    with open(folder / "metrics.csv") as file:
        curve = [{"update": int(row["update"]), "frechet": float(row["frechet"])} for row in csv.DictReader(file)]
    # A median over windows: those with an evaluation or a checkpoint in them are longer and few.
    usual = statistics.median(pace.seconds_per_update or [calibrated])
    options = recipe.options
    numbers = {
        "status": solution.status,
        "updates": int(last.get("update", 0)),
        "phases": options["num_steps"],
        "updates_of_first_and_other_phases": [
            options["first_iters"],
            options["iters"] if options["num_steps"] > 1 else 0,
        ],
        "step_size": options["step_size"] if math.isfinite(options["step_size"]) else "infinite",
        "frechet": curve[-1]["frechet"],
        "frechet_untrained": curve[0]["frechet"],
        "curve": curve,
        "images_per_second": options["batch"] / usual,
        "seconds_with_evaluation": time.perf_counter() - begun,
        "peak_memory_mb": peak_memory_mb(here.device),
    }
    return numbers, sample(solution.measure.inference(), 2 * COLUMNS, seed=recipe.seed)


def floor(fid: FID, data: ImageData, here: Runtime) -> float:
    """Fréchet distance of as many training images, drawn with replacement, to all of them: what n alone costs."""
    return fid(ImageData(data.images), torch.Generator(here.device).manual_seed(1))["frechet"]


def settings(args: argparse.Namespace, size: Size, recipe: Recipe, pictures: ImageSet) -> dict[str, Any]:
    """Return what the runs have in common, without the paths of this machine."""
    kept = {name: getattr(recipe, name) for name in ("network", "channels", "flip", "precision", "seed")}
    names = ("batch", "instance_noise", "r1", "lr", "lr_floor", "snapshot", "latent_coupling")
    kept |= {name: recipe.options[name] for name in names}
    generator, critic = recipe.networks((3, 32, 32))
    count = lambda net: sum(p.numel() for p in net.parameters())  # noqa: E731
    return kept | {
        "size": args.size,
        "quick": args.quick,
        "budget_seconds_per_method": args.seconds if args.updates is None else None,
        "ema_decay": ema_decay(recipe.ema_half_life, recipe.options["batch"]),
        "training_images": len(pictures),
        "parameters": {"generator": count(generator), "critic": count(critic)},
    }


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--data", type=Path, required=True, help=".npy/.npz of images, or torchvision's CIFAR-10 root")
    options.add_argument(
        "--features", type=Path, default=None, help="weights of a CIFAR ResNet (.npz) for the distance"
    )
    options.add_argument("--size", choices=sorted(SIZES), default="small")
    options.add_argument("--seconds", type=float, default=None, help="training time per method (small: 150, tiny: 40)")
    options.add_argument("--updates", type=int, default=None, help="updates per method, in place of a time")
    options.add_argument("--evaluate-n", type=int, default=None, help="images per evaluation")
    options.add_argument("--instance-noise", action="store_true", help="noise 1/(32(k+1)) on data in critic steps")
    options.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--runs", type=Path, default=ROOT / "runs" / "cifar10-benchmark", help="folder of the runs")
    options.add_argument("--name", default=None, help="of the record and the grid (default: cifar10-SIZE-DEVICE)")
    args = options.parse_args(argv)
    size = SIZES[args.size]
    if args.quick:
        size = replace(SIZES["tiny"], channels=4, batch=8, phases=2, evaluate_n=16, evaluations=1)
    args.seconds = args.seconds or size.seconds
    torch.set_num_threads(args.threads)
    with runtime(args.device, args.precision) as here:
        is_file = args.data.suffix in (".npy", ".npz")
        pictures = load_images(args.data) if is_file else load_images("cifar10", args.data)
        data = ImageData(pictures.images.to(here.device), flip=True)
        kind = "cifar-resnet" if args.features else "random-conv"
        extractor = features_by_name(kind, args.features and str(args.features)).to(here.device)
        fid = FID(extractor, pictures.images, n=args.evaluate_n or size.evaluate_n)
        planned = plan(args, size, data, here)
        methods = recipes(args, size, planned["updates"])
        numbers, images = {}, []
        for name, recipe in methods.items():
            numbers[name], pictures_of = train(
                name, recipe, args, data, fid, here, planned["calibration_seconds_per_update"][name]
            )
            images.append(pictures_of)
        first = next(iter(methods.values()))
        results = {
            "plan": planned,
            "protocol": fid.protocol,
            "frechet_floor": floor(fid, data, here),
            "methods": numbers,
            "frechet_of_s_jko_over_source_fixed": {
                d: numbers[f"s_jko-{d}"]["frechet"] / numbers[f"source_fixed-{d}"]["frechet"] for d in LABELS
            },
            "grid_rows": [n for n in methods for _ in range(2)],
        }
    name = args.name or f"cifar10-{args.size}-{here.device.type}"
    save_grid(torch.cat(images), args.results / f"{name}.png", columns=COLUMNS)
    if args.size == "tiny" or args.quick:
        results["caution"] = (
            "tiny networks, budget and evaluation on a CPU: shows that the job runs, claims nothing about quality"
        )
    path = write(name, args.results, settings(args, size, first, pictures), results, here.device)
    for method, found in numbers.items():
        print(
            f"{method:24} {found['updates']} updates, Fréchet {found['frechet']:.2f}, {found['images_per_second']:.0f} images/s"
        )
    print(f"floor {results['frechet_floor']:.2f}; {fid.protocol}")
    return path


if __name__ == "__main__":
    print(main())
