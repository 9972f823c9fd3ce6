"""A comparison as a picture."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wgflow.bench.order import ABOVE_FLOOR
from wgflow.core.errors import BadInput
from wgflow.core.imports import require
from wgflow.core.instead import shown
from wgflow.plotting._style import COLOURS, GREY, drawing, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wgflow.bench.result import Result

_MARKERS = "osD^vP"
_DASHES = ("-", "--", ":")


def picture(result: "Result", time: float | None = None, figure: "Figure | None" = None) -> "Figure":
    """Draw errors against step size, with the slopes that orders are and the floors that matter, and against seconds.

    Raises
    ------
    BadInput
        When no method has an error to draw, or ``figure`` is none.
    """
    i = result.index(time)
    curves = {}
    for method in result.methods:
        kept = [
            row for row in result.of(method) if (row.error(i) or 0) > 0 and not result.unstable(row, result.times[i])
        ]
        if kept:
            curves[method] = kept
    if not curves:
        raise BadInput("nothing to draw: no method of this comparison has an error above 0 that is not unstable")
    with _panels(figure) as (figure, (against_step, against_time)):
        for j, (method, rows) in enumerate(curves.items()):
            error, bars = [row.error(i) for row in rows], [row.spread(i) for row in rows]
            style: dict[str, Any] = {
                "color": COLOURS[j % len(COLOURS)],
                "marker": _MARKERS[j % len(_MARKERS)],
                "linestyle": _DASHES[j // len(COLOURS) % len(_DASHES)],
                "markersize": 4.5,
                "markerfacecolor": "white" if j % 2 else None,
                "capsize": 2,
                "elinewidth": 1,
            }
            order = result.order(method, time)
            label = method if order.value is None else f"{method} ({order})"
            against_step.errorbar([row.step_size for row in rows], error, bars, label=label, **style)
            against_time.errorbar([row.cpu_seconds for row in rows], error, bars, **style)
            floor = max(row.floor for row in rows)
            if any(e is not None and e < ABOVE_FLOOR * floor for e in error):
                against_step.axhline(floor, color=style["color"], linestyle=":", linewidth=1, zorder=0)
                against_step.annotate(f"sampling floor of {method}", **_at_the_right(floor), color=style["color"])
        _slopes(against_step, result, curves, time)
        for panel in (against_step, against_time):
            panel.set(xscale="log", yscale="log")
            panel.margins(y=0.12)
        sizes = sorted({row.step_size for rows in curves.values() for row in rows})
        if len(sizes) <= 6:
            against_step.set_xticks(sizes, [f"{h:.3g}" for h in sizes])
            against_step.set_xticks([], minor=True)
        against_step.set(xlabel="step size h", ylabel=f"error at time {result.times[i]:g}")
        against_time.set(xlabel=_clock(result))
        figure.suptitle(textwrap.fill(result.problem, 80), fontsize=10)
        handles, labels = against_step.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(3, len(labels)), title="observed order in brackets"
        )
    return figure


@contextmanager
def _panels(figure: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Give two panels, of a new figure or of the one that is given."""
    if figure is None:
        with drawing(None, columns=2, size=(4.2, 3.9)) as panels:
            yield panels
        return
    if not isinstance(figure, require("matplotlib.figure", extra="plot").FigureBase):
        raise BadInput(f"figure={shown(figure)}: expected a figure of matplotlib, as plt.figure() makes one")
    with styled():
        yield figure, list(figure.subplots(1, 2))


def _clock(result: "Result") -> str:
    return "CPU seconds" if result.about["machine"]["device"] == "cpu" else "seconds on the GPU"


def _slopes(panel: Any, result: "Result", curves: dict[str, Any], time: float | None) -> None:
    """Draw one dashed line for every whole order that a method shows, below the lowest of those curves."""
    shown: dict[int, list[Any]] = {}
    for method, rows in curves.items():
        order = result.order(method, time).value
        if order is not None and round(order) >= 1:
            shown.setdefault(round(order), []).append(rows)
    i = result.index(time)
    for p, found in shown.items():
        rows = min(found, key=lambda rows: rows[-1].error(i))
        h = [row.step_size for row in rows]
        line = [0.6 * rows[-1].error(i) * (s / h[-1]) ** p for s in h]
        panel.plot(h, line, "--", color=GREY, linewidth=1, zorder=1)
        panel.annotate(f"slope {p}", (h[-1], line[-1]), (4, -10), textcoords="offset points", color=GREY, fontsize=8)


def _at_the_right(height: float) -> dict[str, Any]:
    """Where a remark about a horizontal line stands: below its right end."""
    return {
        "xy": (1, height),
        "xycoords": ("axes fraction", "data"),
        "xytext": (0, -9),
        "textcoords": "offset points",
        "ha": "right",
        "fontsize": 7,
    }
