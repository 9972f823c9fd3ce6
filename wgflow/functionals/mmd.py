"""Maximum mean discrepancies."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, checked
from wgflow.core.typing import Points, Scalar
from wgflow.functionals.base import Functional, drawn, register_functional
from wgflow.kernels import RBF, Kernel, Riesz
from wgflow.kernels.base import tensors_of
from wgflow.kernels.features import by_features
from wgflow.kernels.stacked import stacked_energy
from wgflow.kernels.sums import kernel_discrepancy, kernel_energy, kernel_sums
from wgflow.measures import Measure, Particles, Stack, StandardNormal
from wgflow.numerics.cache import remember


@register_functional("squared_mmd")
@dataclass(frozen=True)
class SquaredMMD(Functional):
    r"""The squared maximum mean discrepancy, :math:`\mathrm{MMD}^2(\rho,\nu)=\iint k\,d(\rho-\nu)\,d(\rho-\nu)`.

    The flow of the literature is that of **half** of it: ``0.5 * SquaredMMD(target, kernel)``, whose first variation is the
    witness :math:`\int k(x,\cdot)\,d\rho-\int k(x,\cdot)\,d\nu` (Arbel et al. 2019).

    Parameters
    ----------
    target : Measure
        :math:`\nu`; weighted particles are taken as they are.
    kernel : Kernel
        Characteristic: ``RBF``, sums of several of them, ``Laplace``, ``InverseMultiquadric``, ``Matern``, ``Riesz``. A rule
        (``MedianRBF()``) is evaluated at the particles, so the functional then changes along the flow; an implicit step holds it.
        Up to a stated error ``RandomFourierFeatures`` and ``Nystrom`` stand for one at a cost linear in the points.
    batch : int, optional
        Target points in one realization, drawn anew in every step, by weight. By default all of a finite target and 256 draws of one with
        infinitely many (:class:`Functional`).
    pairs : {"distinct"}, optional
        Leave out the pairs of a point with itself, :math:`\sum_{i\ne i'}w_iw_{i'}k(x_i,x_{i'})/(1-\sum_iw_i^2)`: the U-statistic, whose
        mean over batches is the squared MMD of the laws that they are drawn from. It may be negative. (Draws by weight repeat an
        atom of more than 1/n of the mass evenly, and not independently: with such atoms the mean is too small by O(1/n).) For
        particles that are the law themselves all pairs count, as by default.

    Notes
    -----
    By default the V-statistic: all pairs count, also a particle with itself. Cost: n²/2 + n m kernel values, value and gradient in one
    sweep (the target's own term is remembered while the batch is the same); memory O(n + m). In one dimension
    ``Riesz(1)`` is done by sorting, O((n + m) log(n + m)). RBF forces vanish far away, which stalls or freezes modes: take a
    sum of bandwidths or a Riesz kernel, or add evaluation noise.

    Raises
    ------
    BadInput
        For a kernel whose MMD is not a distance; for distinct pairs of a single point, or with a kernel of features.

    Examples
    --------
    >>> import torch
    >>> from wgflow.kernels import RBF
    >>> nu = Particles(torch.tensor([[0.0, 0.0]]))
    >>> SquaredMMD(nu, RBF(1.0)).value(Particles(torch.tensor([[2.0, 0.0]])))  # 2 - 2 exp(-2)
    tensor(1.7293)
    """

    target: Measure
    kernel: Kernel
    batch: Count | None = None
    pairs: Literal["distinct"] | None = None

    needs_samples = True
    reference = ("arbel2019maximum",)

    def __post_init__(self) -> None:
        if not self.kernel.characteristic:
            raise BadInput(
                f"kernel={self.kernel}: its MMD is not a distance. Use RBF, Laplace, InverseMultiquadric, Matern or Riesz, or "
                "sums of them with positive factors."
            )
        if self.pairs is not None and by_features(self.kernel):
            raise BadInput(f"pairs='distinct' needs a kernel of the distance, and {self.kernel} is one of features")

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`\sum w_iw_{i'}k(x_i,x_{i'})-2\sum w_ib_jk(x_i,y_j)+\sum b_jb_{j'}k(y_j,y_{j'})`."""
        nu, k = drawn(self.target), self.kernel.fit(rho.x, rho.log_w)

        def target_term() -> Scalar:
            return kernel_energy(k, nu.x, nu.w)

        known_by = (nu.x, nu.log_w, *tensors_of(k)) if k is self.kernel else None
        own = target_term() if known_by is None else remember(k, known_by, target_term)
        if self.pairs is None:
            return (kernel_discrepancy(k, rho.x, rho.w, nu.x, nu.w, known_by) + own).to(rho.x.dtype)
        across = kernel_energy(k, rho.x, rho.w, nu.x, nu.w)
        ours, theirs = _distinct(k, kernel_energy(k, rho.x, rho.w), rho), _distinct(k, own, nu)
        return (ours - 2 * across + theirs).to(rho.x.dtype)

    def values(self, clouds: Stack) -> Tensor:
        """Return the values at B clouds, (B,); of several the kernel matrices are formed at once, and smaller than in blocks."""
        if len(clouds) == 1 or self.pairs is not None:
            return super().values(clouds)
        nu, pool = self.target, clouds.pooled()
        k = self.kernel.fit(pool.x, pool.log_w)
        assert isinstance(nu, Stack)
        own = stacked_energy(k, clouds.x, clouds.w, clouds.x, clouds.w)
        return own - 2 * stacked_energy(k, clouds.x, clouds.w, nu.x, nu.w) + stacked_energy(k, nu.x, nu.w, nu.x, nu.w)

    def contrast(self, other: Particles) -> Functional:
        r"""Return :math:`2\int(k*\rho'-k*\nu)\,d\rho`, without the self terms, which cancel."""
        return Functional.contrast(_Attraction(self.target, self.kernel, self.batch), other)

    def witness_at(self, rho: Particles, x: Points) -> Tensor:
        r"""Return :math:`\int k(x,\cdot)\,d\rho-\int k(x,\cdot)\,d\nu` at any points, shape (len(x),), differentiable in ``x``."""
        nu, k = drawn(self.target), self.kernel.fit(rho.x, rho.log_w)
        return kernel_sums(k, x, rho.x.detach(), rho.w.detach()) - kernel_sums(k, x, nu.x, nu.w)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> Self:
        """Return the one to a standard normal, with two bandwidths."""
        return cls(StandardNormal(*event_shape), RBF(0.5) + RBF(2.0), batch=32)


def _distinct(k: Kernel, energy: Scalar, p: Particles) -> Scalar:
    """Return a sum over all pairs of a cloud without those of a point with itself, per mass of the pairs that are left."""
    if len(p) < 2:
        raise BadInput("pairs='distinct' needs two points at least: there is one")
    w = p.w.double()
    itself = w.square().sum()
    return (energy - k.profile(torch.zeros_like(itself)) * itself) / (1 - itself)


@dataclass(frozen=True)
class _Attraction(SquaredMMD):
    r"""The part :math:`-2\iint k\,d\rho\,d\nu` of the square, linear in :math:`\rho`."""

    def value(self, rho: Particles) -> Scalar:
        nu, k = drawn(self.target), self.kernel.fit(rho.x, rho.log_w)
        return -2 * kernel_energy(k, rho.x, rho.w, nu.x, nu.w).to(rho.x.dtype)

    def values(self, clouds: Stack) -> Tensor:
        if len(clouds) == 1:
            return Functional.values(self, clouds)
        nu, pool = self.target, clouds.pooled()
        k = self.kernel.fit(pool.x, pool.log_w)
        assert isinstance(nu, Stack)
        return -2 * stacked_energy(k, clouds.x, clouds.w, nu.x, nu.w)


@register_functional("mmd")
@dataclass(frozen=True)
class MMD(SquaredMMD):
    r"""The maximum mean discrepancy itself, :math:`\mathrm{MMD}(\rho,\nu)`: forces of constant size until the end.

    Its gradient is that of the square over :math:`2\,\mathrm{MMD}`, 0 by convention at :math:`\rho=\nu`; with a constant step the
    flow oscillates there.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F = MMD(wg.Particles(torch.zeros(1, 1)), wg.Riesz())
    >>> F.value(wg.Particles(torch.tensor([[2.0]])))  # the root of 2 |x - y|
    tensor(2.)
    """

    def contrast(self, other: Particles) -> Functional:
        """Return the difference of the two roots: nothing cancels."""
        return Functional.contrast(self, other)

    def values(self, clouds: Stack) -> Tensor:
        """Return the roots of the squares."""
        return _root(super().values(clouds))

    def value(self, rho: Particles) -> Scalar:
        """Return the root of the square, whose gradient is cut off where the square is 0 or, by rounding, less."""
        return _root(super().value(rho))


def _root(square: Tensor) -> Tensor:
    return square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()


@checked
def EnergyDistance(target: Measure, batch: Count | None = None) -> SquaredMMD:
    r"""Return :math:`2E|X-Y|-E|X-X'|-E|Y-Y'|`, the squared MMD of the kernel :math:`-|x-y|`.

    ``0.5 * EnergyDistance(target)`` has unit forces :math:`-E\frac{x-X}{|x-X|}` between particles (Hertrich et al. 2024).

    Parameters
    ----------
    target : Measure
        :math:`\nu`, drawn from.
    batch : int, optional
        As for :class:`SquaredMMD`.

    Returns
    -------
    SquaredMMD
        With the kernel ``Riesz(1)``.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> F = EnergyDistance(wg.Particles(torch.zeros(1, 1)))
    >>> F.value(wg.Particles(torch.tensor([[3.0]])))  # 2 |3 - 0|
    tensor(6.)
    """
    return SquaredMMD(target, Riesz(1.0), batch)
