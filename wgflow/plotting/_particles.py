"""Particles over what they should become."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.core.errors import BadInput
from wgflow.core.fields import checked
from wgflow.driver.solution import Solution
from wgflow.measures import Particles
from wgflow.plotting._frames import Dims, Frame, Limits, frames, pick
from wgflow.plotting._scene import Over, Scene, histogram, scene
from wgflow.plotting._style import PARTICLE, Colour, drawing, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@checked
def particles(
    rho: Solution | Particles,
    over: Over | None = None,
    *,
    times: int | Sequence[float] | None = None,
    dims: Dims | None = None,
    limits: Limits | None = None,
    color: Colour = PARTICLE,
    label: str | None = None,
    ax: "Axes | None" = None,
) -> "Figure | Axes":
    r"""Draw particles, at several times side by side, over a target or a potential.

    In the plane a particle is a dot whose **area is proportional to its weight**. On a line the particles are a weighted
    histogram with a mark each; over a potential they are beads on its graph.

    Parameters
    ----------
    rho : Solution or Particles
        What to draw.
    over : Measure or callable, optional
        A measure with ``log_prob`` is drawn as its density (gray; in the plane regions that hold 99, 93, 80, 60, 40 and 20 %
        of the mass in sight), another one as 500 draws. It is taken ``at`` the time of each picture, so it may be the
        exact solution (:class:`Moving`). A function from (n, \*event) to (n,) is drawn as a potential.
    times : int or sequence of float, optional
        How many states, evenly spread, or the times whose nearest saved states are drawn. 4, or with ``ax`` the last one.
    dims : int or pair of int, optional
        Which coordinates; needed for points with more than two.
    limits : sequence of (low, high), optional
        One interval a coordinate. By default all but stray points fit in.
    color, label : str
        Of the particles.
    ax : Axes, optional
        Where to draw one state, without a legend.

    Returns
    -------
    Figure, or Axes when they were given

    Raises
    ------
    BadInput
        For a solution without saved particles, more than two coordinates without ``dims``, or a function ``over`` of
        coordinates that are not drawn.
    MissingDependency
        Without matplotlib.

    Examples
    --------
    >>> import torch
    >>> from wgflow import Particles, StandardNormal, plotting
    >>> figure = plotting.particles(Particles(torch.randn(100, 2)), over=StandardNormal(2))
    """
    found = frames(rho, dims)
    shown = pick(found, times, default=1 if ax is not None else 4)
    if ax is not None and len(shown) > 1:
        raise BadInput(f"{len(shown)} times do not fit on one Axes: choose one, times=[t], or leave ax out")
    stage = scene(rho, shown, over, dims, limits)
    with drawing(ax, len(shown), size=(2.7, 2.7)) as (picture, axes):
        top = line_top(stage, shown)
        for panel, frame in zip(axes, shown, strict=True):
            stage.at(frame).paint(panel)
            put(panel, frame, stage, color, label)
            frame_axes(panel, stage, f"t = {frame.t:.3g}" if isinstance(rho, Solution) else "", top)
        for panel in axes[1:]:
            panel.tick_params(labelleft=False)
            panel.set_ylabel("")
        if ax is None:
            legend(picture)
    return picture


_SLIVER = 2.5
"""Sides that differ by more have scales of their own: one scale would leave a sliver of the panel."""


def put(ax: Any, frame: Frame, stage: Scene, color: str, label: str | None = None) -> list[Any]:
    """Draw the particles of a frame and return what was drawn; the last one is the dots."""
    x, drawn = frame.x, list[Any]()
    style: dict[str, Any] = {"s": areas(frame), "color": color, "alpha": opacity(len(x)), "linewidths": 0, "zorder": 3}
    if x.shape[1] == 2:
        y = x[:, 1]
    elif stage.is_graph:
        y = stage.potential(stage.origin.new_tensor(x).view(-1, *stage.origin.shape[1:]))
    else:
        y = np.zeros(len(x))
        edges, p = histogram(frame, stage)
        drawn.append(ax.stairs(p, edges, fill=True, color=color, alpha=0.3, zorder=2))
        style |= {"s": 5 * style["s"], "marker": "|", "linewidths": 0.7, "clip_on": False}
    return [*drawn, ax.scatter(x[:, 0], y, label=label, **style)]


def areas(frame: Frame) -> np.ndarray:
    """Return the areas of the dots, in points squared: proportional to the weights, at equal weights by the number."""
    n = len(frame.w)
    return np.clip(2500 / n, 3.0, 22.0) * n * frame.w


def opacity(n: int) -> float:
    """Return the opacity of dots of which there are many."""
    return float(np.clip(30 / n**0.5, 0.25, 0.85))


def line_top(stage: Scene, shown: Sequence[Frame]) -> float | None:
    """Return the upper limit of densities on a line, the same for all frames; a target must stay legible beside a peak."""
    if len(stage.box) == 2 or stage.is_graph:
        return None
    top = max(histogram(f, stage)[1].max() for f in shown)
    behind = max(stage.at(f).peak() for f in shown)
    return 1.08 * (min(top, 2 * behind) if behind and behind < top else max(top, behind))


def frame_axes(ax: Any, stage: Scene, title: str = "", top: float | None = None) -> None:
    """Set limits, aspect and title, and name the coordinates where there are others."""
    ax.set_title(title)
    ax.set_xlim(*stage.box[0])
    if not stage.whole:
        for name, i in zip((ax.set_xlabel, ax.set_ylabel), stage.dims, strict=False):
            name(f"coordinate {i}")
    if len(stage.box) == 2:
        ax.set_ylim(*stage.box[1])
        widths = [high - low for low, high in stage.box]
        if max(widths) < _SLIVER * min(widths):
            ax.set_aspect("equal")
    elif not stage.is_graph:
        ax.set_ylim(0, top)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
