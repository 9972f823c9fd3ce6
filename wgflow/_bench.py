"""Benchmarks of the repository from the command line: records found, scripts run, tables printed."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wgflow.errors import BadInput

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def latest_record() -> Path:
    """Return the record in this copy of the repository.

    Raises
    ------
    BadInput
        When there is none: benchmarks are not part of the installed package.
    """
    path = BENCHMARKS / "results" / "discretizations.json"
    if not path.exists():
        raise BadInput(
            f"no record at {path}. Run `wgflow bench --run` in a copy of the repository, or name a JSON record."
        )
    return path


def run_discretizations(record: Path | None, quick: bool) -> Path:
    """Run ``benchmarks/discretizations.py`` and return its record, the repository's one unless a path is given.

    A quick run without a path goes to a temporary folder: its numbers mean nothing.

    Raises
    ------
    BadInput
        When the script is not there, or fails.
    """
    script = BENCHMARKS / "discretizations.py"
    if not script.exists():
        raise BadInput(
            f"no {script}: benchmarks are in the repository, not in the installed package. Run this in a copy of it."
        )
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, str(script)]
        if record is not None or quick:
            record = Path(tempfile.mkdtemp()) / "discretizations.json" if record is None else record
            command += ["--results", scratch, "--figure", str(record.with_suffix(".png"))]
        if subprocess.run([*command, *(["--quick"] if quick else [])], stdout=sys.stderr).returncode:
            raise BadInput(f"{script} failed; its output is above")
        if record is None:
            return latest_record()
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text((Path(scratch) / "discretizations.json").read_text())
    return record


def discretizations_table(record: dict[str, Any]) -> str:
    """Return the record of ``benchmarks/discretizations.py`` as text."""
    machine, commit = record["machine"], record["commit"]
    lines = [
        f"{record['date']}  {machine['cpu']}, {machine['device']}, {machine['threads']} threads  commit {(commit['id'] or '?')[:10]}"
        + (" (changed)" if commit["dirty"] else ""),
        "",
        "Errors to the exact flow at its end, relative to the distance travelled, against the number of steps.",
    ]
    for flow in record["results"]["flows"]:
        lines += ["", f"{flow['name']}, d = {flow['d']}, time {flow['horizon']:g}"]
        lines += _rows(
            ["", *(f"{k} steps" for k in flow["steps"]), "order", "floor", "calls/step", "ms/step", "MB"],
            [_flow_row(row) for row in flow["methods"]],
        )
    for suite in record["results"]["ornstein_uhlenbeck"]:
        lines += [
            "",
            f"Ornstein–Uhlenbeck suite, d = {suite['d']}: mean log10 of the symmetric KL over {suite['targets']} targets",
        ]
        times = [f"{t:g}" for t in suite["times"]]
        lines += _rows(
            ["", *(f"t = {t}" for t in times), "s/step"],
            [
                [
                    r["label"],
                    *(_number(r["log10_symkl"].get(t), "{:+.2f}") for t in times),
                    _number(r.get("seconds_per_step")),
                ]
                for r in suite["rows"]
            ],
        )
    lines += ["", "K JKO steps by S-JKO and by chains of maps, networks of one size"]
    lines += _rows(
        ["", "total cost ~ K^", "calls/update, first step", "last step", "calls to sample", "tensors, growth in MB"],
        [
            [
                name,
                _number(r["exponent_of_total_cost_in_K"], "{:.2f}"),
                *(_number(r["generator_calls_per_update"][when]) for when in ("first", "last")),
                str(r["nfe_to_sample_after_K_phases"]),
                _number(r["live_tensors_mb"]["growth"], "{:+.2f}"),
            ]
            for name, r in record["results"]["cost_in_k"].items()
        ],
    )
    return "\n".join(lines)


def _flow_row(row: dict[str, Any]) -> list[str]:
    return [
        row["label"],
        *(_number(e, "{:.1e}") if e is not None else "unstable" for e in row["errors"]),
        _number(row["order"], "{:.2f}"),
        _number(row["floor"] or None, "{:.0e}"),
        _number(row["evaluations_per_step"][-1], "{:.0f}"),
        _number(_times(1e3, row["seconds_per_step"][-1])),
        _number(row["extra_mb"], "{:.0f}"),
    ]


def _times(c: float, value: float | None) -> float | None:
    return None if value is None else c * value


def _number(value: float | None, form: str = "{:.2g}") -> str:
    return "" if value is None else form.format(value)


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    return [
        "  ".join(
            [f"  {r[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(r[1:], widths[1:], strict=True))]
        ).rstrip()
        for r in [head, *rows]
    ]
