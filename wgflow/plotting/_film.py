"""The pictures of a film, one after another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from wgflow.plotting._frames import Frame
from wgflow.plotting._particles import frame_axes, put
from wgflow.plotting._scene import Scene


@dataclass(frozen=True)
class View:
    """Axes on which the particles of one solution move."""

    ax: Any
    label: str
    color: str


class Film:
    """Pictures of which only particles, titles and dots are drawn anew where the background stays."""

    def __init__(
        self, canvas: Any, views: list[View], stage: Scene, top: float | None, mark: Callable[[float], list[Any]] | None
    ) -> None:
        self.canvas, self.views, self.stage, self.top, self.mark = canvas, views, stage, top, mark
        self.behind: Scene | None = None
        self.background: Any = None

    def picture(self, moment: tuple[Frame, ...]) -> np.ndarray:
        """Return the picture of a moment, a frame a view: (height, width, 3) bytes."""
        latest = max(moment, key=lambda frame: frame.t)
        now = self.stage.at(latest)
        if now is not self.behind:
            self._draw_background(now)
        self.canvas.restore_region(self.background)
        moving, fixed = [], [] if self.mark is None else self.mark(latest.t)
        for view, frame in zip(self.views, moment, strict=True):
            moving += put(view.ax, frame, now, view.color)
            view.ax.title.set_text(f"{view.label}{', ' * bool(view.label)}t = {frame.t:.2f}")
            fixed = [*fixed, view.ax.title]
        for artist in [*moving, *fixed]:
            artist.axes.draw_artist(artist)
        for artist in moving:
            artist.remove()
        return np.array(self.canvas.buffer_rgba())[..., :3]

    def _draw_background(self, stage: Scene) -> None:
        first, self.behind = self.behind is None, stage
        for view in self.views:
            view.ax.clear()
            stage.paint(view.ax)
            frame_axes(view.ax, stage, " ", self.top)
        self.canvas.draw()
        if first:  # its place is found once, or the panels would tremble
            self.canvas.figure.set_layout_engine("none")
        self.background = self.canvas.copy_from_bbox(self.canvas.figure.bbox)
