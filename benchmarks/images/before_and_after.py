"""The pictures of the README's main job, before and after: the recipe `fashion-mnist` with the networks, the gradient penalty and the
learning rates that it had first, and with others, beside a GAN. Three seeds, 4,000 updates each where nothing else is said.

Scored by averaged generators, at the end; the Fréchet distance is in features of a small classifier of clothes, as in
`equal_time.py`, and is not the FID. A run is kept when it is done, and the same call goes on with the others.
"""

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._record import figure, held, parser, write
from benchmarks.images.equal_time import judges, scores, summary
from wgflow.generative import RECIPES, ImageData, load_images, runtime, to_uint8
from wgflow.metrics import Metric
from wgflow.storage.files import replacing

SHOWN = 16
"""Images of every run in the picture, the same latents in all of them."""
FIRST: dict[str, Any] = {"lr": (1e-3, 5e-4), "first_iters": 500, "iters": 500}
FOUR_TIMES: dict[str, Any] = FIRST | {"lr": (4e-3, 2e-3)}
SHORT: dict[str, Any] = {"first_iters": 300, "iters": 300}
FINE: dict[str, Any] = {"network": "fine", "r1": 1.0, "r1_every": 4}
JSD: dict[str, Any] = {"divergence": "js_nonsat", "step_size": 1.0}
GAN: dict[str, Any] = {"num_steps": 1, "first_iters": 2400, "step_size": math.inf, "divergence": "js_nonsat"}
VARIANTS: dict[str, dict[str, Any]] = {
    "strided convolutions, R1 of 0.2": {"network": "conv", "r1": 0.2, "r1_every": 1} | FIRST,
    "fine networks, R1 of 1 at every 4th update": FINE | FIRST,
    "fine networks, JSD, h = 1": FINE | FIRST | JSD,
    "fine networks, four times the rates, 2,400 updates": FINE | FOUR_TIMES | SHORT,
    "fine networks, four times the rates, 2,400 updates, JSD, h = 1": FINE | FOUR_TIMES | SHORT | JSD,
    "fine networks, four times the rates": FINE | FOUR_TIMES,
    "the same networks as a non-saturating GAN, four times the rates, 2,400 updates": FINE | FOUR_TIMES | GAN,
}


def train(
    changes: dict[str, Any], seed: int, data: ImageData, metrics: Sequence[Metric], args: Any
) -> tuple[dict[str, float], np.ndarray]:
    """Train once; returns the CPU time of it with the scores, and a strip of images as bytes, ``(28, 28 * SHOWN)``."""
    short = {"channels": 4, "first_iters": 2, "iters": 2, "num_steps": 2} if args.quick else {}
    with runtime("cpu") as here:
        flow = RECIPES["fashion-mnist"].changed(seed=seed, **short | changes).flow(data, here)
        begun = time.process_time()
        rho = flow.solve(seed=seed).measure.inference()
    found = {"cpu_seconds": time.process_time() - begun} | scores(metrics, rho)
    x = to_uint8(rho.draw(SHOWN, torch.Generator().manual_seed(2)).x)
    return found, x[:, 0].permute(1, 0, 2).reshape(28, -1).numpy()


def draw(runs: Sequence[dict[str, Any]], strips: np.ndarray, path: Path) -> None:
    """Show a strip of every seed under the name of its variant."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(run["name"] for run in runs))
    drawing = Figure(figsize=(8, 1.75 * len(names)), layout="constrained")
    for ax, name in zip(np.atleast_1d(drawing.subplots(len(names), 1)), names, strict=True):
        mine = [k for k, run in enumerate(runs) if run["name"] == name]
        ax.imshow(np.concatenate(strips[mine]), cmap="gray", vmin=0, vmax=255)
        ax.set_title(name, fontsize=9)
        ax.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> Path:
    from PIL import Image

    options = parser(__doc__.partition("\n\n")[0])
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args(argv)
    args.points = 1000
    if args.quick:
        args.seeds, args.points = 1, 20
    torch.set_num_threads(args.threads)
    pictures = load_images("fashion-mnist-10k")
    metrics, real = judges(pictures, args)
    data = ImageData(pictures.images)
    settings = {"recipe": "fashion-mnist", "points": args.points, "quick": args.quick}
    path, stored = args.results / "before_and_after.json", args.results / "before_and_after_strips.png"
    made = {name: str(changes) for name, changes in VARIANTS.items()}
    runs = held(path, settings).get("runs", [])
    if other := sorted({run["name"] for run in runs if run["changes"] != made.get(run["name"])}):
        options.error(f"{path} has runs of {', '.join(other)} with other settings: remove it with {stored.name}")
    # A call that was ended between its two files has left a strip more than runs.
    strips = list(np.asarray(Image.open(stored)).reshape(-1, 28, 28 * SHOWN)[: len(runs)]) if runs else []
    done = {(run["name"], run["seed"]) for run in runs}
    for seed, (name, changes) in itertools.product(range(args.seeds), VARIANTS.items()):
        if (name, seed) not in done:
            found, strip = train(changes, seed, data, metrics, args)
            runs.append({"name": name, "seed": seed, "changes": made[name]} | found)
            strips.append(strip)
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in runs[-1].items()}, flush=True)
            with replacing(stored) as temporary:
                Image.fromarray(np.concatenate(strips)).save(temporary)
            results = {"rows": summary(runs, "name"), "real": real, "runs": runs}
            write("before_and_after", args.results, settings, results, torch.device("cpu"))
    draw(runs, np.stack(strips), figure(args, "before_and_after.png"))
    return path


if __name__ == "__main__":
    main()
