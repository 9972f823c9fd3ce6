r"""The regularized Wasserstein proximal operator (RWPO) of a potential energy, by its kernel formula."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from wgflow.core.context import full_precision
from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Positive, checked
from wgflow.core.networks import called
from wgflow.core.outputs import per_point
from wgflow.core.typing import Points, Scalar
from wgflow.measures.base import Measure
from wgflow.measures.normalizers import MonteCarloNormalizer, Normalizer, Tilt
from wgflow.measures.particles import Particles
from wgflow.measures.potentials import ExactPotential, QuadraticPotential, collapse
from wgflow.measures.proximal_mixture import ProximalMixture
from wgflow.measures.targets import Gaussian
from wgflow.numerics.metric import Metric
from wgflow.numerics.soft_sums import soft_pulls


@dataclass(frozen=True, eq=False)
class WassersteinProximal(Checked):
    r"""The regularized Wasserstein proximal operator, a Markov kernel: :math:`\rho_T(x)=\int K(x,y)\,d\rho_0(y)`.

    .. math::
        K(x,y)=\frac1{Z(y)}\exp\Bigl\{-\frac1{2\tau}\Bigl(V(x)+\frac{|x-y|^2}{2T}\Bigr)\Bigr\},\qquad
        Z(y)=(4\pi\tau T)^{d/2}\,m(y),\quad m(y)=E_{z\sim N(y,2\tau T)}e^{-V(z)/2\tau}.

    It is the terminal law of the problem of Benamou and Brenier with diffusion: minimize
    :math:`\int_0^T\!\int\tfrac12|v|^2\rho_t\,dt+\int V\,d\rho_T` subject to :math:`\partial_t\rho+\nabla\cdot(\rho v)=\tau\Delta\rho`. For
    :math:`\tau\to0` it moves every point to its proximal point; for :math:`T\to0` it is a step of the Fokker–Planck equation of
    temperature :math:`\tau`, up to :math:`O(T^2)`. It is no JKO step, and :math:`e^{-V/\tau}` is no fixed point of it.

    Parameters
    ----------
    potential : callable
        :math:`V`, from (n, \*event) to (n,), differentiable. A ``QuadraticPotential``, ``L1Potential`` or ``SeparablePotential`` knows its
        own normalizer.
    time : float
        :math:`T`, the length of the step.
    temperature : float
        :math:`\tau`: the target is :math:`e^{-V/\tau}`. Papers with an inverse temperature :math:`\beta` have the target
        :math:`e^{-\beta V}`, :math:`\beta=1/\tau`; :func:`rwpo` takes either by its name.
    normalizer : Normalizer, optional
        How :math:`m(y)` is found: ``MonteCarloNormalizer``, ``LaplaceNormalizer`` or, in one dimension, ``QuadratureNormalizer``. None is
        the potential's own, or 32 draws.
    metric : Tensor, shape (d,) or (d, d), or Metric, optional
        :math:`M`, positive definite, for steps with another metric: :math:`|x-y|^2` becomes :math:`(x-y)^\top M^{-1}(x-y)`, the noise has
        the covariance :math:`2\tau TM`, and a gradient step moves along :math:`M\nabla`.

    Raises
    ------
    BadInput
        For a normalizer that is another potential than V.

    Notes
    -----
    The kernel is evaluated in the logarithm, block by block: n m entries in time, a few rows of them in memory. Source: Li, Liu and
    Osher (2023); the metric is that of Tan, Osher and Li (2025).

    Examples
    --------
    >>> import torch
    >>> step = WassersteinProximal(QuadraticPotential(torch.tensor([[1.3]])), 0.4, temperature=0.7)
    >>> law = step(Gaussian(torch.tensor([0.8]), torch.tensor([[2.5]])))
    >>> law.mean, law.cov
    (tensor([0.5263]), tensor([[1.4505]]))
    """

    potential: Callable[[Points], Tensor]
    time: Positive
    temperature: Positive = field(kw_only=True)
    normalizer: Normalizer | None = field(default=None, kw_only=True)
    metric: Tensor | Metric | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.normalizer, ExactPotential) and self.normalizer is not self.potential:
            kind = type(self.normalizer).__name__
            raise BadInput(
                f"normalizer={kind}(...) is that of another potential, and densities would not integrate to one: give the "
                f"{kind} as the potential"
            )
        _ = self.rule  # looks at the metric, and whether it is one for this potential

    @cached_property
    def _metric(self) -> Metric | None:
        return Metric(self.metric) if isinstance(self.metric, Tensor) else self.metric

    @cached_property
    def rule(self) -> Normalizer:
        """What finds the normalizer, in the coordinates of the metric."""
        own = self.potential if isinstance(self.potential, Normalizer) else MonteCarloNormalizer()
        rule, M = self.normalizer or own, self._metric
        if M is None:
            return rule
        return cast(Normalizer, called(lambda _: rule.whitened(M), f"{type(rule).__name__} in a metric", M.matrix))

    @property
    def tilt(self) -> Tilt:
        """The conditional law of a step, in the coordinates of the metric."""
        M = self._metric
        V = self.at_points if M is None else lambda u: self.at_points(M.color(u))
        return Tilt(V, self.time, self.temperature)

    def at_points(self, x: Points) -> Tensor:
        """Return V at points, shape (n,); raises ``BadInput`` when the potential returns anything else, or no gradient."""
        return per_point(self.potential, x, "a potential")

    def whiten(self, x: Points) -> Points:
        r"""Return :math:`L^{-1}x`, with :math:`M=LL^\top`; the points themselves without a metric."""
        return x if self._metric is None else self._metric.whiten(x)

    def color(self, u: Points) -> Points:
        r"""Return :math:`Lu`, which undoes :meth:`whiten`."""
        return u if self._metric is None else self._metric.color(u)

    def noise(self, like: Points, rng: torch.Generator | None) -> Tensor | None:
        """Return the draws that an estimate of the normalizer shares between all points; None where it needs none.

        Raises
        ------
        BadInput
            When it needs some, and there is no generator.
        """
        if rng is None and self.rule.draws:
            raise BadInput(f"{self.rule} draws: give the generator as well, rng=torch.Generator().manual_seed(0)")
        return None if rng is None else self.rule.noise(like, rng)

    def log_mean(self, y: Points, noise: Tensor | None = None) -> Tensor:
        r"""Return :math:`\log m(y)`, shape (n,), differentiable in ``y``; ``noise`` is what :meth:`noise` returned.

        :math:`2\tau\log m` is the value function at time 0 of the control problem, and minus its mean over :math:`\rho_0` its optimal cost.
        """
        if noise is None and self.rule.draws:
            raise BadInput(f"{self.rule} draws: give what noise(y, rng) has returned as well")
        return self._asked(lambda u: self.rule.log_mean(self.tilt, u, noise), y)

    def _asked(self, f: Callable[[Points], Tensor], x: Points) -> Tensor:
        """Return a function of the normalizer's at whitened points, with ``BadInput`` for points of another shape or precision."""
        return cast(Tensor, called(f, type(self.rule).__name__, self.whiten(x)))

    def log_constant(self, d: int) -> float | Tensor:
        r"""Return :math:`\tfrac d2\log(4\pi\tau T)+\tfrac12\log\det M`, the constant between :math:`\log m` and :math:`\log Z`."""
        constant = 0.5 * d * math.log(4 * math.pi * self.temperature * self.time)
        return constant if self._metric is None else constant + 0.5 * self._metric.log_det

    @property
    def width(self) -> float:
        r"""The denominator :math:`4\tau T` of squared distances in the exponent."""
        return 4 * self.temperature * self.time

    def pulls(self, x: Points, rho: Particles, log_mean: Tensor) -> Points:
        r"""Return :math:`x_i-\sum_jp_{ij}y_j`, (n, \*event), without gradient and in double precision.

        Here :math:`p_{ij}\propto_jw_je^{-|x_i-y_j|^2_{M^{-1}}/4\tau T}/m(y_j)`. Divided by 2T it is the part of
        :math:`-\tau M\nabla\log\rho_T` that the particles make; V makes the other, :math:`\tfrac12M\nabla V`. ``log_mean`` are the
        values (m,) of :meth:`log_mean` at the particles.
        """
        with torch.no_grad(), full_precision(x.device):
            bias = rho.log_weights.detach() - log_mean.detach()
            found = soft_pulls(self.whiten(x.detach()), self.whiten(rho.x.detach()), bias, self.width).view(x.shape)
            M = self._metric
            return found if M is None else Metric(M.matrix.double()).color(found)

    @checked
    def draw_from(self, y: Points, rng: torch.Generator) -> Points:
        r"""Return one draw of :math:`K(\cdot,y)` for every point, (n, \*event), as the normalizer makes them.

        Exact for quadratic and :math:`\ell^1` potentials and separable ones of these; inside of a cell for a quadrature; otherwise one of
        ``samples`` proposals chosen by its weight, at the cost of ``samples`` n values of V.
        """
        return self.color(self._asked(lambda u: self.rule.draw(self.tilt, u, rng), y.detach()))

    def expect(self, f: Callable[[Points], Tensor], y: Points, noise: Tensor) -> Tensor:
        r"""Return :math:`\int f(x)K(x,y)\,dx`, shape (n,), differentiable in ``y``, from normal draws (s, \*event) shared by all points."""

        def at_points(u: Points) -> Tensor:
            return per_point(f, self.color(u), "the function of an expectation")

        return self._asked(lambda u: self.rule.expect(self.tilt, at_points, u, noise), y)

    @checked
    def __call__(self, rho: Measure, rng: torch.Generator | None = None) -> Gaussian | ProximalMixture:
        r"""Return :math:`\rho_T`: a Gaussian for a Gaussian and a quadratic potential, the mixture of kernels for particles.

        Parameters
        ----------
        rho : Particles or Gaussian
            :math:`\rho_0`; draw particles of other measures first.
        rng : torch.Generator, optional
            For a normalizer that draws.

        Raises
        ------
        BadInput
            For another measure; without a generator that is needed; where the normalizer at a particle is not finite.
        """
        if isinstance(rho, Particles):
            return ProximalMixture(self, rho, self.log_mean(rho.x, self.noise(rho.x, rng)))
        if isinstance(rho, Gaussian) and self._quadratic is not None:
            c, L = self._center_like(rho.mean), self._root_like(rho.mean)
            p, (_, U) = self._quadratic.shrunk(self.time), self._quadratic.spectrum
            # In the metric's coordinates P S P + 2 tau T P, with P = U p U'.
            A = L @ (U * p) @ U.mT @ torch.linalg.inv(L)
            cov = A @ rho.cov @ A.mT + 2 * self.temperature * self.time * L @ (U * p) @ U.mT @ L.mT
            return Gaussian(c + A @ (rho.mean - c), (cov + cov.mT) / 2)
        raise BadInput(
            f"the proximal of a {type(rho).__name__} under {_name_of(self.potential)} has no closed form: give Particles, "
            "such as rho.draw(n, rng), or a Gaussian under a QuadraticPotential"
        )

    @checked
    def cost(self, rho: Particles, rng: torch.Generator | None = None) -> Scalar:
        r"""Return the optimal value :math:`-2\tau\int\log m\,d\rho_0` of the control problem, 0-d."""
        return -2 * self.temperature * rho.mean(self.log_mean(rho.x, self.noise(rho.x, rng)))

    def stationary(self) -> Gaussian:
        r"""Return the law at which BRWP rests: :math:`N(c,\,\tau(H^{-1}-T^2MHM))`, whatever its step; for a quadratic potential.

        Its proximal has the covariance :math:`\tau H^{-1}` of the target itself.

        Raises
        ------
        BadInput
            For another potential, or where particles collapse: an eigenvalue a of :math:`M^{1/2}HM^{1/2}` with :math:`aT\ge1`, which is
            named.
        """
        V = self._quadratic
        if V is None:
            raise BadInput(f"the stationary law is known for a QuadraticPotential, not for {_name_of(self.potential)}")
        reason = collapse(V, self.time)
        if reason is not None:
            raise BadInput(reason)
        values, U = V.spectrum
        L = self._root_like(values)
        cov = self.temperature * L @ (U * (1 / values - self.time**2 * values)) @ U.mT @ L.mT
        return Gaussian(self._center_like(values), (cov + cov.mT) / 2)

    @cached_property
    def _quadratic(self) -> QuadraticPotential | None:
        """A quadratic potential in the coordinates of the metric; None for any other."""
        V, M = self.potential, self._metric
        if not isinstance(V, QuadraticPotential):
            return None
        return V if M is None else V.whitened(M)

    def _root_like(self, x: Tensor) -> Tensor:
        """The matrix L, the identity without a metric, for coordinates like ``x`` (d,)."""
        return self.color(torch.eye(len(x)).to(x)).mT

    def _center_like(self, x: Tensor) -> Tensor:
        """The center of a quadratic potential; raises ``BadInput`` unless ``x`` (d,) has its shape and precision."""
        V = cast(QuadraticPotential, self.potential)
        c = V.hessian.new_zeros(len(V.hessian)) if V.center is None else V.center
        if c.shape != x.shape or c.dtype != x.dtype:
            raise BadInput(
                f"QuadraticPotential: it is one of {len(c)} coordinates in {c.dtype}, and the Gaussian of {len(x)} in {x.dtype}"
            )
        return c


def _name_of(potential: Callable[[Points], Tensor]) -> str:
    return getattr(potential, "__name__", type(potential).__name__)


@checked
def rwpo(
    potential: Callable[[Points], Tensor],
    time: Positive,
    *,
    temperature: Positive | None = None,
    inv_temperature: Positive | None = None,
    normalizer: Normalizer | None = None,
    metric: Tensor | None = None,
) -> WassersteinProximal:
    r"""Return the regularized Wasserstein proximal operator, with its temperature said in either way.

    Parameters
    ----------
    potential, time : callable, float
        Of :class:`WassersteinProximal`.
    temperature, inv_temperature : float
        Exactly one of :math:`\tau` and :math:`\beta=1/\tau`: the target is :math:`e^{-V/\tau}=e^{-\beta V}`.
    normalizer, metric : optional
        Of :class:`WassersteinProximal`.

    Returns
    -------
    WassersteinProximal
        The operator.

    Raises
    ------
    BadInput
        Unless exactly one of the two is given.

    Examples
    --------
    >>> import torch
    >>> V = QuadraticPotential(torch.tensor([[1.0]]))
    >>> rwpo(V, 0.1, inv_temperature=4.0).temperature
    0.25
    """
    if (temperature is None) == (inv_temperature is None):
        raise BadInput(
            f"rwpo: expected exactly one of temperature (target exp(-V / temperature)) and inv_temperature (target exp(-inv_temperature "
            f"V)), got temperature={temperature} and inv_temperature={inv_temperature}"
        )
    tau = temperature if temperature is not None else 1 / inv_temperature  # type: ignore[operator]
    return WassersteinProximal(potential, time, temperature=tau, normalizer=normalizer, metric=metric)
