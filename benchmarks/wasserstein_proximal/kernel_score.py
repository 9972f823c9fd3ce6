"""The kernel score model against kernel density estimates, the empirical kernel and a score network.

Three questions: held-out likelihood on a manifold in six dimensions, copies on two spirals, and quality against the number of data
beside a network that has the same data and the same CPU time. Rows that a record has already are kept.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import wgflow as wg
from benchmarks._record import held, parser, write
from benchmarks.wasserstein_proximal._score_network import Denoised, trained
from wgflow import presets
from wgflow.metrics import Memorization

BETA = 0.5
LAST, LAST_OF_NETWORK = 1e-8, 1e-5
"""Noise at the end of a reverse process over that at its start: closed forms go to the end, a network to where it is trained."""
NORMALS = torch.tensor([[2.0, 0.0], [1.0, 1.0], [1.0, -2.0]])
"""Rows of A in z = A(x, y) + noise of 0.1: the local standard deviations across the roll are 0.1 / sqrt(eig(A Aᵀ + I))."""


def two_spirals(n: int, rng: torch.Generator) -> Tensor:
    """Two noisy spirals in the plane."""
    r = 3 * math.pi * torch.rand(n, generator=rng).sqrt()
    x = -r * r.cos() + 0.5 * torch.rand(n, generator=rng)
    y = r * r.sin() + 0.5 * torch.rand(n, generator=rng)
    side = (torch.arange(n) % 2 * 2 - 1)[:, None]
    return side * torch.stack([x, y], 1) / 3 + 0.1 * torch.randn(n, 2, generator=rng)


def swiss_roll(n: int, rng: torch.Generator) -> Tensor:
    """A noisy swiss roll (x, y), three linear functions of it with noise of 0.1, and a standard normal."""
    t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=rng))
    xy = (torch.stack([t * t.cos(), t * t.sin()], 1) + torch.randn(n, 2, generator=rng)) / 5
    z = xy @ NORMALS.T + 0.1 * torch.randn(n, 3, generator=rng)
    return torch.cat([xy, z, torch.randn(n, 1, generator=rng)], 1)


def fresh(data: Callable[[int, torch.Generator], Tensor], args: argparse.Namespace, seed: int) -> Tensor:
    """Points that nothing has seen."""
    return data(args.judged, torch.Generator().manual_seed(10_000 + seed))


def of_draws(x: Tensor, seen: Tensor, test: Tensor) -> dict[str, float]:
    """Distances of generated points to fresh ones, and how near they are to the data that the model has seen."""
    ours, n = wg.Particles(x), len(x)
    copies = Memorization(seen, held_out=test, n=n)(ours, torch.Generator().manual_seed(1))
    sliced = wg.SlicedWasserstein(wg.Particles(test[:n]), directions=200).freeze(torch.Generator().manual_seed(2))
    return {
        "sliced_w2": math.sqrt(float(sliced.value(ours))),
        "energy_distance": float(wg.EnergyDistance(wg.Particles(test)).value(ours)),
        **{k: copies[k] for k in ("memorized", "memorized_chance", "nn_ratio", "nn_ratio_chance", "near_copies")},
    }


def of_law(law: wg.LocalGaussians, seen: Tensor, test: Tensor) -> dict[str, float]:
    """As :func:`of_draws`, with the likelihood of fresh points."""
    draws = law.draw(len(test) // 2, torch.Generator().manual_seed(3)).x
    return {"log_likelihood": float(law.log_prob(test).mean()), **of_draws(draws, seen, test)}


def fitted(
    x: Tensor, args: argparse.Namespace, seed: int, **options: Any
) -> tuple[presets.KernelScoreFit, dict[str, Any]]:
    """Fit the model; return it with the time and what it has done."""
    begin = time.process_time()
    fit = wg.fit_kernel_score(x, seed=seed, max_iters=args.iters, **options)
    seconds = time.process_time() - begin
    looks = len(fit.solution.history)
    return fit, {
        "seed": seed,
        "n": len(x),
        "cpu_seconds": seconds,
        "updates": 20 * looks,
        "status": fit.solution.status,
    }


def on_the_roll(args: argparse.Namespace, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Held-out likelihood and local standard deviations in six dimensions."""
    x = swiss_roll(args.roll, torch.Generator().manual_seed(seed))
    test = fresh(swiss_roll, args, seed)
    for name, options in (
        ("kernel score", {}),
        ("kernel score, floor 1", {"floor": 1.0}),
        ("the same kernels by likelihood", {"loss": "likelihood"}),
    ):
        fit, row = fitted(x, args, seed, **options)
        std = torch.linalg.eigvalsh(fit.law.precision.covariance).sqrt().median(0).values
        yield name, {**row, "local_std": std.tolist(), **of_law(fit.law, x, test)}
    kde = presets.isotropic_kde(fit.points)
    width = float(kde.precision.covariance[0, 0, 0].sqrt())
    yield "isotropic kernels", {"seed": seed, "bandwidth": width, **of_law(kde, x, test)}


def generated(law: wg.Measure, data: wg.LocalGaussians, args: argparse.Namespace, seed: int, last: float) -> Tensor:
    """Points of a reverse process that starts from the noised data."""
    horizon = float(4 * data.centres.var(0).sum()) / (2 * BETA)
    n = args.judged // 2
    start = data.noised(1.0, 2 * BETA * horizon).draw(n, torch.Generator().manual_seed(4 + seed))
    flow = presets.reverse_diffusion(law, start, beta=BETA, horizon=horizon, last=last, num_steps=args.reverse_steps)
    return flow.solve(seed=seed, save=wg.Save(every=0)).measure.x


def network(x: Tensor, args: argparse.Namespace, seed: int, seconds: float, test: Tensor) -> dict[str, Any]:
    """Train a score network for so many CPU seconds on all of the points, and draw from it."""
    data = wg.LocalGaussians.isotropic(x, 1e-6)
    most = 4 * float(x.var(0).sum())
    net, updates = trained(x, (LAST_OF_NETWORK * most, most), seconds, seed)
    draws = generated(Denoised(net, data), data, args, seed, LAST_OF_NETWORK)
    return {"seed": seed, "n": len(x), "cpu_seconds": seconds, "updates": updates, **of_draws(draws, x, test)}


def on_spirals(args: argparse.Namespace, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The trio of memorization: the model, the empirical kernel and a network; by direct draws and backwards."""
    x = two_spirals(args.spirals, torch.Generator().manual_seed(seed))
    test = fresh(two_spirals, args, seed)
    fit, row = fitted(x, args, seed)
    yield "kernel score", {**row, **of_law(fit.law, x, test)}
    back = generated(fit.law, fit.law, args, seed, LAST)
    yield "kernel score, reverse diffusion", {"seed": seed, **of_draws(back, x, test)}
    data = wg.LocalGaussians.isotropic(x, 1e-6)
    yield "empirical kernel", {"seed": seed, **of_draws(generated(data, data, args, seed, LAST), x, test)}
    yield "score network", network(x, args, seed, row["cpu_seconds"], test)
    yield "isotropic kernels", {"seed": seed, **of_law(presets.isotropic_kde(fit.points), x, test)}
    again = two_spirals(args.judged // 2, torch.Generator().manual_seed(20_000 + seed))
    yield "fresh data", {"seed": seed, **of_draws(again, x, test)}


def sweep(n: int) -> Callable[[argparse.Namespace, int], Iterator[tuple[str, dict[str, Any]]]]:
    """The model and the network on n points of the roll, at equal data and CPU time."""

    def rows(args: argparse.Namespace, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
        x = swiss_roll(n, torch.Generator().manual_seed(seed))
        test = fresh(swiss_roll, args, seed)
        fit, row = fitted(x, args, seed)
        yield "kernel score", {**row, **of_law(fit.law, x, test)}
        yield "isotropic kernels", {"seed": seed, "n": n, **of_law(presets.isotropic_kde(fit.points), x, test)}
        yield "score network", network(x, args, seed, row["cpu_seconds"], test)
        again = swiss_roll(args.judged // 2, torch.Generator().manual_seed(20_000 + seed))
        yield "fresh data", {"seed": seed, "n": n, **of_draws(again, x, test)}

    return rows


def main(argv: Sequence[str] | None = None) -> Path:
    """Run what the record lacks, and write it after each question and seed."""
    options = parser(__doc__ or "")
    options.add_argument("--roll", type=int, default=21_000, help="points of the swiss roll")
    options.add_argument("--spirals", type=int, default=2000, help="points of the spirals")
    options.add_argument(
        "--sizes", type=int, nargs="+", default=[250, 1000, 5000, 50_000], help="numbers of points of the sweep"
    )
    options.add_argument("--iters", type=int, default=800, help="most updates of a fit")
    options.add_argument("--reverse-steps", type=int, default=200)
    options.add_argument("--judged", type=int, default=2000, help="fresh points")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = options.parse_args(argv)
    if args.quick:
        args.roll, args.spirals, args.sizes, args.iters, args.judged, args.reverse_steps = 80, 60, [40], 20, 40, 5
    torch.set_num_threads(args.threads)
    settings = {k: getattr(args, k) for k in ("roll", "spirals", "iters", "reverse_steps", "judged", "quick")}
    path = args.results / "kernel_score.json"
    results = held(path, settings)
    exact = 0.1 / torch.linalg.eigvalsh(NORMALS @ NORMALS.T + torch.eye(3)).flip(0).sqrt()
    results["exact_local_std"] = exact.tolist()
    runs = [("swiss_roll", "", on_the_roll), ("two_spirals", "", on_spirals)]
    runs += [("sweep", f"{n} points, ", sweep(n)) for n in args.sizes]
    for (question, label, rows), seed in itertools.product(runs, args.seeds):
        found = results.setdefault(question, {})
        if any(row["seed"] == seed for name, done in found.items() if name.startswith(label) for row in done["seeds"]):
            continue
        for name, row in rows(args, seed):
            found.setdefault(label + name, {"seeds": []})["seeds"].append(row)
            print(question, "|", label + name, {k: v for k, v in row.items() if k != "seed"}, flush=True)
        path = write("kernel_score", args.results, settings, results, torch.device("cpu"))
    return path


if __name__ == "__main__":
    main()
