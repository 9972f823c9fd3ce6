"""Noise at the points where a velocity is looked up, not in the particles."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from wgflow.core.fields import NonNegative
from wgflow.core.outputs import number_of_step
from wgflow.core.rules import Says
from wgflow.core.typing import Info, Points, Scalar
from wgflow.estimators.autograd import Autograd
from wgflow.estimators.base import Draw, Estimator, linear, register_estimator
from wgflow.estimators.probe import velocity_at
from wgflow.functionals import Functional
from wgflow.measures import Particles


@dataclass(eq=False)
class NoiseState:
    """The noisy estimator's state, a generator of its own, where in its stream a time step is, the step, and what has no noise.

    ``behind`` counts the last coordinates, which are a label.
    """

    inner: Any
    rng: torch.Generator
    start: Tensor
    k: int
    behind: int = 0


@register_estimator("evaluation_noise")
@dataclass(frozen=True)
class EvaluationNoise(Estimator):
    r"""The velocity of another estimator at perturbed points.

    .. math:: v_i=-\nabla\tfrac{\delta F}{\delta\rho}(x_i+\beta_ku_i),\qquad u_i\sim N(0,I).

    The law in the first variation stays that of the particles: only the point where it is looked up moves. It carries
    MMD flows with Gaussian kernels over the plateaus where their gradient vanishes.

    Parameters
    ----------
    estimator : Estimator
        The one that is asked, such as ``Autograd()``.
    std : float or callable
        :math:`\beta`, a standard deviation, or a function of the time step :math:`k` such as ``Geometric(1.0, 0.999)``.

    Notes
    -----
    The noise is drawn anew in every time step and is the same for all stages of a step; a label behind a point (``Labelled``) has
    none. The perturbed points join the
    particles with next to no mass (:func:`velocity_at`): up to four times the cost for a pairwise functional. There is no
    first variation to read, and nothing that an implicit solver could minimize: use an explicit one. Source: Arbel, Korba,
    Salim and Gretton (2019).

    Raises
    ------
    BadInput
        For a standard deviation that is negative or not finite.

    Examples
    --------
    Of a linear force the mean over the noise is the force without it:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> noisy = wg.EvaluationNoise(wg.Autograd(), std=0.1)
    >>> flow = wg.solve(F, wg.ForwardEuler(noisy), wg.Particles(torch.ones(1000, 1)), step_size=0.5, num_steps=1)
    >>> round(flow.measure.x.mean().item(), 1), round(flow.measure.x.std().item(), 2)  # h times 0.1
    (0.5, 0.05)
    """

    estimator: Estimator
    std: Annotated[
        NonNegative | Callable[[int], float],
        Says("a nonnegative, finite standard deviation, or a function of the step"),
    ]

    gives_potential = False
    is_function = False
    reference = ("arbel2019maximum",)

    def __post_init__(self) -> None:
        self._level(0)

    def _level(self, k: int) -> float:
        return number_of_step(self.std, k, NonNegative, "EvaluationNoise: standard deviation")

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the estimator that is asked."""
        return self.estimator.needs

    @property
    def needs_samples(self) -> bool:  # type: ignore[override]
        """As the estimator that is asked."""
        return self.estimator.needs_samples

    @property
    def needs_fresh_points(self) -> bool:  # type: ignore[override]
        """As the estimator that is asked."""
        return self.estimator.needs_fresh_points

    @property
    def splits_entropy(self) -> bool:  # type: ignore[override]
        """As the estimator that is asked."""
        return self.estimator.splits_entropy

    @classmethod
    def example(cls) -> "EvaluationNoise":
        """Return a tiny instance."""
        return cls(Autograd(), 0.1)

    def refuses(self, F: Functional) -> str | None:
        """Refuse what needs a density, which is not known at other points; else as the estimator that is asked."""
        energy = F.split_entropy()[0] if self.splits_entropy else F
        if energy is not None and energy.needs_density and "value" in self.needs:
            name = type(self.estimator).__name__
            return (
                f"EvaluationNoise looks the velocity up where {type(F).__name__} knows no density. Use {name}() itself."
            )
        return self.estimator.refuses(F)

    def sees(self, F: Functional) -> int | None:
        """As many points as the estimator that is asked."""
        return self.estimator.sees(F)

    def init(self, F: Functional, rng: torch.Generator) -> NoiseState:
        """Return the other's state with a generator seeded from ``rng``."""
        inner = self.estimator.init(F, rng)
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        own = torch.Generator(device=rng.device).manual_seed(seed)
        return NoiseState(inner, own, own.get_state(), -1, max((m.behind for m in F.targets()), default=0))

    def refine(self, F: Functional, draw: Draw, es: NoiseState, rng: torch.Generator) -> Info:
        """Refine the other, and go on to the noise of the next time step."""
        es.start, es.k = es.rng.get_state(), es.k + 1
        return self.estimator.refine(F, draw, es.inner, rng)

    def velocity(self, F: Functional, rho: Particles, es: NoiseState) -> Points:
        r"""Return the velocity that the others see at the perturbed points, shape (n, \*event)."""
        std, x = self._level(max(es.k, 0)), rho.x.detach()
        if std == 0:
            return self.estimator.velocity(F, rho, es.inner)
        es.rng.set_state(es.start)
        u = torch.randn(x.shape, generator=es.rng, device=x.device, dtype=x.dtype)
        if es.behind:
            u[..., -es.behind :] = 0
        return velocity_at(self.estimator, F, rho, es.inner, x + std * u)

    def surrogate(self, F: Functional, rho: Particles, es: NoiseState) -> Scalar:
        """Return the linear function with this velocity."""
        return linear(rho, -self.velocity(F, rho, es))
