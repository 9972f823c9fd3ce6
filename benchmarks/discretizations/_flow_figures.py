"""The figures of the discretizations' record, one finding each."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wgflow.plotting._style import COLOURS, drawing

_MARKERS = "osD^vPX"


@dataclass(frozen=True)
class Panel:
    """Errors of a flow against step size, or against seconds."""

    flow: tuple[str, int]
    against: str = "step size"


@dataclass(frozen=True)
class Finding:
    """A figure: its panels, and the methods that it compares, all others left out."""

    title: str
    panels: tuple[Panel, ...]
    methods: tuple[str, ...]


FINDINGS = {
    "discretizations_orders.png": Finding(
        "Exact scores: every scheme has its order, and small errors cost least by the highest",
        (Panel(("KL to a Gaussian", 10)), Panel(("KL to a Gaussian", 10), "seconds")),
        (*("forward Euler", "forward-backward", "JKO", "Adams–Bashforth", "Heun", "RK4", "dopri5"),),
    ),
    "discretizations_approximations.png": Finding(
        "Without exact scores: schemes of order 1, and what stands for the density",
        (Panel(("KL to a Gaussian", 2)), Panel(("KL to a mixture", 1))),
        (
            "Langevin",
            "Metropolis-adjusted Langevin",
            "forward Euler, blob",
            "JKO, blob",
            "JKO on a grid",
            "JKO of quantiles",
        ),
    ),
    "discretizations_networks.png": Finding(
        "Implicit steps by networks, beside the exact implicit step",
        (Panel(("KL to a Gaussian", 2)), Panel(("KL to a Gaussian", 10))),
        (
            *("S-JKO", "JKO, chain of residual maps, dual form", "JKO, chain of ICNN gradients"),
            *("JKO, chain of neural ODEs", "JKO"),
        ),
    ),
}


def draw(flows: Sequence[Mapping[str, Any]], at: Callable[[str], Path]) -> None:
    """Draw every finding whose flows are there; ``at`` says where a file goes."""
    found = {(f["name"], f["d"]): f for f in flows}
    for name, finding in FINDINGS.items():
        path = at(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with drawing(None, columns=len(finding.panels), size=(4.4, 3.9)) as (figure, axes):
            labels = {}
            for ax, panel in zip(axes, finding.panels, strict=True):
                labels |= _draw_panel(ax, panel, finding.methods, found[panel.flow])
            axes[0].set_ylabel("error, relative to the distance traveled")
            figure.suptitle(finding.title, fontsize=10)
            drawn = [m for m in finding.methods if m in labels]
            figure.legend([labels[m] for m in drawn], drawn, loc="outside lower center", ncols=3)
            figure.savefig(path, dpi=150)


def _draw_panel(ax: Any, panel: Panel, methods: Sequence[str], flow: Mapping[str, Any]) -> dict[str, Any]:
    """Draw one, and return its lines by method."""
    lines = {}
    for row in flow["methods"]:
        method = short(row["label"])
        kept = [
            (flow["horizon"] / k if panel.against == "step size" else s, e)
            for k, s, e in zip(row["steps"], row["seconds"], row["errors"], strict=True)
            if e is not None and e > 0
        ]
        if method not in methods or not kept:
            continue
        i = methods.index(method)
        style = {"color": COLOURS[i % len(COLOURS)], "marker": _MARKERS[i], "markersize": 4.5}
        (lines[method],) = ax.loglog(*zip(*kept, strict=True), **style, linestyle="--" if i >= len(COLOURS) else "-")
    if panel.against == "step size":
        sizes = [flow["horizon"] / k for k in flow["steps"]]
        ax.set_xticks(sizes, [f"{h:g}" for h in sizes])
        ax.set_xticks([], minor=True)
    ax.set(xlabel=panel.against, title=f"{flow['name']}, d = {flow['d']}")
    return lines


def short(label: str) -> str:
    """Return one name for a method whatever its number of points."""
    words = re.sub(r", exact \w+|, \d+ (cells a side|particles)| of particles", "", label)
    return re.sub(r" of \d+ quantiles", " of quantiles", words)
