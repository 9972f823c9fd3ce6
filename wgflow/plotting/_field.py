"""The velocity of a flow, everywhere."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Whole, checked
from wgflow.core.rng import generator
from wgflow.driver.solution import Solution
from wgflow.estimators import Autograd, Estimator
from wgflow.estimators.probe import velocity_at
from wgflow.functionals import Functional
from wgflow.measures import Particles
from wgflow.plotting._frames import Dims, Limits, frames
from wgflow.plotting._particles import frame_axes, put
from wgflow.plotting._scene import Over, scene
from wgflow.plotting._style import GREY, PARTICLE, drawing, ink

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@checked
def vector_field(
    F: Functional,
    rho: Solution | Particles,
    estimator: Estimator | None = None,
    over: Over | None = None,
    *,
    grid: Count | None = None,
    seed: Whole = 0,
    dims: Dims | None = None,
    limits: Limits | None = None,
    ax: "Axes | None" = None,
) -> "Figure | Axes":
    r"""Draw the velocity :math:`-\nabla\frac{\delta F}{\delta\rho}` on a grid, with the particles it belongs to.

    In the plane as arrows, all on one scale; on a line as a graph.

    Parameters
    ----------
    F : Functional
        What decreases; its targets are drawn with ``seed``.
    rho : Solution or Particles
        The law: particles, or the last one of a solution, whose estimator state (trained networks) is used.
    estimator : Estimator, optional
        How the first variation is found; ``Autograd()`` by default. For ``Particles`` it is started and refined once.
    over, dims, limits, ax
        As for :func:`particles`. Coordinates that are not drawn are held at the mean.
    grid : int, optional
        Points an axis: 20 in the plane, 200 on a line.
    seed : int
        Of the drawn targets and of what the estimator starts with.

    Returns
    -------
    Figure, or Axes when they were given

    Raises
    ------
    BadInput
        For a grid of fewer than two points, and as :func:`particles` does.

    Notes
    -----
    One evaluation with the grid's points as light probes: :func:`wgflow.estimators.probe.velocity_at`, with its limits.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> figure = wg.plotting.vector_field(F, wg.Particles(torch.randn(20, 2)), grid=8)
    """
    estimator = Autograd() if estimator is None else estimator
    frame = frames(rho, dims)[-1]
    stage = scene(rho, [frame], over, dims, limits)
    count = (20 if len(stage.box) == 2 else 200) if grid is None else grid
    if count < 2:
        raise BadInput(f"grid={grid}: expected at least two points an axis")
    columns, points = stage.grid(count)
    v = _velocity(F, rho, estimator, points, frame.t, frame.k, seed)[:, stage.dims]
    with drawing(ax, size=(4.0, 3.6)) as (picture, panels):
        panel = panels[0]
        if len(columns) == 2:
            stage.at(frame).paint(panel)
            put(panel, frame, stage, PARTICLE)
            look: dict[str, Any] = {"color": ink(panel), "pivot": "tail", "width": 0.0035, "zorder": 4}
            scale = None if v.any() else 1.0  # matplotlib divides by the mean length where none is given
            panel.quiver(*np.meshgrid(*columns, indexing="ij"), *v.T, scale=scale, **look)
            frame_axes(panel, stage, "")
        else:
            panel.axhline(0, color=GREY, linewidth=0.8)
            panel.plot(columns[0], v[:, 0], color=ink(panel))
            panel.scatter(frame.x[:, 0], np.zeros(len(frame.x)), marker="|", s=40, color=PARTICLE, linewidths=0.7)
            panel.set(xlim=stage.box[0], xlabel="position", ylabel="velocity")
    return picture


def _velocity(
    F: Functional, rho: Solution | Particles, estimator: Estimator, y: torch.Tensor, t: float, k: int, seed: int
) -> np.ndarray:
    F = F.at(k, t)
    rng = generator(seed, y.device)
    if isinstance(rho, Solution):
        law, es = rho.saved[-1], rho.state.estimator
        law = Particles(law) if isinstance(law, torch.Tensor) else law
        law = Particles(law.x.to(y.device), None if law.log_w is None else law.log_w.to(y.device))
    else:
        law, es = rho, estimator.init(F, rng)
        estimator.refine(F, lambda rng: rho.draw(len(rho), rng), es, rng)
    return velocity_at(estimator, F.freeze(rng), law, es, y).flatten(1).detach().cpu().double().numpy()
