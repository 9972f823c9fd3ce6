"""Models of the density of particles: what an entropy needs when nobody follows the density itself."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked
from wgflow.core.instead import suggest
from wgflow.core.placing import Placed
from wgflow.core.typing import Scalar
from wgflow.kernels import Kernel
from wgflow.kernels.features import RadialKernel
from wgflow.kernels.sums import kernel_sums
from wgflow.measures import Particles
from wgflow.numerics.distances import readable


class DensityModel(Checked, Placed, ABC):
    r"""A density :math:`\rho_\varepsilon` made from weighted particles, differentiable in positions and weights.

    Examples
    --------
    The density of one particle under a Gaussian kernel is that Gaussian: :math:`-\tfrac12\log2\pi` at its center.

    >>> import torch
    >>> import wgflow as wg
    >>> model = wg.KernelDensity(wg.RBF(1.0))
    >>> model.log_density(wg.Particles(torch.zeros(1, 1)))
    tensor([-0.9189])
    """

    goes_to = "a model of a density: give it to a functional or an estimator, Entropy(density) or Blob(density)"

    def fit(self, rho: Particles) -> "DensityModel":
        """Return the model with what a rule makes of the particles taken from ``rho``; itself when there is no rule."""
        return self

    @abstractmethod
    def expect(self, rho: Particles, f: Callable[[Tensor], Tensor]) -> Scalar:
        r"""Return :math:`E_\rho[f(\log\rho_\varepsilon)]` for an elementwise ``f``, a 0-d tensor."""


suggest(DensityModel, (Kernel, "Wrap the kernel: KernelDensity(kernel)"))


@dataclass(frozen=True)
class KernelDensity(DensityModel):
    r"""The mollified density :math:`\rho_\varepsilon(x)=\sum_jw_jK(x-x_j)/\int K`; a particle sees itself.

    Parameters
    ----------
    kernel : Kernel
        One with a known integral, such as ``RBF`` or a rule (``NearestRBF()``, ``MedianRBF()``); a rule is evaluated at
        the present particles and gets no gradient.

    Notes
    -----
    Cost: n² kernel values, and as many for the derivatives; memory O(n). The bandwidth must exceed the distance between
    particles: below it they do not see each other, and a flow contracts (Carrillo, Craig and Patacchini 2019).

    Examples
    --------
    >>> import torch
    >>> from wgflow.kernels import RBF
    >>> p = Particles(torch.tensor([[0.0], [1.0]]))
    >>> KernelDensity(RBF(1.0)).log_density(p).exp()
    tensor([0.3205, 0.3205])
    """

    kernel: RadialKernel

    def fit(self, rho: Particles) -> "KernelDensity":
        """Take the bandwidth from ``rho``."""
        kernel = self.kernel.fit(rho.x, rho.log_w)
        return self if kernel is self.kernel else KernelDensity(kernel)

    def log_density(self, rho: Particles, of: Particles | None = None) -> Tensor:
        r"""Log density at the particles of ``rho``, shape (n,), made from the particles ``of`` (``rho`` itself when None)."""
        of = rho if of is None else of
        kernel = self.kernel.fit(of.x, of.log_w)
        sums = kernel_sums(kernel, rho.x, of.x, of.w).clamp(min=torch.finfo(rho.x.dtype).tiny)
        return sums.log() - kernel.log_integral(rho.x[0].numel())

    def expect(self, rho: Particles, f: Callable[[Tensor], Tensor]) -> Scalar:
        """Return the mean of ``f`` over the particles."""
        return rho.mean(f(self.log_density(rho)))


@dataclass(frozen=True)
class Spacings(DensityModel):
    r"""In one dimension: mass between neighbors over their distance, constant on each gap.

    With sorted particles :math:`x_1<\dots<x_n` the gap :math:`g` has mass :math:`m_g=\tfrac12(w_g+w_{g+1})`, divided by their sum,
    and log density :math:`\log m_g-\log(x_{g+1}-x_g)`. No bandwidth; consistent as n grows, in the tails at the rate of
    about :math:`n^{-1/2}`. Coincident particles have an infinite density, without a slope.
    Weights of neighbors must be of one size: a light particle between heavy ones feels the mass of the gaps beside it, which is
    theirs, over its own.

    Under ``JKO`` it makes a step the convex quantile problem of one-dimensional transport, as long as the particles keep
    their order, which the exact step does. While one update of the minimizer evaluates it again and again, as the line
    searches of ``LBFGS`` and ``TridiagonalNewton`` do, it is infinite in any other order than the first. Explicit steps must
    be small against the squares of the gaps: ``solve`` reports a flow in which neighbors have passed each other as not
    converged. Cost O(n log n).

    Raises
    ------
    BadInput
        For points of more than one coordinate, or fewer than two particles. On a CPU also where a slope is asked for and two
        particles are at one place.

    Examples
    --------
    Particles at equal distances 1/2 on [0, 1] have the uniform density, so the entropy :math:`\int\rho\log\rho` is 0.

    >>> import torch
    >>> import wgflow as wg
    >>> rho = wg.Particles(torch.tensor([[0.0], [0.5], [1.0]]))
    >>> wg.Spacings().expect(rho, lambda log_density: log_density).item()
    0.0
    """

    @property
    def _starts(self) -> bool:
        """Whether this is not a trial of a minimizer, which turns back from infinity."""
        return True

    def expect(self, rho: Particles, f: Callable[[Tensor], Tensor]) -> Scalar:
        """Return the mean of ``f`` over the gaps."""
        if rho.x[0].numel() != 1 or len(rho) < 2:
            raise BadInput(
                f"Spacings needs at least two particles with one coordinate each, got {tuple(rho.x.shape)}. Use "
                "KernelDensity(RBF(bandwidth)) in more dimensions."
            )
        x, order = rho.x.flatten().sort()
        w = rho.w[order]
        mass = (w[1:] + w[:-1]) / 2
        mass = mass / mass.sum()
        void = mass == 0  # a gap between particles without mass counts for nothing
        m, gap = (torch.where(void, 1.0, t) for t in (mass, x[1:] - x[:-1]))
        if x.requires_grad and self._starts and readable(gap.detach()) and not bool(gap.detach().all()):
            k = int((gap == 0).nonzero()[0])
            i, j, place = int(order[k]), int(order[k + 1]), float(x[k].detach())
            raise BadInput(
                f"Spacings: particles {i} and {j} are at the same place, {place:g}, where the "
                "density is infinite and no slope leads on. Move duplicates apart (jitter the start), or use KernelDensity."
            )
        return (mass * f(m.log() - gap.log())).sum()

    def fit(self, rho: Particles) -> "Spacings":
        """Return the model that holds to the order in which it will first see particles: one minimization keeps it."""
        return _InOrder()


@dataclass(frozen=True)
class _InOrder(Spacings):
    first: list[Tensor] = field(default_factory=list)

    @property
    def _starts(self) -> bool:
        return not self.first

    def expect(self, rho: Particles, f: Callable[[Tensor], Tensor]) -> Scalar:
        """Return the mean of ``f`` over the gaps; infinity where particles have passed each other."""
        value, x = super().expect(rho, f), rho.x.detach().flatten()
        if not self.first:
            self.first.append(x.argsort())
        return torch.where((x[self.first[0]].diff() >= 0).all(), value, math.inf)
