r"""Points with their class behind them: the joint law of a point and its label, as a measure like any other.

A generator :math:`(z,c)\mapsto(G(z,c),c)` moves such a law and keeps every label, so that a flow of the joint law is one of every
class, under any functional and any solver.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as nnf
from torch import Tensor

from wgflow.core.behind import joined
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Whole, checked
from wgflow.core.finite import require_finite
from wgflow.core.labels import counts_of
from wgflow.measures.base import Measure, register_measure
from wgflow.measures.dataset import Dataset
from wgflow.measures.derived import Derived
from wgflow.measures.particles import Particles
from wgflow.measures.targets import StandardNormal


def _shape(base: Measure, classes: int) -> torch.Size:
    return torch.Size((base.event_shape.numel() + classes,))


def _behind(p: Particles, labels: Tensor, classes: int) -> Particles:
    return Particles(joined(p.x, nnf.one_hot(labels.to(p.device), classes)), p.log_w)


@register_measure("labelled")
@dataclass(frozen=True, eq=False)
class Labelled(Derived):
    r"""The joint law of data and their labels: points (n, d + C), the d coordinates of a point and its class as a one-hot vector.

    Parameters
    ----------
    base : Measure
        Data of equal weight that know their :attr:`labels`, numbered from 0 without gaps: a ``Dataset`` or ``ImageData`` with
        ``labels``, or one of them ``Smoothed``, with no noise on the labels.

    Raises
    ------
    BadInput
        When the base has no labels, a class without a point, or weights.

    Examples
    --------
    >>> import torch
    >>> data = Dataset(torch.tensor([[5.0], [6.0], [7.0]]), labels=torch.tensor([0, 1, 1]))
    >>> Labelled(data).take(torch.tensor([2]), torch.Generator()).x
    tensor([[7., 0., 1.]])
    """

    _counts: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self._counts is not None:  # of the same data at another time step
            return
        name, labels = type(self.base).__name__, self.base.labels
        if labels is None:
            raise BadInput(f"Labelled(base={name}): its points have no labels. Give it labels=, one class a point")
        if self.base.num_atoms is None:
            raise BadInput(f"Labelled(base={name}): its points have weights. Repeat or draw them to equal weight first")
        object.__setattr__(self, "_counts", tuple(counts_of(labels, f"Labelled: this {name}")))

    @classmethod
    def example(cls) -> "Labelled":
        """Return a tiny instance."""
        return cls(Dataset(torch.arange(8.0)[:, None], labels=torch.zeros(8, dtype=torch.int64)))

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        assert self._counts is not None
        return len(self._counts)

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape (d + C,)."""
        return _shape(self.base, self.num_classes)

    @property
    def behind(self) -> int:  # type: ignore[override]
        """C."""
        return self.num_classes

    @property
    def num_atoms(self) -> int | None:
        """Number of the points."""
        return self.base.num_atoms

    @property
    def labels(self) -> Tensor | None:  # type: ignore[override]
        """Classes of the points."""
        return self.base.labels

    def take(self, index: Tensor, rng: torch.Generator) -> Particles:
        """Return the points of these numbers with their labels."""
        assert self.base.labels is not None
        p = self.base.take(index, rng)
        return _behind(p, self.base.labels[index.to(self.base.labels.device)], self.num_classes)

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points drawn with replacement, with their labels."""
        assert self.num_atoms is not None
        return self.take(torch.randint(self.num_atoms, (n,), generator=rng, device=rng.device), rng)

    def latent(self, base: Measure) -> "LabelledLatent":
        """Return draws of ``base`` with labels as often as in these data: the latent of a generator of them."""
        counts = torch.tensor(self._counts, dtype=torch.float64)
        return LabelledLatent(base, self.num_classes, counts / counts.sum())


@register_measure("labelled_latent")
@dataclass(frozen=True, eq=False)
class LabelledLatent(Derived):
    r"""Draws of a latent measure, each with an independent label behind it: points (n, d + C), the label as a one-hot vector.

    Parameters
    ----------
    base : Measure
        Law of the d coordinates.
    classes : int
        Number of classes C.
    probabilities : Tensor, shape (C,), optional
        Of the classes; equal by default. A generator keeps the labels of its latent, so they must be those of the data for
        the joint laws to meet: :meth:`Labelled.latent`.

    Raises
    ------
    BadInput
        Unless ``probabilities`` are C nonnegative numbers that sum to 1.

    Examples
    --------
    >>> import torch
    >>> z = LabelledLatent(StandardNormal(64), classes=10)
    >>> z.of_class(3).draw(2, torch.Generator().manual_seed(0)).x[:, 64:].argmax(1)
    tensor([3, 3])
    """

    classes: Count
    probabilities: Tensor | None = None

    def __post_init__(self) -> None:
        p = self.probabilities
        if p is None:
            return
        if p.shape != (self.classes,):
            raise BadInput(f"LabelledLatent: probabilities must have shape ({self.classes},), got {tuple(p.shape)}")
        require_finite("LabelledLatent", probabilities=p)
        if float(p.min()) < 0 or abs(float(p.double().sum()) - 1) > 1e-5:
            raise BadInput(f"LabelledLatent: probabilities must be nonnegative and sum to 1, got {p.tolist()}")

    @classmethod
    def example(cls) -> "LabelledLatent":
        """Return a tiny instance."""
        return cls(StandardNormal(1), 1)

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape (d + C,)."""
        return _shape(self.base, self.classes)

    @property
    def behind(self) -> int:  # type: ignore[override]
        """C."""
        return self.classes

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` draws of the base, each with a label."""
        p = self.base.draw(n, rng)
        if self.probabilities is None:
            labels = torch.randint(self.classes, (len(p),), generator=rng, device=rng.device)
        else:
            labels = torch.multinomial(self.probabilities.to(rng.device), len(p), replacement=True, generator=rng)
        return self.labelled(p, labels)

    def labelled(self, p: Particles, labels: Tensor) -> Particles:
        """Return draws of the base with these labels (n,) behind them."""
        return _behind(p, labels, self.classes)

    @checked
    def of_class(self, label: Whole) -> Self:
        """Return the latent of one class; raises ``BadInput`` for a class that it does not have."""
        if label >= self.classes:
            raise BadInput(f"class {label}: the classes are 0 to {self.classes - 1}")
        one = torch.zeros(self.classes, dtype=torch.float64)
        one[label] = 1
        return type(self)(self.base, self.classes, one)


@register_measure("paired")
@dataclass(frozen=True, eq=False)
class Paired(Derived):
    r"""The product of two measures: points (n, d + m), the d coordinates of a point and behind them an independent one of ``other``.

    Parameters
    ----------
    base : Measure
        Law of the d coordinates.
    other : Measure
        Law of the m coordinates behind them.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> both = wg.Paired(wg.StandardNormal(2), wg.StandardNormal(3))
    >>> both.draw(10, torch.Generator()).x.shape
    torch.Size([10, 5])
    """

    other: Measure

    @classmethod
    def example(cls) -> "Paired":
        """Return a tiny instance."""
        return cls(StandardNormal(1), StandardNormal(1))

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape (d + m,)."""
        return _shape(self.base, self.other.event_shape.numel())

    @property
    def behind(self) -> int:  # type: ignore[override]
        """What is behind the points of the base, and m."""
        return self.base.behind + self.other.event_shape.numel()

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` draws of the base, each with one of the other behind it."""
        p = self.base.draw(n, rng)
        q = self.other.draw(len(p), rng)
        if q.log_w is not None or len(q) != len(p):
            q = q.resampled(len(p), rng)
        return Particles(joined(p.x, q.x.flatten(1)), p.log_w)
