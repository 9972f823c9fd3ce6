"""What every benchmark shares: options, a clock, and a record that names the machine, the versions and the commit."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from wgflow.bench.measuring import Clock, peak_memory_mb, record, reset_peak
from wgflow.storage.files import write_text

__all__ = ["FIGURES", "RESULTS", "ROOT", "Clock", "figure", "held", "parser", "peak_memory_mb", "reset_peak", "write"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "figures"


class _Options(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if "results" not in found:
            trial = found.quick or getattr(found, "dry", False)
            found.results = Path(tempfile.mkdtemp(prefix="wgflow-")) if trial else RESULTS
            if trial:
                print(f"a trial: what it writes is in {found.results}", file=sys.stderr)
        return found, rest


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have; a trial does not write over the records of the repository."""
    options = _Options(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    where = "folder of the JSON records; benchmarks/results by default, and a new temporary one for --quick"
    options.add_argument("--results", type=Path, default=argparse.SUPPRESS, help=where)
    options.add_argument("--quick", action="store_true", help="seconds, for tests: the numbers mean nothing")
    return options


def figure(args: argparse.Namespace, name: str) -> Path:
    """Return where the figure goes: into the docs with the repository's record, else beside the record."""
    return (FIGURES if args.results == RESULTS else args.results) / name


def write(name: str, folder: Path, settings: dict[str, Any], results: dict[str, Any], device: torch.device) -> Path:
    """Write ``NAME.json`` with the results and everything that is needed to judge them."""
    about = record(device, "benchmarks/*.py")
    found = {"benchmark": name, **about, "settings": settings, "results": _rounded(results)}
    path = folder / f"{name}.json"
    write_text(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return path


def held(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the results of a record, to go on with; empty where there is none, or one with other settings."""
    record = json.loads(path.read_text()) if path.exists() else None
    return record["results"] if record is not None and record["settings"] == settings else {}


def _rounded(value: Any) -> Any:
    """Keep five digits, more than any timing has."""
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
