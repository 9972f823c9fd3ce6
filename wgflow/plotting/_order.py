"""Convergence in the step size."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wgflow.core.errors import BadInput
from wgflow.core.fields import checked
from wgflow.plotting._style import COLOURS, GREY, drawing, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vP"


@checked
def order(
    h: Sequence[float],
    errors: Mapping[str, Sequence[float]],
    *,
    slopes: Sequence[float] = (1, 2),
    ylabel: str = "error",
    ax: "Axes | None" = None,
) -> "Figure | Axes":
    r"""Draw errors against step sizes, doubly logarithmic, with reference slopes.

    The legend gives each method's observed order, the least-squares slope of :math:`\log` error against :math:`\log h`.

    Parameters
    ----------
    h : sequence of float
        Step sizes.
    errors : mapping from labels to sequences of float
        One error a step size.
    slopes : sequence of float
        Orders whose slope is drawn (dashed, just below the curve that is nearest to it).
    ylabel : str
        What the error is.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Figure, or Axes when they were given

    Raises
    ------
    BadInput
        For fewer than two step sizes, counts that differ, or numbers that are not positive.

    Examples
    --------
    >>> from wgflow import plotting
    >>> figure = plotting.order([0.1, 0.05, 0.025], {"Euler": [0.04, 0.02, 0.01]})
    >>> figure.axes[0].get_legend().get_texts()[0].get_text()
    'Euler (1.00)'
    """
    steps = np.asarray(h, dtype=float)
    curves = {label: np.asarray(e, dtype=float) for label, e in errors.items()}
    for label, e in {"h": steps, **curves}.items():
        if e.shape != steps.shape or len(e) < 2 or not (np.isfinite(e).all() and (e > 0).all()):
            raise BadInput(f"{label}={e.tolist()}: expected at least two positive numbers, one a step size")
    if not curves:
        raise BadInput("errors is empty: expected at least one method")
    fitted = {label: np.polyfit(np.log(steps), np.log(e), 1)[0] for label, e in curves.items()}
    with drawing(ax, size=(4.4, 3.6)) as (picture, axes):
        panel = axes[0]
        for j, (label, e) in enumerate(curves.items()):
            style: dict[str, Any] = {
                "color": COLOURS[j % len(COLOURS)],
                "marker": _MARKERS[j % len(_MARKERS)],
                "markersize": 4,
            }
            panel.loglog(steps, e, label=f"{label} ({fitted[label]:.2f})", **style)
        for p in slopes:
            nearest = curves[min(fitted, key=lambda label: abs(fitted[label] - p))]
            line = nearest[steps.argmax()] * 0.6 * (steps / steps.max()) ** p
            panel.loglog(steps, line, "--", color=GREY, linewidth=1, zorder=1)
            low = steps.argmin()
            panel.annotate(
                f"slope {p:g}", (steps[low], line[low]), (4, -10), textcoords="offset points", color=GREY, fontsize=8
            )
        if len(steps) <= 6:
            panel.set_xticks(steps, [f"{s:.3g}" for s in steps])
            panel.set_xticks([], minor=True)
        panel.set(xlabel="step size h", ylabel=ylabel)
        legend(panel)
    return picture
