"""The record of ``benchmarks/discretizations/inner_stopping.py`` as text."""

from typing import Any

from wgflow.bench.tables import Columns, number, plain, title


def parts(record: dict[str, Any]) -> list[str | Columns]:
    """Return errors and costs for every tolerance, a block a way to take a step."""
    lines: list[str | Columns] = [
        title(record),
        "",
        "Error to the exact JKO iterate, relative to the distance traveled.",
    ]
    for way in record["results"]["ways"]:
        lines += ["", way["label"]]
        lines += [
            Columns(
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
            )
        ]
    return lines


def table(record: dict[str, Any], width: int | None = None) -> str:
    """Return the same as text of at most ``width`` columns."""
    return plain(parts(record), width)
