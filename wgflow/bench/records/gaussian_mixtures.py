"""The record of ``benchmarks/mixtures/gaussian_mixtures.py`` as text."""

from typing import Any

from wgflow.bench.tables import Columns, number, plain, title

_ABOUT = (
    "From N(0, 16 I) to equally heavy unit Gaussians. SymKL is the sum of both KL, by the densities that chains carry;",
    "of the masses alone it is a lower bound. Behind a stroke: what as many exact draws of the target score.",
)


def parts(record: dict[str, Any]) -> list[str | Columns]:
    """Return the scores, a block a dimension, below them the published ones."""
    lines: list[str | Columns] = [
        title(record),
        "",
        *_ABOUT,
    ]
    for suite in record["results"]["suites"]:
        lines += ["", f"d = {suite['d']}"]
        lines += [
            Columns(
                [
                    "",
                    "runs",
                    "time",
                    "steps",
                    "log10 SymKL",
                    "KL",
                    "SymKL of masses",
                    "TV of masses",
                    "energy distance",
                    "sliced W2",
                    "s/step",
                    "s",
                ],
                [_row(row) for row in [*suite["rows"], *suite["published"]]],
            )
        ]
    return lines


def table(record: dict[str, Any], width: int | None = None) -> str:
    """Return the same as text of at most ``width`` columns."""
    return plain(parts(record), width)


def _row(row: dict[str, Any]) -> list[str]:
    failed = f" ({row['failed']} failed)" if row.get("failed") else ""
    return [
        row["label"],
        f"{row['runs']}{failed}",
        number(row.get("time"), "{:.3g}"),
        number(row.get("steps"), "{:.3g}"),
        number(row.get("log10_symkl"), "{:+.2f}"),
        number(row.get("kl"), "{:.3f}"),
        number(row.get("mass_symkl"), "{:.4f}"),
        number(row.get("mass_tv"), "{:.3f}"),
        _beside(row, "energy_distance"),
        _beside(row, "sliced_w2"),
        number(row.get("seconds_per_step")),
        number(row.get("seconds"), "{:.0f}"),
    ]


def _beside(row: dict[str, Any], key: str) -> str:
    """Return a score and its floor, where known."""
    floor = row.get(f"{key}_floor")
    return number(row.get(key), "{:.3f}") + ("" if floor is None else f" / {floor:.3f}")
