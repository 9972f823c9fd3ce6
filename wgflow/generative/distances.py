"""Distances in pixels between what a generator makes and its data, measured in every training."""

from dataclasses import replace

from wgflow import EnergyDistance, Streamed
from wgflow.core.fields import Positive, Whole, checked
from wgflow.generative.data import ImageData
from wgflow.metrics import FunctionalValue, Metric, SinkhornMetric


@checked
def energy(data: ImageData | Streamed, n: Whole) -> list[Metric]:
    r"""Return the energy distance to unflipped data as a list of one metric, ``energy_distance``, or of none for ``n=0``.

    :math:`2E|X-Y|-E|X-X'|-E|Y-Y'|` over all pairs of distinct points of ``n`` images :math:`X_i` of the model and ``n`` images
    :math:`Y_j` of the data, both drawn anew in each call, with the Euclidean norm of the pixel vector in [-1, 1]. Unbiased whatever
    ``n`` is: 0 on average at the law of the data, and there it may be negative.

    Parameters
    ----------
    data : ImageData or Streamed
        Real images, streamed or not.
    n : int
        Images in a cloud; a single one has no pairs, and no metric.

    Returns
    -------
    list of Metric
        One or none.

    References
    ----------
    Székely and Rizzo, *Energy statistics: a class of statistics based on distances*, 2013.

    Examples
    --------
    White images from as many white as black ones:

    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative import energy, ImageData
    >>> levels = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
    >>> (metric,) = energy(ImageData(levels.contiguous()), n=2000)
    >>> found = metric(wg.Particles(torch.ones(2000, 1, 4, 4)), torch.Generator().manual_seed(0))
    >>> round(found["energy_distance"])
    4
    """
    if n < 2:
        return []
    F = replace(EnergyDistance(_unflipped(data), batch=n), pairs="distinct")
    return [FunctionalValue(F, n=n, name="energy_distance")]


@checked
def sinkhorn(data: ImageData | Streamed, n: Whole, blur: Positive) -> list[Metric]:
    r"""Return the Sinkhorn divergence to unflipped data as a list of one metric, or of none for ``n=0``.

    The clouds hold at most half of the data: real against real needs two disjoint samples.

    Parameters
    ----------
    data : ImageData or Streamed
        Real images, streamed or not.
    n : int
        Points a cloud.
    blur : float
        :math:`\sqrt\varepsilon`, as for :class:`wgflow.metrics.SinkhornMetric`.

    Returns
    -------
    list of Metric
        One or none.

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative import ImageData, sinkhorn
    >>> data = ImageData(torch.zeros(10, 1, 8, 8, dtype=torch.uint8))
    >>> [metric.n for metric in sinkhorn(data, n=1000, blur=1.0)], sinkhorn(data, n=0, blur=1.0)
    ([5], [])
    """
    reference = _unflipped(data)
    n = min(n, (reference.num_atoms or 0) // 2)
    return [SinkhornMetric(reference, n=n, blur=blur)] if n > 1 else []


def _unflipped(data: ImageData | Streamed) -> ImageData | Streamed:
    images = data.base if isinstance(data, Streamed) else data
    assert isinstance(images, ImageData)
    unflipped = ImageData(images.images)
    return replace(data, base=unflipped) if isinstance(data, Streamed) else unflipped
