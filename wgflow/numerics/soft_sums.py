r"""Sums of Gaussian bumps over all pairs in the logarithm, and the mean point that each row sees, block by block.

Entries are :math:`u_{ij}=b_j-|x_i-y_j|^2/\omega`. Nothing is exponentiated before the largest entry of its row is taken off, so
that a row whose every term would underflow has its sum all the same. Memory is that of a few rows, never that of all pairs.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from wgflow.core.context import full_precision
from wgflow.core.ranks import Shares, shares
from wgflow.core.typing import Points
from wgflow.numerics.distances import Distances
from wgflow.numerics.once import Derivatives, differentiable_once
from wgflow.numerics.pair_clock import timed
from wgflow.numerics.softmin import exp_

# Entries of a block of whole rows, and rows at most.
BLOCK_CPU, BLOCK_CUDA, ROWS = 2**20, 2**25, 256


def _entries(between: Distances, bias: Tensor, width: float, n: int, share: Shares) -> Iterator[tuple[slice, Tensor]]:
    """Yield this rank's ranges of rows with their entries, new in each range."""
    m, device = len(bias), bias.device
    rows = max(1, BLOCK_CUDA // m if device.type == "cuda" else min(ROWS, BLOCK_CPU // m))
    bias = bias.to(between.dtype)
    with full_precision(device):
        blocks = ((slice(i, min(i + rows, n)), slice(0, m)) for i in range(0, n, rows))
        for i, j in share.of(timed(blocks, n, m)):
            yield i, bias - between.block(i, j).div_(width)


def log_sums(x: Points, y: Points, bias: Tensor, width: float) -> Tensor:
    r"""Return :math:`\log\sum_je^{b_j-|x_i-y_j|^2/\omega}`, shape (n,); differentiable once in ``x``, ``y`` and ``bias``.

    Parameters
    ----------
    x, y : Tensor, shapes (n, \*event) and (m, \*event)
    bias : Tensor, shape (m,)
        :math:`b_j`; minus infinity leaves a term out.
    width : float
        :math:`\omega`, for a Gaussian of variance :math:`\sigma^2` a coordinate :math:`2\sigma^2`.
    """
    if len(x) == 0:
        return x.flatten(1).sum(1)
    return _LogSums.apply(x, y, bias, width)


class _LogSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Points, y: Points, bias: Tensor, width: float) -> Tensor:
        ctx.between, ctx.width, ctx.share = Distances(x, y, smooth=False), width, shares()
        out = x.new_zeros(len(x), dtype=ctx.between.dtype)
        for i, u in _entries(ctx.between, bias, width, len(x), ctx.share):
            top = u.amax(1, keepdim=True).clamp_(min=torch.finfo(u.dtype).min)
            out[i] = exp_(u.sub_(top)).sum(1).log_() + top[:, 0]
        out = ctx.share.added(out)
        ctx.save_for_backward(x, y, bias, out)
        return out.to(x.dtype)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        x, y, bias, out = ctx.saved_tensors
        wants_x, wants_y, wants_bias, _ = ctx.needs_input_grad
        # In double precision: means of near points far from the center cancel against the points.
        rows, columns, slope = ctx.between.x.double.x, ctx.between.y.double.x, 2 / ctx.width
        dx, dy = torch.zeros_like(rows), torch.zeros_like(columns)
        mass = columns.new_zeros(len(columns))
        for i, u in _entries(ctx.between, bias, ctx.width, len(x), ctx.share):
            p = exp_(u.sub_(out[i, None])).double()
            if wants_x:
                dx[i] = slope * g[i, None] * (p @ columns - rows[i] * p.sum(1, keepdim=True))
            if wants_y or wants_bias:
                p *= g[i, None]
                mass += p.sum(0)
            if wants_y:
                dy.addmm_(p.T, rows[i])
        if wants_y:
            dy = slope * (dy - mass[:, None] * columns)
        return *ctx.share.added(
            dx.to(x.dtype).view_as(x) if wants_x else None,
            dy.to(y.dtype).view_as(y) if wants_y else None,
            mass.to(bias.dtype) if wants_bias else None,
        ), None


def soft_pulls(x: Points, y: Points, bias: Tensor, width: float) -> Tensor:
    r"""Return :math:`x_i-\sum_jp_{ij}y_j`, :math:`p_{ij}\propto_je^{b_j-|x_i-y_j|^2/\omega}`, (n, d) in double precision, without gradient.

    The arguments are those of :func:`log_sums`.
    """
    between = Distances(x, y, smooth=False)
    rows, columns = between.x.double.x, between.y.double.x
    out, share = torch.zeros_like(rows), shares()
    with torch.no_grad():
        for i, u in _entries(between, bias.detach(), width, len(x), share):
            p = u.softmax(1).double()
            out[i] = rows[i] * p.sum(1, keepdim=True) - p @ columns
    return share.added(out)
