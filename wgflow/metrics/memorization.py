"""Whether a generative model copies its training data, beside what independent real data would show."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, Whole, checked
from wgflow.core.rng import generator, mixed
from wgflow.measures.base import Measure
from wgflow.measures.particles import Particles
from wgflow.measures.weighed import drawn
from wgflow.metrics.memorization_report import MemorizationReport, Neighbors, compared
from wgflow.metrics.points import all_points, embedded, masses, mean, same_kind, some_points
from wgflow.metrics.precision_recall import precision_recall
from wgflow.numerics.neighbors import nearest

_BATCH_DENSITY = 100
"""Points whose log densities are found at a time."""


class _Train(NamedTuple):
    """Training data: their distinct points, the features of these, and how many points were repeated."""

    points: Tensor
    features: Tensor
    repeated: int


class _Real(NamedTuple):
    """Real points that a model of the same law could have drawn, their features, and their neighbors in the training data."""

    points: Particles
    features: Particles
    neighbors: Neighbors


@dataclass(frozen=True, eq=False)
class Memorization(Checked):
    r"""How near to its training data a model draws, beside the values of real data: the chance level.

    With :math:`d_1\le d_2` the distances of a point to the nearest and the second-nearest training point and
    :math:`r=d_1/d_2`, means over ``n`` draws of the model:

    =====================  ======================================================================  ====================
    ``nn_ratio``           :math:`E\,r`: 0 for copies                                              ``nn_ratio_chance``
    ``memorized``          :math:`P(r<1/3)`: 1 for copies                                          ``memorized_chance``
    ``near_copies``        :math:`P(r<1/3`, and :math:`d_1` below the 5 % quantile of real data)   ``near_copies_chance``
    ``closer``             :math:`P(d_1<d_1')+\frac12P(d_1=d_1')`, :math:`d_1'` of a real point    1/2
    ``log_prob_held_out``  mean log density at held-out points, of a model that has one
    ``log_prob_train``     the same at training points: a copy is far above
    ``precision``, ...     the four numbers of :func:`precision_recall` against the real points
    =====================  ======================================================================  ====================

    Where the data are many and have a smooth density on a set of :math:`d` dimensions, :math:`P(r<t)=t^d` for independent draws:
    the chance levels are about :math:`d/(d+1)` and :math:`3^{-d}`.

    Each of the first four has a ``_margin``: a model that draws from the law of the data is within chance ± margin with a
    probability of 95 % (normal approximation, with the errors of both samples; two observations are added to either side of a
    share). The real points are held-out ones. Without any, they are training points, each compared with all the others: one of
    them is exchangeable with a fresh point beside one training point less, so the chance level is the same. (Where all training
    points are taken, they depend on each other, and the probability is only nearly that.)
    Then precision and recall are against the training points, and no ``log_prob`` is reported, since a model that copies has the
    largest one at its training points.

    A training point that is there twice would be first and second neighbor at once, and a copy of it would have ratio 1.
    So :math:`d_2` is the distance to the next *distinct* point: of equal points one is kept. Points that are only nearly equal,
    such as an image that was compressed again, are not recognized. In pixels a shifted or brighter copy is far from its
    original: use ``features`` too.

    Weights of training points do not matter, as long as they are positive; those of draws and of held-out points count in all
    means. A density up to a constant gives only the difference of the two log densities a meaning.

    Parameters
    ----------
    train : Measure or Tensor
        The training data, all of them: a tensor (N, \*event), or a measure of finitely many points. Of images that are mirrored in
        training, hand both sides in.
    held_out : Measure or Tensor, optional
        Real data that the model has not seen, such as a test set; or the law of the data itself, where it is known.
    n : int
        Draws of the model, and at most as many real points.
    k : int
        Neighbor of precision, recall, density and coverage.
    features : callable, optional
        From points (n, \*event) to vectors (n, D) in which distances are taken; it is called on batches. Equal points are told
        before it.
    prefix : str
        Before every key, such as ``"feature_"`` where there is another report in the same record.
    seed : int
        Of the choice of real points.

    Raises
    ------
    BadInput
        For fewer than three distinct training points, data without an end, held-out points most of which are training points, other
        shapes, points that are not finite, and weights that are no numbers.

    References
    ----------
    Ratio and its threshold: Yoon, Choi, Kwon and Ryu, *Diffusion probabilistic models generalize when they fail to memorize*,
    ICML 2023 workshop on structured probabilistic inference. Distances against those of held-out data: Meehan, Chaudhuri and
    Dasgupta, *A non-parametric test to detect data-copying in generative models*, AISTATS 2020.

    Examples
    --------
    >>> import torch
    >>> from wgflow.measures import Dataset, StandardNormal
    >>> data = Dataset(torch.randn(500, 3, generator=torch.Generator().manual_seed(0)))
    >>> metric = Memorization(data, held_out=StandardNormal(3))
    >>> copies = metric(data, torch.Generator().manual_seed(1))
    >>> copies["nn_ratio"], copies["memorized"], copies["closer"]
    (0.0, 1.0, 1.0)
    >>> fresh = metric(StandardNormal(3), torch.Generator().manual_seed(2))
    >>> abs(fresh["nn_ratio"] - fresh["nn_ratio_chance"]) < fresh["nn_ratio_margin"]
    True
    """

    train: Measure | Tensor
    held_out: Measure | Tensor | None = None
    n: Count = field(default=1000, kw_only=True)
    k: Count = field(default=5, kw_only=True)
    features: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)
    prefix: str = field(default="", kw_only=True)
    seed: Whole = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.n <= self.k:
            raise BadInput(f"Memorization(n={self.n}): expected more draws than k={self.k} neighbors")
        found = len(
            self._real.points
        )  # what is wrong with the data shows here, not at the first evaluation of a long run
        if found <= self.k:
            raise BadInput(f"Memorization(k={self.k}): expected more than k real points, and there are {found}")

    @checked
    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        """Return the numbers for ``n`` draws of ``rho``."""
        return self.report(rho, rng).values

    @checked
    @torch.no_grad()
    def report(self, model: Measure | Tensor, rng: torch.Generator | None = None) -> MemorizationReport:
        r"""Return the numbers with the table and the closest pairs behind them.

        Parameters
        ----------
        model : Measure or Tensor, shape (n, \*event)
            What to draw from, or draws: of a tensor all points are looked at.
        rng : torch.Generator, optional
            For the draws; seed 0 without it.
        """
        law = Particles(model) if isinstance(model, Tensor) else model
        n = len(model) if isinstance(model, Tensor) else self.n
        draws = some_points(law, n, generator(0, law.device) if rng is None else rng)
        train, real = self._train, self._real
        if draws.event_shape != train.points.shape[1:]:
            shapes = tuple(draws.event_shape), tuple(train.points.shape[1:])
            raise BadInput(f"the model has points of shape {shapes[0]}, the training data of {shapes[1]}")
        theirs, ours = same_kind(train=Particles(train.features), model=embedded(draws, self.features, "the model"))
        found, values = _neighbors(theirs, ours), dict[str, float]()
        for name, c in compared(found, real.neighbors).items():
            values |= {name: c.model, f"{name}_chance": c.chance, f"{name}_margin": c.margin}
        values |= precision_recall(real.features, ours, self.k)
        if self.held_out is not None and law.has_density:
            some = _some(Particles(train.points), self.n, self._rng("train"))
            for name, cloud in (("held_out", real.points), ("train", some)):
                values[f"log_prob_{name}"] = _mean_log_prob(law, cloud, draws.x)
        named = {f"{self.prefix}{name}": value for name, value in values.items()}
        return MemorizationReport(named, self.protocol, draws, train.points, found, real.neighbors, self.prefix)

    @property
    def protocol(self) -> str:
        """All that is needed to compare the numbers with others."""
        train, real = self._train, self._real
        against = "training points, each beside the others" if self.held_out is None else "held-out points"
        space = (
            f"flattened{tuple(train.points.shape[1:])}"
            if self.features is None
            else getattr(self.features, "id", "features")
        )
        return (
            f"memorization n={self.n} k={self.k} train={len(train.points)} distinct, {train.repeated} repeated; "
            f"real={len(real.points)} {against}; seed={self.seed} units={space}"
        )

    @cached_property
    def _train(self) -> _Train:
        cloud = all_points(self.train, self._rng("points"))
        if cloud is None:
            raise BadInput(
                f"train={type(self.train).__name__}: expected finitely many points, as a tensor, Dataset or Particles: a law "
                "that is drawn from has no nearest point"
            )
        same_kind(train=cloud)
        distinct = torch.unique(cloud.x, dim=0)
        if len(distinct) < 3:
            raise BadInput(
                f"the training data have {len(distinct)} distinct points: a ratio to the second-nearest takes 3 at least"
            )
        return _Train(distinct, embedded(Particles(distinct), self.features, "train").x, len(cloud) - len(distinct))

    @cached_property
    def _real(self) -> _Real:
        train = self._train
        if self.held_out is None:
            order = torch.randperm(len(train.points), generator=self._rng("real"), device=train.points.device)[: self.n]
            points, features = Particles(train.points[order]), Particles(train.features[order])
            return _Real(points, features, _neighbors(Particles(train.features), features, own=order))
        rng = self._rng("real", self.held_out.device)
        cloud = all_points(self.held_out, rng)
        if cloud is None:
            assert isinstance(self.held_out, Measure)
            cloud = drawn(self.held_out, self.n, rng)
        points = _some(cloud, self.n, rng)
        if points.event_shape != train.points.shape[1:]:
            raise BadInput(
                f"held-out points have shape {tuple(points.event_shape)}, the training data {tuple(train.points.shape[1:])}"
            )
        features = embedded(points, self.features, "held_out")
        theirs, features = same_kind(train=Particles(train.features), held_out=features)
        neighbors = _neighbors(theirs, features)
        shared = neighbors.mean(neighbors.distance == 0)
        if shared > 0.5:
            raise BadInput(
                f"{shared:.0%} of the held-out points are training points, so they show no chance level: give others, or leave "
                "held_out away, and training points are compared with each other"
            )
        return _Real(points, features, neighbors)

    def _rng(self, what: str, device: torch.device | None = None) -> torch.Generator:
        return generator(mixed(self.seed, *what.encode()), device or self.train.device)


def _some(cloud: Particles, n: int, rng: torch.Generator) -> Particles:
    return some_points(Particles(cloud.x, cloud.log_w), n, rng) if len(cloud) > n else cloud


def _neighbors(train: Particles, x: Particles, own: Tensor | None = None) -> Neighbors:
    distance, index = nearest(x.x, train.x.to(x.x), 2, own)
    first, second = distance.double().unbind(1)
    # Two training points whose distance is lost in rounding are one place, and what lies there is a copy.
    ratio = torch.where(second > 0, first / second, 0.0)
    return Neighbors(first, ratio, index[:, 0], masses(x))


def _mean_log_prob(law: Measure, cloud: Particles, like: Tensor) -> float:
    parts = [law.log_density(part.to(like)) for part in cloud.x.split(_BATCH_DENSITY)]
    return mean(masses(cloud).to(like.device), torch.cat(parts))
