"""A million particles towards a million points without all pairs: the time, memory and error of a step, beside all pairs.

The error is that of the velocity at some particles against the one over all pairs in float64, for the distances that stand for
one over all pairs. The time of all pairs is that of fewer particles, times the square of the ratio.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import wgflow as wg
from benchmarks._record import Clock, parser, peak_memory_mb, reset_peak, write
from benchmarks.particles._particle_cases import Problem, library, reference_velocity

STEPS = 2
SAMPLED = 20
"""Particles at which the reference is computed."""


@dataclass(frozen=True)
class Fast:
    """A distance without all pairs: its half, how many lines or frequencies it has, and what it stands for, if anything."""

    name: str
    half: wg.Functional
    draws: int
    case: str | None = None
    bound: float | None = None
    """Of the root mean square error of a force."""


def distances(problem: Problem, directions: int, frequencies: int) -> list[Fast]:
    """Return the distances to the target that are compared."""
    (n, d), y = problem.x.shape, wg.Particles(problem.y)
    random = wg.RandomFourierFeatures(wg.RBF(problem.sigma), frequencies)
    lines, waves = 2 * math.sqrt(math.pi * d / (2 * directions)), 2 * math.sqrt(d / frequencies) / problem.sigma
    return [
        Fast("SlicedWasserstein", 0.5 * wg.SlicedWasserstein(y, directions=directions, batch=n), directions),
        Fast("SlicedEnergyDistance", 0.5 * wg.SlicedEnergyDistance(y, directions, n), directions, "energy", lines),
        Fast("RandomFourierFeatures", 0.5 * wg.SquaredMMD(y, random, n), frequencies, "mmd_rbf", waves),
    ]


def measured(fast: Fast, problem: Problem, few: Problem, clock: Clock) -> dict[str, Any]:
    """Return the time and memory of a step of a flow, and the error of its forces."""
    device, start = problem.x.device, wg.Particles(problem.x)
    reset_peak(device)
    before, begun = peak_memory_mb(device), clock()[0]
    wg.solve(fast.half, wg.ForwardEuler(), start, step_size=1.0, num_steps=STEPS, save=wg.Save(every=0))
    seconds, after = (clock()[0] - begun) / STEPS, peak_memory_mb(device)
    (n, d), memory = problem.x.shape, None if before is None or after is None else after - before
    row: dict[str, Any] = {"distance": fast.name, "n": n, "d": d, "draws": fast.draws, "seconds_a_step": seconds}
    row |= {"memory_mb": memory, "force": None, "error_of_a_force": None, "bound": fast.bound}
    row["seconds_of_all_pairs"] = None
    if fast.case is not None:
        some = torch.arange(0, n, n // SAMPLED, device=device)
        frozen = fast.half.freeze(torch.Generator(device).manual_seed(0))
        found = wg.Autograd().velocity(frozen, start, None)[some].double()
        force = reference_velocity(replace(problem, case=fast.case), some)
        row["force"], row["error_of_a_force"] = rms(force), rms(found - force)
        step = library(few)
        step()
        begun = clock()[0]
        step()
        row["seconds_of_all_pairs"] = (clock()[0] - begun) * (n / len(few.x)) ** 2
    return row


def rms(v: Tensor) -> float:
    """Return the root mean square length of vectors."""
    return float(v.square().sum(1).mean().sqrt())


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--particles", type=int, default=1_000_000)
    options.add_argument("--few", type=int, default=10_000, help="particles of the step over all pairs")
    options.add_argument("--dims", type=int, nargs="+", default=[2, 50])
    options.add_argument("--directions", type=int, default=20)
    options.add_argument("--frequencies", type=int, default=500)
    args = options.parse_args(argv)
    if args.quick:
        args.particles, args.few = 2000, 500
    torch.set_num_threads(args.threads)
    device, rows = torch.device(args.device), []
    clock = Clock(device)
    for d in args.dims:
        problem = Problem.make("mmd_rbf", args.particles, d, device)
        for fast in distances(problem, args.directions, args.frequencies):
            few = Problem.make(fast.case or "energy", args.few, d, device)
            rows.append(measured(fast, problem, few, clock))
            print(rows[-1], flush=True)
    names = ("particles", "few", "dims", "directions", "frequencies", "quick")
    settings = {k: getattr(args, k) for k in names} | {"clock": clock.name}
    return write("million" if device.type == "cpu" else "million-cuda", args.results, settings, {"steps": rows}, device)


if __name__ == "__main__":
    print(main(), end="")
