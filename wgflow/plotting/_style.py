"""One look for all pictures: colours that colour-blind readers can tell apart, thin axes, no frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wgflow._imports import require

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


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the library's style; the user's settings are back afterwards."""
    with require("matplotlib", extra="plot").rc_context(_RC):
        yield


@contextmanager
def drawing(
    ax: "Axes | None", columns: int = 1, size: tuple[float, float] = (4.4, 3.4)
) -> Iterator[tuple[Any, list[Any]]]:
    """Give what a function returns and the Axes it draws on: ``ax`` alone, or a figure of pyplot with panels of ``size`` inches."""
    plt = require("matplotlib.pyplot", extra="plot")
    with styled():
        if ax is not None:
            yield ax, [ax]
            return
        figure, axes = plt.subplots(
            1, columns, figsize=(size[0] * columns, size[1]), layout="constrained", squeeze=False
        )
        try:
            yield figure, list(axes[0])
        except BaseException:
            plt.close(figure)
            raise


def legend(on: Any) -> None:
    """Draw a legend where there is something to name: in an Axes, or below the panels of a figure."""
    axes = getattr(on, "axes", None)
    if isinstance(axes, list):
        handles, labels = axes[-1].get_legend_handles_labels()
        if labels:
            on.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    elif on.get_legend_handles_labels()[1]:
        on.legend()
