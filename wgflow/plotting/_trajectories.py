"""Paths of particles."""

from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, checked
from wgflow.core.imports import require
from wgflow.driver.solution import Solution
from wgflow.measures import Measure
from wgflow.plotting._frames import Dims, Frame, Limits, draws, frames
from wgflow.plotting._particles import frame_axes
from wgflow.plotting._scene import Over, Scene, scene
from wgflow.plotting._style import PARTICLE, Colour, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@checked
def trajectories(
    solution: Solution,
    over: Over | None = None,
    *,
    count: Count = 60,
    dims: Dims | None = None,
    limits: Limits | None = None,
    color: Colour = PARTICLE,
    ax: "Axes | None" = None,
) -> "Figure | Axes":
    r"""Draw the paths of particles: in the plane with their ends as dots, on a line against time.

    Parameters
    ----------
    solution : Solution
        A flow of particles with saved states.
    over : Measure or callable, optional
        As for :func:`particles`, at the last time; on a line it is the shade behind the paths.
    count : int
        At most so many particles, evenly spread over their order.
    dims, limits, ax
        As for :func:`particles`.
    color : str
        Of the paths.

    Returns
    -------
    Figure, or Axes when they were given

    Raises
    ------
    BadInput
        For fewer than two saved states or states with different numbers of particles, and as :func:`particles` does.

    Notes
    -----
    Where a step resamples particles (birth and death) a path jumps.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start = wg.Particles(torch.randn(20, 2))
    >>> flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.1, num_steps=5, save=wg.Save(every=1))
    >>> figure = wg.plotting.trajectories(flow, count=10)
    """
    found = frames(solution, dims)
    if len(found) < 2:
        raise BadInput("a path needs at least two saved states: solve with save=Save(every=1)")
    sizes = {len(f.x) for f in found}
    if len(sizes) > 1 or count < 1:
        raise BadInput(f"paths need one number of particles at all times and count >= 1, got {sorted(sizes)}, {count}")
    stage = scene(solution, found, over, dims, limits)
    index = np.unique(np.linspace(0, len(found[0].x) - 1, count).round().astype(int))
    paths = np.stack([f.x[index] for f in found], axis=1)  # (particle, time, coordinate)
    with drawing(ax, size=(4.2, 3.6)) as (picture, axes):
        if len(stage.box) == 2:
            _in_the_plane(axes[0], paths, stage.at(found[-1]), color)
        else:
            _against_time(axes[0], paths, found, stage.at(found[-1]), color)
    return picture


def _in_the_plane(ax: Any, paths: np.ndarray, stage: Scene, color: str) -> None:
    stage.paint(ax)
    _lines(ax, paths, color)
    style: dict[str, Any] = {"s": 12, "linewidths": 0.8, "zorder": 4}
    ax.scatter(*paths[:, 0].T, facecolors="white", edgecolors=color, label="start", **style)
    ax.scatter(*paths[:, -1].T, color=color, label="end", **style)
    frame_axes(ax, stage, "")


def _against_time(ax: Any, paths: np.ndarray, found: list[Frame], stage: Scene, color: str) -> None:
    t = np.array([f.t for f in found])
    if stage.over is not None:
        ax.imshow(_shade(stage)[:, None], extent=(t[0], t[-1], *stage.box[0]), origin="lower", aspect="auto",
                  cmap="Greys", vmin=0, vmax=2.5, zorder=0)  # fmt: skip
    _lines(ax, np.stack(np.broadcast_arrays(t, paths[..., 0]), axis=-1), color)
    ax.set(xlabel="t", ylabel="position", xlim=(t[0], t[-1]), ylim=stage.box[0])


def _shade(stage: Scene) -> np.ndarray:
    """Values between 0 and 1 on the box of a line: high where the target is, or where the potential is low."""
    if not isinstance(stage.over, Measure):
        v = stage.potential(stage.grid(301)[1])
        v = np.minimum(v, v.min() + 4 * (np.median(v) - v.min()))
        return (v.max() - v) / (np.ptp(v) or 1.0)
    if stage.has_density:
        p = stage.density(301, 1.0)[1]
        return p / p.max()
    sample = draws(stage.over, stage.dims)
    p = np.histogram(sample.x[:, 0], bins=60, range=stage.box[0], weights=sample.w)[0]
    return p / p.max()


def _lines(ax: Any, paths: np.ndarray, color: str) -> None:
    lines = require("matplotlib.collections", extra="plot").LineCollection(
        paths, colors=color, linewidths=0.8, alpha=float(np.clip(6 / len(paths) ** 0.5, 0.2, 0.8)), zorder=3
    )
    ax.add_collection(lines)
    ax.autoscale_view()
