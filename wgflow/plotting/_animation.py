"""Flows as films."""

import base64
import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from wgflow._imports import require
from wgflow.errors import BadInput, MissingDependency
from wgflow.plotting._curves import Quantity, energy
from wgflow.plotting._frames import Dims, Frame, Limits, frames, pick
from wgflow.plotting._particles import frame_axes, line_top, put
from wgflow.plotting._scene import Over, Scene, scene
from wgflow.plotting._style import COLOURS, PARTICLE, styled
from wgflow.solution import Solution

MOST_FRAMES = 600
_PIXELS = 1500


@dataclass(frozen=True)
class Movie:
    """A film on the disk; notebooks show it.

    Attributes
    ----------
    path : Path
        The file.
    frames : int
        How many pictures it has.
    """

    path: Path
    frames: int

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.path.read_bytes()).decode()
        if self.path.suffix == ".gif":
            return f'<img src="data:image/gif;base64,{data}" alt="{self.path.stem}">'
        return f'<video controls loop src="data:video/mp4;base64,{data}"></video>'


def animate(
    solution: Solution,
    path: str | Path,
    over: Over | None = None,
    *,
    quantity: Quantity | None = None,
    exact: Callable[[float], Tensor | float] | None = None,
    fps: int = 20,
    max_frames: int = 150,
    dims: Dims | None = None,
    limits: Limits | None = None,
    color: str = PARTICLE,
    dpi: int = 90,
    progress: bool = True,
) -> Movie:
    r"""Write a film of the particles of a solution.

    Parameters
    ----------
    solution : Solution
        A flow of particles with saved states.
    path : path
        ``.gif`` (Pillow, which matplotlib brings) or ``.mp4`` (needs ffmpeg).
    over, dims, limits, color
        As for :func:`particles`.
    quantity, exact : optional
        As for :func:`energy`: a second panel with its curve and a dot at the time.
    fps : int
        Pictures a second.
    max_frames : int
        At most so many of the saved states, evenly spread; at most 600.
    dpi : int
        Dots an inch, of a panel of 3.6 inches.
    progress : bool
        Show a bar.

    Returns
    -------
    Movie
        The path and the number of pictures.

    Raises
    ------
    BadInput
        For another ending, a count that is not positive, too many frames or pixels, and as :func:`particles` does.
    MissingDependency
        For an ``.mp4`` without ffmpeg.

    Notes
    -----
    A GIF's pictures are held in memory until the end, one byte a pixel.
    """
    target, columns = Path(path), 1 if quantity is None else 2
    _check(target, fps=fps, max_frames=max_frames, dpi=dpi)
    if max_frames > MOST_FRAMES or 3.6 * columns * dpi > _PIXELS:
        raise BadInput(
            f"max_frames={max_frames}, {3.6 * columns * dpi:.0f} pixels wide: at most {MOST_FRAMES} frames and {_PIXELS} pixels"
        )
    shown = pick(frames(solution, dims), max_frames, max_frames)
    stage = scene(solution, shown, over, dims, limits)
    with styled():
        figure = require("matplotlib.figure", extra="plot").Figure((3.6 * columns, 3.6), dpi=dpi, layout="constrained")
        canvas = require("matplotlib.backends.backend_agg", extra="plot").FigureCanvasAgg(figure)
        panels = figure.subplots(1, columns, squeeze=False)[0]
        mark = None if quantity is None else _energy_panel(panels[1], solution, quantity, exact)
        film = _Film(canvas, panels[0], stage, color, line_top(stage, shown), mark)
        bar = tqdm(shown, desc=target.name, unit="frame", disable=not progress)
        write = _write_gif if target.suffix == ".gif" else _write_mp4
        write(target, film.picture(shown[-1]), (film.picture(frame) for frame in bar), fps)
    return Movie(target, len(shown))


def _check(path: Path, **counts: int) -> None:
    if path.suffix not in (".gif", ".mp4"):
        raise BadInput(f"path={path.name!r}: expected a name that ends in .gif or .mp4")
    for name, value in counts.items():
        if value < 1:
            raise BadInput(f"{name}={value}: expected at least 1")
    if path.suffix == ".mp4" and _ffmpeg() is None:
        raise MissingDependency(
            "an .mp4 is written by ffmpeg, which is not on the PATH: install it (apt install ffmpeg, conda install "
            "ffmpeg), or write a .gif, which needs nothing more",
            name="ffmpeg",
        )


class _Film:
    """Pictures of one Axes, of which only particles, title and dot are drawn anew where the background stays."""

    def __init__(
        self, canvas: Any, ax: Any, stage: Scene, color: str, top: float | None, mark: "Callable[[float], Any] | None"
    ) -> None:
        self.canvas, self.ax, self.stage, self.color, self.top, self.mark = canvas, ax, stage, color, top, mark
        self.behind: Scene | None = None
        self.background: Any = None

    def picture(self, frame: Frame) -> np.ndarray:
        """Return the picture of a frame, (height, width, 3) bytes."""
        ax, now = self.ax, self.stage.at(frame)
        if now is not self.behind:
            self._draw_background(now)
        self.canvas.restore_region(self.background)
        moving = put(ax, frame, now, self.color)
        ax.title.set_text(f"t = {frame.t:.2f}")
        for artist in [*moving, ax.title, *([self.mark(frame.t)] if self.mark is not None else [])]:
            artist.axes.draw_artist(artist)
        for artist in moving:
            artist.remove()
        return np.array(self.canvas.buffer_rgba())[..., :3]

    def _draw_background(self, stage: Scene) -> None:
        first, self.behind = self.behind is None, stage
        self.ax.clear()
        stage.paint(self.ax)
        frame_axes(self.ax, stage, " ", self.top)
        self.canvas.draw()
        if first:  # its place is found once, or the panels would tremble
            self.canvas.figure.set_layout_engine("none")
        self.background = self.canvas.copy_from_bbox(self.canvas.figure.bbox)


def _energy_panel(
    ax: Any, solution: Solution, quantity: Quantity, exact: Callable[[float], Tensor | float] | None
) -> Callable[[float], Any]:
    """Draw the curve and return a function that moves a dot along it and returns the dot."""
    energy(solution, quantity, exact=exact, ax=ax)
    times, values = ax.lines[-1].get_data()
    (dot,) = ax.plot([], [], "o", color=COLOURS[1], markersize=6, zorder=5)

    def move(t: float) -> Any:
        dot.set_data([t], [np.interp(t, times, values)])
        return dot

    return move


def _write_gif(path: Path, last: np.ndarray, pictures: Iterator[np.ndarray], fps: int) -> None:
    image = require("PIL.Image", extra="plot")
    # One palette for all, so that nothing flickers: the commonest colour of each cell of 8³ (Pillow sees no finer), as it is.
    colours, counts = np.unique(last.reshape(-1, 3), axis=0, return_counts=True)
    colours = colours[np.argsort(-counts)]
    cells = np.unique(colours >> 3, axis=0, return_index=True)[1]
    palette = image.new("P", (1, 1))
    palette.putpalette(colours[np.sort(cells)[:256]].tobytes())
    stills = [image.fromarray(p).quantize(palette=palette, dither=image.Dither.NONE) for p in pictures]
    stills[0].save(path, save_all=True, append_images=stills[1:], duration=round(1000 / fps), loop=0, disposal=1)


def _ffmpeg() -> str | None:
    return shutil.which(require("matplotlib", extra="plot").rcParams["animation.ffmpeg_path"])


def _write_mp4(path: Path, last: np.ndarray, pictures: Iterator[np.ndarray], fps: int) -> None:
    height, width = last.shape[:2]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-pix_fmt", "yuv420p"]  # what players can read
    command = [str(_ffmpeg()), "-loglevel", "error", "-y", *raw, *even, str(path)]
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said) as ffmpeg:
        assert ffmpeg.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it says why itself
            for picture in pictures:
                ffmpeg.stdin.write(picture.tobytes())
            ffmpeg.stdin.close()
        if ffmpeg.wait():
            said.seek(0)
            raise MissingDependency(
                f"ffmpeg could not write {path.name}: {said.read().decode(errors='replace').strip()}"
            )
