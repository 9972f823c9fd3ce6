r"""What a Stein kernel needs of a block of pairs: :math:`|x-y|^2` and :math:`\langle x-y,s_x-s_y\rangle`, with derivatives."""

from typing import Any

import torch
from torch import Tensor

from wgflow.kernels.sums import Pull, add_block
from wgflow.numerics.distances import Cloud, Distances, middle


def stein_pairs(x: Tensor, s: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`|x_i-y_j|^2` and :math:`\langle x_i-y_j,s_i-t_j\rangle`, both (n, m), differentiable once.

    Parameters
    ----------
    x, s : Tensor, shape (n, d)
        Points and their scores.
    y, t : Tensor, shape (m, d)
        The same of the others. Both are products, and rows with near points are formed as :class:`Distances` does.
    """
    return _SteinPairs.apply(x, s, y, t)


class _SteinPairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = slice(0, len(x)), slice(0, len(y))
        points = Distances(x, y, smooth=True)
        r2, near = points.visit(rows, columns)
        centre = middle(s)
        scores = Cloud(s, centre), Cloud(t, centre)
        along = _products(points.x.x, scores[0].x, points.y.x, scores[1].x)
        if near is not None:
            wide = scores[0].double, scores[1].double
            along[near] = _products(points.x.double.x[near], wide[0].x[near], points.y.double.x, wide[1].x).to(
                along.dtype
            )
        itself = points.itself(along, rows, columns)
        if itself is not None:
            itself.zero_()
        ctx.points, ctx.scores, ctx.near = points, scores, near
        return r2.clone(), along

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        (x, y), (s, t) = (ctx.points.x, ctx.points.y), ctx.scores
        dx, dy = _pulls(ctx.points, x, y, 2 * g, ctx.near)
        # Both products with h at once.
        both, other = (
            Cloud(torch.cat([p.points, q.points], 1), torch.cat([p.centre, q.centre])) for p, q in ((x, s), (y, t))
        )
        to_x, to_y = _pulls(ctx.points, both, other, h.clone(), ctx.near)
        d = dx.shape[1]
        return dx + to_x[:, d:], to_x[:, :d], dy + to_y[:, d:], to_y[:, :d]


def _products(x: Tensor, s: Tensor, y: Tensor, t: Tensor) -> Tensor:
    r"""Return :math:`\langle x_i-y_j,s_i-t_j\rangle`."""
    left, right = ((a * b).sum(1, keepdim=True) for a, b in ((x, s), (y, t)))
    one, other = torch.ones_like(left), torch.ones_like(right)
    return torch.cat([x, s, left, one], 1) @ torch.cat([-t, -y, other, right], 1).T


def _pulls(between: Distances, x: Cloud, y: Cloud, q: Tensor, near: Tensor | None) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\sum_jq_{ij}(x_i-y_j)` and :math:`\sum_iq_{ij}(y_j-x_i)` for the points of two clouds."""
    to_x, to_y = Pull(x, y, torch.ones_like(q[0])), Pull(y, x, torch.ones_like(q[:, 0]))
    add_block(between, to_x, to_y, slice(0, q.shape[0]), slice(0, q.shape[1]), q, near)
    return to_x.result(1.0, x.points), to_y.result(1.0, y.points)
