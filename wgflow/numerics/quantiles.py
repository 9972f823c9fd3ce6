r"""Exact one-dimensional transport, many lines at once, with the derivatives in positions and weights.

On a line the optimal plan for a convex cost pairs quantiles, so it is found by sorting. Everything is computed for rows
of a matrix, one row a line; derivatives come in closed form out of the same sweep, so no graph is kept.
"""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wgflow.core.context import full_precision
from wgflow.core.typing import Scalar
from wgflow.numerics.once import Derivatives, differentiable_once

# Entries (lines x points) handled at once: what a core's cache holds, or enough to fill a GPU.
BLOCK_CPU, BLOCK_CUDA = 2**18, 2**25
LIGHT = 1e-10
"""Levels are right to some 1e-16: the mass of a lighter point, a difference of two, would be right to less than 1e-6."""
KEPT = 2**23
"""Entries of a sorted target that are kept for the next evaluation rather than sorted again."""
PROJECTED = 2**23
"""Inner products that are held at once; more, where the points themselves are more numbers."""


def sort_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sort every row; return the values and the indices. In float32 on a CPU equal values keep their order."""
    if x.device.type != "cpu":
        return torch.sort(x, dim=1)
    # numpy's vectorized sort is faster than torch's on a CPU.
    if x.dtype == torch.float32:
        # One integer a number: its bits, made monotone, above its column.
        bits = x.contiguous().view(torch.int32)
        key = (bits ^ (bits >> 31).bitwise_and_(0x7FFFFFFF)).long()
        key.bitwise_left_shift_(32).bitwise_or_(torch.arange(x.shape[1]))
        key.numpy().sort(axis=1)
        index = key.bitwise_and_(0xFFFFFFFF)
    else:
        index = torch.from_numpy(np.argsort(x.numpy(), axis=1))
    return x.gather(1, index), index


def _sort_values_(x: Tensor) -> Tensor:
    """Sort every row, on a CPU in place, and return it."""
    if x.device.type != "cpu":
        return torch.sort(x, dim=1)[0]
    x.numpy().sort(axis=1)
    return x


def _levels(w: Tensor) -> Tensor:
    """Distribution function after each point of sorted weights, ending at 1; in float64, where sums do not drift."""
    c = w.double().cumsum(1)
    return c / c[:, -1:]


class Line:
    r"""A weighted cloud projected on directions and sorted on each: one side of the transports.

    Parameters
    ----------
    y : Tensor, shape (m, d)
        Points.
    b : Tensor, shape (m,), optional
        Weights; equal when None.
    theta : Tensor, shape (L, d)
        Directions.
    """

    def __init__(self, y: Tensor, b: Tensor | None, theta: Tensor) -> None:
        y, self.b, self.theta = y.detach(), None if b is None else b.detach(), theta
        # Inner products are as inexact as points are far from the origin. A median: one far point must not move it far.
        self.centre = y[:: len(y) // 1000 + 1].median(0).values if y.shape[1] > 1 else y.new_zeros(1)
        self.y = y

    def rows(self, lines: slice) -> tuple[Tensor, Tensor | None]:
        """Return sorted values (l, m) and levels (l, m), None for equal weights, on a range of the directions."""
        if len(self.theta) * len(self.y) > KEPT:
            return self._sort(lines)
        values, levels = self._all
        return values[lines], None if levels is None else levels[lines]

    @cached_property
    def _all(self) -> tuple[Tensor, Tensor | None]:
        return self._sort(slice(0, len(self.theta)))

    def _sort(self, lines: slice) -> tuple[Tensor, Tensor | None]:
        values = self.project(self.y, lines)
        levels = None if self.b is None else torch.empty_like(values, dtype=torch.float64)
        for block in blocks(len(values), values.shape[1], values.device):
            if self.b is None or levels is None:
                values[block] = _sort_values_(values[block])
            else:
                values[block], index = sort_rows(values[block])
                levels[block] = _levels(self.b[index])
        return values, levels

    def project(self, x: Tensor, lines: slice) -> Tensor:
        """Return inner products (l, n) of points (n, d), seen from the center, with a range of the directions.

        Points are read once for all of them, a block at a time: no second tensor (n, d).
        """
        theta, size = self.theta[lines], max(1, _block(x.device) // x.shape[1])
        if len(x) <= size:
            return theta @ (x - self.centre).T
        out = x.new_empty(len(theta), len(x))
        for i in range(0, len(x), size):
            out[:, i : i + size] = theta @ (x[i : i + size] - self.centre).T
        return out


def _block(device: torch.device) -> int:
    return BLOCK_CUDA if device.type == "cuda" else BLOCK_CPU


def blocks(lines: int, points: int, device: torch.device) -> list[slice]:
    """Cut the directions into ranges that are sorted at once, of bounded size."""
    return _cut(lines, _block(device) // points)


def groups(lines: int, points: int, d: int, device: torch.device) -> list[slice]:
    """Cut the directions into ranges that points are projected on at once."""
    return _cut(lines, max(PROJECTED, _block(device), points * d) // points)


def _cut(lines: int, size: int) -> list[slice]:
    size = max(1, size)
    return [slice(k, min(k + size, lines)) for k in range(0, lines, size)]


def projected_cost(x: Tensor, a: Tensor | None, target: Line, p: int, total: int) -> Scalar:
    r"""Return the sum over directions of :math:`W_p^p` between the projections, over ``total``; ``p`` is 1 or 2.

    Parameters
    ----------
    x : Tensor, shape (n, d)
        Points; differentiable once.
    a : Tensor, shape (n,), optional
        Weights, summing to 1; differentiable once. Equal when None, which is faster.
    target : Line
        The other side, constant.
    total : int
        How many directions the mean is over: the target may have some of them.

    Notes
    -----
    Of :math:`|z|` the derivative at 0 is 0. Points with equal projections are taken one after the other: their derivatives
    are those of their present order. Where levels of the two distribution functions coincide, as they do for equal
    weights, the derivative in the weights is the mean of the two one-sided ones: what central differences give.
    """
    return _ProjectedCost.apply(x, a, target, p, total)


class _ProjectedCost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor | None, target: Line, p: int, total: int) -> Scalar:
        wants_x, wants_a = ctx.needs_input_grad[:2]
        inputs = (x, a)
        x, a = x.detach(), None if a is None else a.detach()
        slopes = theta = dx = None
        da = None if a is None else torch.zeros_like(a)
        value, longest = x.new_zeros(()), max(len(x), len(target.y))
        steps = _Steps(len(x), len(target.y), x.device) if a is None and target.b is None else None
        light = x.new_zeros(0) if a is None else a < LIGHT
        lights = light.is_cuda or bool(light.any())  # a GPU is not asked
        for lines in groups(len(target.theta), longest, x.shape[1], x.device):
            if wants_x and slopes is not None and theta is not None:
                dx = _pulled(slopes, theta, dx)
            theta, slopes = target.theta[lines], target.project(x, lines)
            targets, levels = target.rows(lines)
            for block in blocks(len(theta), longest, x.device):
                ys, V, projected = targets[block], None if levels is None else levels[block], slopes[block]
                if not any(ctx.needs_input_grad) and steps is not None:
                    value += steps.pair(_sort_values_(projected), ys, p)[0]
                    continue
                xs, index = sort_rows(projected)
                U = None if a is None else _levels(a[index])
                cost, slope = steps.pair(xs, ys, p) if steps is not None else _pair(xs, U, ys, V, p)
                value += cost
                if lights and a is not None and U is not None:
                    slope = torch.where(light[index], a[index] * _slope_at_level(xs, U, ys, V, p), slope)
                if wants_x:
                    projected.scatter_(1, index, slope.div_(total))  # in the place of what has been sorted
                if wants_a and da is not None and U is not None:
                    f = _potential(xs, U, ys, V, p)
                    da += torch.empty_like(f).scatter_(1, index, f).sum(0)
        # The last product is left to the backward pass, where a factor costs least on the side of the lines.
        kept = (slopes, theta, dx) if wants_x else (None, None, None)
        ctx.save_for_backward(*inputs, *kept, da / total if wants_a and da is not None else None)
        return value / total

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        _, _, slopes, theta, dx, da = ctx.saved_tensors
        d_x = None
        if slopes is not None:
            with full_precision(slopes.device):
                d_x = _pulled(g * slopes, theta, None if dx is None else g * dx)
        return d_x, None if da is None else g * da, None, None, None


def _pulled(slopes: Tensor, theta: Tensor, dx: Tensor | None) -> Tensor:
    """Carry derivatives (l, n) along directions back to the points, and add them to those of others."""
    return slopes.T @ theta if dx is None else dx.addmm_(slopes.T, theta)


def _cost(d: Tensor, p: int) -> Tensor:
    return d.square() if p == 2 else d.abs()


def _slope(d: Tensor, p: int) -> Tensor:
    return 2 * d if p == 2 else d.sign()


class _Steps:
    """Plan between n and m equal weights: where they pair does not depend on the line."""

    def __init__(self, n: int, m: int, device: torch.device) -> None:
        self.n, self.m, self.groups = n, m, min(n, m)
        self.divide = max(n, m) % self.groups == 0
        if not self.divide:
            # Levels in units of 1/(n m), where they are integers.
            ends = torch.cat([torch.arange(1, k + 1, device=device) * other for k, other in ((n, m), (m, n))]).unique()
            starts = torch.cat([ends.new_zeros(1), ends[:-1]])
            self.i, self.j, self.mass = starts // m, starts // n, (ends - starts).double() / (n * m)

    def pair(self, xs: Tensor, ys: Tensor, p: int) -> tuple[Scalar, Tensor]:
        """Return the cost, summed over the lines, and its derivative (l, n) in the sorted points."""
        if not self.divide:
            d, mass = xs[:, self.i] - ys[:, self.j], self.mass.to(xs)
            return _cost(d, p).mul_(mass).sum(), torch.zeros_like(xs).index_add_(1, self.i, _slope(d, p).mul_(mass))
        d = xs.view(len(xs), self.groups, -1) - ys.view(len(ys), self.groups, -1)
        share = 1 / max(self.n, self.m)
        slope = _slope(d, p) if self.n >= self.m else _slope(d, p).sum(2)
        return _cost(d, p).sum() * share, slope.view_as(xs) * share


def _even(values: Tensor) -> Tensor:
    m = values.shape[1]
    return (torch.arange(1, m + 1, device=values.device, dtype=torch.float64) / m).expand(values.shape)


def _pair(xs: Tensor, U: Tensor | None, ys: Tensor, V: Tensor | None, p: int) -> tuple[Scalar, Tensor]:
    """Merge the two distribution functions of every line; on each piece one point faces one point."""
    n, m = xs.shape[1], ys.shape[1]
    ends, order = sort_rows(torch.cat([_even(xs) if U is None else U, _even(ys) if V is None else V], 1))
    mass = torch.diff(ends, dim=1, prepend=ends.new_zeros(len(ends), 1)).to(xs)
    first = (order < n).long()
    i = first.cumsum(1) - first  # levels of x passed so far: the point whose mass is being spent
    j = torch.arange(n + m, device=xs.device) - i
    i.clamp_(max=n - 1)
    d = xs.gather(1, i) - ys.gather(1, j.clamp_(max=m - 1))
    return (_cost(d, p) * mass).sum(), torch.zeros_like(xs).scatter_add_(1, i, _slope(d, p).mul_(mass))


def _slope_at_level(xs: Tensor, U: Tensor, ys: Tensor, V: Tensor | None, p: int) -> Tensor:
    """Slope of the cost between every sorted point and the target at its own level.

    It takes the place of the mean over the point's mass where that mass is a difference of levels without digits.
    """
    V = (_even(ys) if V is None else V).contiguous()
    j = torch.searchsorted(V, U.contiguous()).clamp_(max=ys.shape[1] - 1)
    return _slope(xs - ys.gather(1, j), p)


def _potential(xs: Tensor, U: Tensor, ys: Tensor, V: Tensor | None, p: int) -> Tensor:
    r"""Kantorovich potential at the sorted points, with mean 0.

    At the level between two neighbors of x the target is at y, and the potential grows by c(x', y) - c(x, y). Where the
    target jumps at that very level every y between the two ends is optimal, and the mean of the ends is taken.
    """
    V = (_even(ys) if V is None else V).contiguous()
    slack = 64 * torch.finfo(torch.float64).eps
    level = U[:, :-1].contiguous()
    growth = torch.zeros_like(U)
    for side in (-1, 1):
        j = torch.searchsorted(V, level + side * slack, right=side > 0).clamp_(max=ys.shape[1] - 1)
        y = ys.gather(1, j)
        growth[:, 1:] += (_cost(xs[:, 1:] - y, p) - _cost(xs[:, :-1] - y, p)) / 2
    f = growth.cumsum(1)
    return (f - f.mean(1, keepdim=True)).to(xs)
