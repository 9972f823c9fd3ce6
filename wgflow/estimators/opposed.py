"""What estimators share that set the data against an independent sample of the moving law."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor

from wgflow.core.fields import Checked, Count
from wgflow.core.rules import Range
from wgflow.core.typing import Info
from wgflow.estimators.base import Draw, Estimator
from wgflow.functionals import Functional
from wgflow.measures import Measure, Particles
from wgflow.measures.realised import realised_size


@dataclass(frozen=True)
class MixedNegatives(Checked):
    r"""Guidance by other points among those that repel: :math:`\rho'` becomes :math:`\frac1\alpha\rho'+(1-\frac1\alpha)\mu`.

    Where a flow stands still then :math:`\rho=\alpha\nu-(\alpha-1)\mu`: a conditional law is sharpened away from the whole.

    Parameters
    ----------
    measure : Measure
        :math:`\mu`, such as the data of all classes.
    alpha : float
        At least 1, where nothing is mixed in.
    batch : int
        Points of :math:`\mu` in one realization.

    Notes
    -----
    Source: Deng et al. (2026), *Generative Modeling via Drifting*.

    Examples
    --------
    >>> import wgflow as wg
    >>> everything = wg.twenty_five_gaussians()
    >>> estimator = wg.TwoBatch(negatives=wg.MixedNegatives(everything, alpha=1.5))  # rho = 1.5 nu - 0.5 mu at rest
    """

    measure: Measure
    alpha: Annotated[float, Range("a finite number from 1 up", 1, 1e300, "[)")]
    batch: Count = 32


@dataclass(eq=False)
class OpposedState:
    """What changes: the number of the time step, and the independent points of the last update with those mixed in."""

    k: int = -1
    x: Tensor | None = None
    log_w: Tensor | None = None
    mixed_x: Tensor | None = None
    mixed_log_w: Tensor | None = None

    @property
    def second(self) -> Particles | None:
        """The independent batch."""
        return None if self.x is None else Particles(self.x, self.log_w)

    @property
    def extra(self) -> Particles | None:
        """The points that are mixed in."""
        return None if self.mixed_x is None else Particles(self.mixed_x, self.mixed_log_w)


@dataclass(frozen=True)
class Opposed(Estimator):
    """The base: draws a second batch of the moving law in every update, as large as the batch of data.

    At equal laws a velocity vanishes on average only when both batches have one size.

    Parameters
    ----------
    negatives : MixedNegatives, optional
        Points mixed into those that repel.
    """

    negatives: MixedNegatives | None = field(default=None, kw_only=True)

    needs_samples = True
    needs_fresh_points = True

    def sees(self, F: Functional) -> int | None:
        """As many points of the moving law as of the data."""
        compared = [m for m in F.samples() if m.can_draw]
        return realised_size(compared[0], F.batch) if compared else F.batch

    def init(self, F: Functional, rng: torch.Generator) -> OpposedState:
        """Return a state without points."""
        return OpposedState()

    def refine(self, F: Functional, draw: Draw, es: OpposedState, rng: torch.Generator) -> Info:
        """Draw the independent batch of this update."""
        second, mixed = draw(rng), self.negatives
        es.k, es.x, es.log_w = es.k + 1, second.x, second.log_w
        if mixed is not None and mixed.alpha > 1:
            extra = mixed.measure.draw(mixed.batch, rng)
            es.mixed_x, es.mixed_log_w = extra.x, extra.log_w
        return {}

    def repelling(self, own: Particles, es: Any) -> Particles:
        """Return the points that repel, ``own`` with those mixed in behind."""
        mixed, extra = self.negatives, es.extra
        if mixed is None or extra is None:
            return own
        weights = [own.log_weights, extra.log_weights.to(own.x) + math.log(mixed.alpha - 1)]
        return Particles(torch.cat([own.x, extra.x.to(own.x)]), torch.cat(weights))
