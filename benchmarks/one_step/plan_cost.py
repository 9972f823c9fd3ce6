"""The cost of the plans of a Sinkhorn drift, beside geomloss' tensorised backend at equal marginal error.

Two batches of one size and blur² = 0.05 of the mean squared distance, as for one-step generators in feature space: one
pair of clouds in 64 to 3072 dimensions, and many small pairs at once.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import wgflow as wg
from benchmarks._record import parser, write
from wgflow.measures import Stack
from wgflow.numerics.sinkhorn import annealing_error

PAIRS = 2e10  # products n² d up to which a size is run
SIZES = [(n, d) for n in (128, 512, 1024, 4096) for d in (64, 512, 3072) if n * n * d <= PAIRS]
GROUPS = ((640, 64, 128), (160, 64, 512))  # groups, points of each cloud, dimension
TOLERANCES, SCALINGS = (1e-2, 1e-3), (0.3, 0.5, 0.7, 0.9)


def _ours(tol: float) -> str:
    return f"wgflow {tol:.0e}"


def clouds(groups: int, n: int, d: int) -> tuple[Tensor, Tensor, float]:
    """Return batches of two Gaussians that differ by a fifth in scale and a third in mean, and the blur."""
    rng = torch.Generator().manual_seed(n + d)
    x = torch.randn(groups, n, d, generator=rng)
    y = 1.2 * torch.randn(groups, n, d, generator=rng) + 1 / 3
    squared = x.square().sum(2).mean() + y.square().sum(2).mean() - 2 * (x.mean(1) * y.mean(1)).sum(1).mean()
    return x, y, math.sqrt(0.05 * float(squared))


def ours(x: Tensor, y: Tensor, blur: float, tol: float) -> Callable[[], Tensor]:
    """Return the library's gradient, of all groups at once."""
    F = wg.SinkhornDivergence(wg.Particles(y[0]), blur, debias=False, tol=tol).with_measures(lambda m: Stack(y))

    def gradient() -> Tensor:
        z = x.clone().requires_grad_()
        return torch.autograd.grad(F.values(Stack(z)).sum(), z)[0]

    return gradient


def geomloss(x: Tensor, y: Tensor, blur: float, scaling: float) -> Callable[[], Tensor]:
    """Return geomloss' gradient, which annealing ends at."""
    from geomloss import SamplesLoss

    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, debias=False, backend="tensorized")

    def gradient() -> Tensor:
        z = x.clone().requires_grad_()
        return torch.autograd.grad(loss(z, y).sum(), z)[0]

    return gradient


def timed(steps: dict[str, Callable[[], Any]], enough: float) -> dict[str, float]:
    """Return least CPU seconds, taken in turns in random order."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = random.Random(0)
    while min(map(len, seconds.values())) < 2 or (
        sum(map(sum, seconds.values())) < enough and len(seconds[next(iter(steps))]) < 30
    ):
        for name in order.sample(list(steps), len(steps)):
            begin = time.process_time()
            steps[name]()
            seconds[name].append(time.process_time() - begin)
    return {name: min(s) for name, s in seconds.items()}


def compare(groups: int, n: int, d: int, enough: float) -> dict[str, Any]:
    """Time both at one size, with the marginal errors that they reach."""
    x, y, blur = clouds(groups, n, d)
    steps: dict[str, Callable[[], Any]] = {_ours(tol): ours(x, y, blur, tol) for tol in TOLERANCES}
    steps |= {f"geomloss {scaling:g}": geomloss(x, y, blur, scaling) for scaling in SCALINGS}
    seconds = timed(steps, enough)
    some = range(min(groups, 8))
    reached = {
        f"geomloss {s:g}": max(annealing_error(x[b], y[b], blur=blur, scaling=s) for b in some) for s in SCALINGS
    }
    for tol in TOLERANCES:
        F = wg.SinkhornDivergence(wg.Particles(y[0]), blur, debias=False, tol=tol)
        reached[_ours(tol)] = float(F.report(wg.Particles(x[0])).error)
    equal = {}
    for tol in TOLERANCES:
        able = [f"geomloss {s:g}" for s in SCALINGS if reached[f"geomloss {s:g}"] <= tol]
        best = min(able, key=seconds.__getitem__, default=None)
        ratio = None if best is None else seconds[best] / seconds[_ours(tol)]
        equal[f"{tol:.0e}"] = {"geomloss": best, "ratio": ratio, "seconds": seconds[_ours(tol)]}
    return {
        "groups": groups,
        "n": n,
        "d": d,
        "seconds": seconds,
        "marginal_error": reached,
        "at_equal_error": equal,
    }


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure every size and write the record after each."""
    options = parser(__doc__ or "")
    options.add_argument("--enough", type=float, default=6.0, help="CPU seconds a size")
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    sizes = [(3, 16, 8)] if args.quick else [*((1, n, d) for n, d in SIZES), *GROUPS]
    found: list[dict[str, Any]] = []
    path = args.results
    for size in sizes:
        found.append(compare(*size, enough=0.0 if args.quick else args.enough))
        print({k: found[-1][k] for k in ("groups", "n", "d", "seconds", "at_equal_error")}, flush=True)
        settings = {"quick": args.quick, "enough": args.enough, "blur": "blur^2 = 0.05 E|x - y|^2", "dtype": "float32"}
        path = write("plan_cost", args.results, settings, {"sizes": found}, torch.device("cpu"))
    return path


if __name__ == "__main__":
    main()
