r"""Estimators that treat the entropy part of :math:`F=E+T\int\rho\log\rho` by a model of the density or of its score."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from wgflow.core.fields import Count, Positive
from wgflow.core.networks import called
from wgflow.core.outputs import same_shape
from wgflow.core.typing import Info, NetSource, Points, Scalar
from wgflow.estimators.base import Draw, Estimator, build_pointwise, energy_slope, linear, register_estimator
from wgflow.functionals import Functional
from wgflow.functionals.algebra import linear_part
from wgflow.kernels import RBF, Kernel
from wgflow.kernels.densities import DensityModel, KernelDensity
from wgflow.measures import (
    ExactPotential,
    MonteCarloNormalizer,
    Normalizer,
    Particles,
    QuadraticPotential,
    WassersteinProximal,
)
from wgflow.measures.normalizers import KnownNormalizer
from wgflow.measures.wasserstein_proximal import collapse
from wgflow.numerics.metric import Metric
from wgflow.optim import Adam, Descent, Optim


class EntropyEstimator(Estimator):
    r"""A surrogate :math:`E(\rho)+T\,h(\rho)`, where :meth:`entropy` gives :math:`h` the derivatives of :math:`\int\rho\log\rho`."""

    splits_entropy = True

    @abstractmethod
    def entropy(self, rho: Particles, es: Any) -> Scalar:
        r"""Return :math:`h(\rho)`, a 0-d tensor differentiable in ``rho.x``, and in ``rho.log_w`` if it ``gives_potential``."""

    def refuses(self, F: Functional) -> str | None:
        """Refuse a functional without an entropy to model."""
        if F.split_entropy()[1] > 0:
            return None
        what = f"{type(F).__name__} has none that can be split off, or the solver takes it"
        return f"{type(self).__name__} models the entropy of a functional, and {what}. Use Autograd()."

    def surrogate(self, F: Functional, rho: Particles, es: Any) -> Scalar:
        r"""Return :math:`E(\rho)+T\,h(\rho)`."""
        energy, temperature = F.split_entropy()
        entropy = temperature * self.entropy(rho, es)
        return entropy if energy is None else energy.value(rho) + entropy


@register_estimator("blob")
@dataclass(frozen=True)
class Blob(EntropyEstimator):
    r"""The blob method: the entropy of a mollified density, :math:`h=\int\log(K_\varepsilon*\rho)\,d\rho`, differentiated exactly.

    .. math:: \nabla\tfrac{\delta h}{\delta\rho}(x_i)=\sum_jw_j\nabla K_{ij}\Bigl(\frac1{s_i}+\frac1{s_j}\Bigr),\qquad s_i=\sum_jw_jK_{ij}.

    So what decreases is a function of the particles, and every solver, also an implicit one, may minimise it.

    Parameters
    ----------
    density : DensityModel
        ``KernelDensity(RBF(eps))``, a rule in it (``NearestRBF()``), or ``Spacings()`` in one dimension.

    Notes
    -----
    For a target N(0, 1) and a kernel of variance :math:`\varepsilon^2` the best Gaussian has the variance
    :math:`q-\varepsilon^2,\ q=\tfrac12(1+\sqrt{1+4\varepsilon^2})`, that is :math:`1-O(\varepsilon^4)`. The minimiser
    among all laws is near it and clusters: at :math:`\varepsilon=1` three atoms of variance .593, where the best Gaussian
    has .618.
    Cost: n² kernel values twice, and two products of n² d; from 24 coordinates on one. Source: Carrillo, Craig and
    Patacchini (2019).

    Examples
    --------
    Two particles at distance r under ``RBF(1)``: the entropy pushes each outward by :math:`r\,k/(\tfrac12(1+k))\cdot\tfrac12`,
    :math:`k=e^{-r^2/2}`.

    >>> import math
    >>> import torch
    >>> import wgflow as wg
    >>> rho, k = wg.Particles(torch.tensor([[-0.5], [0.5]])), math.exp(-0.5)
    >>> wg.Blob(wg.KernelDensity(wg.RBF(1.0))).velocity(wg.Entropy(), rho, None).flatten(), 2 * k / (1 + k)
    (tensor([-0.7551,  0.7551]), 0.7550813375962909)
    """

    density: DensityModel

    def fit(self, rho: Particles) -> "Blob":
        """Take the bandwidth from ``rho``."""
        return Blob(self.density.fit(rho))

    @classmethod
    def example(cls) -> "Blob":
        """Return a tiny instance."""
        return cls(KernelDensity(RBF(1.0)))

    def entropy(self, rho: Particles, es: Any) -> Scalar:
        r"""Return :math:`E_\rho\log\rho_\varepsilon`."""
        return self.density.expect(rho, lambda log_rho: log_rho)


@register_estimator("kde")
@dataclass(frozen=True)
class KDEScore(EntropyEstimator):
    r"""The score of a kernel density estimate, :math:`\nabla\log\sum_jw_jK(x-x_j)` (GFSD): half of what the blob method has.

    Not the gradient of a function of the particles, so energies need not decrease. For a target N(0, 1) and a kernel of
    variance :math:`\varepsilon^2` the stationary variance is :math:`1-\varepsilon^2`.

    Parameters
    ----------
    kernel : Kernel
        One that ``KernelDensity`` takes.

    Notes
    -----
    Cost: n² kernel values twice. Source: Liu, Zhuo, Cheng, Zhang and Zhu (2019).

    Examples
    --------
    Half of the push that :class:`Blob` has:

    >>> import math
    >>> import torch
    >>> import wgflow as wg
    >>> rho, k = wg.Particles(torch.tensor([[-0.5], [0.5]])), math.exp(-0.5)
    >>> wg.KDEScore(wg.RBF(1.0)).velocity(wg.Entropy(), rho, None).flatten(), k / (1 + k)
    (tensor([-0.3775,  0.3775]), 0.37754066879814546)
    """

    kernel: Kernel

    is_function = False

    @classmethod
    def example(cls) -> "KDEScore":
        """Return a tiny instance."""
        return cls(RBF(1.0))

    def entropy(self, rho: Particles, es: Any) -> Scalar:
        """Return the mean log density, with the particles that the density is made of held fixed."""
        fixed = replace(rho, x=rho.x.detach(), log_w=None if rho.log_w is None else rho.log_w.detach())
        return rho.mean(KernelDensity(self.kernel).log_density(rho, fixed))


@dataclass(eq=False)
class ScoreState:
    """A score network in training."""

    net: nn.Module
    descent: Descent


@register_estimator("learned_score")
@dataclass(frozen=True)
class LearnedScore(EntropyEstimator):
    r"""A network :math:`s` trained along the flow by denoising score matching.

    .. math:: \min_s\ E_{x\sim\rho,\,\xi\sim N(0,I)}\lVert\sigma\,s(x+\sigma\xi)+\xi\rVert^2,

    whose minimiser is the score of :math:`\rho*N(0,\sigma^2I)`. The squared norm is summed over coordinates.

    Parameters
    ----------
    net : nn.Module or callable
        From (n, \*event) to (n, \*event); a module is copied, a function is called under the run's seed.
    noise : float
        :math:`\sigma`, a standard deviation. The estimated score is that of the smoothed law: a bias of order
        :math:`\sigma^2`, against a variance that grows as :math:`\sigma` falls.
    optim : Optim
        Its optimiser.
    iters : int
        Updates before each time step, each on a fresh batch and fresh noise.

    Notes
    -----
    The network and its optimiser persist along the flow. Source: Vincent (2011); for flows of particles Boffi and
    Vanden-Eijnden (2023). There is no log density to read: reactions need another estimator.

    Examples
    --------
    A linear network, which can be the score of a Gaussian:

    >>> import torch
    >>> import wgflow as wg
    >>> learned = wg.LearnedScore(torch.nn.Linear(1, 1), optim=wg.Adam(0.05), iters=50)
    >>> start = wg.Particles(2 + torch.randn(200, 1, generator=torch.Generator().manual_seed(0)))
    >>> flow = wg.solve(wg.KL(wg.StandardNormal(1)), wg.ForwardEuler(learned), start, step_size=0.2, num_steps=10)
    >>> flow.measure.x.mean().abs() < 0.5
    tensor(True)
    """

    net: NetSource
    noise: Positive = 0.1
    optim: Optim = field(default_factory=lambda: Adam(1e-3, (0.9, 0.999)))
    iters: Count = 20

    gives_potential = False
    is_function = False
    reference = ("vincent2011connection", "boffi2023probability")

    @classmethod
    def example(cls) -> "LearnedScore":
        """Return a tiny instance."""
        return cls(lambda: nn.Linear(2, 2))

    def init(self, F: Functional, rng: torch.Generator) -> ScoreState:
        """Build the network and its optimiser."""
        net = build_pointwise(self.net, rng, "score network")
        return ScoreState(net, self.optim.build(net.parameters()))

    def refine(self, F: Functional, draw: Draw, es: ScoreState, rng: torch.Generator) -> Info:
        """Train on fresh batches; reports the last loss."""
        loss = torch.zeros(())
        for _ in range(self.iters):
            rho = draw(rng)
            xi = torch.randn(rho.x.shape, generator=rng, device=rho.x.device, dtype=rho.x.dtype)

            def objective(rho: Particles = rho, xi: Tensor = xi) -> Scalar:
                nonlocal loss
                residual = self.noise * self._score(es, rho.x + self.noise * xi) + xi
                loss = rho.mean(residual.square().flatten(1).sum(1))
                return loss

            es.descent.minimise(objective)
        return {"score/loss": loss.detach()}

    def entropy(self, rho: Particles, es: ScoreState) -> Scalar:
        """Return the linear function whose slope is the network's score."""
        with torch.no_grad():
            slope = self._score(es, rho.x.detach())
        return linear(rho, slope)

    @staticmethod
    def _score(es: ScoreState, x: Points) -> Points:
        return same_shape(called(es.net, "the score network", x), x, "a score network")


@dataclass(eq=False)
class ProximalState:
    r"""The normal draws (samples, \*event) that estimate the normaliser in this time step."""

    noise: Tensor | None = None


@register_estimator("proximal_score")
@dataclass(frozen=True, eq=False)
class ProximalScore(Estimator):
    r"""The score of the regularised Wasserstein proximal of the particles: one step ahead, in closed form (BRWP).

    For :math:`F=\int V\,d\rho+\tau\int\rho\log\rho` let :math:`\rho_T` be the regularised Wasserstein proximal of :math:`\rho` over a time
    :math:`T`, a mixture of the kernels :math:`K(x,y)\propto_x\exp\{-(V(x)+|x-y|^2/2T)/2\tau\}`. Then

    .. math::
        v(x_i)=-\nabla V-\tau\nabla\log\rho_T=-\tfrac12\nabla V(x_i)+\tfrac1{2T}\Bigl(x_i-\sum_jp_{ij}x_j\Bigr),\qquad
        p_{ij}\propto_jw_j\exp\Bigl\{-\frac{|x_i-x_j|^2}{4\tau T}-\log Z(x_j)\Bigr\}.

    Parameters
    ----------
    time : float
        :math:`T`, the regularisation (not the step size). For a quadratic V with Hessian A the stationary covariance is
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
    gives_potential = False
    is_function = False
    reference = ("tan2024noise", "tan2025preconditioned", "li2023kernel")

    def __post_init__(self) -> None:
        _ = self._metric  # looks at it

    @cached_property
    def _metric(self) -> Metric | None:
        return None if self.metric is None else Metric(self.metric)

    @cached_property
    def _whitened(self) -> Any:
        """A potential that knows its normaliser, in the coordinates of the metric: found once, not in every step."""
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
        """Renew the draws of the normaliser."""
        normalizer = self._normalizer(1.0)
        if normalizer.draws:
            es.noise = normalizer.noise(draw(rng).x[:1], rng)
        return {}

    def surrogate(self, F: Functional, rho: Particles, es: ProximalState) -> Scalar:
        """Return the linear function with this velocity."""
        energy, temperature = F.split_entropy()
        assert energy is not None, "why_not() asks for a potential energy"
        step, x = self._step(energy, temperature), rho.x.detach()
        with torch.no_grad():
            log_mean = step.log_mean(x, es.noise if step.rule.draws else None)
            pull = (step.pulls(x, rho, log_mean) / (2 * self.time)).to(x.dtype)
        slope, M = energy_slope(energy, rho), self._metric
        return linear(rho, 0.5 * (slope if M is None else M.apply(slope)) - pull)

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
