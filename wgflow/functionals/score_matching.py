r"""What a law with a density that depends on parameters is fitted to data by, and the pull of a density that changes in time."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wgflow.core.errors import Unsupported
from wgflow.core.fields import Count
from wgflow.core.typing import Points, Scalar
from wgflow.functionals.base import Functional, drawn, register_functional
from wgflow.functionals.energies import PotentialEnergy
from wgflow.measures import Measure, MovingMeasure, Particles, StandardNormal


@dataclass(frozen=True)
class _Fitted(Functional):
    r"""A mean over data of a function of the moving law's density there, which its points carry as their ``source``."""

    target: Measure
    batch: Count | None = None

    needs_samples = True
    reads_law = True

    def _law(self, rho: Particles) -> Measure:
        if rho.source is None or not rho.source.has_density:
            raise Unsupported(f"{type(self).__name__} looks at the density of the moving law at data: {_NEEDED}")
        return rho.source

    def refuses_measure(self, measure: MovingMeasure) -> str | None:
        """Refuse a law whose density is not known at data, and centers that are data."""
        name = type(self).__name__
        if not measure.parametric:
            return f"{name} looks at the density of the moving law at data, and {type(measure).__name__} has none there: {_NEEDED}"
        n = self.target.num_points
        if measure.made_of is None or n is None:
            return None
        data = self.target.whole(torch.Generator(device=self.target.device))
        shared = _shared(measure.made_of, data.x)
        if not shared:
            return None
        return (
            f"{shared} of the {len(measure.made_of)} centers of this {type(measure).__name__} are among the {n} points of the data. "
            f"{name} is unbounded below there, and the law would be the data themselves: split the points, as fit_kernel_score does."
        )

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> Self:
        """Return the fit to a standard normal."""
        return cls(StandardNormal(*event_shape, dtype=torch.get_default_dtype()), batch=8)


_NEEDED = "use KernelScoreModel(centres), or evaluate it at a draw of a measure with log_prob."


def _shared(centres: Tensor, data: Points) -> int:
    """Count the centers that are among the data, to the last bit."""
    rows = lambda x: [row.tobytes() for row in (x.detach().flatten(1).cpu().double() + 0.0).numpy()]  # noqa: E731
    known = set(rows(data))
    return sum(row in known for row in rows(centres))


@register_functional("implicit_score_matching")
@dataclass(frozen=True)
class ImplicitScoreMatching(_Fitted):
    r"""Implicit score matching: what the density of :math:`\rho` and its derivatives are at data.

    .. math::
        F(\rho)=E_\nu\bigl[2\Delta\log\rho+|\nabla\log\rho|^2\bigr]
        =E_\nu|\nabla\log\rho-\nabla\log\nu|^2-E_\nu|\nabla\log\nu|^2,

    the relative Fisher information of the data and the law up to a constant (no half; squares are summed over coordinates). It is
    least at :math:`\rho=\nu`, and needs neither the score of the data nor the constant of the density.

    Parameters
    ----------
    target : Measure
        :math:`\nu`, data to draw from.
    batch : int, optional
        Data in one realization; None takes all of a finite set.

    Notes
    -----
    For measures with parameters (``KernelScoreModel``) under ``JKO``; at an infinite step size that is plain fitting. ``LocalGaussians``
    knows the integrand in closed form; for other densities it is differentiated once a coordinate. Source: Hyvärinen (2005).

    Examples
    --------
    >>> import torch
    >>> from wgflow import Gaussian
    >>> data, law = Particles(torch.tensor([[1.0], [-1.0]])), Gaussian(torch.zeros(1), torch.eye(1))
    >>> ImplicitScoreMatching(data).value(law.draw(1, torch.Generator())).item()
    -1.0
    """

    reference = ("hyvarinen2005estimation", "zhang2024wasserstein")

    def value(self, rho: Particles) -> Scalar:
        """Return the mean over the data of :meth:`Measure.hyvarinen_score`, a scalar."""
        law, nu = self._law(rho), drawn(self.target)
        return nu.mean(law.hyvarinen_score(nu.x))


@register_functional("negative_log_likelihood")
@dataclass(frozen=True)
class NegativeLogLikelihood(_Fitted):
    r"""The negative log-likelihood :math:`F(\rho)=-E_\nu\log\rho`, which is :math:`\mathrm{KL}(\nu|\rho)` up to a constant, in nats.

    Parameters
    ----------
    target : Measure
        :math:`\nu`, data to draw from.
    batch : int, optional
        Data in one realization; None takes all of a finite set.

    Examples
    --------
    Ten updates of a fit by maximum likelihood:

    >>> import math
    >>> import torch
    >>> import wgflow as wg
    >>> x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))
    >>> F, model = NegativeLogLikelihood(wg.Dataset(x[20:])), wg.KernelScoreModel(x[:20])
    >>> fit = wg.solve(F, wg.JKO(optim=wg.Adam(1e-2), iters=5), model, step_size=math.inf, num_steps=2)
    >>> fit.history[1]["jko/energy"] < fit.history[0]["jko/energy"]
    True
    """

    def value(self, rho: Particles) -> Scalar:
        """Return the mean over the data of minus the log density."""
        law, nu = self._law(rho), drawn(self.target)
        return -nu.mean(law.log_density(nu.x))


@register_functional("cross_entropy")
@dataclass(frozen=True)
class CrossEntropy(Functional):
    r"""The cross-entropy :math:`F(\rho)=-\int\log\nu\,d\rho`, a potential energy whose potential may change in time.

    With :math:`\nu` a :class:`Reversed` law the flow of :math:`\beta F` is the probability-flow equation, and
    ``2 * beta * CrossEntropy(nu) + beta * Entropy()`` the reverse-time diffusion: score-based generation as a Wasserstein proximal.

    Parameters
    ----------
    target : Measure
        :math:`\nu`, with ``log_prob``; the measure in force is that of the time of a step, and of a stage inside of it.

    Examples
    --------
    At the mode of N(0, 1) it is :math:`\tfrac12\log2\pi`:

    >>> import torch
    >>> import wgflow as wg
    >>> CrossEntropy(wg.StandardNormal(1)).value(wg.Particles(torch.zeros(1, 1)))
    tensor(0.9189)
    """

    target: Measure

    reference = ("zhang2024wasserstein",)

    def value(self, rho: Particles) -> Scalar:
        """Return minus the mean log density."""
        return rho.mean(self._minus_log(rho.x))

    def freeze(self, rng: torch.Generator) -> Self:
        """Return itself: nothing in it is random, and its time may still change."""
        return self

    def split_entropy(self) -> tuple[Functional | None, float]:
        """Return the potential energy of the time in force, and no entropy."""
        return PotentialEnergy(self._minus_log), 0.0

    def _minus_log(self, x: Points) -> Tensor:
        return -self.target.log_density(x)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "CrossEntropy":
        """Return that with a standard normal."""
        return cls(StandardNormal(*event_shape, dtype=torch.get_default_dtype()))
