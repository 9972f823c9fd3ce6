"""A comparison as text."""

from typing import TYPE_CHECKING

from wgflow.bench.tables import Text, number, prose, rows, title

if TYPE_CHECKING:
    from wgflow.bench.result import Result, Row


def table(result: "Result", time: float | None = None, width: int | None = None) -> Text:
    """Return errors, orders and costs, a line a method, and below why some have none."""
    i = result.index(time)
    start = result.start_errors[i]
    sizes = sorted(result.step_sizes, reverse=True)
    several = len(result.seeds) > 1
    about = f"Errors at time {result.times[i]:g}"
    about += "" if start is None else f"; that of the start is {start:.2g}"
    about += f"; mean ± standard error of {len(result.seeds)} seeds." if several else "."
    heads = ["", *(f"h = {h:g}" for h in sizes), "order"]
    costs = [(name, form, get) for name, form, get in _COSTS if any(get(row) for row in result.rows)]
    body = []
    for method in result.methods:
        found = {row.step_size: row for row in result.of(method)}
        last = next((row for row in reversed(result.of(method)) if row.errors), found[min(found)])
        cells = [_error(result, found[h], i) if h in found else "" for h in sizes]
        body.append(
            [method, *cells, str(result.order(method, time)), *(number(get(last), form) for _, form, get in costs)]
        )
    lines = [*prose(result.problem, width), *prose(title(result.about), width), "", *prose(about, width), ""]
    lines += rows([*heads, *(name for name, _, _ in costs)], body, width)
    notes = list(dict.fromkeys(_notes(result, time)))
    if notes:
        lines.append("")
    for note in notes:
        lines += prose(note, width, "  ")
    return Text("\n".join(lines))


def _error(result: "Result", row: "Row", i: int) -> str:
    if not row.errors:
        return row.status
    error, spread = row.error(i), row.spread(i)
    if error is None or result.unstable(row, result.times[i]):
        return "unstable"
    mark = "*" if row.status == "unconverged" else ""
    return f"{error:.1e}" + (f" ± {spread:.0e}" if spread else "") + mark


def _notes(result: "Result", time: float | None) -> list[str]:
    notes = []
    for method in result.methods:
        rows = result.of(method)
        for status in dict.fromkeys(row.status for row in rows if row.reason):
            found = [row for row in rows if row.status == status]
            mark = "* " if status == "unconverged" else ""
            where = "" if len(found) == len(rows) else f" at h = {', '.join(f'{row.step_size:g}' for row in found)}"
            notes.append(f"{mark}{method}, {status}{where}: {found[0].reason}")
    for method in result.methods:
        order = result.order(method, time)
        if order.value is None and any(row.errors for row in result.of(method)):
            notes.append(f"{method}: no order, {order.reason}")
    return notes


def _per_step(value: float | None, row: "Row") -> float | None:
    return None if value is None else value / row.steps


_COSTS = (
    ("gradients/step", "{:.3g}", lambda row: _per_step(row.gradients, row)),
    ("networks/step", "{:.3g}", lambda row: _per_step(row.networks, row)),
    ("iterations/step", "{:.3g}", lambda row: _per_step(row.iterations, row)),
    ("ms/step", "{:.2g}", lambda row: None if row.cpu_seconds is None else 1e3 * row.cpu_seconds / row.steps),
    ("s", "{:.2g}", lambda row: row.cpu_seconds),
    ("MB", "{:.0f}", lambda row: row.memory_mb),
)
