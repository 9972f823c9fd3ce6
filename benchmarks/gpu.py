"""All that a GPU is asked, in one call of a given length: tests, waits of the host, images a second, particle steps, CIFAR-10.

    python benchmarks/gpu.py --minutes 8 --peer CLONE --data CIFAR10.npy --features RESNET.npz

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

import numpy as np
import torch

from benchmarks._record import ROOT, Clock, parser, peak_memory_mb, reset_peak, write
from benchmarks.images._loops import toys
from benchmarks.images._throughput import PAIRS, flow, sized, throughput
from benchmarks.images.hot_loop import count_reads, cuda_check
from benchmarks.particles._particle_cases import CASES, Problem, Step, library, reference_velocity
from benchmarks.particles._peers import METHODS, refused
from wgflow import Flow
from wgflow.core import compiling

SHARES = {"tests": 0.15, "waits": 0.08, "images": 0.35, "particles": 0.15, "cifar10": 0.27}
"""Parts of the time, in order of worth; CIFAR-10 has what is left."""
CIFAR_METHODS = 5
SAMPLED = 200
"""Particles whose velocity is compared."""
FEW = 20_000
"""Up to this many particles velocities are compared: the reference keeps a row of all pairs for every one of them."""


def waits(device: torch.device, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Look for waits of the host: on a GPU CUDA raises at every one, on a CPU reads are counted in a trace."""
    # The last update of a phase is among them.
    phases = lambda f: dataclasses.replace(f, solver=dataclasses.replace(f.solver, iters=3, first_iters=3))  # noqa: E731
    for name in PAIRS:
        recipe, batch = sized(name, args.dry)
        yield {"name": f"{name} pair"} | looked(phases(flow(recipe, min(batch, 64), "fp32", device, args.dry)), device)
    for name, toy in toys(device).items():
        yield {"name": name} | looked(phases(toy), device)


def looked(flow: Flow, device: torch.device) -> dict[str, Any]:
    """Return what a few updates of one flow show."""
    if device.type == "cuda":
        return {"cuda_sync_debug": cuda_check(flow, updates=6)}
    return {"host_reads": count_reads(flow, updates=3)}


def images(device: torch.device, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time updates of both pairs in both precisions, eager and compiled, beside the public code."""
    yield from throughput(device, args.dry, args.peer)


def particles(device: torch.device, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time one gradient step of every case and of its peers, with its error against float64."""
    torch.set_float32_matmul_precision("highest")
    for n in (200,) if args.dry else (1_000, 10_000, 100_000, 1_000_000):
        for d in (2,) if args.dry else (2, 64):
            for case in CASES:
                for method, make in {"library": library, **METHODS[case]}.items():
                    row = {"case": case, "n": n, "d": d, "method": method}
                    reason = None if method == "library" else refused(case, method, n, d)
                    yield row | ({"left_out": reason} if reason else stepped(Problem.make(case, n, d, device), make))


def stepped(problem: Problem, make: Callable[[Problem], Step]) -> dict[str, Any]:
    """Return the median time of a step, the error of its velocity and the peak memory, or why there is none."""
    device, n = problem.x.device, len(problem.x)
    clock, taken = Clock(device), []
    try:
        step = make(problem)
        step()
        reset_peak(device)
        while not taken or (sum(taken) < 0.5 and len(taken) < 50):
            begun = clock()[0]
            _, moved = step()
            taken.append(clock()[0] - begun)
    except (RuntimeError, ImportError, OSError) as error:  # out of memory among them, and KeOps without a compiler
        return {"left_out": f"{type(error).__name__}: {str(error)[:200]}"}
    found = {"seconds": statistics.median(taken), "peak_memory_mb": peak_memory_mb(device), "velocity_error": None}
    if n <= FEW:
        rows = torch.arange(0, n, max(1, n // SAMPLED), device=device)
        exact = reference_velocity(problem, rows)
        found["velocity_error"] = float((moved[rows].double() - exact).norm() / exact.norm())
    return found


PARTS: dict[str, Callable[[torch.device, argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "waits": waits,
    "images": images,
    "particles": particles,
}


def one(part: str, args: argparse.Namespace) -> Path:
    """Run one part here; its record is written anew after every row."""
    device, rows = torch.device(args.device), []
    if args.dry:
        compiling.BACKEND = "aot_eager"  # traced and split as ever, without the minutes of a C++ compiler
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    path = args.results / f"gpu-{part}.json"
    begun = time.perf_counter()
    for row in PARTS[part](device, args):
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
    """Train S-JKO, its controls and flow matching on CIFAR-10, each for the same part of the time."""
    if args.data is None and not args.dry:
        return {"ended": "left out: no --data"}
    if args.data is None:
        args.data = args.results / "dry-images.npy"
        np.save(args.data, np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8))
    each = 0.7 * seconds / (CIFAR_METHODS + 1)  # what is left goes to starts, evaluations and pictures
    common = ["--data", str(args.data), "--device", args.device, "--results", str(args.results)]
    common += (
        ["--seed", str(args.seed), "--features", str(args.features)] if args.features else ["--seed", str(args.seed)]
    )
    short = ["--quick", "--updates", "6"] if args.dry else ["--seconds", f"{each:.0f}"]
    runs = ["--runs", str(args.results / "runs")]
    script = lambda name: [sys.executable, str(ROOT / "benchmarks" / "images" / f"{name}.py"), *common, *short]  # noqa: E731
    begun = time.perf_counter()
    outcome = limited([*script("cifar10"), *runs], seconds - each - 15)
    left = seconds - (time.perf_counter() - begun)
    return {"generators": outcome, "flow_matching": limited(script("flow_matching"), left)}


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--minutes", type=float, default=8.0, help="of the whole call")
    options.add_argument("--dry", action="store_true", help="all parts small, on a CPU, in about a minute")
    options.add_argument("--parts", nargs="+", choices=list(SHARES), default=list(SHARES), help="these share the time")
    options.add_argument(
        "--peer", type=Path, default=None, help="a clone of github.com/Jae-Moo/Scalable-JKO, to be timed"
    )
    options.add_argument("--data", type=Path, default=None, help="CIFAR-10 for its part, .npy or .npz of images")
    options.add_argument("--features", type=Path, default=None, help="weights of a CIFAR ResNet for its distance")
    options.add_argument("--seed", type=int, default=0, help="of the CIFAR-10 part")
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

    of_their_own = {"tests": tests, "cifar10": cifar10}
    call = [sys.executable, __file__, "--device", args.device, "--results", str(args.results)]
    call += ["--threads", str(args.threads), *(["--dry"] if args.dry else [])]
    call += ["--peer", str(args.peer)] if args.peer else []
    chosen = [part for part in SHARES if part in args.parts]
    for part in chosen:
        left = whole - (time.perf_counter() - begun) - 10
        share = SHARES[part] / sum(SHARES[p] for p in chosen) * whole
        seconds = left if part == chosen[-1] else min(left, share)
        run = of_their_own.get(part, lambda args, seconds, part=part: limited([*call, "--part", part], seconds))
        outcomes[part] = run(args, seconds)
        record()
    print(json.dumps(outcomes, indent=1))
    return path


if __name__ == "__main__":
    print(main())
