"""The record of ``benchmarks/discretizations/inner_stopping.py`` as text."""

from typing import Any

from wgflow.bench.tables import number, prose, rows, title


def table(record: dict[str, Any], width: int | None = None) -> str:
    """Return errors and costs for every tolerance, a block a way to take a step."""
    lines = [
        *prose(title(record), width),
        "",
        *prose("Error to the exact JKO iterate, relative to the distance travelled.", width),
    ]
    for way in record["results"]["ways"]:
        lines += ["", way["label"]]
        lines += rows(
            ["tolerance", "error", "updates/step", "s/step"],
            [
                [
                    number(r["tolerance"]) or ("none, rate decayed" if "decayed" in r else "none"),
                    number(r["error"], "{:.3f}"),
                    number(r["updates_per_step"], "{:.0f}"),
                    number(r["seconds_per_step"]),
                ]
                for r in way["rows"]
            ],
            width,
        )
    return "\n".join(lines)
