"""What every record needs: a clock, the peak of the memory, and the machine, the versions and the commit that were measured."""

import datetime
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wgflow.core.version import VERSION

PACKAGE = Path(__file__).resolve().parents[1]
NOISE = "Absolute times are of a machine that others use too. Compare ratios within one record only."


class Clock:
    """Seconds of work: CPU time of this process on a CPU, waited-for wall time on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.name = "wall time, device waited for" if self.cuda else "CPU time of the process"

    def __call__(self) -> tuple[float, float]:
        """Return work seconds and wall seconds."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
            now = time.perf_counter()
            return now, now
        return time.process_time(), time.perf_counter()


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


def record(device: torch.device, *also: str) -> dict[str, Any]:
    """Return the date, the machine, the versions and the commit: what is needed to judge numbers.

    ``also`` are paths of the repository that the numbers depend on, besides the library.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": versions(),
        "commit": commit(*also),
        "note": NOISE,
    }


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
    return {
        "python": platform.python_version(),
        "wgflow": VERSION,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
    }


def commit(*also: str) -> dict[str, Any]:
    """Return the git commit of wgflow, and whether the library, or the paths of the repository given, differ from it.

    None where the library is installed from a package: its version says which one it is.
    """
    root = _git(PACKAGE.parent, "rev-parse", "--show-toplevel")
    if (
        root is None or Path(root).resolve() != PACKAGE.parent
    ):  # no repository, or that of somebody who installed it there
        return {"id": None, "dirty": None}
    changed = _git(PACKAGE.parent, "status", "--porcelain", "--", PACKAGE.name, *also)
    return {"id": _git(PACKAGE.parent, "rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
