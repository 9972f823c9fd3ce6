"""What does each choice of an S-JKO training bring? Fashion-MNIST, one choice changed at a time, the same number of updates for all.

The recipe is `fashion-mnist`, with fewer updates and, where a row says nothing else, learning rates of .001 and .0005. The rows with
several seeds are the method with two divergences, and its controls of one step: the step size of source-fixed UOTM, and an infinite
one, which makes a GAN. The others change one setting, or the learning rates and another one, with one seed. Scored by averaged
generators, at the end; the Fréchet distance is in features of a small classifier of clothes, as in `equal_time.py`, and is not the FID.

A run is kept when it is done, and the same call goes on with the others. A row whose settings were edited is made anew.
"""

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import held, parser, write
from benchmarks.images.equal_time import judges, scores, summary
from wgflow.generative import RECIPES, ImageData, Recipe, load_images, runtime
from wgflow.metrics import Metric

PHASES = 8
RATES = (1e-3, 5e-4)
TAU = 1e-3  # UOTM's weight of a cost summed over coordinates
COMPARED: dict[str, dict[str, Any]] = {
    "S-JKO, 8 steps of h = 0.1": {},
    "source-fixed UOTM (one step of h = 0.64)": {"num_steps": 1, "step_size": 1 / (2 * TAU * 28 * 28)},
    "GAN (one step, h infinite)": {"num_steps": 1, "step_size": math.inf},
    "GAN, non-saturating (JSD)": {"num_steps": 1, "step_size": math.inf, "divergence": "js_nonsat"},
    "S-JKO, JSD": {"divergence": "js_nonsat"},
    "S-JKO, JSD, h = 1": {"divergence": "js_nonsat", "step_size": 1.0},
}
CHANGED: dict[str, dict[str, Any]] = {
    "one step of h = 0.1": {"num_steps": 1},
    "8 steps of h = 1": {"step_size": 1.0},
    "8 steps of h = 0.01": {"step_size": 0.01},
    "2 steps": {"num_steps": 2},
    "32 steps": {"num_steps": 32},
    "KL": {"divergence": "kl"},
    "R1 of 0.1": {"r1": 0.1},
    "R1 of 10": {"r1": 10.0},
    "R1 at every update": {"r1_every": 1},
    "half the learning rates": {"lr": (5e-4, 2.5e-4)},
    "twice the learning rates": {"lr": (2e-3, 1e-3)},
    "four times the learning rates": {"lr": (4e-3, 2e-3)},
    "eight times the learning rates": {"lr": (8e-3, 4e-3)},
    "snapshot: averaged": {"snapshot": "ema"},
    "twice the learning rates, 32 steps": {"lr": (2e-3, 1e-3), "num_steps": 32},
    "twice the learning rates, JSD, h = 1": {"lr": (2e-3, 1e-3), "divergence": "js_nonsat", "step_size": 1.0},
    "four times the learning rates, JSD, h = 1": {"lr": (4e-3, 2e-3), "divergence": "js_nonsat", "step_size": 1.0},
    "four times the learning rates, KL": {"lr": (4e-3, 2e-3), "divergence": "kl"},
    "eight times the learning rates, JSD, h = 1": {"lr": (8e-3, 4e-3), "divergence": "js_nonsat", "step_size": 1.0},
}


def recipe(changes: dict[str, Any], args: Any, seed: int) -> Recipe:
    """Return the recipe with these changes, in which all steps have the same number of updates."""
    steps = changes.get("num_steps", PHASES)
    base = RECIPES["fashion-mnist"].changed(num_steps=steps, first_iters=args.updates // steps, seed=seed)
    base = base.changed(iters=args.updates // steps, lr=RATES, **({"channels": 4} if args.quick else {}))
    return base.changed(**changes)


def train(
    changes: dict[str, Any], seed: int, data: ImageData, metrics: Sequence[Metric], args: Any
) -> dict[str, float]:
    """Train once; returns the CPU time of it and the scores."""
    with runtime("cpu") as here:
        flow = recipe(changes, args, seed).flow(data, here)
        begun = time.process_time()
        rho = flow.solve(seed=seed).measure.inference()
    return {"cpu_seconds": time.process_time() - begun} | scores(metrics, rho)


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--updates", type=int, default=1600, help="of the generator, in every run")
    options.add_argument("--seeds", type=int, default=3, help="of the methods that are compared; the others have one")
    args = options.parse_args(argv)
    args.points = 1000
    if args.quick:
        args.updates, args.seeds, args.points = 32, 1, 20
    least = math.lcm(*(c.get("num_steps", PHASES) for c in (COMPARED | CHANGED).values()))
    if args.updates % least:
        options.error(f"--updates {args.updates}: the rows have equal numbers for multiples of {least}")
    torch.set_num_threads(args.threads)
    pictures = load_images("fashion-mnist-10k")
    metrics, real = judges(pictures, args)
    data = ImageData(pictures.images)
    settings = {key: vars(args)[key] for key in ("updates", "points", "quick")} | {"recipe": "fashion-mnist"}
    path = args.results / "equal_updates.json"
    made = {name: str(changes) for name, changes in (COMPARED | CHANGED).items()}
    runs = [run for run in held(path, settings).get("runs", []) if run.get("changes") == made.get(run["name"], "")]
    done = {(run["name"], run["seed"]) for run in runs}
    compared = itertools.product(range(args.seeds), COMPARED.items())
    changed = itertools.product([0], CHANGED.items())
    for seed, (name, changes) in itertools.chain(compared, changed):
        if (name, seed) not in done:
            about = {"name": name, "seed": seed, "changes": made[name]}
            runs.append(about | train(changes, seed, data, metrics, args))
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in runs[-1].items()}, flush=True)
            results = {"rows": summary(runs, "name"), "real": real, "runs": runs}
            write("equal_updates", args.results, settings, results, torch.device("cpu"))
    return path


if __name__ == "__main__":
    main()
