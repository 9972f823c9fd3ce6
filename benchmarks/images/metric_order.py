"""Which metrics put worse images behind better ones: held-out images, and the same with less contrast, blur, noise or classes."""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from benchmarks._record import parser, write
from wgflow import Particles
from wgflow.generative import FID, ImageData, ImageSet, energy, load_images, sinkhorn, to_uint8, to_unit
from wgflow.generative.evaluate import features_by_name
from wgflow.generative.metrics import ImageFeatures
from wgflow.metrics import PrecisionRecall

REAL = "real"
LEVELS: dict[str, tuple[float, ...]] = {
    "contrast": (0.9, 0.75, 0.5),  # factor of the distance from middle gray
    "blur": (0.5, 1.0, 2.0),  # standard deviation, in pixels
    "noise": (0.05, 0.1, 0.2),  # standard deviation, of values in [-1, 1]
    "classes": (0.9, 0.7, 0.5),  # share of the classes that are left
}
DISTANCES = ("energy_distance", "sinkhorn_excess", "frechet", "kernel")
SHOWN = (*DISTANCES, "precision", "recall", "density", "coverage")


def halves(pictures: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Split images in two: what metrics compare with, and what stands for a model."""
    half, labels = len(pictures) // 2, pictures.labels
    return tuple(
        replace(pictures, images=pictures.images[part], labels=None if labels is None else labels[part])
        for part in (slice(half), slice(half, None))
    )  # type: ignore[return-value]


def worse(held: ImageSet, kind: str, level: float, n: int, rng: torch.Generator) -> Tensor:
    """Return ``n`` held-out images in [-1, 1], of fewer classes or made worse, at 8 bits."""
    images = held.images
    if kind == "classes":
        assert held.labels is not None
        images = images[held.labels < round(level * (int(held.labels.max()) + 1))]
    x = ImageData(images).subset(n, rng)
    if kind == "contrast":
        x = level * x
    elif kind == "blur":
        x = gaussian_blur(x, 2 * round(3 * level) + 1, level)
    elif kind == "noise":
        x = x + level * torch.randn(x.shape, generator=rng)
    return to_unit(to_uint8(x))


def metrics(real: ImageSet, args: argparse.Namespace) -> list[Callable[[Particles, torch.Generator], dict[str, float]]]:
    """Return what is measured, each against the same half of the images."""
    rgb = real.images.shape[1] == 3
    features = features_by_name(
        "cifar-resnet" if args.weights and rgb else "random-conv", args.weights if rgb else None
    )
    data = ImageData(real.images)
    return [
        *energy(data, args.n),
        *sinkhorn(data, args.n, args.blur),
        FID(features, real, n=args.n, kid=True, subsets=1),
        PrecisionRecall(data, args.n, features=ImageFeatures(features)),
    ]


def measured(pictures: ImageSet, args: argparse.Namespace) -> dict[str, Any]:
    """Return mean and standard deviation of every metric at every level, and where distances put the levels in a wrong order."""
    real, held = halves(pictures)
    asked = metrics(real, args)
    kinds = [k for k in LEVELS if k != "classes" or pictures.labels is not None]
    found: dict[str, dict[str, list[float]]] = {}
    for kind, level in [(REAL, 0.0), *((k, level) for k in kinds for level in LEVELS[k])]:
        rows = []
        for seed in range(args.draws):
            rho = Particles(worse(held, kind, level, args.n, torch.Generator().manual_seed(1 + seed)))
            rng = torch.Generator().manual_seed(1000 + seed)  # the same real images at every level
            rows.append({name: v for metric in asked for name, v in metric(rho, rng).items()})
        name = kind if kind == REAL else f"{kind} {level:g}"
        found[name] = {k: [statistics.fmean(r[k] for r in rows), statistics.stdev(r[k] for r in rows)] for k in SHOWN}
        print(name, {k: f"{mean:.4g}" for k, (mean, _) in found[name].items()}, flush=True)
    wrong = {
        metric: [
            f"{after} below {before}"
            for kind in kinds
            for before, after in pairwise([REAL, *(f"{kind} {level:g}" for level in LEVELS[kind])])
            if found[after][metric][0] <= found[before][metric][0]
        ]
        for metric in DISTANCES
    }
    return {"features": asked[-2].protocol, "values": found, "wrong_order": wrong}  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--data", nargs="+", default=["fashion-mnist-10k"], help="names, folders or arrays of images")
    options.add_argument("--weights", default=None, help="resnet20.npz: classifier features for images with 3 channels")
    options.add_argument("-n", type=int, default=1000, help="images in a cloud")
    options.add_argument("--draws", type=int, default=3, help="clouds of every kind")
    options.add_argument("--blur", type=float, default=1.0, help="of the Sinkhorn divergence")
    args = options.parse_args(argv)
    if args.quick:
        args.n, args.draws = 20, 2
    torch.set_num_threads(args.threads)
    results = {pictures.name: measured(pictures, args) for pictures in map(load_images, args.data)}
    for name, found in results.items():
        print(name, found["wrong_order"])
    kept = {k: getattr(args, k) for k in ("n", "draws", "blur", "quick")}
    return write("metric_order", args.results, kept, results, torch.device("cpu"))


if __name__ == "__main__":
    print(main())
