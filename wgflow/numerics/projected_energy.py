r"""The energy distance of two clouds on lines, many lines at once, by sorting.

With signed masses :math:`s` at sorted points :math:`z`, :math:`-\sum_{ij}s_is_j|z_i-z_j|=2\int C^2`, where :math:`C` is their
cumulative sum: a sum of squares, which does not cancel, and one sort gives value and derivatives.
"""

from typing import Any

import torch
from torch import Tensor

from wgflow.core.typing import Scalar
from wgflow.numerics.once import Derivatives, differentiable_once
from wgflow.numerics.quantiles import blocks, sort_rows


def projected_energy(x: Tensor, a: Tensor, y: Tensor, b: Tensor, theta: Tensor) -> Scalar:
    r"""Return :math:`\sum_l2\int(F_{\langle\theta_l,x\rangle}-F_{\langle\theta_l,y\rangle})^2`, a double; F are distribution functions.

    Parameters
    ----------
    x, y : Tensor, shapes (n, d) and (m, d)
        Points; differentiable once in ``x``.
    a, b : Tensor, shapes (n,) and (m,)
        Weights, each summing to 1; differentiable once in ``a``, up to a constant.
    theta : Tensor, shape (L, d)
        Directions.

    Notes
    -----
    Cost L sorts of n + m numbers, memory that of some lines. Points with equal projections are taken one after the other.
    """
    return _ProjectedEnergy.apply(x, a, y, b, theta)


class _ProjectedEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, y: Tensor, b: Tensor, theta: Tensor) -> Scalar:
        wants_x, wants_a, *_ = ctx.needs_input_grad
        n, z, mass = len(x), torch.cat([x, y]), torch.cat([a, -b]).double()
        # Inner products are as inexact as points are far from the origin.
        z = z - z[:: len(z) // 1000 + 1].median(0).values
        value, dx, da = mass.new_zeros(()), torch.zeros_like(x), torch.zeros_like(mass)
        for lines in blocks(len(theta), len(z), z.device):
            along, index = sort_rows(theta[lines] @ z.T)
            steps = mass[index]
            level = steps.cumsum(1)
            gaps = along.diff(dim=1).double()
            value += 2 * (level[:, :-1].square() * gaps).sum()
            if wants_x:
                # The difference of two squares, of the level before a point and behind it, whose digits many points would take.
                slope = (2 * steps * (steps - 2 * level)).to(along)
                dx += torch.empty_like(slope).scatter_(1, index, slope)[:, :n].T @ theta[lines]
            if wants_a:
                # Of what a mass adds to the levels behind it, the sum from there on.
                onwards = torch.zeros_like(level)
                onwards[:, :-1] = (level[:, :-1] * gaps).flip(1).cumsum(1).flip(1)
                da += torch.empty_like(level).scatter_(1, index, 4 * onwards).sum(0)
        ctx.save_for_backward(x, a, dx if wants_x else None, da[:n].to(a.dtype) if wants_a else None)
        return value

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        return *(None if t is None else g.to(t.dtype) * t for t in ctx.saved_tensors[2:]), None, None, None
