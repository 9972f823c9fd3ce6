"""Soft minima over pairs of two clouds, block by block, for the cost |x-y|²/2: what entropic transport is made of.

Exponents are those of 2: on a CPU PyTorch's ``exp2`` is faster than ``exp``.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.ranks import shares
from wgflow.numerics.pair_clock import timed

# Entries of a block of pairs: what a core's cache holds, or enough to fill a GPU.
BLOCK_CPU, BLOCK_CUDA = 2**17, 2**25
LN2 = math.log(2)


@dataclass(frozen=True)
class Precision:
    """What a sum of exponentials is computed in. Exponents are large numbers that cancel, their exponentials are not.

    Parameters
    ----------
    exponents, sums : torch.dtype
        Of costs and potentials, and of exponentials and their sums.
    """

    exponents: torch.dtype
    sums: torch.dtype


SINGLE, MIXED, DOUBLE = (
    Precision(*kinds)
    for kinds in ((torch.float32, torch.float32), (torch.float64, torch.float32), (torch.float64, torch.float64))
)


@dataclass(frozen=True)
class Pairs:
    r"""What costs of all pairs are made of, kept: inner products (B, n, m) and half squares of rows (B, n) and columns (B, m)."""

    products: Tensor
    rows: Tensor
    columns: Tensor

    @property
    def mT(self) -> "Pairs":
        """The pairs the other way round."""
        return Pairs(self.products.mT, self.columns, self.rows)


def rows(x: Tensor, m: int) -> Iterator[slice]:
    """Cut the points of every problem into ranges of bounded numbers of pairs with ``m`` others."""
    block = BLOCK_CUDA if x.device.type == "cuda" else BLOCK_CPU
    size = max(16, block // (len(x) * m))
    blocks = ((slice(i, i + size), slice(0, m)) for i in range(0, x.shape[1], size))
    return (i for i, _ in timed(blocks, x.shape[1], m))


def logits(
    eps: float, x: Tensor, y: Tensor, h: Tensor, dtype: torch.dtype, pairs: Pairs | None = None
) -> Callable[[slice], Tensor]:
    r"""Return rows -> :math:`(h_j-C_{ij}/\varepsilon+|x_i|^2/2\varepsilon)/\log2` as a new tensor; one product a block."""
    halves = y.square().sum(2) / 2 if pairs is None else pairs.columns
    column = ((h - halves / eps) / LN2).to(dtype)[:, None]
    eps = eps * LN2
    if pairs is not None:
        return lambda i: torch.add(column, pairs.products[:, i], alpha=1 / eps)
    row = (x / eps).to(dtype)
    yt = y.to(dtype).mT.contiguous()
    if len(x) == 1:
        return lambda i: torch.addmm(column[0], row[0, i], yt[0])[None]
    return lambda i: torch.baddbmm(column, row[:, i], yt)


def span(dtype: torch.dtype) -> float:
    """Largest number whose exponential is neither infinite nor, negated, below the normal numbers."""
    return 80.0 if dtype == torch.float32 else 700.0


def exp2_(s: Tensor) -> Tensor:
    """Power of 2 in place; what would be a denormal number, slow by a factor of ten, becomes the least normal one."""
    return s.clamp_(min=-span(s.dtype) / LN2).exp2_()


def exp_(s: Tensor) -> Tensor:
    """Exponential in place, by powers of 2."""
    return exp2_(s.mul_(1 / LN2))


def softmin(
    eps: float, x: Tensor, y: Tensor, h: Tensor, kind: Precision = DOUBLE, pairs: Pairs | None = None
) -> Tensor:
    r"""Return :math:`-\varepsilon\log\sum_je^{h_j-C(x_i,y_j)/\varepsilon}`, shape (B, n), block by block.

    ``pairs`` are those of the points, where they are kept.
    """
    # Written into place: small results kept between large temporaries would scatter the heap.
    block = logits(eps, x, y, h, kind.exponents, pairs)
    halves = x.square().sum(2) / 2 if pairs is None else pairs.rows
    out, share = torch.zeros_like(halves), shares()
    for i in share.of(rows(x, y.shape[1])):
        s = block(i)
        top = s.amax(2, keepdim=True)
        out[:, i] = eps * LN2 * (exp2_(s.sub_(top).to(kind.sums)).sum(2).log2_().to(out) + top[..., 0])
    return torch.sub(halves, share.added(out))


def means(
    eps: float, x: Tensor, y: Tensor, h: Tensor, z: Tensor, kind: Precision = DOUBLE, pairs: Pairs | None = None
) -> Tensor:
    r"""Return the means of ``z`` (B, m, k) with weights :math:`e^{h_j-C(x_i,y_j)/\varepsilon}`, (B, n, k) in the precision of sums."""
    block, z = logits(eps, x, y, h, kind.exponents, pairs), z.to(kind.sums)
    out, share = z.new_zeros(len(x), x.shape[1], z.shape[2]), shares()
    for i in share.of(rows(x, y.shape[1])):
        s = block(i)
        p = exp2_(s.sub_(s.amax(2, keepdim=True)).to(kind.sums))
        out[:, i] = (p @ z).div_(p.sum(2, keepdim=True))
    return share.added(out)


def displacement(eps: float, x: Tensor, y: Tensor, h: Tensor) -> Tensor:
    r"""Return :math:`x-T(x)`, T the mean of y with weights :math:`e^{h_j-C(x_i,y_j)/\varepsilon}`, shape (B, n, d); in float64."""
    centre = y.mean(1, keepdim=True)
    x, y = x - centre, y - centre
    return x - means(eps, x, y, h, y)
