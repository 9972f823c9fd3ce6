"""The record of ``benchmarks/discretizations/discretizations.py`` as text."""

from typing import Any

from wgflow.bench.tables import Columns, number, plain, title


def parts(record: dict[str, Any]) -> list[str | Columns]:
    """Return errors, orders and costs, a block a flow, and what K steps cost."""
    lines: list[str | Columns] = [
        title(record),
        "",
        "Errors to the exact flow at its end, relative to the distance traveled, against the number of steps.",
    ]
    for flow in record["results"]["flows"]:
        lines += ["", f"{flow['name']}, d = {flow['d']}, time {flow['horizon']:g}"]
        lines += [
            Columns(
                ["", *(f"{k} steps" for k in flow["steps"]), "order", "floor", "calls/step", "ms/step", "MB"],
                [_flow_row(row, flow["steps"]) for row in flow["methods"]],
            )
        ]
        for row in flow["methods"]:
            for reason in row.get("reasons", [])[:1]:
                lines += [f"  {row['label']}: {reason}"]
    costs = record["results"]["cost_in_k"]
    last = max((len(r["seconds_per_phase"]) for r in costs.values()), default=0)
    about = f"{last} JKO steps by S-JKO and by chains of maps, networks of one size; step k takes a + b (k - 1)"
    lines += ["", about]
    lines += [
        Columns(
            ["", "total ~ K^", "by fit", "a, ms", "b, ms", "calls/update, first", "last", "to sample", "growth, MB"],
            [_cost_row(name, r) for name, r in costs.items()],
        )
    ]
    return lines


def table(record: dict[str, Any], width: int | None = None) -> str:
    """Return the same as text of at most ``width`` columns."""
    return plain(parts(record), width)


def _flow_row(row: dict[str, Any], steps: list[int]) -> list[str]:
    errors = dict(zip(row["steps"], row["errors"], strict=True))
    return [
        row["label"],
        *("" if k not in errors else number(errors[k], "{:.1e}") or "unstable" for k in steps),
        number(row["order"], "{:.2f}"),
        number(row["floor"] or None, "{:.0e}"),
        number(row["evaluations_per_step"][-1], "{:.0f}"),
        number(_times(1e3, row["seconds_per_step"][-1])),
        number(row["extra_mb"], "{:.0f}"),
    ]


def _cost_row(name: str, r: dict[str, Any]) -> list[str]:
    fit = r["fit"]
    return [
        name,
        number(r["exponent_of_total_cost_in_K"], "{:.2f}"),
        number(fit["slope_of_log_total_at_K"], "{:.2f}"),
        *(f"{1e3 * fit[c]:.2g} ± {1e3 * fit[c + '_se']:.1g}" for c in ("a", "b")),
        *(number(r["generator_calls_per_update"][when]) for when in ("first", "last")),
        str(r["nfe_to_sample_after_K_phases"]),
        number(r["tensors_growth_mb"], "{:+.1f}"),
    ]


def _times(c: float, value: float | None) -> float | None:
    return None if value is None else c * value
