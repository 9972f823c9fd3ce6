"""The cost of a BRWP velocity and of the density of a proximal against plain PyTorch on all pairs: time, memory, error."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import wgflow as wg
from benchmarks._record import Clock, parser, peak_memory_mb, reset_peak, write
from benchmarks.particles._transport import timed

TEMPERATURE = 0.7
CHECKED = 64  # particles that are compared with double precision


def problem(
    n: int, d: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, wg.WassersteinProximal]:
    """Return n normal points around a center far from the origin, and the operator of an ill-conditioned quadratic potential."""
    rng = torch.Generator(device).manual_seed(0)
    hessian, center = (
        torch.linspace(0.1, 1.0, d, dtype=dtype, device=device),
        torch.full((d,), 3.0, dtype=dtype, device=device),
    )
    x = center + torch.randn(n, d, generator=rng, device=device).to(dtype)
    # A width at which a particle sees some of the others in any dimension.
    time = 0.5 if d < 10 else 2.0
    return x, wg.rwpo(wg.QuadraticPotential(hessian.diag(), center), time, temperature=TEMPERATURE)


def library(what: str, x: Tensor, step: wg.WassersteinProximal) -> Callable[[], Tensor]:
    """Return the library's way to a velocity or a log density."""
    rho = wg.Particles(x)
    if what == "density":
        return lambda: step(rho).log_prob(x)
    F = wg.PotentialEnergy(step.potential) + TEMPERATURE * wg.Entropy()
    estimator = wg.ProximalScore(step.time, step.potential)
    es = estimator.init(F, torch.Generator())
    return lambda: estimator.velocity(F, rho, es)


def all_pairs(what: str, x: Tensor, step: wg.WassersteinProximal, rows: slice = slice(None)) -> Callable[[], Tensor]:
    """Return plain PyTorch, as the formula is written: one matrix of all pairs."""
    tau, T, V = step.temperature, step.time, step.potential

    def entries() -> Tensor:
        return -torch.cdist(x[rows], x).square() / (4 * tau * T) - step.log_mean(x)

    def velocity() -> Tensor:
        at = x[rows].clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(V(at).sum(), at)
        return -slope / 2 + (x[rows] - entries().softmax(1) @ x) / (2 * T)

    def density() -> Tensor:
        sums = torch.logsumexp(entries(), 1) - np.log(len(x))
        return sums - V(x[rows]) / (2 * tau) - step.log_constant(x.shape[1])

    return velocity if what == "velocity" else density


METHODS = {"wgflow": library, "torch": all_pairs}


def error(found: Tensor, what: str, n: int, d: int, device: torch.device) -> float:
    """Return the relative error of the first particles, against differences in double precision."""
    x, step = problem(n, d, device, torch.float64)
    exact = all_pairs(what, x, step, slice(CHECKED))()
    return float((found[:CHECKED].double() - exact).norm() / exact.norm())


def compare(what: str, n: int, d: int, enough: float, device: torch.device) -> dict[str, Any]:
    """Time the methods side by side."""
    seconds, results = timed({m: make(what, *problem(n, d, device)) for m, make in METHODS.items()}, enough, device)
    entry: dict[str, Any] = {"what": what, "n": n, "d": d, "methods": {}}
    for method, result in results.items():
        typical = float(np.median(seconds[method]))
        entry["methods"][method] = {"seconds": typical, "error": error(result, what, n, d, device)}
    entry["time_ratio"] = entry["methods"]["torch"]["seconds"] / entry["methods"]["wgflow"]["seconds"]
    return entry


def alone(what: str, method: str, n: int, d: int, args: argparse.Namespace) -> float:
    """Return by how many MB the peak of the memory grows in one evaluation, in a process of its own."""
    asked = json.dumps([what, method, n, d])
    call = [sys.executable, __file__, "--one", asked, "--device", args.device, "--threads", str(args.threads)]
    run = subprocess.run(
        call, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": str(args.threads)}
    )
    return float(run.stdout.strip().splitlines()[-1])


def one(what: str, method: str, n: int, d: int, device: torch.device) -> float:
    """Do what :func:`alone` asks for."""
    METHODS[method](what, *problem(100, d, device))()  # libraries start up
    evaluate = METHODS[method](what, *problem(n, d, device))
    reset_peak(device)
    before = peak_memory_mb(device)
    evaluate()
    after = peak_memory_mb(device)
    return float("nan") if before is None or after is None else after - before


def main(argv: Sequence[str] | None = None) -> Path | None:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="particles")
    options.add_argument("--dims", type=int, nargs="+", default=[2, 50])
    options.add_argument("--enough", type=float, default=4.0, help="seconds after which a method is not repeated")
    options.add_argument("--one", help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.set_float32_matmul_precision("highest")
    if args.one:
        print(one(*json.loads(args.one), device))
        return None
    if args.quick:
        args.sizes, args.dims, args.enough = [200], [2], 0.0
    kept = {k: getattr(args, k) for k in ("sizes", "dims", "enough", "quick")} | {"clock": Clock(device).name}
    name = "proximal_steps" if device.type == "cpu" else "proximal_steps-cuda"
    found: list[dict[str, Any]] = []
    path = None
    for n, d in [(n, d) for n in args.sizes for d in args.dims]:
        for what in ("velocity", "density"):
            entry = compare(what, n, d, args.enough, device)
            for method, run in entry["methods"].items():
                run["memory_mb"] = alone(what, method, n, d, args)
            ours, theirs = (entry["methods"][m]["memory_mb"] for m in METHODS)
            entry["memory_ratio"] = theirs / ours if ours > 0 else None
            found.append(entry)
            print(json.dumps(entry), flush=True)
            path = write(name, args.results, kept, found, device)  # what is done is kept
    return path


if __name__ == "__main__":
    main()
