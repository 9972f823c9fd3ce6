"""Precision, recall, density and coverage of samples against real data, by the balls of nearest neighbors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, Whole, checked
from wgflow.core.rng import generator
from wgflow.measures.base import Measure
from wgflow.measures.particles import Particles
from wgflow.metrics.points import embedded, masses, mean, same_kind, some_points
from wgflow.numerics.distances import Distances, tiles
from wgflow.numerics.neighbors import nearest

_ROUNDING = 1e-5
"""Where a point of the model is a real one it lies on the edge of the balls around it: within, whatever is rounded."""


@checked
@torch.no_grad()
def precision_recall(real: Particles | Tensor, model: Particles | Tensor, k: Count = 5) -> dict[str, float]:
    r"""Return how much of the model lies where the data are, and how much of the data where the model is.

    With :math:`B(y_j)` the closed ball around a point that reaches to its k-th nearest neighbor in its own cloud, real points
    :math:`y_j` of weights :math:`v_j` and points :math:`x_i` of the model of weights :math:`w_i`:

    =============  ==========================================================================  =========================
    ``precision``  :math:`\sum_iw_i\,1[x_i\in\bigcup_jB(y_j)]`
    ``recall``     :math:`\sum_jv_j\,1[y_j\in\bigcup_iB(x_i)]`
    ``density``    :math:`\frac1k\sum_iw_i\,\#\{j:x_i\in B(y_j)\}`                             1 at the law of the data
    ``coverage``   :math:`\sum_jv_j\,1[B(y_j)\text{ holds some }x_i]`                          about :math:`1-2^{-k}` there
    =============  ==========================================================================  =========================

    The clouds should be of equal size, and values are comparable at the same sizes and k only. A single outlier among the real
    points has a large ball in which every point is precise, and one of the model recalls all that is in its ball. Density counts
    balls, and coverage has none around points of the model: neither is raised so easily. None of the four sees that a model
    copies its data.

    Parameters
    ----------
    real, model : Particles or Tensor, shape (n, \*event)
        Points, or their features. Weights count in the sums; the balls are those of all points that have mass.
    k : int
        Which neighbor; 3 for precision and recall in the first reference, 5 for density and coverage in the second.

    Returns
    -------
    dict
        The four numbers.

    Raises
    ------
    BadInput
        For k points or fewer, points of another shape or that are not finite, and weights that are no numbers.

    References
    ----------
    Kynkäänniemi, Karras, Laine, Lehtinen and Aila, *Improved precision and recall metric for assessing generative models*,
    NeurIPS 2019. Naeem, Oh, Uh, Choi and Yoo, *Reliable fidelity and diversity metrics for generative models*, ICML 2020.

    Examples
    --------
    >>> import torch
    >>> real = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    >>> one_mode = 0.1 * torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    >>> found = precision_recall(real, one_mode)
    >>> found["precision"], found["recall"] < 0.1
    (1.0, True)
    """
    real, model = same_kind(real=real, model=model)
    y, v, x, w = real.x, masses(real), model.x, masses(model)
    for name, cloud in (("real", y), ("model", x)):
        if len(cloud) <= k:
            raise BadInput(
                f"precision_recall: k={k} neighbors take at least {k + 1} points, and {name} has {len(cloud)}"
            )
    around_real, around_model = (_balls(cloud, k) for cloud in (y, x))
    within = torch.zeros(len(x), device=x.device)
    recalled, covered = (torch.zeros(len(y), dtype=torch.bool, device=x.device) for _ in range(2))
    between = Distances(x, y, smooth=False)
    for i, j in tiles(len(x), len(y), x.device):
        s = between.block(i, j).sqrt_()
        inside = s <= around_real[j]
        within[i] += inside.sum(1)
        covered[j] |= inside.any(0)
        recalled[j] |= (s <= around_model[i, None]).any(0)
    return {
        "precision": mean(w, within > 0),
        "recall": mean(v, recalled),
        "density": mean(w, within) / k,
        "coverage": mean(v, covered),
    }


def _balls(cloud: Tensor, k: int) -> Tensor:
    """Return the distance of every point to the k-th nearest other one."""
    return nearest(cloud, cloud, k, own=torch.arange(len(cloud), device=cloud.device))[0][:, -1] * (1 + _ROUNDING)


@dataclass(frozen=True, eq=False)
class PrecisionRecall(Checked):
    r"""The four numbers of :func:`precision_recall` of ``n`` draws against ``n`` fixed real points, along a flow.

    Parameters
    ----------
    reference : Measure
        Real data; of a finite measure ``n`` distinct points are chosen.
    n : int
        Points in either cloud. Of points with weights all count where they are no more, and else those in ``n`` draws by weight,
        each once and with its draws as its weight.
    k : int
        Which neighbor.
    features : callable, optional
        From points (n, \*event) to vectors (n, D) in which distances are taken; of images
        :class:`~wgflow.generative.metrics.ImageFeatures`.
    seed : int
        Of the real points.

    Raises
    ------
    BadInput
        On construction for k points or fewer; in a call as :func:`precision_recall`.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> metric = PrecisionRecall(wg.StandardNormal(2), n=200)
    >>> metric(wg.Particles(torch.zeros(200, 2)), torch.Generator())["recall"]
    0.0
    """

    reference: Measure
    n: Count = 1000
    k: Count = 5
    features: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)
    seed: Whole = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        points = self.reference.num_points
        found = self.n if points is None else min(points, self.n)
        if found <= self.k:
            raise BadInput(
                f"PrecisionRecall(n={self.n}, k={self.k}): expected more than k points, and there are {found}"
            )

    @checked
    @torch.no_grad()
    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        """Return the four numbers for ``rho``."""
        return precision_recall(self._real, embedded(some_points(rho, self.n, rng), self.features, "the model"), self.k)

    @property
    def protocol(self) -> str:
        """All that is needed to compare the numbers with others."""
        space = "points" if self.features is None else getattr(self.features, "id", "features")
        return f"precision and recall n={self.n} n_real={len(self._real)} k={self.k} seed={self.seed} units={space}"

    @cached_property
    def _real(self) -> Particles:
        rng, atoms = generator(self.seed, self.reference.device), self.reference.num_atoms
        if atoms is None:
            cloud = some_points(self.reference, self.n, rng)
        else:
            cloud = self.reference.take(torch.randperm(atoms, generator=rng, device=rng.device)[: self.n], rng)
        return embedded(cloud, self.features, "the reference")
