"""Flows as films."""

import base64
import contextlib
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
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
from wgflow.plotting._film import Film, View
from wgflow.plotting._frames import Dims, Frame, Limits, frames, pick
from wgflow.plotting._particles import line_top
from wgflow.plotting._scene import Over, scene
from wgflow.plotting._style import COLOURS, PARTICLE, Colour, blank, styled
from wgflow.storage.files import replacing

MOST_FRAMES = 600
GIF_FPS = 50
"""Most pictures a second of a GIF: its delays are hundredths of a second, and players slow one of a single hundredth down."""
_PIXELS = 1500
_LEAST_DPI = 10
"""Fonts have no letters below some 4 dots an inch."""


@dataclass(frozen=True)
class Movie:
    """A film on the disk; notebooks show it.

    Attributes
    ----------
    path : Path
        The file.
    frames : int
        How many pictures the file has.

    Examples
    --------
    >>> from pathlib import Path
    >>> Movie(Path("flow.gif"), frames=31).frames
    31
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
    solution: Solution | Mapping[str, Solution],
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
    solution : Solution or mapping from labels to solutions
        Flows of particles with saved states; several stand side by side at the same times.
    path : path
        ``.gif`` (Pillow, which matplotlib brings) or ``.mp4`` (needs ffmpeg). Missing folders are made; a film that is there
        already is replaced when the new one is whole.
    over, dims, limits, color
        As for :func:`particles`.
    quantity, exact : optional
        As for :func:`energy`: a last panel with its curves and a dot at the time on each.
    fps : int
        Pictures a second. A GIF has 50 at most; up to 60, every so many are left out, so that the film lasts as long.
    max_frames : int
        At most so many of the saved states, evenly spread; at most 600.
    dpi : int
        Dots an inch, of a panel of 3.6 inches; at least 10.
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

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start = wg.Particles(torch.randn(20, 2))
    >>> flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.1, num_steps=2, save=wg.Save(every=1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     movie = wg.plotting.animate(flow, f"{folder}/flow.gif", progress=False)
    >>> movie.frames
    3
    """
    named = {"": solution} if isinstance(solution, Solution) else dict(solution)
    if not named:
        raise BadInput("no solution to film: expected a Solution, or several by label")
    target, columns = Path(path), len(named) + (quantity is not None)
    _check(target, fps=fps, max_frames=max_frames, dpi=dpi)
    if dpi < _LEAST_DPI:
        raise BadInput(f"dpi={dpi}: expected at least {_LEAST_DPI}, for letters to be drawn")
    if max_frames > MOST_FRAMES or 3.6 * columns * dpi > _PIXELS:
        raise BadInput(
            f"max_frames={max_frames}, {3.6 * columns * dpi:.0f} pixels wide: at most {MOST_FRAMES} frames and {_PIXELS} pixels. A "
            "smaller dpi makes a smaller film"
        )
    shown = _together([frames(s, dims) for s in named.values()], max_frames)
    if target.suffix == ".gif" and fps > GIF_FPS:
        shown, fps = pick(shown, round(len(shown) * GIF_FPS / fps), 1), GIF_FPS
    all_frames = [frame for moment in shown for frame in moment]
    stage = scene(next(iter(named.values())), all_frames, over, dims, limits)
    colours = [color, *(c for c in COLOURS if c != color)]
    with styled():
        figure = blank(3.6 * columns, 3.6, dpi=dpi)
        panels = figure.subplots(1, columns, squeeze=False)[0]
        mark = None if quantity is None else _energy_panel(panels[-1], named, quantity, exact)
        views = [View(ax, label, c) for ax, label, c in zip(panels, named, itertools.cycle(colours), strict=False)]
        film = Film(figure.canvas, views, stage, line_top(stage, all_frames), mark)
        bar = progress_bar(shown, desc=target.name, unit="frame", disable=not progress)
        write = _write_gif if target.suffix == ".gif" else _write_mp4
        with replacing(target) as file:
            return Movie(target, write(file, film.picture(shown[-1]), (film.picture(moment) for moment in bar), fps))


def _together(found: list[list[Frame]], count: int) -> list[tuple[Frame, ...]]:
    """Return at most ``count`` moments, each with the nearest state of every solution; the one that lasts longest sets the times."""
    if len({f.x.shape[1] for states in found for f in states}) > 1:
        raise BadInput("the solutions have points of different shapes: they do not fit into one film")
    longest = max(found, key=lambda states: (states[-1].t, len(states)))
    moments = pick(longest, count, count)
    near = [
        moments if states is longest else [min(states, key=lambda f: abs(f.t - m.t)) for m in moments]
        for states in found
    ]
    return list(zip(*near, strict=True))


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


def _energy_panel(
    ax: Any, named: Mapping[str, Solution], quantity: Quantity, exact: Callable[[float], Tensor | float] | None
) -> Callable[[float], list[Any]]:
    """Draw the curves and return a function that moves a dot along each and returns the dots."""
    energy(named, quantity, exact=exact, ax=ax)
    curves = [line.get_data() for line in ax.lines[-len(named) :]]
    dots = [ax.plot([], [], "o", color=COLOURS[1], markersize=6, zorder=5)[0] for _ in curves]

    def move(t: float) -> list[Any]:
        for dot, (times, values) in zip(dots, curves, strict=True):
            at = min(t, times[-1])
            dot.set_data([at], [np.interp(at, times, values)])
        return dots

    return move


def _write_gif(path: Path, last: np.ndarray, pictures: Iterator[np.ndarray], fps: int) -> int:
    image = require("PIL.Image", extra="plot")
    # One palette for all, so that nothing flickers: the commonest color of each cell of 8³ (Pillow sees no finer), as it is.
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
