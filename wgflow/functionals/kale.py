"""The KALE divergence: a regularized KL between samples."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wgflow.core.brief import Brief
from wgflow.core.context import full_precision
from wgflow.core.fields import Count, Positive
from wgflow.core.inner import report
from wgflow.core.typing import Points, Scalar
from wgflow.functionals.base import Functional, drawn, register_functional
from wgflow.kernels import RBF, Kernel
from wgflow.kernels.features import check_positive_definite
from wgflow.kernels.sums import by_terms, kernel_energy, kernel_sums
from wgflow.measures import Measure, Particles, StandardNormal

_TOLERANCE = 1e-6
"""Duality gap over one plus the value above which a solution counts as not converged."""
_SHARES, _LENGTHS, _SHORTER = (2.0, 1e-2, 1e-4, 1e-8, 0.0), 5, 0.25
"""Shares and lengths of a Newton step that are tried: so many lengths, with that ratio."""


@dataclass(frozen=True, repr=False)
class KALESolution(Brief):
    r"""What the inner problem found.

    Attributes
    ----------
    value : Tensor
        KALE, 0-d.
    ratio : Tensor, shape (m,)
        :math:`\alpha_j/b_j=e^{h^*(y_j)}`: the density ratio at the target's points.
    gap : Tensor
        Duality gap, 0-d, nonnegative: the value is that far from the supremum at most.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> points = wg.Particles(torch.tensor([[0.0], [1.0]]))
    >>> found = wg.KALE(points, wg.RBF(1.0)).solve(points)
    >>> abs(found.value.item()) < 1e-6, found.ratio.shape, found.gap.item() < 1e-6
    (True, torch.Size([2]), True)
    """

    value: Tensor
    ratio: Tensor
    gap: Tensor


@register_functional("kale")
@dataclass(frozen=True)
class KALE(Functional):
    r"""KALE, a lower bound of KL between samples that a kernel regularizes.

    .. math::
        \mathrm{KALE}_\lambda(\rho|\nu)=(1+\lambda)\sup_h\Bigl\{1+E_\rho h-E_\nu e^h-\tfrac\lambda2\lVert h\rVert_{\mathcal H}^2\Bigr\}.

    KL as :math:`\lambda\to0`, half the squared MMD as :math:`\lambda\to\infty`; finite for disjoint supports. The first variation is
    :math:`(1+\lambda)h^*`. Source: Glaser, Arbel and Gretton (2021).

    Parameters
    ----------
    target : Measure
        :math:`\nu`, drawn from.
    kernel : Kernel
        Of the space :math:`\mathcal H`.
    penalty : float
        :math:`\lambda`, positive. Rounding of the kernel is divided by it: in float32 the value is good to about :math:`10^{-7}/\lambda`.
    iterations : int
        Newton steps of the inner problem; 10 to 20 reach rounding. A duality gap above :math:`10^{-6}(1+\text{value})` is reported as
        ``kale/unconverged``.
    batch : int, optional
        Target points in one realization, drawn anew in every step, by weight. By default all of a finite target and 256 draws of one with
        infinitely many (:class:`Functional`).

    Raises
    ------
    BadInput
        For a kernel that is not positive definite.

    Notes
    -----
    The inner problem lives on the m target points and is solved there by Newton's method with a line search on the convex dual, in
    float64 and without reading the device. Cost: n m kernel values twice and O(m³) an inner step, memory O(n + m²).

    Examples
    --------
    Between laws far apart, where KL of samples is infinite, it is finite:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.KALE(wg.Particles(torch.zeros(1, 1)), wg.RBF(1.0))
    >>> F.value(wg.Particles(torch.tensor([[100.0]]))).isfinite(), F.value(wg.Particles(torch.zeros(1, 1)))
    (tensor(True), tensor(0.))
    """

    target: Measure
    kernel: Kernel
    penalty: Positive = 0.1
    iterations: Count = 30
    batch: Count | None = None

    needs_samples = True
    reference = ("glaser2021kale",)

    def __post_init__(self) -> None:
        check_positive_definite(type(self), self.kernel)

    def solve(self, rho: Particles) -> KALESolution:
        """Solve the inner problem for these particles; nothing is differentiated."""
        with torch.no_grad(), full_precision(rho.device):
            return self._solve(rho)[0]

    def value(self, rho: Particles) -> Scalar:
        r"""Return KALE; its derivatives are those of :math:`(1+\lambda)E_\rho h^*` with :math:`h^*` held fixed."""
        nu = drawn(self.target)
        with torch.no_grad(), full_precision(rho.device):
            found, kernel, alpha = self._solve(rho)
        # h*(x) = (int k(x,.) d rho - sum_j alpha_j k(x,y_j)) / lambda, as a function of x alone.
        own = kernel_sums(kernel, rho.x, rho.x.detach(), rho.w.detach())
        h = (own - kernel_sums(kernel, rho.x, nu.x, alpha)) / self.penalty
        linear = (1 + self.penalty) * (rho.w * h).sum()
        return found.value + linear - linear.detach()

    def _solve(self, rho: Particles) -> tuple[KALESolution, Kernel, Tensor]:
        nu, lam = drawn(self.target), self.penalty
        kernel = self.kernel.fit(rho.x, rho.log_w)
        # In float64: rounding of the matrix is divided by the penalty.
        K = _matrix(kernel, nu.x.double())
        log_b = (torch.zeros_like(K[0]) if nu.log_w is None else nu.log_w.double()).log_softmax(0)
        m = kernel_sums(kernel, nu.x, rho.x, rho.w).double()
        rho_rho = kernel_energy(kernel, rho.x, rho.w).double()
        h = _maximise(K, log_b, m, lam, self.iterations)
        alpha = (log_b + h).exp()
        at_nu = (m - K @ alpha) / lam
        g = h - at_nu
        # Two ways to write one sum of nonnegative terms: exact near 0, and without overflow away from it.
        near, far = alpha * (g + torch.expm1(-g)), alpha * (g - 1) + (log_b + at_nu).exp()
        gap = torch.where(g.abs() < 1, near, far).sum()
        square = (rho_rho - 2 * alpha @ m + alpha @ K @ alpha) / lam**2  # |h|^2 of h = (mu_rho - sum alpha k) / lambda
        dual = 1 + alpha @ (h - 1) + lam / 2 * square
        # At h = 0 it is 0, so that what rounding puts below is known to be wrong.
        value = ((1 + lam) * (dual - gap)).clamp(min=0)
        report("kale", (1 + lam) * gap / (1 + value), _TOLERANCE, "Raise iterations or penalty.")
        dtype = rho.x.dtype
        return KALESolution(value.to(dtype), h.exp().to(dtype), ((1 + lam) * gap).to(dtype)), kernel, alpha.to(dtype)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> Self:
        """Return the one to a standard normal."""
        return cls(StandardNormal(*event_shape), RBF(1.0), batch=16)


@by_terms
def _matrix(kernel: Kernel, y: Points) -> Tensor:
    return kernel(y, y)


def _maximise(K: Tensor, log_b: Tensor, m: Tensor, lam: float, iterations: int) -> Tensor:
    r"""Return h at the target's points with :math:`\lambda h+K(be^h)=m`, by Newton's method, without waiting for the device.

    It minimizes :math:`\alpha\log(\alpha/b)-\alpha+(\alpha K\alpha-2\alpha m)/2\lambda`, convex in :math:`\alpha=be^h`. A step is
    straight in :math:`\alpha`, in which the stiff part is quadratic, as far as all stay positive; but straight in h for those
    that hold less than a share of the mass, for which the equation is linear. Of several shares and lengths the one with the
    least value is taken.
    """
    eye, rounding = torch.eye(len(m), dtype=K.dtype, device=K.device), 16 * torch.finfo(K.dtype).eps
    shares = torch.tensor(_SHARES, dtype=K.dtype, device=K.device)
    lengths = _SHORTER ** torch.arange(_LENGTHS, dtype=K.dtype, device=K.device)

    def dual(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, roundings and slopes in alpha for the columns of h."""
        alpha = (log_b[:, None] + h).exp()
        K_alpha, free = K @ alpha, alpha * (h - 1)
        linear, square = alpha * m[:, None] / lam, alpha * K_alpha / (2 * lam)
        size = (free.abs() + linear.abs() + square.abs()).sum(0)
        return (free - linear + square).sum(0), rounding * size, h - (m[:, None] - K_alpha) / lam

    h = torch.zeros_like(m)
    for _ in range(iterations):
        value, error, slope = dual(h[:, None])
        alpha, slope = (log_b + h).exp(), slope[:, 0]
        if not K.is_cuda and bool((alpha * slope.square()).sum() <= 1e-24):  # a CPU need not be waited for
            break
        root = alpha.sqrt()
        L = torch.linalg.cholesky_ex(lam * eye + root[:, None] * K * root)[0]
        z = torch.cholesky_solve((-lam * root * slope)[:, None], L)
        step = -slope - (K @ (root[:, None] * z))[:, 0] / lam
        # Cells, shares, lengths.
        curved = alpha[:, None] > shares * alpha.sum()
        reach = (-0.99 / torch.where(curved, step[:, None], 0.0).amin(0).clamp(max=-1e-300)).clamp(max=1.0)
        t = step[:, None, None] * reach[:, None] * lengths
        bent = t.clamp(min=-0.999).log1p()
        # What holds less than a share comes up straight as well, as far as that share.
        room = (shares * alpha.sum()).log() - (log_b + h)[:, None]
        light = torch.where(t > 0, torch.minimum(t, room[:, :, None]).maximum(bent), t)
        tried = torch.where(curved[:, :, None], bent, light).flatten(1) + h[:, None]
        found = dual(tried)[0].nan_to_num(torch.inf)
        # Of those that are equal up to rounding the first, which is the longest.
        best = (found <= found.amin() + error).double().argmax()
        h = torch.where(found[best] <= value + error, tried[:, best], h)
    return h
