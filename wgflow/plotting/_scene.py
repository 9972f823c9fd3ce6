"""What lies behind the particles: a target's density or draws, or a potential."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.outputs import per_point
from wgflow.core.typing import Points
from wgflow.driver.solution import Solution
from wgflow.measures import Measure, Particles
from wgflow.plotting._frames import Dims, Frame, Limits, chosen, draws, saved_particles, window
from wgflow.plotting._moving import Moving
from wgflow.plotting._style import GREY, PALE, SAMPLE

Over = Measure | Callable[[Points], Tensor]
_MASSES = (0.99, 0.93, 0.8, 0.6, 0.4, 0.2)


@dataclass(frozen=True, eq=False)
class Scene:
    """A background on a box of the one or two coordinates that are drawn.

    ``origin`` is a point of the flow (1, *event): it gives shape, dtype and device, and the coordinates that are not drawn.
    """

    over: Over | None
    box: list[tuple[float, float]]
    dims: list[int]
    origin: Points

    def at(self, frame: Frame) -> Self:
        """Return the scene at the time of a frame: a measure may move."""
        if not isinstance(self.over, Measure):
            return self
        now = self.over.at(frame.k, frame.t)
        return self if now is self.over else replace(self, over=now)

    @property
    def whole(self) -> bool:
        """Whether all coordinates are drawn, so that a function of the points can be, too."""
        return len(self.dims) == self.origin.numel()

    @property
    def has_density(self) -> bool:
        """Whether a density is drawn, rather than draws."""
        return (
            isinstance(self.over, Measure)
            and not isinstance(self.over, Particles)
            and self.over.has_density
            and self.whole
        )

    @property
    def is_graph(self) -> bool:
        """Whether this is the graph of a potential on a line."""
        return len(self.dims) == 1 and self.over is not None and not isinstance(self.over, Measure)

    @property
    def _name(self) -> str:
        return "exact" if isinstance(self.over, Moving) else "target"

    def peak(self) -> float:
        """Return the greatest density behind particles on a line; 0 for none."""
        if not isinstance(self.over, Measure):
            return 0.0
        p = self.density(3001, 3.0)[1] if self.has_density else histogram(draws(self.over, self.dims), self)[1]
        return float(p.max())

    def grid(self, n: int, wider: float = 1.0) -> tuple[list[np.ndarray], Points]:
        """Return the ``n`` coordinates an axis and the grid's points (n or n², *event), the last axis fastest."""
        axes = []
        for low, high in self.box:
            middle, half = (low + high) / 2, wider * (high - low) / 2
            axes.append(np.linspace(middle - half, middle + half, n))
        points = self.origin.flatten(1).repeat(n ** len(axes), 1)
        for i, column in zip(self.dims, np.meshgrid(*axes, indexing="ij"), strict=True):
            points[:, i] = torch.as_tensor(column.ravel()).to(points)
        return axes, points.view(-1, *self.origin.shape[1:])

    def potential(self, points: Points) -> np.ndarray:
        """Return the values of the potential behind the particles."""
        assert self.over is not None
        assert not isinstance(self.over, Measure)
        with torch.no_grad():
            v = per_point(self.over, points, "a potential")
        return v.cpu().double().numpy()

    def density(self, n: int, wider: float) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the axes of a grid and the density there, normalized on the grid: a target's constant may be unknown."""
        assert isinstance(self.over, Measure)
        axes, points = self.grid(n, wider)
        with torch.no_grad():
            log = self.over.log_density(points).cpu().double().numpy()
        p = np.exp(log - log.max())
        return axes, p / (p.sum() * np.prod([a[1] - a[0] for a in axes]))

    def paint(self, ax: Any) -> None:
        """Draw the background in the plane or, for a density or draws in one dimension, the graph."""
        if self.over is None:
            return
        if isinstance(self.over, Measure) and not self.has_density:
            self._paint_draws(ax, draws(self.over, self.dims))
        elif len(self.dims) == 1:
            self._paint_graph(ax)
        elif isinstance(self.over, Measure):
            (x, y), p = self.density(161, 1.0)
            levels = _levels(p)
            if len(levels) > 1:
                ax.contourf(x, y, p.reshape(161, 161).T, levels=levels, colors=_greys(len(levels) - 1), zorder=0)
        else:
            (x, y), points = self.grid(161)
            v = self.potential(points)
            steps = np.quantile(v, np.linspace(0.01, 0.95, 12) ** 1.5)
            ax.contour(x, y, v.reshape(161, 161).T, levels=np.unique(steps), colors="0.78", linewidths=0.8, zorder=0)

    def _paint_graph(self, ax: Any) -> None:
        if not isinstance(self.over, Measure):
            (x,), points = self.grid(401)
            ax.plot(x, self.potential(points), color=GREY, linewidth=1.2, zorder=0, label="potential")
            return
        (x,), p = self.density(3001, 3.0)
        ax.fill_between(x, p, color=PALE, linewidth=0, zorder=0, label=self._name)

    def _paint_draws(self, ax: Any, sample: Frame) -> None:
        if len(self.dims) == 1:
            edges, p = histogram(sample, self)
            ax.stairs(p, edges, fill=True, color=PALE, zorder=0, label=self._name)
            return
        size = 9 * len(sample.w) * sample.w
        ax.scatter(*sample.x.T, s=size, color=SAMPLE, alpha=0.45, linewidths=0, zorder=1, label=self._name)


def scene(
    rho: Solution | Particles, shown: Sequence[Frame], over: Over | None, dims: Dims | None, limits: Limits | None
) -> Scene:
    """Return the background of a picture of some frames.

    Raises
    ------
    BadInput
        For something else than a measure or a function, or when it cannot be drawn in the coordinates chosen.
    """
    first, device = (rho, rho.device) if isinstance(rho, Particles) else (saved_particles(rho)[0], rho.measure.device)
    origin = (first.w @ first.x.flatten(1)).view(1, *first.event_shape).detach().to(device)
    picked = chosen(origin.numel(), dims)
    if over is not None and not callable(over) and not isinstance(over, Measure):
        raise BadInput(f"over={over!r:.60}: expected a Measure or a potential, a function from (n, *event) to (n,)")
    if isinstance(over, Measure) and over.event_shape != first.event_shape:
        raise BadInput(f"over has points of shape {tuple(over.event_shape)}, the flow of {tuple(first.event_shape)}")
    if len(picked) < origin.numel() and over is not None and not (isinstance(over, Measure) and over.can_draw):
        raise BadInput(
            f"over is a function of all {origin.numel()} coordinates and cannot be drawn in {len(picked)}: pass a measure "
            "that can be drawn from"
        )
    clouds = [f.x for f in shown]
    if isinstance(over, Measure) and over.can_draw:
        clouds += [draws(over.at(f.k, f.t), picked).x for f in shown]
    return Scene(over, window(clouds, limits), picked, origin)


def histogram(frame: Frame, stage: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Return edges of bins and the density of the particles of a line in them; what lies outside counts as mass."""
    bins = int(np.clip(2 * len(frame.w) ** 0.5, 12, 40))
    mass, edges = np.histogram(frame.x[:, 0], bins=bins, range=stage.box[0], weights=frame.w)
    return edges, mass / (edges[1] - edges[0])


def _levels(p: np.ndarray) -> np.ndarray:
    """Densities above which given masses of the grid lie, rising, and one above all."""
    falling = np.sort(p)[::-1]
    mass = np.cumsum(falling) / falling.sum()
    inside = [falling[np.searchsorted(mass, m)] for m in _MASSES]
    return np.unique([*inside, falling[0] * 1.001])


def _greys(n: int) -> list[str]:
    return [str(round(g, 3)) for g in np.linspace(0.95, 0.68, n)]
