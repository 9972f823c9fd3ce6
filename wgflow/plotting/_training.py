"""Curves of a training: what updates reported and what was evaluated."""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wgflow.core.fields import checked
from wgflow.core.imports import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked
def training_curves(windows: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, Any]]) -> "Figure":
    """Draw what updates reported and what was evaluated, against the update count.

    Parameters
    ----------
    windows : sequence of dict
        Means over log windows, each with ``update`` and ``k``; the starts of time steps are marked.
    evaluations : sequence of dict
        Metrics, each with ``update``.

    Returns
    -------
    Figure
        One row of metrics (a quantity and its ``_floor`` or ``_chance`` share axes) above one of training quantities.
    """
    Figure = require("matplotlib.figure", extra="plot").Figure
    metric_names = [n for n in _names(evaluations) if not n.endswith(("_floor", "_std", "_chance", "_margin"))]
    window_names = _names(windows)
    columns = max(len(metric_names), 4)
    rows = 1 + -(-len(window_names) // columns) if window_names else 1
    figure = Figure(figsize=(3.1 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    starts = [b["update"] for a, b in itertools.pairwise(windows) if b["k"] > a["k"]]
    for ax, name in zip(axes[0], metric_names, strict=False):
        _line(ax, evaluations, name, marker="o", markersize=3)
        real = [
            e[key]
            for key in (f"{name}_floor", f"{name}_chance")
            for e in evaluations
            if math.isfinite(e.get(key, math.inf))
        ]
        if real:
            ax.axhline(real[0], color="0.4", linestyle="--", linewidth=1, label="real against real")
            ax.legend(frameon=False, fontsize=7)
        ax.set_ylim(bottom=min([0, *(e[name] for e in evaluations if name in e and math.isfinite(e[name]))]))
    for ax, name in zip(axes[1:].flat, window_names, strict=False):
        _line(ax, windows, name, linewidth=0.9)
        for start in starts:
            ax.axvline(start, color="0.85", linewidth=0.6, zorder=0)
    return figure


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    found: dict[str, None] = {}
    for row in rows:
        found |= dict.fromkeys(k for k in row if k not in ("update", "k", "t"))
    return list(found)


def _line(ax: Any, rows: Sequence[dict[str, Any]], name: str, **style: Any) -> None:
    rows = [r for r in rows if name in r]
    ax.plot([r["update"] for r in rows], [r[name] for r in rows], color="C0", **style)
    ax.set_visible(True)
    ax.set_title(name, fontsize=9)
    ax.tick_params(labelsize=7)
    ax.set_xlabel("update", fontsize=7)
    ax.spines[["top", "right"]].set_visible(False)
