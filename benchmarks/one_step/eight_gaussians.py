"""One-step generators of eight Gaussians on a circle: one network and budget, one drift field a row.

The target is the usual one, centres on a circle of radius 5 with variance 0.1. Rows that a record has already are kept, so
a run that was cut off goes on.
"""

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import wgflow as wg
from benchmarks._record import held, parser, write
from wgflow.estimators import Estimator

CENTRES = 5 * torch.stack([torch.tensor([math.cos(a), math.sin(a)]) for a in torch.arange(8) * math.pi / 4])
STD, LATENT, WIDTH = math.sqrt(0.1), 8, 128
TEMPERATURES = (0.02, 0.05, 0.2)


def network() -> nn.Module:
    """An MLP with three hidden layers."""
    sizes = [LATENT, WIDTH, WIDTH, WIDTH]
    hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, 2))


def shrinking(start: float, end: float, steps: int) -> wg.Geometric:
    """From ``start`` to ``end`` over 60 % of the steps, geometrically."""
    return wg.Geometric(start, (end / start) ** (1 / max(1, 0.6 * steps)), floor=end)


def rows(data: wg.Measure, batch: int, steps: int) -> dict[str, tuple[wg.Functional, Estimator, int, float]]:
    """Functional, estimator, regression steps a batch and step size of every row."""

    def sinkhorn(eps: float) -> wg.Functional:
        return wg.SinkhornDivergence(data, math.sqrt(eps), tol=1e-3, batch=batch)

    def algorithm_2(floor: float) -> Estimator:
        fields = (wg.MeanShift(wg.Laplace(T), "joint", own=True, floor=floor) for T in TEMPERATURES)
        return wg.Total(tuple(map(wg.UnitSpeed, fields)))

    def annealed(end: float) -> wg.Functional:
        return wg.Annealed(sinkhorn, shrinking(10.0, end, steps))

    narrowing, two = shrinking(4.0, 0.3, steps), wg.TwoBatch()
    kl, energy = wg.KL(data, batch), 0.5 * wg.EnergyDistance(data, batch)
    unit = wg.InFeatures(kl, nn.Flatten(), normalized=True)
    sliced = 0.5 * wg.SlicedWasserstein(data, directions=64, batch=batch)
    return {
        "energy distance": (energy, two, 1, 1.0),
        "Parzen scores, s = 0.5": (kl, wg.MeanShift(wg.RBF(0.5)), 1, 1.0),
        "Parzen scores, s from 4 to 0.3": (kl, wg.MeanShift(lambda k: wg.RBF(narrowing(k))), 1, 1.0),
        "Algorithm 2, three temperatures": (unit, algorithm_2(0.0), 1, 1.0),
        "Algorithm 2 with the published floor": (unit, algorithm_2(1e-6), 1, 1.0),
        "Sinkhorn, eps = 1": (sinkhorn(1.0), two, 1, 1.0),
        "Sinkhorn, eps from 10 to 0.1": (annealed(0.1), two, 1, 1.0),
        "sliced W2": (sliced, two, 1, 2.0),
        "Sinkhorn, eps = 1, one batch": (sinkhorn(1.0), wg.Autograd(), 1, 1.0),
        "Sinkhorn, eps = 1, 5 regression steps": (sinkhorn(1.0), two, 5, 1.0),
        "Sinkhorn, eps from 10 to 0.1, 5 regression steps": (annealed(0.1), two, 5, 1.0),
    }


def judged(x: torch.Tensor, data: wg.Measure, n: int) -> dict[str, float]:
    """Distances of generated points to the target, the share near a centre, and how wrong the masses of modes are.

    ``W2`` and ``sinkhorn`` (eps = 0.1) are means over three draws of the target.
    """
    near, mode = torch.cdist(x, CENTRES).min(1)
    masses = mode.bincount(minlength=8) / len(x)
    draws = [data.draw(n, torch.Generator().manual_seed(100 + k)) for k in range(3)]
    ours = wg.Particles(x[:n])
    w2 = [math.sqrt(float(wg.SquaredW2(y).value(ours))) for y in draws]
    s = [float(wg.SinkhornDivergence(y, math.sqrt(0.1), tol=1e-2).value(ours)) for y in draws]
    return {
        "W2": sum(w2) / 3,
        "sinkhorn": sum(s) / 3,
        "within_3_std": float((near < 3 * STD).float().mean()),
        "tv_of_masses": float((masses - 1 / 8).abs().sum() / 2),
    }


def trained(
    F: wg.Functional, estimator: Estimator, persistent: int, h: float, args: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train one generator and judge its running average."""
    optim = wg.Adam(1e-3, (0.9, 0.999), schedule=wg.Cosine(args.steps * persistent, 0.0))
    start = wg.Pushforward(
        wg.StandardNormal(LATENT), network, ema=0.995, regression=wg.Regression(optim, persistent, args.batch)
    )
    begin = time.process_time()
    flow = wg.solve(
        F, wg.ForwardEuler(estimator, batch=args.batch), start, step_size=h, num_steps=args.steps, seed=seed
    )
    seconds = time.process_time() - begin
    x = flow.measure.inference().draw(10 * args.judged, torch.Generator().manual_seed(7)).x
    missed = sum(row.get("sinkhorn/unconverged", 0.0) for row in flow.history) / len(flow.history)
    return {
        "seed": seed,
        "cpu_seconds": seconds,
        "status": flow.status,
        "steps_with_unconverged_plans": float(missed),
        **judged(x, wg.GaussianMixture(CENTRES, STD), args.judged),
    }


def main(argv: Sequence[str] | None = None) -> Path:
    """Train a generator a row and seed, and write the record after each."""
    options = parser(__doc__ or "")
    options.add_argument("--steps", type=int, default=6000)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--judged", type=int, default=2000, help="points whose distances are taken")
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--rows", nargs="+", default=[], help="words in the names of rows; all by default")
    args = options.parse_args(argv)
    if args.quick:
        args.steps, args.batch, args.judged = 3, 16, 50
    torch.set_num_threads(args.threads)
    data = wg.GaussianMixture(CENTRES, STD)
    path = args.results / "eight_gaussians.json"
    settings = {k: getattr(args, k) for k in ("steps", "batch", "judged", "quick")}
    found = held(path, settings).get("rows", {})
    floor = data.draw(10 * args.judged, torch.Generator().manual_seed(8)).x
    results: dict[str, Any] = {"exact_draws": judged(floor, data, args.judged), "rows": found}
    for name, parts in rows(data, args.batch, args.steps).items():
        if args.rows and not any(word in name for word in args.rows):
            continue
        for seed in args.seeds:
            done = found.setdefault(name, {"seeds": []})["seeds"]
            if any(row["seed"] == seed for row in done):
                continue
            done.append(trained(*parts, args, seed))
            print(name, done[-1], flush=True)
            path = write("eight_gaussians", args.results, settings, results, torch.device("cpu"))
    return path


if __name__ == "__main__":
    main()
