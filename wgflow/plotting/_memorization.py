"""Ratios of nearest to second-nearest training points, and the draws that are closest to one."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from wgflow.core.fields import Count, checked
from wgflow.metrics import COPY_RATIO, MemorizationReport
from wgflow.plotting._style import COLOURS, GREY, INK, blank, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 8


@checked
def memorization(report: MemorizationReport, pairs: Count = 16) -> "Figure":
    """Draw the ratios of a model beside those of real data and, of images, the pairs with the least ratios.

    Parameters
    ----------
    report : MemorizationReport
        What :meth:`wgflow.metrics.Memorization.report` returned.
    pairs : int
        Pairs of images (c, h, w) in [-1, 1]: a draw above its nearest training image, with the ratio between the distances to
        this one and to the next. The least ratio comes first.

    Returns
    -------
    Figure

    Examples
    --------
    Draws that are training points, moved by a thousandth, have ratios near 0:

    >>> import torch
    >>> import wgflow as wg
    >>> rng = torch.Generator().manual_seed(0)
    >>> train, fresh = torch.randn(50, 2, generator=rng), torch.randn(50, 2, generator=rng)
    >>> report = wg.metrics.Memorization(train, fresh).report(wg.Dataset(train + 1e-3))
    >>> figure = wg.plotting.memorization(report)
    """
    closest = report.closest(pairs)
    shown = closest.generated.dim() == 4 and closest.generated.shape[1] in (1, 3)
    rows = -(-len(closest.ratio) // _COLUMNS) if shown else 0
    with styled():
        figure = blank(7.0, 2.3 + 2.1 * rows)
        parts = figure.subfigures(2, 1, height_ratios=(2.3, 2.1 * rows)) if shown else [figure]
        _histogram(parts[0].subplots(), report)
        if shown:
            axes = parts[1].subplots(2 * rows, _COLUMNS, squeeze=False)
            for ax in axes.flat:
                ax.set_axis_off()
            for k, (ours, theirs, ratio) in enumerate(zip(*closest, strict=True)):
                row, column = divmod(k, _COLUMNS)
                for ax, image in ((axes[2 * row, column], ours), (axes[2 * row + 1, column], theirs)):
                    ax.imshow(_picture(image), cmap="gray", vmin=0, vmax=1)
                axes[2 * row, column].set_title(f"{float(ratio):.2f}", fontsize=8, pad=2)
            parts[1].supylabel("generated above its nearest training image", fontsize=8, color=INK)
    return figure


def _histogram(ax: "Axes", report: MemorizationReport) -> None:
    edges = [k / 40 for k in range(41)]
    for who, colour, name in ((report.real, GREY, "real data"), (report.model, COLOURS[1], "model")):
        values, weights = who.ratio.cpu().numpy(), who.w.cpu().numpy()
        ax.hist(values, edges, weights=weights, density=True, color=colour, alpha=0.55, label=name)
    ax.axvline(COPY_RATIO, color=INK, linewidth=0.8, linestyle=":")
    ax.set_xlabel("distance to the nearest / second-nearest training point (dotted: 1/3)")
    ax.set_ylabel("density")
    ax.set_xlim(0, 1)
    ax.legend(loc="upper left")


def _picture(image: Tensor) -> Any:
    return (image.detach().float().cpu().clamp(-1, 1) / 2 + 0.5).permute(1, 2, 0).numpy()
