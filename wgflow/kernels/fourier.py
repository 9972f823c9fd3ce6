"""Random Fourier features of a radial kernel."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from wgflow.core.fields import Count, Whole
from wgflow.core.ranks import Shares, shares
from wgflow.core.rng import generator
from wgflow.core.typing import Points
from wgflow.kernels.base import register_kernel
from wgflow.kernels.features import FeatureKernel, RadialKernel, at_one_place
from wgflow.kernels.gaussian import RBF
from wgflow.numerics.distances import middle, tiles
from wgflow.numerics.once import Derivatives, differentiable_once

_SCALES = 6
"""Normals of which the length of a frequency is made."""


@register_kernel("random_fourier")
@dataclass(frozen=True)
class RandomFourierFeatures(FeatureKernel):
    r"""A radial kernel by random frequencies, :math:`\hat k(x,y)=\frac{\kappa(0)}m\sum_{j=1}^m\cos\langle\omega_j,x-y\rangle`.

    The 2m features are :math:`\sqrt{\kappa(0)/m}\,(\cos\langle\omega_j,x\rangle,\sin\langle\omega_j,x\rangle)`, with :math:`\omega_j`
    drawn from the law whose characteristic function is :math:`\kappa/\kappa(0)`: normal for ``RBF``, Student's for ``Matern``. The mean
    of :math:`\hat k` over seeds is the kernel (Rahimi and Recht 2007).

    Parameters
    ----------
    kernel : Kernel
        ``RBF``, ``Matern``, ``InverseMultiquadric``, a sum of these with positive factors, or a rule for a bandwidth.
    frequencies : int
        m.
    seed : int
        Of the frequencies, drawn on the CPU: one object is the same function on every device, along a whole flow and in a resumed one.

    Raises
    ------
    BadInput
        For a kernel that is not positive definite.
    Unsupported
        For one without random frequencies of finite variance, such as ``Laplace``, whose forces they would drown in noise.

    Notes
    -----
    Cost n m (d + 1) per sum and as much again for its derivatives, memory that of the points and one block. Over seeds, for points and
    laws that do not depend on the seed:

    * The error of one pair is at most :math:`\kappa(0)\sqrt{2\log(2/\delta)/m}` with probability :math:`1-\delta` (Hoeffding).
    * The squared MMD is a mean over frequencies of numbers between 0 and :math:`4\kappa(0)`. It is right on average, with a root mean
      square error of at most :math:`2\,\mathrm{MMD}\sqrt{\kappa(0)/m}`. The sharper bounds are those of Sutherland and Schneider (2015).
    * The root mean square error of a force of ``0.5 * SquaredMMD(target, kernel)`` is at most
      :math:`2\sqrt{-2d\,\kappa(0)\kappa'(0)/m}`, which is :math:`2\sqrt{d/m}/\sigma` for ``RBF``.

    A flow brings its particles to where the features agree, and these laws depend on the seed. What holds for all laws at once on a
    bounded set is an error of the squared MMD of at most 4 times that of the worst pair, which is of order :math:`\sqrt{d/m}` up to a
    logarithm (Rahimi and Recht 2007, Claim 1). With finitely many features the MMD is 0 for some laws that differ.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> error = wg.RandomFourierFeatures(wg.RBF(1.0), 10_000)(x, x) - wg.RBF(1.0)(x, x)
    >>> error.abs().max() < 0.05  # 0.039 with probability 0.999
    tensor(True)
    """

    kernel: RadialKernel
    frequencies: Count = 500
    seed: Whole = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_one_place(self.kernel).frequency_scales(torch.ones(1, _SCALES))

    @classmethod
    def example(cls) -> "RandomFourierFeatures":
        """Return a tiny instance."""
        return cls(RBF(1.0), 20)

    def drawn(self, x: Points) -> Tensor:
        r"""Return the frequencies :math:`\omega_j` for points like ``x``, shape (m, d), without gradient."""
        normals = _normals(self.frequencies, x[0].numel(), self.seed, x.device)
        scales = normals.new_ones(()) * self.kernel.frequency_scales(normals[:, :_SCALES])
        return (normals[:, _SCALES:] * scales.detach().expand(self.frequencies)[:, None]).to(x.dtype)

    def features(self, x: Points) -> Tensor:
        """Return cosines and sines, shape (n, 2 m), without gradient; memory n m."""
        # In double precision: phases of points far from the origin would be as inexact as that is far.
        z = x.detach().flatten(1).double() @ self.drawn(x).double().T
        return (torch.cat([z.cos(), z.sin()], 1) * self._size(z)).to(x.dtype)

    def embedding(self, x: Points, a: Tensor) -> Tensor:
        """Return the weighted sum of the features, shape (2 m,)."""
        x, omega = x.flatten(1), self.drawn(x)
        centre = middle(x.detach())
        return self._size(omega.double()) * _turned(_Embedding.apply(x, a, omega, centre), omega, centre).flatten()

    def at(self, x: Points, u: Tensor) -> Tensor:
        """Return products with the features, shape (n,)."""
        x, omega = x.flatten(1), self.drawn(x)
        centre = middle(x.detach())
        u = _turned(self._size(omega.double()) * u.double().view(2, -1), -omega, centre)
        return _At.apply(x, u, omega, centre)

    def _size(self, like: Tensor) -> Tensor:
        return (self.kernel.profile(like.new_zeros(())) / self.frequencies).sqrt().detach()


@lru_cache(maxsize=2)
def _normals(m: int, d: int, seed: int, device: torch.device) -> Tensor:
    """Return the normals that the frequencies are made of, shape (m, 6 + d), in double precision."""
    with torch.inference_mode(False):  # what is made there can pass no gradients elsewhere
        return torch.randn(m, _SCALES + d, generator=generator(seed), dtype=torch.float64, device="cpu").to(device)


def _turned(u: Tensor, omega: Tensor, centre: Tensor) -> Tensor:
    r"""Return sums of :math:`(\cos,\sin)\langle\omega,x\rangle`, shape (2, m), from those of :math:`x-c`.

    Features of points far from the origin would be as inexact as that is far.
    """
    z = omega.double() @ centre.double()
    return torch.stack([u[0] * z.cos() - u[1] * z.sin(), u[0] * z.sin() + u[1] * z.cos()])


def _waves(share: Shares, x: Tensor, omega: Tensor, centre: Tensor) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    r"""Yield ranges of points and of frequencies with the block of cosines and that of sines, which may be overwritten."""
    for i, j in share.of(tiles(len(x), len(omega), x.device)):
        z = (x[i] - centre) @ omega[j].T
        yield i, j, z.cos(), z.sin_()


def _sums(cos: Tensor, sin: Tensor, a: Tensor) -> Tensor:
    return torch.stack([a @ cos, a @ sin])


def _products(cos: Tensor, sin: Tensor, u: Tensor) -> Tensor:
    return cos @ u[0] + sin @ u[1]


def _slopes(cos: Tensor, sin: Tensor, a: Tensor, u: Tensor, omega: Tensor) -> Tensor:
    """Return the derivatives of products with the features in the points, times ``a``; the blocks are overwritten."""
    return (cos.mul_(u[1]).sub_(sin.mul_(u[0])) @ omega).mul_(a[:, None])


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, omega: Tensor, centre: Tensor) -> Tensor:
        ctx.share = shares()
        ctx.save_for_backward(x, a, omega, centre)
        u = x.new_zeros(2, len(omega), dtype=torch.float64)
        for i, j, cos, sin in _waves(ctx.share, x, omega, centre):
            u[:, j] += _sums(cos, sin, a[i])
        return ctx.share.added(u)  # type: ignore[no-any-return]

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        x, a, omega, centre = ctx.saved_tensors
        u, dx, da = g.to(x.dtype), torch.zeros_like(x), torch.zeros_like(a)
        for i, j, cos, sin in _waves(ctx.share, x, omega, centre):
            if ctx.needs_input_grad[1]:
                da[i] += _products(cos, sin, u[:, j])
            if ctx.needs_input_grad[0]:
                dx[i] += _slopes(cos, sin, a[i], u[:, j], omega[j])
        return *ctx.share.added(dx, da), None, None


class _At(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, omega: Tensor, centre: Tensor) -> Tensor:
        ctx.share = shares()
        ctx.save_for_backward(x, u, omega, centre)
        u, found = u.to(x.dtype), x.new_zeros(len(x))
        for i, j, cos, sin in _waves(ctx.share, x, omega, centre):
            found[i] += _products(cos, sin, u[:, j])
        return ctx.share.added(found)  # type: ignore[no-any-return]

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        x, u, omega, centre = ctx.saved_tensors
        v, dx, du = u.to(x.dtype), torch.zeros_like(x), torch.zeros_like(u)
        for i, j, cos, sin in _waves(ctx.share, x, omega, centre):
            if ctx.needs_input_grad[1]:
                du[:, j] += _sums(cos, sin, g[i])
            if ctx.needs_input_grad[0]:
                dx[i] += _slopes(cos, sin, g[i], v[:, j], omega[j])
        return *ctx.share.added(dx, du), None, None
