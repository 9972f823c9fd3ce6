"""What do four methods make of the same generator of Fashion-MNIST in the same CPU time? Several seeds of each; one grid for all.

The settings of `Recipe(method=NAME)`, without labels and with constant learning rates, each stopped when its
CPU time is over: that of its updates, and of W-Flow's encoder, which is trained first to fill in masked patches and knows no class.
Scored by averaged generators. The Fréchet distance is in features of a small classifier of clothes, trained here on images that it is not
measured with. It is not the FID.
"""

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._record import figure, parser, write
from examples.w_flow import encoder
from wgflow import Callback, EnergyDistance, Measure, Particles
from wgflow.generative import FID, ImageData, ImageSet, Recipe, load_images, runtime, to_unit
from wgflow.generative.metrics import ModuleFeatures
from wgflow.metrics import FunctionalValue, Metric, SinkhornMetric

METHODS: dict[str, dict[str, Any]] = {
    "W-Flow": {"method": "w_flow"},
    "S-JKO": {"method": "s_jko", "lr_floor": "none"},
    "W1-FE": {"method": "w1_fe"},
    "WGAN-LP": {"method": "wgan_lp"},
}
QUICK = {name: {"channels": 4} for name in METHODS}
QUICK["S-JKO"] |= {"first_iters": 2, "iters": 2}
LABELLED = 4_000
"""Images that the classifier is trained on; the others are for the Fréchet distance."""
SHOWN = 24


class Clock(Callback):
    """Stops a flow at the step nearest to the end of its time; scores it along the way, which is not counted."""

    def __init__(self, seconds: float, used: float, looks: int, metrics: Sequence[Metric]) -> None:
        self.seconds, self.looks, self.metrics = seconds, looks, metrics
        self.before = self.used = used
        self.path: list[dict[str, float]] = []

    def on_start(self, run: Any) -> None:
        self.since = time.process_time()

    def on_step(self, run: Any, row: dict[str, Any]) -> str | None:
        step = time.process_time() - self.since
        self.used += step
        over = self.used + step / 2 >= self.seconds
        if over or self.used >= (len(self.path) + 1) * self.seconds / self.looks:
            rho = run.state.present.inference()
            self.path.append({"seconds": self.used, "update": run.updates} | scores(self.metrics, rho))
        self.since = time.process_time()
        return run.STOP if over else None


def scores(metrics: Sequence[Metric], rho: Measure) -> dict[str, float]:
    return {k: float(v) for metric in metrics for k, v in metric(rho, torch.Generator().manual_seed(1)).items()}


def classifier(pictures: ImageSet, steps: int) -> tuple[nn.Sequential, float]:
    """Return a trained classifier and its accuracy on images that it has not seen."""
    torch.manual_seed(0)
    convolution = lambda a, b: nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())  # noqa: E731
    body = nn.Sequential(convolution(1, 32), convolution(32, 64), convolution(64, 64), nn.AdaptiveAvgPool2d(1))
    net = nn.Sequential(body, nn.Flatten(), nn.Linear(64, 10))
    x, y = to_unit(pictures.images), pictures.labels
    rng, optimizer = torch.Generator().manual_seed(0), torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(steps):
        index = torch.randint(LABELLED, (128,), generator=rng)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[index]), y[index]).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        right = torch.cat([net(part).argmax(1) for part in x[LABELLED:].split(500)]) == y[LABELLED:]
    return net, float(right.float().mean())


def judges(pictures: ImageSet, args: Any) -> tuple[list[Metric], dict[str, Any]]:
    """Return the metrics, and what real data score by them."""
    net, accuracy = classifier(pictures, 5 if args.quick else 600)
    features = ModuleFeatures(
        net[:2], 64, "last features of a classifier of this record", lambda rgb: to_unit(rgb[:, :1])
    )
    one, other = pictures.images[LABELLED:].chunk(2)
    data, n = to_unit(pictures.images), args.points
    energy = FunctionalValue(replace(EnergyDistance(Particles(data[:n])), pairs="distinct"), n, "energy_distance")
    metrics: list[Metric] = [
        SinkhornMetric(ImageData(pictures.images), n=n, blur=1.0),
        energy,
        FID(features, one, n=len(one)),
    ]
    real = {
        "energy_distance": scores([energy], Particles(data[n : 2 * n])),
        "frechet": scores([metrics[2]], Particles(to_unit(other))),
    }
    return metrics, {"classifier_accuracy": accuracy, "frechet_protocol": metrics[2].protocol} | {
        k: v[k] for k, v in real.items()
    }


def train(
    name: str, seed: int, pictures: ImageSet, metrics: Sequence[Metric], args: Any
) -> tuple[dict[str, Any], Tensor]:
    """Train one method until its time is over; returns its scores, and some of its images."""
    data, begun = ImageData(pictures.images), time.process_time()
    with runtime("cpu") as here:
        recipe = METHODS[name] | {"num_steps": 10**6, "seed": seed} | (QUICK[name] if args.quick else {})
        flow = Recipe(**recipe).flow(data, here)
        if name == "W-Flow":
            features = encoder(data, 2 if args.quick else 600)
            flow = replace(flow, functional=replace(flow.functional, encoder=features))
        clock = Clock(args.seconds, time.process_time() - begun, args.looks, metrics)
        rho = flow.solve(seed=seed, callbacks=[clock]).measure.inference()
    row = {"method": name, "seed": seed, "before_training": clock.before} | clock.path[-1]
    return row | {"path": clock.path}, rho.draw(SHOWN, torch.Generator().manual_seed(2)).x


def summary(runs: Sequence[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """Return a row for every name in the entry ``by``: mean and standard deviation over its seeds, for every number of a run."""
    rows = []
    for name in dict.fromkeys(run[by] for run in runs):
        mine = [run for run in runs if run[by] == name]
        row: dict[str, Any] = {by: name, "seeds": len(mine)}
        for key in (key for key, value in mine[0].items() if isinstance(value, (int, float)) and key != "seed"):
            values = [run[key] for run in mine]
            row[key] = statistics.mean(values)
            row[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
        rows.append(row)
    return rows


def draw(grids: dict[str, Tensor], path: Path) -> None:
    """Show two rows of images of every method, drawn at random, below those of the data."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 1.6 * len(grids)), layout="constrained")
    for ax, (name, x) in zip(drawing.subplots(len(grids), 1), grids.items(), strict=True):
        rows = x.view(2, SHOWN // 2, 28, 28).transpose(1, 2).reshape(2 * 28, SHOWN // 2 * 28)
        ax.imshow(rows.numpy(), cmap="gray", vmin=-1, vmax=1)
        ax.set_title(name, fontsize=9)
        ax.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=110)


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--seconds", type=float, default=240.0, help="CPU time of every method")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--looks", type=int, default=4, help="times that a method is scored")
    args = options.parse_args(argv)
    args.points = 1000
    if args.quick:
        args.seconds, args.seeds, args.looks, args.points = 0.2, 1, 2, 20
    torch.set_num_threads(args.threads)
    pictures = load_images("fashion-mnist-10k")
    metrics, real = judges(pictures, args)
    print(real, flush=True)
    runs, grids = [], {"data": to_unit(pictures.images[:SHOWN])}
    for seed, name in itertools.product(range(args.seeds), METHODS):
        row, x = train(name, seed, pictures, metrics, args)
        grids.setdefault(name, x)
        runs.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "path"}, flush=True)
    draw(grids, figure(args, "equal_time.png"))
    settings = {"data": pictures.name, "methods": METHODS} | {
        key: vars(args)[key] for key in ("seconds", "seeds", "looks", "points")
    }
    return write(
        "equal_time",
        args.results,
        settings,
        {"rows": summary(runs, "method"), "real": real, "runs": runs},
        torch.device("cpu"),
    )


if __name__ == "__main__":
    main()
