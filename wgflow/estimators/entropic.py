r"""Estimators that treat the entropy part of :math:`F=E+T\int\rho\log\rho` by a model of the density or of its score."""

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from wgflow.core.fields import Count, Positive
from wgflow.core.networks import called
from wgflow.core.outputs import same_shape
from wgflow.core.typing import Info, NetSource, Points, Scalar
from wgflow.estimators.base import Draw, Estimator, build_pointwise, linear, register_estimator
from wgflow.functionals import Functional
from wgflow.kernels import RBF
from wgflow.kernels.densities import DensityModel, KernelDensity
from wgflow.kernels.features import RadialKernel
from wgflow.measures import (
    Particles,
)
from wgflow.optim import Adam, Descent, Optim


class EntropyEstimator(Estimator):
    r"""A surrogate :math:`E(\rho)+T\,h(\rho)`, where :meth:`entropy` gives :math:`h` the derivatives of :math:`\int\rho\log\rho`.

    Examples
    --------
    The entropy of the Gaussian with the mean and variance of the points, :math:`-\tfrac12\log\mathrm{Var}` up to a constant: it pushes
    points apart, each by its distance from the mean over the variance.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.estimators import EntropyEstimator
    >>> @dataclass(frozen=True)
    ... class OfAGaussian(EntropyEstimator):
    ...     def entropy(self, rho, es):
    ...         x = rho.x[:, 0]
    ...         return -0.5 * rho.mean((x - rho.mean(x)).square()).log()
    >>> OfAGaussian().velocity(wg.Entropy(), wg.Particles(torch.tensor([[-2.0], [2.0]])), None).flatten()
    tensor([-0.5000,  0.5000])
    """

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

    So what decreases is a function of the particles, and every solver, also an implicit one, may minimize it.

    Parameters
    ----------
    density : DensityModel
        ``KernelDensity(RBF(eps))``, a rule in it (``NearestRBF()``), or ``Spacings()`` in one dimension.

    Notes
    -----
    For a target N(0, 1) and a kernel of variance :math:`\varepsilon^2` the best Gaussian has the variance
    :math:`q-\varepsilon^2,\ q=\tfrac12(1+\sqrt{1+4\varepsilon^2})`, that is :math:`1-O(\varepsilon^4)`. The minimizer
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

    kernel: RadialKernel

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

    whose minimizer is the score of :math:`\rho*N(0,\sigma^2I)`. The squared norm is summed over coordinates.

    Parameters
    ----------
    net : nn.Module or callable
        From (n, \*event) to (n, \*event); a module is copied, a function is called under the run's seed.
    noise : float
        :math:`\sigma`, a standard deviation. The estimated score is that of the smoothed law: a bias of order
        :math:`\sigma^2`, against a variance that grows as :math:`\sigma` falls.
    optim : Optim
        Its optimizer.
    iters : int
        Updates before each time step, each on a fresh batch and fresh noise.

    Notes
    -----
    The network and its optimizer persist along the flow. Source: Vincent (2011); for flows of particles Boffi and
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
        """Build the network and its optimizer."""
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
