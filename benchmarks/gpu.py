"""All that a GPU is asked, in one call of a given length: tests, waits of the host, images a second, particle steps, CIFAR-10.

Every part runs in a process of its own with its own share of the time and writes its record as it goes, so that what is
done by then survives a part that fails, hangs or is cut off. ``--dry`` does all of it small, on a CPU, in about a minute.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import ROOT, Clock, parser, peak_memory_mb, reset_peak, write
from benchmarks.images._loops import Loop, toys
from benchmarks.images.hot_loop import count_reads, cuda_check
from benchmarks.particles._particle_cases import CASES, Problem, library, reference_velocity
from wgflow import Flow
from wgflow.generative import RECIPES, ImageData, Recipe, Runtime

SHARES = {"tests": 0.15, "waits": 0.1, "images": 0.2, "particles": 0.15}
"""Parts of the time; CIFAR-10 has what is left."""
PAIRS = {"small": "cifar10-small", "large": "cifar10-large"}
DRY_CHANNELS = {"small": 8, "large": 32}
SAMPLED = 200
"""Particles whose velocity is compared."""
FEW = 20_000
"""Up to this many particles velocities are compared: the reference keeps a row of all pairs for every one of them."""


def flow(recipe: Recipe, batch: int, precision: str, device: torch.device, dry: bool) -> Flow:
    """Return the flow of a recipe on random images: nothing is measured that depends on what they show."""
    shape = (4 * batch, 3, 16, 16) if dry else (4 * batch, 3, 32, 32)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    recipe = recipe.changed(batch=batch, instance_noise=True, precision=precision)
    return recipe.flow(ImageData(pixels.to(device), flip=True), Runtime(device, precision))


def sized(name: str, dry: bool) -> tuple[Recipe, int]:
    """Return the recipe of a pair and its batch."""
    recipe = RECIPES[PAIRS[name]]
    return (recipe.changed(channels=DRY_CHANNELS[name]), 2) if dry else (recipe, recipe.options["batch"])


def waits(device: torch.device, dry: bool) -> Iterator[dict[str, Any]]:
    """Look for waits of the host: on a GPU CUDA raises at every one, on a CPU reads are counted in a trace."""
    # The last update of a phase is among them.
    phases = lambda f: dataclasses.replace(f, solver=dataclasses.replace(f.solver, iters=3, first_iters=3))  # noqa: E731
    for name in PAIRS:
        recipe, batch = sized(name, dry)
        yield {"name": f"{name} pair"} | looked(phases(flow(recipe, min(batch, 64), "fp32", device, dry)), device)
    for name, toy in toys(device).items():
        yield {"name": name} | looked(phases(toy), device)


def looked(flow: Flow, device: torch.device) -> dict[str, Any]:
    """Return what a few updates of one flow show."""
    if device.type == "cuda":
        return {"cuda_sync_debug": cuda_check(flow, updates=6)}
    return {"host_reads": count_reads(flow, updates=3)}


def images(device: torch.device, dry: bool) -> Iterator[dict[str, Any]]:
    """Time updates of both pairs in both precisions; where the memory does not hold a batch, half of it is taken."""
    for name in PAIRS:
        for precision in ("fp32", "bf16"):
            recipe, batch = sized(name, dry)
            while batch:
                try:
                    yield {"pair": name} | trained(
                        flow(recipe, batch, precision, device, dry), batch, precision, device, dry
                    )
                    break
                except torch.OutOfMemoryError:
                    batch //= 2


def trained(flow: Flow, batch: int, precision: str, device: torch.device, dry: bool) -> dict[str, Any]:
    """Return images a second, by the median update of one window after the warm-up, and the peak memory."""
    loop, clock = Loop.of(flow), Clock(device)
    reset_peak(device)
    warm, timed = (1, 1) if dry else (8, 30)
    loop.run(warm)
    taken = []
    for _ in range(timed):
        begun = clock()[1]
        loop.run(1)
        taken.append(clock()[1] - begun)
    usual = statistics.median(taken)
    found = {"precision": precision, "batch": batch, "seconds_per_update": usual, "images_per_second": batch / usual}
    return found | {"peak_memory_mb": peak_memory_mb(device)}


def particles(device: torch.device, dry: bool) -> Iterator[dict[str, Any]]:
    """Time one gradient step of every case, with its error against float64."""
    torch.set_float32_matmul_precision("highest")
    for n in (200,) if dry else (1_000, 10_000, 100_000):
        for d in (2,) if dry else (2, 64):
            for case in CASES:
                problem, clock = Problem.make(case, n, d, device), Clock(device)
                step = library(problem)
                step()
                reset_peak(device)
                taken = []
                while len(taken) < 3 or (sum(taken) < 1 and len(taken) < 50):
                    begun = clock()[0]
                    _, moved = step()
                    taken.append(clock()[0] - begun)
                row = {"case": case, "n": n, "d": d, "seconds": statistics.median(taken), "velocity_error": None}
                if n <= FEW:
                    rows = torch.arange(0, n, max(1, n // SAMPLED), device=device)
                    exact = reference_velocity(problem, rows)
                    row["velocity_error"] = float((moved[rows].double() - exact).norm() / exact.norm())
                yield row | {"peak_memory_mb": peak_memory_mb(device)}


PARTS: dict[str, Callable[[torch.device, bool], Iterator[dict[str, Any]]]] = {
    "waits": waits,
    "images": images,
    "particles": particles,
}


def one(part: str, args: argparse.Namespace) -> Path:
    """Run one part here; its record is written anew after every row."""
    device, rows = torch.device(args.device), []
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    path = args.results / f"gpu-{part}.json"
    begun = time.perf_counter()
    for row in PARTS[part](device, args.dry):
        rows.append(row)
        write(f"gpu-{part}", args.results, {"dry": args.dry}, {"rows": rows}, device)
        print(f"{part} {time.perf_counter() - begun:.0f} s: {row}", flush=True)
    return path


def tests(args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Run the tests marked ``gpu`` on the device; return how many passed and which did not."""
    report = args.results / "gpu-tests.xml"
    call = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--device", args.device, f"--junitxml={report}"]
    outcome = limited([*call, "-p", "no:cacheprovider", *(["tests/gpu"] if args.dry else [])], seconds)
    if not report.exists():
        return outcome
    cases = list(ET.parse(report).getroot().iter("testcase"))
    report.unlink()
    failed = [c.get("name") for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    return outcome | {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "failed": failed}


def limited(call: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run a command for at most so long, with its output shown; return how it ended."""
    begun = time.perf_counter()
    try:
        ended: int | str = subprocess.run(call, cwd=ROOT, timeout=max(1.0, seconds)).returncode
    except subprocess.TimeoutExpired:
        ended = f"cut off after {seconds:.0f} s"
    return {"ended": ended, "seconds": time.perf_counter() - begun}


def cifar10(args: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Train S-JKO and source-fixed UOTM on CIFAR-10 in the time that is left."""
    if args.data is None:
        return {"ended": "left out: no --data"}
    call = [
        sys.executable,
        str(ROOT / "benchmarks" / "images" / "cifar10.py"),
        "--data",
        str(args.data),
        "--device",
        args.device,
    ]
    call += ["--results", str(args.results), "--runs", str(args.results / "runs")]
    call += ["--features", str(args.features)] if args.features else []
    # Four methods; a quarter of the time goes to starts, evaluations and pictures.
    call += ["--quick", "--updates", "6"] if args.dry else ["--seconds", f"{0.75 * seconds / 4:.0f}"]
    return limited(call, seconds)


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--minutes", type=float, default=12.0, help="of the whole call")
    options.add_argument("--dry", action="store_true", help="all parts small, on a CPU, in about a minute")
    options.add_argument(
        "--data", type=Path, default=None, help="CIFAR-10 for its part, as benchmarks/images/cifar10.py takes it"
    )
    options.add_argument("--features", type=Path, default=None, help="weights of a CIFAR ResNet for its distance")
    options.add_argument("--part", choices=sorted(PARTS), default=None, help="only this part, in this process")
    args = options.parse_args(argv)
    if args.dry or args.quick:
        args.dry, args.device = True, "cpu"
    args.results.mkdir(parents=True, exist_ok=True)
    if args.part:
        return one(args.part, args)
    begun, whole = time.perf_counter(), 60 * args.minutes
    environment = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([environment] if environment else [])])
    outcomes: dict[str, Any] = {}
    path = args.results / "gpu.json"

    def record() -> None:
        settings = {"minutes": args.minutes, "dry": args.dry, "quick": args.dry}
        write("gpu", args.results, settings, {"parts": outcomes}, torch.device(args.device))

    for part, share in SHARES.items():
        call = [sys.executable, __file__, "--part", part, "--device", args.device, "--results", str(args.results)]
        call += ["--threads", str(args.threads), *(["--dry"] if args.dry else [])]
        outcomes[part] = tests(args, share * whole) if part == "tests" else limited(call, share * whole)
        record()
    outcomes["cifar10"] = cifar10(args, whole - (time.perf_counter() - begun) - 10)
    record()
    print(json.dumps(outcomes, indent=1))
    return path


if __name__ == "__main__":
    print(main())
