"""Data to data: a generator that turns digits of one collection into those of another, by W1-FE (Malik and Huang, 2024, section 5).

The source of the generator is no noise but a labeled data set. Images are carried over by the flow of W1 without their labels; then the
nearest carried neighbor says the class of every test image of the target. Without adaptation the source itself answers.

    python examples/usps_to_mnist.py --usps DIR --mnist DIR                        # USPS -> MNIST, K = 1, 3, 5
    python examples/usps_to_mnist.py --usps DIR --mnist DIR --back                 # MNIST -> USPS
    python examples/usps_to_mnist.py ... --iterations 1000 --seeds 1 --every 250   # about 3 CPU minutes
    python examples/usps_to_mnist.py ... --record usps.json                        # kept run by run; the same call goes on

DIR of USPS has x_train.npy, y_train.npy, x_test.npy, y_test.npy (n, 16, 16), that of MNIST its four idx files; .gz and .xz are read too.
The published run has 100,000 iterations; networks and settings are those of the public code, with the one-sided penalty.
"""

import argparse
import gzip
import itertools
import json
import lzma
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import wgflow as wg
from wgflow.bench.measuring import record

OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open}


class Digits(NamedTuple):
    """Images (n, 256) in [-1, 1] with their labels (n,)."""

    x: Tensor
    y: Tensor


def read(folder: Path, name: str) -> np.ndarray:
    """Return an array of a .npy or an idx file, packed or not."""
    for suffix, opener in OPENERS.items():
        path = folder / (name + suffix)
        if path.exists():
            with opener(path, "rb") as file:
                if name.endswith(".npy"):
                    return np.load(file)
                content = file.read()
            axes = content[3]
            shape = np.frombuffer(content, ">u4", axes, 4)
            return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    raise SystemExit(f"no {name} in {folder}, nor packed as .gz or .xz")


def digits(images: np.ndarray, labels: np.ndarray) -> Digits:
    """Scale gray values to [-1, 1] and images to 16 x 16 pixels."""
    x = torch.tensor(images.astype(np.float32) / images.max() * 2 - 1)[:, None]
    if x.shape[-1] != 16:
        x = nn.functional.interpolate(x, (16, 16), mode="bilinear", antialias=True)
    return Digits(x.flatten(1), torch.tensor(labels.astype(np.int64)))


def load_usps(folder: Path) -> tuple[Digits, Digits]:
    """Return the training and the test set."""
    train, test = (digits(read(folder, f"x_{s}.npy"), read(folder, f"y_{s}.npy")) for s in ("train", "test"))
    return train, test


def load_mnist(folder: Path) -> tuple[Digits, Digits]:
    """Return the training and the test set."""
    train, test = (
        digits(read(folder, f"{s}-images-idx3-ubyte"), read(folder, f"{s}-labels-idx1-ubyte"))
        for s in ("train", "t10k")
    )
    return train, test


def perceptron(widths: tuple[int, ...], std: float, normalised: bool) -> nn.Sequential:
    """Return linear layers with normal weights, zero biases and ReLU between them, where asked with batch normalization."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b) if normalised else nn.Identity(), nn.ReLU()]
    net = nn.Sequential(*layers[:-2])
    for name, p in net.named_parameters():
        nn.init.normal_(p, std=std) if name.endswith("weight") else nn.init.zeros_(p)
    return net


class Residual(nn.Module):
    """x + 2 tanh(net(x)): the identity at first."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron((256, 200, 500, 256), 0.01, normalised=True)

    def forward(self, x: Tensor) -> Tensor:
        """Carry images (n, 256) over."""
        return x + 2 * self.net(x).tanh()


def critic() -> nn.Module:
    """Return the critic of the public code."""
    return perceptron((256, 200, 500, 1), 0.1, normalised=False)


@torch.no_grad()
def accuracy(x: Tensor, y: Tensor, test: Digits) -> float:
    """Return the share of test images whose nearest neighbor among ``x`` has their class; all of them."""
    right = [
        (y[torch.cdist(part, x).argmin(1)] == of).sum()
        for part, of in zip(test.x.split(500), test.y.split(500), strict=True)
    ]
    return float(torch.stack(right).sum()) / len(test.y)


class Accuracy:
    """A metric: how well the source, carried by the present generator, classifies the target's test images."""

    def __init__(self, source: Digits, test: Digits) -> None:
        self.source, self.test = source, test

    def __call__(self, rho: wg.Measure, rng: torch.Generator) -> dict[str, float]:
        """Return ``{"accuracy": share}``."""
        assert isinstance(rho, wg.Pushforward)
        with torch.no_grad():
            return {"accuracy": accuracy(rho.apply((self.source.x,)), self.source.y, self.test)}


def train(source: Digits, target: tuple[Digits, Digits], K: int, control: str | None, seed: int, args) -> list[dict]:
    """Return iterations, accuracy, W1 by the critic and the realized fraction along one run."""
    flow = wg.presets.w1_fe(
        *(wg.Dataset(target[0].x), wg.Dataset(source.x), Residual, critic),
        persistent=K, control=control, num_steps=args.iterations, batch=64, lr=(1e-4, 1e-4), betas=(0.0, 0.9),
    )  # fmt: skip
    seen = wg.Evaluate([Accuracy(source, target[1])], every=args.every)
    begun = time.process_time()
    solution = flow.solve(seed=seed, save=wg.Save(0), callbacks=[seen])
    keys = ("k", "accuracy", "critic/objective", "regression/realised")
    path = [{"k": 0, "accuracy": seen.initial["accuracy"]}]
    path += [{key: row[key] for key in keys} for row in solution.history if "accuracy" in row]
    return [*path[:-1], path[-1] | {"cpu_seconds": time.process_time() - begun}]


def summary(runs: dict[str, list[dict]]) -> list[dict]:
    """Return a row a method, over its seeds: mean and standard deviation of the accuracy at the end, and its mean at every look."""
    rows, methods = [], {}
    for key, run in runs.items():
        methods.setdefault(key.partition(" | ")[0], []).append(run)
    for name, mine in methods.items():
        path = [[look["accuracy"] for look in looks] for looks in zip(*mine, strict=True)]
        row = {"method": name, "seeds": len(mine), "accuracy": statistics.mean(path[-1])}
        row["accuracy_std"] = statistics.stdev(path[-1]) if len(mine) > 1 else None
        row["cpu_seconds"] = statistics.mean(run[-1]["cpu_seconds"] for run in mine)
        rows.append(row | {"path": [statistics.mean(look) for look in path]})
    return rows


def main() -> None:
    """Read the options, run what the record does not hold, print a table."""
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--usps", type=Path, required=True, help="folder of USPS")
    p.add_argument("--mnist", type=Path, required=True, help="folder of MNIST")
    p.add_argument("--back", action="store_true", help="MNIST -> USPS")
    p.add_argument("--persistent", type=int, nargs="*", default=[1, 3, 5], help="levels K")
    p.add_argument("--control", choices=["naive"], help="the control of every K in its place")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--iterations", type=int, default=100_000)
    p.add_argument("--every", type=int, default=1_000, help="iterations between two looks")
    p.add_argument("--limit", type=int, help="images of every set, for a trial")
    p.add_argument("--record", type=Path, help="JSON file of the results")
    args = p.parse_args()
    usps, mnist = load_usps(args.usps), load_mnist(args.mnist)
    (source, _), target = (mnist, usps) if args.back else (usps, mnist)
    if args.limit:
        source = Digits(source.x[: args.limit], source.y[: args.limit])
        target = tuple(Digits(d.x[: args.limit], d.y[: args.limit]) for d in target)
    name = "MNIST -> USPS" if args.back else "USPS -> MNIST"
    settings = {"direction": name, "iterations": args.iterations, "every": args.every, "limit": args.limit}
    held = {"benchmark": "usps_to_mnist", "settings": settings, "results": {"runs": {}}}
    if args.record and args.record.exists():
        held = json.loads(args.record.read_text())
    if held["settings"] != settings:
        raise SystemExit(f"{args.record} holds runs with other settings: give another --record")
    results = held["results"]
    results["without_adaptation"] = accuracy(source.x, source.y, target[1])
    print(f"{name}, {len(target[1].y)} test images; without adaptation {results['without_adaptation']:.3f}")
    for seed, K in itertools.product(range(args.seeds), args.persistent):
        key = f"K = {K}{', naive control' if args.control else ''} | {seed}"
        if key not in results["runs"]:
            results["runs"][key] = train(source, target, K, args.control, seed, args)
            held |= record(torch.device("cpu"), "examples/usps_to_mnist.py")
        results["rows"] = summary(results["runs"])
        if args.record:
            args.record.write_text(json.dumps(held, indent=1) + "\n")
        end = results["runs"][key][-1]
        said = f"accuracy {end['accuracy']:.3f} after {end['k']} iterations, realised {end['regression/realised']:.3f}"
        print(f"{key:28} {said}", flush=True)


if __name__ == "__main__":
    main()
