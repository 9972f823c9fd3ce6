"""The Sinkhorn divergence to real data, beside the one that real data has from itself."""

import hashlib
import math
import statistics
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, Fraction, Positive, Whole, checked
from wgflow.core.inner import report
from wgflow.core.rng import generator
from wgflow.measures.base import Measure
from wgflow.measures.particles import Particles
from wgflow.measures.weighed import distinct, require_weights
from wgflow.numerics.sinkhorn import MAX_POINTS, annealing_error, sinkhorn_divergence

_ROUGH = 0.3
"""Marginal error of an annealed plan above which a divergence is not called converged."""


@dataclass(frozen=True, eq=False)
class SinkhornMetric(Checked):
    r"""Sinkhorn divergence to real data, beside the value that real data itself has.

    With :math:`A` one fixed sample of ``n`` real points, :math:`B_1,\dots,B_J` fixed samples of ``n`` other
    real points, and :math:`X\sim\rho` drawn anew in each call:

    =====================  ========================================================================
    ``sinkhorn``           :math:`S_\varepsilon(X, A)`, mean over ``repeats`` draws of X
    ``sinkhorn_floor``     :math:`\frac1J\sum_j S_\varepsilon(B_j, A)`, computed once
    ``sinkhorn_excess``    the first minus the second
    ``sinkhorn_residual``  marginal error (L1, of mass 1) of the plan between X and A, the largest
    =====================  ========================================================================

    Between samples the divergence of equal laws is far from 0: in the pixels of Fashion-MNIST it is a large
    part of what an untrained generator has (``floor`` in the record of ``benchmarks/images/main_job.py``). So only the excess
    has a meaning of its own.
    Every term has the same :math:`A`, because *given* :math:`A` the two have the same expectation when
    :math:`\rho` is the law of the data: the excess is unbiased there, comparable from call to call, and may
    come out negative. (A floor from independent pairs would be right only on average over :math:`A`: the
    offset of this particular :math:`A` would stay in every value.) Near 0 its standard error is about
    ``floor_std * sqrt(1/repeats + 1/floor_pairs)``.

    Points of :math:`A` are never used in :math:`B_j`: draws with replacement from a finite data set would
    share points with :math:`A`, as no draw of a model does, and pull the floor down. So a finite reference
    (:attr:`Measure.num_atoms`) must hold 2n points. They are told apart by their numbers: equal points are
    repetitions that the law of the data has. Weighted points are dealt into two halves and drawn from these by weight;
    those of more than 1/n of the mass are in both, as they are in any sample of the law. From all other measures the
    samples are independent draws. A model that memorizes the reference goes below 0; a held-out reference
    shows that.

    Computed in float64, so that neither TF32 nor automatic mixed precision reaches the costs. geomloss anneals and has no
    tolerance: the residual tells how far it came. The relative error of a value is smaller, on the clouds that the tests try.
    Where the residual is above 0.3, or a number is not finite, a ``NotConverged`` warning says so.

    Parameters
    ----------
    reference : Measure
        Real data.
    n : int
        Points a cloud; at most :data:`MAX_POINTS`.
    p, scaling
        See :func:`sinkhorn_divergence`.
    repeats : int
        Draws of the model averaged in a call.
    floor_pairs : int
        :math:`J`.
    seed : int
        Of the real samples, which do not depend on the generator handed to a call.
    blur : float
        :math:`\varepsilon=\text{blur}^p`: a length in the units of the flattened event, for images of the
        pixel vector in [-1, 1]. Finer differences are not seen; a much smaller one only costs time. Take a
        tenth to a quarter of the typical distance to the nearest neighbor, which is
        ``torch.cdist(x, x).fill_diagonal_(torch.inf).amin(1).median()`` for ``x`` of shape (n, d).
        Fashion-MNIST has 9.3 at n = 1000: blur 1 to 2. (A blur near that distance removes the floor, and much of
        the signal with it.)

    Raises
    ------
    BadInput
        On construction for bad parameters, fewer than 2n real points, or weights of theirs that are no numbers; in a call for a model
        with another event shape, with fewer than ``n`` points, or with points that are not finite or weights that are no numbers.

    Examples
    --------
    >>> import torch
    >>> from wgflow.measures import StandardNormal
    >>> metric = SinkhornMetric(StandardNormal(2), n=100, blur=0.3)
    >>> sorted(metric(StandardNormal(2), torch.Generator().manual_seed(1)))
    ['sinkhorn', 'sinkhorn_excess', 'sinkhorn_floor', 'sinkhorn_residual']
    """

    reference: Measure
    n: Count = 1000
    blur: Positive = field(kw_only=True)
    p: Literal[1, 2] = 2
    scaling: Fraction = 0.9
    repeats: Count = 1
    floor_pairs: Count = 4
    seed: Whole = 0

    def __post_init__(self) -> None:
        if not 2 <= self.n <= MAX_POINTS:
            raise BadInput(f"n must lie between 2 and {MAX_POINTS} (dense cost matrices), got {self.n}")
        if self.floor_pairs < 2:
            raise BadInput(f"SinkhornMetric(floor_pairs={self.floor_pairs}): expected at least 2, to have a deviation")
        atoms = self.reference.num_atoms
        if atoms is not None and atoms < 2 * self.n:
            advice = f"Set n to at most {atoms // 2}" if atoms >= 4 else "It takes 4 at least"
            raise BadInput(
                f"the reference has too few points: the floor needs two samples of n = {self.n} that share none, and {atoms} "
                f"points were found. {advice}"
            )
        require_weights(self.reference)
        self._others(0)  # what else is wrong with the reference shows here, not at the first evaluation of a long run

    @checked
    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        """Return the four numbers for ``rho``."""
        values, residuals = zip(*(self._to_real(self._model(rho, rng)) for _ in range(self.repeats)), strict=True)
        value = statistics.fmean(values)
        excess = value - self.floor
        return {
            "sinkhorn": value,
            "sinkhorn_floor": self.floor,
            "sinkhorn_excess": excess,
            "sinkhorn_residual": max(residuals),
        }

    @property
    def floor(self) -> float:
        """Mean divergence of real from real."""
        return statistics.fmean(self._floor_values)

    @property
    def floor_std(self) -> float:
        """Standard deviation of one divergence of real from real."""
        return statistics.stdev(self._floor_values)

    @property
    def protocol(self) -> str:
        """All that is needed to compare the numbers with others."""
        return (
            f"geomloss {version('geomloss')} sinkhorn debiased p={self.p} blur={self.blur:g} "
            f"scaling={self.scaling:g} n={self.n} repeats={self.repeats} floor_pairs={self.floor_pairs} "
            f"seed={self.seed} float64 cost=|x-y|^{self.p}/{self.p} "
            f"units=flattened{tuple(self.reference.event_shape)}"
        )

    @cached_property
    def _order(self) -> Tensor | None:
        """A permutation of the numbers of a finite reference; those of A come first."""
        rng, atoms = self._own_generator("order"), self.reference.num_atoms
        return None if atoms is None else torch.randperm(atoms, generator=rng, device=rng.device)

    @cached_property
    def _halves(self) -> tuple[Particles, Particles] | None:
        """What A and the B_j are drawn from where the reference is points with weights; None elsewhere."""
        x, log_w = (getattr(self.reference, name, None) for name in ("x", "log_w"))
        if x is None or log_w is None:
            return None
        return _halves(_flat(Particles(x, log_w)), self.n, self._own_generator("halves"))

    @cached_property
    def _real(self) -> Particles:
        """Sample A."""
        if self._halves is not None:
            return self._halves[0].resampled(self.n, self._own_generator("A"))
        return self._sample(None if self._order is None else self._order[: self.n], self._own_generator("A"))

    def _others(self, j: int) -> Particles:
        """Sample B_j."""
        if self._halves is not None:
            return self._halves[1].resampled(self.n, self._own_generator(f"B{j}"))
        rng, rest = self._own_generator(f"B{j}"), None
        if self._order is not None:
            rest = self._order[self.n :]
            rest = rest[torch.randperm(len(rest), generator=rng, device=rng.device)[: self.n]]
        return self._sample(rest, rng)

    def _sample(self, index: Tensor | None, rng: torch.Generator) -> Particles:
        with torch.no_grad():
            return _flat(self.reference.draw(self.n, rng) if index is None else self.reference.take(index, rng))

    def _own_generator(self, sample: str) -> torch.Generator:
        # Hashed: a caller's generator of the same small seed would draw the model as a copy of the real sample.
        digest = hashlib.sha256(f"wgflow sinkhorn {self.seed} {sample}".encode()).digest()
        return generator(int.from_bytes(digest[:7]), self.reference.device)

    @cached_property
    def _floor_values(self) -> list[float]:
        return [self._to_real(self._others(j))[0] for j in range(self.floor_pairs)]

    def _model(self, rho: Measure, rng: torch.Generator) -> Particles:
        with torch.no_grad():
            model = distinct(rho, self.n, rng)
        ours, theirs = tuple(model.event_shape), tuple(self.reference.event_shape)
        if ours != theirs:
            raise BadInput(f"the model has points of shape {ours}, the reference of {theirs}")
        if len(model) != self.n:
            raise BadInput(
                f"the model gave {len(model)} points instead of n = {self.n}, and the floor holds for equal "
                f"sizes: set n to {len(model)}"
            )
        return _flat(model)

    def _to_real(self, points: Particles) -> tuple[float, float]:
        """Return the divergence to A and the marginal error behind it."""
        x, real = points.x, self._real
        problem: dict[str, Any] = {"x": x, "y": real.x.to(x.device), "a": points.w, "b": real.w.to(x.device)}
        problem |= {"blur": self.blur, "p": self.p, "scaling": self.scaling}
        with torch.no_grad():
            value = float(sinkhorn_divergence(**problem))
            residual = annealing_error(**problem) if math.isfinite(value) else math.inf
        report("sinkhorn metric", residual, _ROUGH, f"Increase scaling ({self.scaling:g}) or blur ({self.blur:g}).")
        return value, residual


def _flat(p: Particles) -> Particles:
    return Particles(p.x.detach().flatten(1).double(), None if p.log_w is None else p.log_w.detach().double())


def _halves(rho: Particles, n: int, rng: torch.Generator) -> tuple[Particles, Particles]:
    """Deal weighted points into two clouds of the same law that share none but those of more than 1/n of the mass."""
    x, place = torch.unique(rho.x[rho.w > 0], dim=0, return_inverse=True)
    w = torch.zeros_like(x[:, 0]).index_add_(0, place, rho.w[rho.w > 0])
    heavy = n * w >= 1
    if (~heavy).sum() < 2:
        heavy = torch.ones_like(heavy)
    order = torch.randperm(len(x), generator=rng, device=rng.device).to(x.device)
    order = order[heavy[order].long().argsort(stable=True)]  # light points first: as many on either side
    first = torch.zeros_like(heavy).index_fill_(0, order[::2], True)
    parts = []
    for side in (first, ~first):
        light = side & ~heavy
        share = w[~heavy].sum() / w[light].sum()  # the light points keep their part of the mass
        parts.append(Particles(x, torch.where(heavy, w, torch.where(light, share * w, 0.0)).log()))
    return parts[0], parts[1]
