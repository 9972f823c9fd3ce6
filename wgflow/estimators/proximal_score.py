"""The score of the regularized Wasserstein proximal of the particles."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wgflow.core.fields import Count, Positive
from wgflow.core.typing import Info, Points
from wgflow.estimators.base import Draw, SlopeEstimator, energy_slope, register_estimator
from wgflow.functionals import Functional
from wgflow.functionals.linear import linear_part
from wgflow.measures import (
    ExactPotential,
    MonteCarloNormalizer,
    Normalizer,
    Particles,
    QuadraticPotential,
    WassersteinProximal,
)
from wgflow.measures.normalizers import KnownNormalizer
from wgflow.measures.potentials import collapse
from wgflow.numerics.metric import Metric


@dataclass(eq=False)
class ProximalState:
    r"""The normal draws (samples, \*event) that estimate the normalizer in this time step."""

    noise: Tensor | None = None


@register_estimator("proximal_score")
@dataclass(frozen=True, eq=False)
class ProximalScore(SlopeEstimator):
    r"""The score of the regularized Wasserstein proximal of the particles: one step ahead, in closed form (BRWP).

    For :math:`F=\int V\,d\rho+\tau\int\rho\log\rho` let :math:`\rho_T` be the regularized Wasserstein proximal of :math:`\rho` over a time
    :math:`T`, a mixture of the kernels :math:`K(x,y)\propto_x\exp\{-(V(x)+|x-y|^2/2T)/2\tau\}`. Then

    .. math::
        v(x_i)=-\nabla V-\tau\nabla\log\rho_T=-\tfrac12\nabla V(x_i)+\tfrac1{2T}\Bigl(x_i-\sum_jp_{ij}x_j\Bigr),\qquad
        p_{ij}\propto_jw_j\exp\Bigl\{-\frac{|x_i-x_j|^2}{4\tau T}-\log Z(x_j)\Bigr\}.

    Parameters
    ----------
    time : float
        :math:`T`, the regularization (not the step size). For a quadratic V with Hessian A the stationary covariance is
        :math:`\tau(A^{-1}-T^2A)`; too small a T lets particles collapse.
    log_normaliser : callable or Normalizer, optional
        :math:`y\mapsto\log Z(y)`, (n, \*event) to (n,), up to a constant; a ``QuadraticPotential`` or another potential that knows its
        own, for the same V up to a constant; ``LaplaceNormalizer()`` or ``QuadratureNormalizer(low, high)``. None is
        ``MonteCarloNormalizer(samples)``, with draws that all particles share.
    samples : int
        Draws of that, renewed in every time step.
    metric : Tensor, shape (d,) or (d, d), optional
        :math:`M`, positive definite: the velocity is :math:`-M(\nabla V+\tau\nabla\log\rho_T)`, and the proximal measures
        :math:`(x-y)^\top M^{-1}(x-y)` (PRWP). An M near :math:`A^{-1}` makes the speed of an ill-conditioned problem that of a round one;
        the stationary covariance is :math:`\tau(A^{-1}-T^2MAM)`.

    Notes
    -----
    The :math:`\tau` is a temperature: the target is :math:`e^{-V/\tau}`. Cost: n² kernel values, and ``samples`` n values of V; memory O(n)
    rows at a time. E must be a potential energy. Source: Tan, Osher and Li (2024), the metric (2025); the kernel formula is by
    Li, Liu and Osher (2023).

    Examples
    --------
    One particle has :math:`-\tfrac12\nabla V`, so a step for N(0, 1) is :math:`1-h/2` times x:

    >>> import torch
    >>> import wgflow as wg
    >>> F, solver = wg.KL(wg.StandardNormal(1)), wg.ForwardEuler(wg.ProximalScore(0.1))
    >>> wg.solve(F, solver, wg.Particles(torch.ones(1, 1)), step_size=0.5, num_steps=1).measure.x
    tensor([[0.7500]])
    """

    time: Positive
    log_normaliser: Normalizer | Callable[[Points], Tensor] | None = None
    samples: Count = 32
    metric: Tensor | None = None

    splits_entropy = True
    reference = ("tan2024noise", "tan2025preconditioned", "li2023kernel")

    def __post_init__(self) -> None:
        _ = self._metric  # looks at it

    @cached_property
    def _metric(self) -> Metric | None:
        return None if self.metric is None else Metric(self.metric)

    @cached_property
    def _whitened(self) -> Any:
        """A potential that knows its normalizer, in the coordinates of the metric: found once, not in every step."""
        given, M = self.log_normaliser, self._metric
        return given if M is None or not isinstance(given, ExactPotential) else given.whitened(M)

    @classmethod
    def example(cls) -> "ProximalScore":
        """Return a tiny instance."""
        return cls(0.1)

    def refuses(self, F: Functional) -> str | None:
        """Refuse what is not a potential energy with an entropy."""
        energy, temperature = F.split_entropy()
        if energy is not None and temperature > 0 and linear_part(energy) is not None:
            if not isinstance(self.log_normaliser, QuadraticPotential):
                return None
            return collapse(self._whitened, self.time)
        return (
            f"ProximalScore needs a potential energy plus an entropy, such as KL to a target with log_prob, and "
            f"{type(F).__name__} is not one. Use Blob(KernelDensity(kernel)) or Autograd()."
        )

    def init(self, F: Functional, rng: torch.Generator) -> ProximalState:
        """Return a state without draws."""
        return ProximalState()

    def refine(self, F: Functional, draw: Draw, es: ProximalState, rng: torch.Generator) -> Info:
        """Renew the draws of the normalizer."""
        normalizer = self._normalizer(1.0)
        if normalizer.draws:
            es.noise = normalizer.noise(draw(rng).x[:1], rng)
        return {}

    def slope(self, F: Functional, rho: Particles, es: ProximalState) -> Points:
        r"""Return :math:`-v`."""
        energy, temperature = F.split_entropy()
        assert energy is not None, "why_not() asks for a potential energy"
        step, x = self._step(energy, temperature), rho.x.detach()
        with torch.no_grad():
            log_mean = step.log_mean(x, es.noise if step.rule.draws else None)
            pull = (step.pulls(x, rho, log_mean) / (2 * self.time)).to(x.dtype)
        slope, M = energy_slope(energy, rho), self._metric
        return 0.5 * (slope if M is None else M.apply(slope)) - pull

    def _normalizer(self, temperature: float) -> Normalizer:
        given = self.log_normaliser
        if isinstance(given, ExactPotential):  # its own constant does not matter here
            own, M = WassersteinProximal(self._whitened, self.time, temperature=temperature), self._metric
            return KnownNormalizer(own.log_mean if M is None else lambda y: own.log_mean(M.whiten(y)))
        if isinstance(given, Normalizer):
            return given
        return MonteCarloNormalizer(self.samples) if given is None else KnownNormalizer(given)

    def _step(self, energy: Functional, temperature: float) -> WassersteinProximal:
        V = linear_part(energy)
        assert V is not None, "why_not() asks for a potential energy"
        rule = self._normalizer(temperature)
        return WassersteinProximal(V, self.time, temperature=temperature, normalizer=rule, metric=self._metric)
