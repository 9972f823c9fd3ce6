"""What every benchmark shares: options, a clock, and a record that names the machine, the versions and the commit."""

import argparse
import datetime
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "figures"
NOISE = "Absolute times are of a machine that others use too. Compare ratios within one record only."


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    options.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON records")
    options.add_argument("--quick", action="store_true", help="seconds, for tests: the numbers mean nothing")
    return options


def figure(args: argparse.Namespace, name: str) -> Path:
    """Return where the figure goes: into the docs with the repository's record, else beside the record."""
    return (FIGURES if args.results == RESULTS and not args.quick else args.results) / name


class Clock:
    """Seconds of work: CPU time of this process on a CPU, waited-for wall time on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.name = "wall time, device waited for" if self.cuda else "CPU time of the process"

    def __call__(self) -> tuple[float, float]:
        """Return work seconds and wall seconds."""
        if self.cuda:
            torch.cuda.synchronize()
            now = time.perf_counter()
            return now, now
        return time.process_time(), time.perf_counter()


def write(name: str, folder: Path, settings: dict[str, Any], results: dict[str, Any], device: torch.device) -> Path:
    """Write ``NAME.json`` with the results and everything that is needed to judge them."""
    record = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": versions(),
        "commit": commit(),
        "note": NOISE,
        "settings": settings,
        "results": _rounded(results),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path


def _rounded(value: Any) -> Any:
    """Keep five digits, more than any timing has."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def machine(device: torch.device) -> dict[str, Any]:
    """Name the processors, the device that computed, and how loaded the machine was."""
    return {
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str | None]:
    """Return the versions of what computes."""
    from wgflow import __version__

    return {
        "python": platform.python_version(),
        "wgflow": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
    }


def commit() -> dict[str, Any]:
    """Return the git commit, and whether the library or the benchmarks differ from it."""
    changed = _git("status", "--porcelain", "--", "wgflow", "benchmarks/*.py")
    return {"id": _git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def peak_memory_mb(device: torch.device) -> float | None:
    """Peak since :func:`reset_peak`: of tensors on a GPU, of the resident set on Linux; None elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), None)


def reset_peak(device: torch.device) -> None:
    """Start a new peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # the peak is then that of the whole process, which can still be compared within a run
        return
