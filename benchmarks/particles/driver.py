"""What a time step costs beside its mathematics: the same flow by hand, by a solver's updates, and by `solve`.

The loop by hand does what `solve` promises: it keeps every state, records the dissipation, and stops where that is not finite.
The three take turns, in CPU time. A step is the difference of a flow of 201 steps and one of a single step, over 200, so that
starting a flow does not count; medians over the turns.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import wgflow as wg
from benchmarks._record import parser, write

STEPS, H = 200, 0.01
FLOW = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
CASES = {"forward Euler": (FLOW, wg.ForwardEuler()), "Langevin": (wg.KL(wg.StandardNormal(2)), wg.Langevin())}


def by_hand(x: Tensor, steps: int) -> Tensor:
    """Follow :data:`FLOW` by forward Euler, with what a careful loop does on the way; returns where it ends."""
    saved, history = [x.clone()], []
    for k in range(steps):
        y = x.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(0.5 * y.square().sum(), y)
        speed = float(slope.square().sum(1).mean())
        if not math.isfinite(speed):
            raise FloatingPointError(f"step {k}: {speed}")
        x = x - H * slope
        saved.append(x.clone())
        history.append({"k": k + 1, "t": (k + 1) * H, "seconds": time.perf_counter(), "dissipation": speed})
    return x


def by_updates(F: wg.Functional, solver: wg.Solver, x: Tensor, steps: int) -> None:
    """Call the solver's updates, and nothing else."""
    state = solver.init(F, wg.Particles(x), torch.Generator().manual_seed(0))
    for _ in range(steps):
        state, _ = solver.update(F, state, H)


def by_solve(F: wg.Functional, solver: wg.Solver, x: Tensor, steps: int) -> None:
    """Let the driver call them, with its checks, its history and its saved states."""
    wg.solve(F, solver, wg.Particles(x), step_size=H, num_steps=steps)


def step_of(flow: Callable[[int], object]) -> float:
    """Return the CPU seconds of a step of a flow."""
    seconds = []
    for steps in (1, STEPS + 1):
        begun = time.process_time()
        flow(steps)
        seconds.append(time.process_time() - begun)
    return (seconds[1] - seconds[0]) / STEPS


def main(argv: Sequence[str] | None = None) -> Path:
    args = parser(__doc__.partition("\n\n")[0]).parse_args(argv)
    torch.set_num_threads(args.threads)
    turns = 2 if args.quick else 60
    rows = []
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    for name, (F, solver) in CASES.items():
        ways: dict[str, Callable[[int], object]] = {
            "updates": partial(by_updates, F, solver, x),
            "solve": partial(by_solve, F, solver, x),
        }
        if F is FLOW:
            ways["by_hand"] = partial(by_hand, x)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for flow in ways.values():
            flow(STEPS)  # what is done once is not timed
        for _ in range(turns):
            for way, flow in ways.items():
                seconds[way].append(step_of(flow))
        found = {f"{way}_us": 1e6 * median(times) for way, times in seconds.items()}
        driver = [1e6 * (whole - update) for whole, update in zip(seconds["solve"], seconds["updates"], strict=True)]
        rows.append({"case": name, "n": len(x), **found, "driver_us": median(driver)})
        print({k: round(v, 1) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    settings = {"turns": turns, "steps": STEPS, "quick": args.quick}
    return write("driver", args.results, settings, {"rows": rows}, torch.device("cpu"))


if __name__ == "__main__":
    main()
