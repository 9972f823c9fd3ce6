"""Tables of benchmark records, for the command line."""

from collections.abc import Sequence
from typing import Any


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
