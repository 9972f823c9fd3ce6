"""Sums of distances between points of a line, by sorting: n log n instead of all pairs."""

from typing import Any

import torch
from torch import Tensor

from wgflow.core.typing import Points, Scalar
from wgflow.numerics.distances import check_same_points
from wgflow.numerics.once import Derivatives, differentiable_once


def distance_sums(x: Points, y: Points, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\sum_jb_j|x_i-y_j|` and its derivative :math:`\sum_jb_j\,\mathrm{sgn}(x_i-y_j)`, sgn 0 = 0, by sorting."""
    check_same_points(x, y)
    x, y = x.detach().flatten().contiguous(), y.detach().flatten()
    y, order = y.sort()
    # Sums of many terms of both signs: in double precision, from the middle of the points.
    middle, b = y[len(y) // 2].double(), b.detach()[order].double()
    mass = torch.cat([b.new_zeros(1), b.cumsum(0)])
    moment = torch.cat([mass[:1], (b * (y - middle)).cumsum(0)])
    below, upto = torch.searchsorted(y, x, right=False), torch.searchsorted(y, x, right=True)
    sums = (x - middle) * (2 * mass[upto] - mass[-1]) + moment[-1] - 2 * moment[upto]
    return sums.to(x.dtype), (mass[below] + mass[upto] - mass[-1]).to(x.dtype)


def line_energy(x: Points, a: Tensor, y: Points, b: Tensor) -> Scalar:
    r"""Return :math:`\sum_{ij}a_ib_j|x_i-y_j|`, a double; differentiable once in all four."""
    return _LineEnergy.apply(x, a, y, b)


class _LineEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Points, a: Tensor, y: Points, b: Tensor) -> Scalar:
        (u, du), (v, dv) = distance_sums(x, y, b), distance_sums(y, x, a)
        ctx.save_for_backward(x, a, y, b, (a * du).view_as(x), u, (b * dv).view_as(y), v)
        return a.double() @ u.double()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        found = ctx.saved_tensors[4:]
        return tuple(g * t if n else None for t, n in zip(found, ctx.needs_input_grad, strict=True))
