r"""The energy distance of two clouds on lines, many lines at once, by sorting.

With signed masses :math:`s` at sorted points :math:`z`, :math:`-\sum_{ij}s_is_j|z_i-z_j|=2\int C^2`, where :math:`C` is their
cumulative sum: a sum of squares, which does not cancel, and one sort gives value and derivatives.
"""

from typing import Any

import torch
from torch import Tensor

from wgflow.core.typing import Scalar
from wgflow.numerics.by_blocks import by_blocks
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
    Cost L + 1 sorts of n + m numbers, memory that of some lines. Coincident points exert no force on each other. Different points with
    equal projections are taken one after the other.
    """
    return _ProjectedEnergy.apply(x, a, y, b, theta)


class _ProjectedEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, y: Tensor, b: Tensor, theta: Tensor) -> Scalar:
        wants_x, wants_a, *_ = ctx.needs_input_grad
        n, z, mass = len(x), torch.cat([x, y]), torch.cat([a, -b]).double()
        # Inner products are as inexact as points are far from the origin.
        z -= z[:: len(z) // 1000 + 1].median(0).values
        # Of equal points the first has all mass: projections of one place may differ in the last digit, and its points would part.
        first = _first_of_equals(z)
        mass = torch.zeros_like(mass).index_add_(0, first, mass)
        value, dx, da = mass.new_zeros(()), torch.zeros_like(x), torch.zeros_like(mass)
        for lines in blocks(len(theta), len(z), z.device):
            along, index = sort_rows(theta[lines] @ z.T)
            steps = mass[index]
            level = steps.cumsum(1)
            gaps = along.diff(dim=1).double()
            value += 2 * (level[:, :-1].square() * gaps).sum()
            if wants_x:
                # The levels before a point and behind it: the difference of their squares would lose the digits of a small mass.
                slope = (2 * steps - 4 * level).to(along)
                dx += torch.empty_like(slope).scatter_(1, index, slope)[:, :n].T @ theta[lines]
            if wants_a:
                # Of what a mass adds to the levels behind it, the sum from there on.
                onwards = torch.zeros_like(level)
                onwards[:, :-1] = (level[:, :-1] * gaps).flip(1).cumsum(1).flip(1)
                da += torch.empty_like(level).scatter_(1, index, 4 * onwards).sum(0)
        mine = first[:n]
        ctx.save_for_backward(
            x, a, a[:, None] * dx[mine] if wants_x else None, da[mine].to(a.dtype) if wants_a else None
        )
        return value

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        return *(None if t is None else g.to(t.dtype) * t for t in ctx.saved_tensors[2:]), None, None, None


def _first_of_equals(z: Tensor) -> Tensor:
    """Return for every point of (n, d) the number of the first one that is equal to it, by sorting, without waiting for the device.

    Equal are those whose sums with fixed coefficients are, in double precision: row by row, in which equal points give the same digits.
    """
    coefficients = torch.arange(1, z.shape[1] + 1, device=z.device, dtype=torch.float64).sin()
    # By blocks: no copy of all points in double precision.
    key, order = by_blocks(lambda some: (some * coefficients).sum(1), z, z.shape[1]).sort(stable=True)
    new, place = torch.ones_like(order, dtype=torch.bool), torch.arange(len(z), device=z.device)
    new[1:] = key[1:] != key[:-1]
    begins = torch.where(new, place, 0).cummax(0).values
    return torch.empty_like(order).scatter_(0, order, order[begins])
