"""Flows as films."""

import base64
import contextlib
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wgflow.core.errors import BadInput, MissingDependency
from wgflow.core.fields import Count, checked
from wgflow.core.imports import require
from wgflow.core.progress import progress_bar
from wgflow.driver.solution import Solution
from wgflow.plotting._curves import Quantity, energy
from wgflow.plotting._frames import Dims, Frame, Limits, frames, pick
from wgflow.plotting._particles import frame_axes, line_top, put
from wgflow.plotting._scene import Over, Scene, scene
from wgflow.plotting._style import COLOURS, PARTICLE, Colour, styled
from wgflow.storage.files import replacing

MOST_FRAMES = 600
GIF_FPS = 50
"""Most pictures a second of a GIF: its delays are hundredths of a second, and players slow one of a single hundredth down."""
_PIXELS = 1500


@dataclass(frozen=True)
class Movie:
    """A film on the disk; notebooks show it.

    Attributes
    ----------
    path : Path
        The file.
    frames : int
        How many pictures the file has.
    """

    path: Path
    frames: int

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.path.read_bytes()).decode()
        if self.path.suffix == ".gif":
            return f'<img src="data:image/gif;base64,{data}" alt="{self.path.stem}">'
        return f'<video controls loop src="data:video/mp4;base64,{data}"></video>'


@checked
def animate(
    solution: Solution,
    path: str | Path,
    over: Over | None = None,
    *,
    quantity: Quantity | None = None,
    exact: Callable[[float], Tensor | float] | None = None,
    fps: Count = 20,
    max_frames: Count = 150,
    dims: Dims | None = None,
    limits: Limits | None = None,
    color: Colour = PARTICLE,
    dpi: Count = 90,
    progress: bool = True,
) -> Movie:
    r"""Write a film of the particles of a solution.

    Parameters
    ----------
    solution : Solution
        A flow of particles with saved states.
    path : path
        ``.gif`` (Pillow, which matplotlib brings) or ``.mp4`` (needs ffmpeg). Missing folders are made; a film that is there
        already is replaced when the new one is whole.
    over, dims, limits, color
        As for :func:`particles`.
    quantity, exact : optional
        As for :func:`energy`: a second panel with its curve and a dot at the time.
    fps : int
        Pictures a second. A GIF has 50 at most; up to 60, every so many are left out, so that the film lasts as long.
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
    CannotWrite
        When the file system refuses, before the first picture is drawn.

    Notes
    -----
    A GIF's pictures are held in memory until the end, one byte a pixel. Equal pictures in a row become one that is shown as long.
    """
    target, columns = Path(path), 1 if quantity is None else 2
    _check(target, fps=fps, max_frames=max_frames, dpi=dpi)
    if max_frames > MOST_FRAMES or 3.6 * columns * dpi > _PIXELS:
        raise BadInput(
            f"max_frames={max_frames}, {3.6 * columns * dpi:.0f} pixels wide: at most {MOST_FRAMES} frames and {_PIXELS} pixels"
        )
    shown = pick(frames(solution, dims), max_frames, max_frames)
    if target.suffix == ".gif" and fps > GIF_FPS:
        shown, fps = pick(shown, round(len(shown) * GIF_FPS / fps), 1), GIF_FPS
    stage = scene(solution, shown, over, dims, limits)
    with styled():
        figure = require("matplotlib.figure", extra="plot").Figure((3.6 * columns, 3.6), dpi=dpi, layout="constrained")
        canvas = require("matplotlib.backends.backend_agg", extra="plot").FigureCanvasAgg(figure)
        panels = figure.subplots(1, columns, squeeze=False)[0]
        mark = None if quantity is None else _energy_panel(panels[1], solution, quantity, exact)
        film = _Film(canvas, panels[0], stage, color, line_top(stage, shown), mark)
        bar = progress_bar(shown, desc=target.name, unit="frame", disable=not progress)
        write = _write_gif if target.suffix == ".gif" else _write_mp4
        with replacing(target) as file:
            return Movie(target, write(file, film.picture(shown[-1]), (film.picture(frame) for frame in bar), fps))


def _check(path: Path, **counts: int) -> None:
    if path.suffix not in (".gif", ".mp4"):
        raise BadInput(f"path={path.name!r}: expected a name that ends in .gif or .mp4")
    for name, value in counts.items():
        if value < 1:
            raise BadInput(f"{name}={value}: expected at least 1")
    if path.suffix == ".gif" and counts["fps"] > 1.2 * GIF_FPS:
        raise BadInput(
            f"fps={counts['fps']}: a GIF shows at most {GIF_FPS} pictures a second. Take fewer, or write an .mp4"
        )
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


def _write_gif(path: Path, last: np.ndarray, pictures: Iterator[np.ndarray], fps: int) -> int:
    image = require("PIL.Image", extra="plot")
    # One palette for all, so that nothing flickers: the commonest colour of each cell of 8³ (Pillow sees no finer), as it is.
    colours, counts = np.unique(last.reshape(-1, 3), axis=0, return_counts=True)
    colours = colours[np.argsort(-counts)]
    cells = np.unique(colours >> 3, axis=0, return_index=True)[1]
    palette = image.new("P", (1, 1))
    palette.putpalette(colours[np.sort(cells)[:256]].tobytes())
    stills = [image.fromarray(p).quantize(palette=palette, dither=image.Dither.NONE) for p in pictures]
    # Delays are hundredths of a second: what rounding takes from one it gives to the next.
    ends = [round(100 * i / fps) for i in range(len(stills) + 1)]
    delays = [10 * (after - before) for before, after in itertools.pairwise(ends)]
    stills[0].save(path, save_all=True, append_images=stills[1:], duration=delays, loop=0, disposal=1)
    with image.open(path) as written:
        return written.n_frames


def _ffmpeg() -> str | None:
    return shutil.which(require("matplotlib", extra="plot").rcParams["animation.ffmpeg_path"])


def _write_mp4(path: Path, last: np.ndarray, pictures: Iterator[np.ndarray], fps: int) -> int:
    count = 0
    height, width = last.shape[:2]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-pix_fmt", "yuv420p"]  # what players can read
    command = [str(_ffmpeg()), "-loglevel", "error", "-y", *raw, *even, str(path)]
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said) as ffmpeg:
        assert ffmpeg.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it says why itself
            for picture in pictures:
                ffmpeg.stdin.write(picture.tobytes())
                count += 1
            ffmpeg.stdin.close()
        if ffmpeg.wait():
            said.seek(0)
            raise MissingDependency(
                f"ffmpeg could not write {path.name}: {said.read().decode(errors='replace').strip()}"
            )
    return count
