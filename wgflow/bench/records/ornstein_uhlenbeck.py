"""The record of ``benchmarks/ornstein_uhlenbeck/ornstein_uhlenbeck.py`` as text."""

from typing import Any

from wgflow.bench.tables import Columns, number, plain, title

_ABOUT = (
    "Mean log10 of the symmetric KL to the exact law; in brackets, above the exact JKO iterates of the same targets.",
    "* shaped to the problem: a family of Gaussians. Published scores of particles are those of a density estimate.",
)


def parts(record: dict[str, Any]) -> list[str | Columns]:
    """Return scores, distances to the best possible score and costs, a block a dimension, and what the peer's code takes."""
    results = record["results"]
    times = results["times"]
    lines: list[str | Columns] = [
        title(record),
        "",
        *_ABOUT,
    ]
    for block in results["dims"]:
        lines += ["", f"d = {block['d']}"]
        lines += [
            Columns(
                ["", *(f"t = {t}" for t in times), "targets", "s/step"], [_row(row, times) for row in block["rows"]]
            )
        ]
    lines += ["", "CPU seconds of a JKO step with the number of the step, on a chain with cached points"]
    lines += [
        Columns(
            ["", "d", "step 2", "last step", "an evaluation, change over all steps, %"],
            [
                [
                    r["label"],
                    str(r["d"]),
                    *(number(r[k]) for k in ("second", "last")),
                    number(r["slope_percent"], "{:+.0f}"),
                ]
                for r in results["cost_of_step"]
            ],
        )
    ]
    if results.get("mokrov"):
        last = results["mokrov"][0]["last"]
        about = "CPU milliseconds of an iteration: the public code of Mokrov et al. (2 layers of 64, rank 5), and ours"
        lines += ["", about]
        lines += [
            Columns(
                ["d", "batch", "theirs, step 1", f"theirs, step {last}", "ours, 2 x 64, any step", "ours, 1 x 32"],
                [_iteration(r) for r in results["mokrov"]],
            )
        ]
    return lines


def table(record: dict[str, Any], width: int | None = None) -> str:
    """Return the same as text of at most ``width`` columns."""
    return plain(parts(record), width)


def _row(row: dict[str, Any], times: list[str]) -> list[str]:
    cells = []
    for t in times:
        scores, above = row["log10_symkl"], (row.get("above_exact_jko") or {}).get(t)
        shown = "diverges" if t in scores and scores[t] is None else number(scores.get(t), "{:.2f}")
        cells.append(shown + ("" if above is None else f" ({above:+.2f})"))
    label = row["label"] + (" *" if row.get("shaped") else "")
    return [label, *cells, str(row.get("targets_run") or ""), number(row.get("seconds_per_step"))]


def _iteration(r: dict[str, Any]) -> list[str]:
    kinds = ("theirs_first", "theirs_last", "ours", "ours_as_used")
    return [str(r["d"]), str(r["batch"]), *(number(1e3 * r[kind], "{:.0f}") for kind in kinds)]
