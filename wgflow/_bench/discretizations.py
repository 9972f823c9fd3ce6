"""The record of ``benchmarks/discretizations.py`` as text."""

from typing import Any

from wgflow._bench.tables import number, rows, title


def table(record: dict[str, Any]) -> str:
    """Return errors, orders and costs, a block a flow, and what K steps cost."""
    lines = [
        title(record),
        "",
        "Errors to the exact flow at its end, relative to the distance travelled, against the number of steps.",
    ]
    for flow in record["results"]["flows"]:
        lines += ["", f"{flow['name']}, d = {flow['d']}, time {flow['horizon']:g}"]
        lines += rows(
            ["", *(f"{k} steps" for k in flow["steps"]), "order", "floor", "calls/step", "ms/step", "MB"],
            [_flow_row(row) for row in flow["methods"]],
        )
    lines += ["", "K JKO steps by S-JKO and by chains of maps, networks of one size"]
    lines += rows(
        ["", "total cost ~ K^", "calls/update, first step", "last step", "calls to sample", "tensors, growth in MB"],
        [
            [
                name,
                number(r["exponent_of_total_cost_in_K"], "{:.2f}"),
                *(number(r["generator_calls_per_update"][when]) for when in ("first", "last")),
                str(r["nfe_to_sample_after_K_phases"]),
                number(r["live_tensors_mb"]["growth"], "{:+.2f}"),
            ]
            for name, r in record["results"]["cost_in_k"].items()
        ],
    )
    return "\n".join(lines)


def _flow_row(row: dict[str, Any]) -> list[str]:
    return [
        row["label"],
        *(number(e, "{:.1e}") if e is not None else "unstable" for e in row["errors"]),
        number(row["order"], "{:.2f}"),
        number(row["floor"] or None, "{:.0e}"),
        number(row["evaluations_per_step"][-1], "{:.0f}"),
        number(_times(1e3, row["seconds_per_step"][-1])),
        number(row["extra_mb"], "{:.0f}"),
    ]


def _times(c: float, value: float | None) -> float | None:
    return None if value is None else c * value
