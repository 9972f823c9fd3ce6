"""One look for all pictures: colors that color-blind readers can tell apart, thin axes, no frames."""

import functools
import io
import math
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from wgflow.core.errors import BadInput
from wgflow.core.imports import require
from wgflow.core.instead import shown
from wgflow.core.rules import REFUSED, Rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, dark ones first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PARTICLE, SAMPLE = COLOURS[0], COLOURS[1]
INK, GREY, PALE = "0.25", "0.55", "0.85"

_RC = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.labelcolor": INK,
    "lines.linewidth": 1.6,
    "figure.dpi": 110,
}


_PAPER = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": INK,
    "axes.titlecolor": INK,
    "legend.labelcolor": INK,
    "image.cmap": "viridis",
}
"""Of figures that are made here, whatever style the user has: dark ink on white."""


def _colour(value: Any) -> Any:
    return value if require("matplotlib.colors", extra="plot").is_color_like(value) else REFUSED


Colour = Annotated[str, Rule(_colour, "a color that matplotlib knows, such as '#0072B2' or 'tab:blue'")]


@contextmanager
def styled(own: bool = True) -> Iterator[None]:
    """Draw in the library's style, on white where the figure is its ``own``; the user's settings are back afterwards."""
    with require("matplotlib", extra="plot").rc_context(_RC | (_PAPER if own else {})):
        yield


def ink(ax: Any) -> str:
    """Return a color of lines that is legible on the background of Axes."""
    red, green, blue = require("matplotlib.colors", extra="plot").to_rgb(ax.get_facecolor())
    return INK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else GREY


@functools.cache
def figure_class() -> Any:
    """Return a figure that is saved on its own background, whatever the style at that time."""
    Figure = require("matplotlib.figure", extra="plot").Figure

    class OwnFigure(Figure):  # type: ignore[misc, valid-type]
        def savefig(self, *arguments: Any, **options: Any) -> None:
            super().savefig(*arguments, **{"facecolor": self.get_facecolor()} | options)

        def __reduce__(self) -> tuple[Any, ...]:
            return _unfilled, (), self.__getstate__()

    return OwnFigure


def _unfilled() -> Any:
    """Return a figure for pickle and copy to fill, which look up a class by its name and do not find one made in a function."""
    kind = figure_class()
    return kind.__new__(kind)


@contextmanager
def drawing(
    ax: "Axes | None", columns: int = 1, size: tuple[float, float] = (4.4, 3.4)
) -> Iterator[tuple[Any, list[Any]]]:
    """Give what a function returns and the Axes it draws on: ``ax`` alone, or a new figure with panels of ``size`` inches.

    pyplot does not know of the figure, or it would keep it for good and show it once more; nor is it asked for a window.
    """
    if ax is not None and not isinstance(ax, require("matplotlib.axes", extra="plot").Axes):
        raise BadInput(f"ax={shown(ax)}: expected Axes of matplotlib, one of those that plt.subplots() makes")
    with styled(own=ax is None):
        if ax is not None:
            yield ax, [ax]
            return
        figure = blank(size[0] * columns, size[1])
        yield figure, list(figure.subplots(1, columns, squeeze=False)[0])


def blank(width: float, height: float, **options: Any) -> Any:
    """Return a figure of a size in inches that pyplot does not know of; to be called inside of :func:`styled`."""
    require("matplotlib.figure", extra="plot")  # asked every time: the class is kept
    _let_notebooks_show(figure_class())
    figure = figure_class()(figsize=(width, height), layout="constrained", **options)
    require("matplotlib.backends.backend_agg", extra="plot").FigureCanvasAgg(figure)
    return figure


def _let_notebooks_show(Figure: type) -> None:
    """Tell a notebook how a figure is displayed, as pyplot would have done with its first one."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is not None:
        shell.display_formatter.formatters["image/png"].type_printers.setdefault(Figure, _png)


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def wide(values: Iterable[float]) -> bool:
    """Whether numbers ask for a logarithmic axis: the finite ones are positive, and one is more than twenty times another."""
    finite = [v for v in values if math.isfinite(v)]
    return bool(finite) and min(finite) > 0 and max(finite) > 20 * min(finite)


def legend(on: Any) -> None:
    """Draw a legend where there is something to name: in an Axes, or below the panels of a figure."""
    axes = getattr(on, "axes", None)
    if isinstance(axes, list):
        handles, labels = axes[-1].get_legend_handles_labels()
        if labels:
            on.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    elif on.get_legend_handles_labels()[1]:
        on.legend()
