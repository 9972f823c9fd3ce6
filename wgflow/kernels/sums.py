r"""Sums over all pairs of two clouds, block by block: memory is that of one block, never that of all pairs.

Derivatives come out of the same sweep as values, in closed form for radial kernels, so nothing of the size of all pairs
is kept for a backward pass. Everything here is differentiable once.
"""

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

from wgflow.core.context import without_autocast
from wgflow.core.ranks import shares
from wgflow.core.typing import Points, Scalar
from wgflow.kernels.base import Kernel, KernelSum, terms_of
from wgflow.kernels.features import FeatureKernel, by_features
from wgflow.numerics.cache import remember
from wgflow.numerics.distances import Cloud, Distances, check_same_points, tiles
from wgflow.numerics.line_sums import distance_sums, line_energy
from wgflow.numerics.once import Derivatives, differentiable_once

P = ParamSpec("P")
Sums = Callable[Concatenate[Kernel, P], Tensor]

# From so many coordinates on weights are put into a block of slopes, and one product takes the place of two.
WEIGHED = 24


def by_terms(sums: Sums[P]) -> Sums[P]:
    """Take a sum of kernels, one of features among them, term by term."""

    @wraps(sums)
    def of(kernel: Kernel, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if isinstance(kernel, KernelSum) and by_features(kernel):
            return torch.stack([c * sums(k, *args, **kwargs) for c, k in terms_of(kernel)]).sum(0)
        return sums(kernel, *args, **kwargs)

    return of


@by_terms
@without_autocast()
def kernel_energy(kernel: Kernel, x: Points, a: Tensor, y: Points | None = None, b: Tensor | None = None) -> Scalar:
    r"""Return :math:`\sum_{ij}a_ib_j\,k(x_i,y_j)`, over :math:`x` with itself when ``y`` is None, in double precision.

    Parameters
    ----------
    kernel : Kernel
        Radial, or one of features.
    x, y : Tensor, shapes (n, \*event) and (m, \*event)
        Differentiable once, as are the weights.
    a, b : Tensor, shapes (n,) and (m,)
        Weights.

    Notes
    -----
    One sweep gives the value and all derivatives: n m kernel values (half as many for one cloud), memory O(n + m). Of a kernel
    of features it is the product of two sums over points. The value is a double, since discrepancies are small differences of
    such values.
    """
    if isinstance(kernel, FeatureKernel):
        u = kernel.embedding(x, a)
        if y is None or b is None:
            return u @ u
        check_same_points(x, y)
        return u @ kernel.embedding(y, b)
    if _on_a_line(kernel, x):  # k = -r
        return -line_energy(x, a, x if y is None else y, a if b is None else b)
    if y is None or b is None:
        return _Energy.apply(kernel, x, a, None, None, True)
    return _both(kernel, x, a, y, b, own=False)


@by_terms
@without_autocast()
def kernel_discrepancy(
    kernel: Kernel, x: Points, a: Tensor, y: Points, b: Tensor, known_by: tuple[Tensor | None, ...] | None = None
) -> Scalar:
    r"""Return :math:`\sum_{ii'}a_ia_{i'}\,k(x_i,x_{i'})-2\sum_{ij}a_ib_j\,k(x_i,y_j)` as :func:`kernel_energy` does, in one sweep.

    Features of ``y`` are summed once as long as the tensors ``known_by``, from which ``y``, ``b`` and the kernel follow, do not change.
    """
    if isinstance(kernel, FeatureKernel):
        check_same_points(x, y)
        u, other = kernel.embedding(x, a), partial(kernel.embedding, y, b)
        return u @ (u - 2 * (other() if known_by is None else remember((kernel, "embedding"), known_by, other)))
    if _on_a_line(kernel, x):
        return kernel_energy(kernel, x, a) - 2 * kernel_energy(kernel, x, a, y, b)
    return _both(kernel, x, a, y, -b, own=True)


def _both(kernel: Kernel, x: Points, a: Tensor, y: Points, b: Tensor, own: bool) -> Scalar:
    check_same_points(x, y)
    return _Energy.apply(kernel, x, a, y, b, own)


@by_terms
@without_autocast()
def kernel_sums(kernel: Kernel, x: Points, y: Points, b: Tensor) -> Tensor:
    r"""Return :math:`u_i=\sum_jb_j\,k(x_i,y_j)`, shape (n,); differentiable once in ``x``, ``y`` and ``b``.

    n m kernel values, and as many again for the derivatives; memory O(n + m).
    """
    if isinstance(kernel, FeatureKernel):
        check_same_points(x, y)
        return kernel.at(x, kernel.embedding(y, b))
    itself = y is x and x[0].numel() >= WEIGHED
    return _Sums.apply(kernel, x, None if itself else y, b)


class Pull:
    r"""Sums :math:`\sum_jw_jq_{ij}(x_i-y_j)` for all points :math:`x_i` of one cloud and slopes :math:`q`, gathered block by block.

    As :math:`x_i\sum_jw_jq_{ij}-\sum_jw_jq_{ij}y_j` both sums are one product. Between points near each other and far from the
    center that cancels: such rows of slopes come in double precision.

    Parameters
    ----------
    x, y : Cloud
    w : Tensor, shape (m,) or (k, m)
        Weights of the second cloud, several at once.
    """

    def __init__(self, x: Cloud, y: Cloud, w: Tensor) -> None:
        self.x, self.y, self.w = x, y, w.view(-1, w.shape[-1])
        # [w y, w] for every row of weights.
        moments = w.new_empty(len(self.w), y.x.shape[1] + 1, len(y.x))
        torch.mul(y.x.T, self.w[:, None], out=moments[:, :-1])
        moments[:, -1] = self.w
        self.moments = moments.flatten(0, 1)
        self.sums = w.new_zeros(self.moments.shape[0], x.points.shape[0])
        self.near: Tensor | None = None

    def add(self, i: slice, j: slice, q: Tensor) -> None:
        """Add what the points ``j`` do to the points ``i``, by slopes (i, j)."""
        self.sums[:, i].addmm_(self.moments[:, j], q.T)

    def add_near(self, i: slice | Tensor, j: slice | Tensor, q: Tensor) -> None:
        """Add the same by slopes in double precision."""
        if self.near is None:
            self.near = self.w.new_zeros(len(self.w), *self.x.points.shape)
        x, y = self.x.double.x[i], self.y.double.x[j]
        for w, near in zip(self.w[:, j].double(), self.near, strict=True):
            forces = q * w
            near[i] += (x * forces.sum(1, keepdim=True) - forces @ y).to(near.dtype)

    def result(self, factor: Tensor | float, like: Points, k: int = 0) -> Points:
        """Return the sums at the first points, as many as ``like`` has, by the k-th weights, times a factor or one each, shape (n, 1)."""
        n = len(like)
        sums = self.sums.view(len(self.w), -1, self.sums.shape[1])[k, :, :n]
        moved, weights = sums[:-1].T, sums[-1, :, None]
        if len(sums) > WEIGHED:  # of many coordinates the transpose is what takes the time
            pull = moved.contiguous().addcmul_(self.x.x[:n], weights, value=-1)
        else:
            pull = torch.addcmul(moved, self.x.x[:n], weights, value=-1)
        if self.near is not None:
            pull -= self.near[k, :n]
        return pull.mul_(-factor).to(like.dtype).view_as(like)


def add_block(
    between: Distances, to_x: Any | None, to_y: Any | None, i: slice, j: slice, q: Tensor, near: Tensor | None
) -> None:
    """Add a block of slopes, which it may overwrite, to the pulls on its rows and its columns; rows ``near`` in double precision."""
    q = q.contiguous()
    itself = between.itself(q, i, j)
    if itself is not None:
        itself.zero_()  # a large slope there times no difference would leave its rounding error
    if near is not None:
        exact, rows = q[near].double(), near + i.start
        q[near] = 0
        if to_x is not None:
            to_x.add_near(rows, j, exact)
        if to_y is not None:
            to_y.add_near(j, rows, exact.T)
    if to_x is not None:
        to_x.add(i, j, q)
    if to_y is not None:
        to_y.add(j, i, q.T)


def _on_a_line(kernel: Kernel, x: Points) -> bool:
    return kernel.sorts and x[0].numel() == 1


class _Energy(torch.autograd.Function):
    r"""Of points x and y with weights a and b: sums over x with itself, if ``own``, and over x and y, if there is a y.

    With ``own`` those over x and y count twice, as in the square of a signed measure.
    """

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, x: Points, a: Tensor, y: Points | None, b: Tensor | None, own: bool
    ) -> Scalar:
        n, (_, wants_x, wants_a, wants_y, wants_b, _) = len(x), ctx.needs_input_grad
        z, w = (x, a) if y is None or b is None else (torch.cat([x, y]), torch.cat([a, b]))
        between = Distances(z, z, kernel.smooth)
        w = w.to(between.dtype)
        pull = Pull(between.x, between.x, w) if wants_x or wants_y else None
        u, v = torch.zeros_like(w), torch.zeros_like(w)  # sums of kernel values with x and with y
        c: float | Tensor = 0.0
        share = shares()
        for i, j in share.of(_pairs(n, len(w), z.device, own)):
            s, near = between.visit(i, j) if pull is not None else (between.block(i, j), None)
            k, q, c = kernel.evaluate(s)
            across = j.start >= n
            mirrored = wants_y or wants_b if across else i.start != j.start  # the transpose is not visited
            (v if across else u)[i].addmv_(k, w[j])
            if mirrored:
                u[j].addmv_(k.T, w[i])
            add_block(between, pull, pull if mirrored else None, i, j, q, near)
        both, moving = 1 + own, z if wants_y else x
        value = w[:n].double() @ torch.add(u, v, alpha=both)[:n].double()
        dz = None if pull is None else pull.result((2 * both * c * w[: len(moving)])[:, None], moving)
        dw = (u + v).mul_(both).to(z.dtype) if wants_a or wants_b else None
        value, dz, dw = share.added(value, dz, dw)
        ctx.save_for_backward(x, a, y, b, dz, dw)
        return value

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        x, *_, dz, dw = ctx.saved_tensors
        n, found = len(x), [None if t is None else g * t for t in (dz, dw)]
        parts = [t if t is None else t[half] for half in (slice(0, n), slice(n, None)) for t in found]
        return None, *(t if wanted else None for t, wanted in zip(parts, ctx.needs_input_grad[1:5], strict=True)), None


def _pairs(n: int, total: int, device: torch.device, own: bool) -> Iterator[tuple[slice, slice]]:
    """Cut all pairs of the first n points with the others into blocks, and before that the upper half of those among themselves."""
    if own:
        yield from tiles(n, n, device, symmetric=True)
    if total > n:
        for i, j in tiles(n, total - n, device):
            yield i, slice(n + j.start, n + j.stop)


class _Sums(torch.autograd.Function):
    """Sums over y; over x itself where that is None, with the derivatives by both in one product."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, x: Points, y: Points | None, b: Tensor) -> Tensor:
        ctx.kernel, ctx.weighted = kernel, y is None
        y = x if y is None else y
        ctx.save_for_backward(x, y, b)
        if _on_a_line(kernel, x):
            return -distance_sums(x, y, b)[0]
        between = Distances(x, y, kernel.smooth)
        ctx.between, ctx.share, b = between, shares(), b.to(between.dtype)
        u = b.new_zeros(len(x))
        for i, j in ctx.share.of(tiles(len(x), len(y), x.device, between.one)):
            k = kernel.evaluate(between.block(i, j))[0]
            u[i].addmv_(k, b[j])
            if between.one and i.start != j.start:
                u[j].addmv_(k.T, b[i])
        return ctx.share.added(u).to(x.dtype)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        x, y, b = ctx.saved_tensors
        _, wants_x, wants_y, wants_b = ctx.needs_input_grad
        if _on_a_line(ctx.kernel, x):
            (_, du), (v, dv) = distance_sums(x, y, b), distance_sums(y, x, g)
            return None, (-g * du).view_as(x), (-b * dv).view_as(y), -v
        between = ctx.between
        b, g = b.to(between.dtype), g.to(between.dtype)
        left: Tensor | None = None
        if between.one:
            # Both sums are over the same symmetric matrix: one product, and half of the blocks.
            right = torch.stack([b, g])
            if ctx.weighted:
                left = right.flip(0).T.contiguous()
            w = right if left is None else torch.ones_like(b)
            to_x = to_y = Pull(between.x, between.x, w) if wants_x else None
        else:
            to_x = Pull(between.x, between.y, b) if wants_x else None
            to_y = Pull(between.y, between.x, g) if wants_y else None
        v, c = torch.zeros_like(b), 0.0
        for i, j in ctx.share.of(tiles(len(x), len(y), x.device, between.one)):
            s, near = between.visit(i, j) if wants_x or wants_y else (between.block(i, j), None)
            k, q, c = ctx.kernel.evaluate(s)
            mirrored = between.one and i.start != j.start
            if wants_b:
                v[j].addmv_(k.T, g[i])
                if mirrored:
                    v[i].addmv_(k, g[j])
            if left is not None:
                q = q.mul_(left[i] @ right[:, j])
            add_block(between, to_x, to_y if mirrored or not between.one else None, i, j, q, near)
        dx = None if to_x is None else to_x.result(2 * c if ctx.weighted else (2 * c * g)[:, None], x)
        dy = None if to_y is None or ctx.weighted else to_y.result((2 * c * b)[:, None], y, int(between.one))
        return None, *ctx.share.added(dx, dy, v.to(x.dtype) if wants_b else None)
