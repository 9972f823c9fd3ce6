"""Curves of a training: what was evaluated and what updates reported."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wgflow.core.fields import Whole, checked
from wgflow.plotting._style import COLOURS, GREY, PALE, blank, styled, wide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS, _METRICS, _MARKS = 8, 4, 40
"""Most panels, most of them with a metric, and most marks of steps that are told apart."""
_BESIDE = ("_floor", "_std", "_chance", "_margin", "_residual")
"""Ends of the names of what is a line beside another quantity, or its accuracy."""
_FIRST = ("objective", "transport", "energy", "dissipation", "realised")
"""Training quantities that are shown before others."""
_ORDERS = "energy_distance"
"""The metric that is shown before others, where it is measured: it orders images right where others do not."""


@checked
def training_curves(
    windows: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]], steps: Sequence[Whole] = ()
) -> "Figure":
    """Draw what was evaluated and what updates reported, against the update count: at most eight panels.

    Parameters
    ----------
    windows : sequence of dict
        Means over log windows, each with ``update`` and ``k``.
    evaluations : sequence of dict
        Metrics, each with ``update``. A quantity and its ``_floor`` or ``_chance`` share a panel.
    steps : sequence of int
        Updates at which time steps have ended, marked by vertical lines. Without them the ends of the windows in which ``k`` grows.

    Returns
    -------
    Figure
        First up to four metrics, of which the energy distance comes first, then training quantities: objective, transport and energy
        before others. A metric whose values are positive has a logarithmic axis where one is more than twenty times another. Where an
        estimate is slightly negative, this axis is linear around zero. What does not fit is in the logs.

    Examples
    --------
    >>> import wgflow as wg
    >>> windows = [{"update": 10, "k": 0, "critic/loss": 0.7}, {"update": 20, "k": 1, "critic/loss": 0.6}]
    >>> figure = wg.plotting.training_curves(windows, [{"update": 20, "sinkhorn": 0.3}])
    >>> len(figure.axes)
    2
    """
    shown = [n for n in _names(evaluations) if not n.endswith(_BESIDE)]
    metrics = sorted(shown, key=lambda name: name != _ORDERS)[:_METRICS]
    reported = sorted(
        _names(windows), key=lambda name: _FIRST.index(end) if (end := name.rpartition("/")[2]) in _FIRST else 99
    )
    count = _filled(len(metrics) + len(reported))
    columns = count if count <= 3 else 3 if count == 6 else max(count // 2, 2)
    ends = list(steps) or [b["update"] for a, b in itertools.pairwise(windows) if b["k"] > a["k"]]
    with styled():
        figure = blank(3.1 * columns, 2.5 * (count // columns))
        axes = figure.subplots(count // columns, columns, squeeze=False)
        for ax, name in zip(axes.flat, [*metrics, *reported], strict=False):
            _line(ax, evaluations if name in metrics else windows, name, name in metrics)
            for end in ends if len(ends) <= _MARKS else ():
                ax.axvline(end, color=PALE, linewidth=0.6, zorder=0)
    return figure


def _filled(count: int) -> int:
    """Return the most panels, of those that there are, that fill a grid."""
    return max([n for n in (1, 2, 3, 4, 6, _PANELS) if n <= count], default=1)


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    found: dict[str, None] = {}
    for row in rows:
        found |= dict.fromkeys(k for k in row if k not in ("update", "k", "t"))
    return list(found)


def _line(ax: Any, rows: Sequence[dict[str, Any]], name: str, metric: bool) -> None:
    held = [r for r in rows if name in r]
    style: dict[str, Any] = {"marker": "o", "markersize": 3} if metric else {"linewidth": 0.9}
    ax.plot([r["update"] for r in held], [r[name] for r in held], color=COLOURS[0], **style)
    beside = [v for end in ("_floor", "_chance") for r in rows if math.isfinite(v := r.get(name + end, math.inf))]
    if beside:
        ax.axhline(beside[0], color=GREY, linestyle="--", linewidth=1, label="real against real")
        ax.legend(fontsize=7)
    finite = [0.0, *(r[name] for r in held if math.isfinite(r[name]))]
    below, above = min(finite), max(finite)
    if metric and wide([*(r[name] for r in held), *beside[:1]]):
        ax.set_yscale("log")
    elif metric and below < 0 and above > -20 * below:
        ax.set_yscale("symlog", linthresh=-2 * below)
        ax.autoscale(axis="y")  # the line beside it has fixed the margins of a linear axis
    elif metric:
        ax.set_ylim(bottom=below)
    ax.set_title(textwrap.fill(name.replace("_", " "), 34))
    ax.set_xlabel("update")
