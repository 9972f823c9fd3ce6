"""What does the transport cost of a JKO step change for a generator, by objective? Generative Wasserstein flows at a small scale.

The same networks, optimisers and number of updates for the eight objectives of Caucheteux et al. (2026), with and without the
transport cost, on the bundled images at 14 x 14. A run is scored by its averaged generator: the excess of the Sinkhorn divergence to
the data over that between disjoint samples of them, and the Fréchet distance in the features of an untrained network. Neither is an
FID. Their table is of CIFAR-10 after 101,000 updates of a network 100 times as large.

One seed of all runs comes after the other, and runs that the record holds already, with the same settings, are kept: what was
interrupted goes on.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import held, parser, write
from wgflow import Diverged, Measure, Pushforward, StandardNormal, ema_decay, presets
from wgflow.generative import FID, ImageData, ImageSet, load_images
from wgflow.generative.metrics.features import RandomConvFeatures
from wgflow.generative.nets import ConvCritic, ConvGenerator
from wgflow.generative.nets.labelled import WithoutLabels
from wgflow.metrics import Metric, SinkhornMetric

SIZE, CHANNELS, LATENT, BATCH, LR = 14, 16, 64, 32, (1e-3, 5e-4)
FEATURES = {"mmd": 32, "smmd": 32, "ckmmd": LATENT}
F_DIVERGENCES = ("chi2", "kl", "kl_dv", "js")
OTHERS = ("mmd", "smmd", "ckmmd", "w1")
TAU = {"none": math.inf, "1": 1.0}


def flow(objective: str, tau: str, data: ImageData, updates: int, steps: int) -> presets.Flow:
    """Return the preset with small networks, and the learning rates of the recipe for these images."""
    shape, iters = tuple(data.event_shape), updates // steps
    return presets.gwf(
        data,
        StandardNormal(LATENT),
        lambda: ConvGenerator(image_shape=shape, channels=CHANNELS, latent_dim=LATENT),
        lambda: ConvCritic(image_shape=shape, channels=CHANNELS, outputs=FEATURES.get(objective, 1)),
        objective=objective,
        lambda2=2 * TAU[tau],
        num_steps=steps,
        first_iters=iters,
        iters=iters,
        batch=BATCH,
        lr=LR,
        ema=ema_decay(updates * BATCH / 16, BATCH),
    )


def images(objective: str, rho: Pushforward, shape: tuple[int, ...]) -> Measure:
    """Return the law of the images, without the latents that are behind them for a conditional kernel."""
    averaged = rho.inference()
    return Pushforward(averaged.latent, WithoutLabels(averaged.map, shape)) if objective == "ckmmd" else averaged


def run(objective: str, tau: str, seed: int, data: ImageData, metrics: Sequence[Metric], args: Any) -> dict[str, Any]:
    """Train once; return the scores, or at which time the run diverged."""
    found: dict[str, Any] = {"objective": objective, "tau": tau, "seed": seed}
    begun = time.process_time()
    try:
        solution = flow(objective, tau, data, args.updates, args.steps).solve(seed=seed)
    except Diverged as error:
        return found | {"diverged": str(error)[:120]}
    found["seconds"] = time.process_time() - begun
    rho = images(objective, solution.measure, tuple(data.event_shape))
    for metric in metrics:
        found |= {k: float(v) for k, v in metric(rho, torch.Generator().manual_seed(1)).items()}
    return found


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return mean and standard deviation over the seeds for every objective and tau."""
    rows = []
    for objective, tau in dict.fromkeys((r["objective"], r["tau"]) for r in runs):
        mine = [r for r in runs if (r["objective"], r["tau"]) == (objective, tau)]
        row: dict[str, Any] = {"objective": objective, "tau": tau, "runs": len(mine)}
        for name in ("sinkhorn_excess", "frechet"):
            values = [r[key] for r in mine for key in r if key.startswith(name)]
            row[name] = statistics.mean(values) if values else None
            row[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
        rows.append(row | {"diverged": sum("diverged" in r for r in mine)})
    return rows


def reference(pictures: ImageSet, n: int) -> ImageSet:
    """Return the images that the Fréchet distance compares with: all of them, a few in a quick run."""
    return ImageSet(pictures.images[: 20 * n], None, pictures.name)


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a call."""
    given = parser(__doc__)
    given.add_argument("--updates", type=int, default=600, help="of a run")
    given.add_argument("--steps", type=int, default=6, help="JKO steps of a run")
    given.add_argument("--seeds", type=int, default=3)
    given.add_argument("--objectives", nargs="+", default=[*F_DIVERGENCES, *OTHERS])
    given.add_argument("--minutes", type=float, default=math.inf, help="start no run after so many of wall time")
    args = given.parse_args(argv)
    if args.quick:
        args.updates, args.steps, args.seeds, args.objectives = 4, 2, 1, ["kl", "ckmmd"]
    return args


def main(argv: Sequence[str] | None = None) -> Path:
    """Run what the record lacks, and write it after every run."""
    args = options(argv)
    torch.set_num_threads(args.threads)
    pictures = load_images("fashion-mnist-10k", size=SIZE)
    data = ImageData(pictures.images)
    n = 50 if args.quick else 500
    metrics: list[Metric] = [
        SinkhornMetric(data, n=n, blur=1.0),
        FID(RandomConvFeatures(0), reference(pictures, n), n=4 * n),
    ]
    settings = {
        "data": f"{pictures.name} at {SIZE} x {SIZE}",
        "networks": f"conv, {CHANNELS} channels",
        "batch": BATCH,
        "learning rates": list(LR),
        "updates": args.updates,
        "steps": args.steps,
        "sinkhorn_n": n,
        "quick": args.quick,
        "threads": args.threads,
    }
    path, begun = args.results / "gwf.json", time.monotonic()
    runs = held(path, settings).get("runs", [])
    done = {(r["objective"], r["tau"], r["seed"]) for r in runs}
    for seed, objective, tau in itertools.product(range(args.seeds), args.objectives, TAU):
        if (objective, tau, seed) in done or time.monotonic() - begun > 60 * args.minutes:
            continue
        runs.append(run(objective, tau, seed, data, metrics, args))
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in runs[-1].items()}, flush=True)
        write("gwf", args.results, settings, {"summary": summary(runs), "runs": runs}, torch.device("cpu"))
    for row in summary(runs):
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    return path


if __name__ == "__main__":
    main()
