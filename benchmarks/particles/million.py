"""A million particles towards a million points: the sliced energy distance, its time, memory and error, beside all pairs.

The error is that of the velocity at some particles against the energy distance over all pairs in float64. The time of all pairs
is that of fewer particles, times the square of the ratio.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import wgflow as wg
from benchmarks._record import Clock, parser, peak_memory_mb, reset_peak, write
from benchmarks.particles._particle_cases import Problem, library

STEPS = 2
SAMPLED = 50
BLOCK = 50_000
"""Columns of the reference at once."""


def exact(problem: Problem, rows: Tensor) -> Tensor:
    """Return the velocity over all pairs at some particles, in float64: away from the others, towards the target."""
    at = problem.x[rows].double()

    def away(cloud: Tensor) -> Tensor:
        sums = [torch.nn.functional.normalize(at[:, None] - z.double(), dim=2).sum(1) for z in cloud.split(BLOCK)]
        return torch.stack(sums).sum(0) / len(cloud)

    return away(problem.x) - away(problem.y)


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--particles", type=int, default=1_000_000)
    options.add_argument("--few", type=int, default=10_000, help="particles of the step over all pairs")
    options.add_argument("--dims", type=int, nargs="+", default=[2])
    options.add_argument("--directions", type=int, default=20)
    args = options.parse_args(argv)
    if args.quick:
        args.particles, args.few = 2000, 500
    torch.set_num_threads(args.threads)
    device, rows = torch.device(args.device), []
    clock = Clock(device)
    for d in args.dims:
        problem = Problem.make("energy", args.particles, d, device)
        F = 0.5 * wg.SlicedEnergyDistance(wg.Particles(problem.y), args.directions, batch=args.particles)
        start = wg.Particles(problem.x)
        reset_peak(device)
        before, begun = peak_memory_mb(device), clock()[0]
        wg.solve(F, wg.ForwardEuler(), start, step_size=1.0, num_steps=STEPS, save=wg.Save(every=0))
        seconds, after = (clock()[0] - begun) / STEPS, peak_memory_mb(device)
        some = torch.arange(0, args.particles, args.particles // SAMPLED, device=device)
        velocity = wg.Autograd().velocity(F.freeze(torch.Generator(device).manual_seed(0)), start, None)[some].double()
        error = velocity - exact(problem, some)
        step = library(Problem.make("energy", args.few, d, device))
        step()
        begun = clock()[0]
        step()
        row: dict[str, Any] = {"n": args.particles, "d": d, "directions": args.directions, "seconds_a_step": seconds}
        row["memory_mb"] = None if before is None or after is None else after - before
        row["error_of_a_force"] = float(error.square().sum(1).mean().sqrt())
        row["bound"] = 2 * math.sqrt(math.pi * d / (2 * args.directions))
        row["seconds_of_all_pairs"] = (clock()[0] - begun) * (args.particles / args.few) ** 2
        rows.append(row)
        print(row, flush=True)
    settings = {k: getattr(args, k) for k in ("particles", "few", "dims", "directions", "quick")} | {
        "clock": clock.name
    }
    return write("million" if device.type == "cpu" else "million-cuda", args.results, settings, {"steps": rows}, device)


if __name__ == "__main__":
    print(main(), end="")
