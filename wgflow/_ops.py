r"""Sums over all pairs of two clouds, block by block: memory is that of one block, never that of all pairs.

Derivatives come out of the same sweep as values, in closed form for radial kernels, so nothing of the size of all pairs
is kept for a backward pass. Everything here is differentiable once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wgflow._once import Derivatives, differentiable_once
from wgflow._typing import Points, Scalar
from wgflow.errors import BadInput

if TYPE_CHECKING:
    from wgflow.kernels import Kernel

# Entries of one block: on a CPU it and its temporaries stay in the cache of a core; a GPU wants large ones.
BLOCK_CPU, BLOCK_CUDA = 2**18, 2**25
# Up to this many coordinates distances are sums of squared differences: exact zeros, no cancellation, and as fast.
DIRECT = 4


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep products of float32 matrices in float32 on a GPU: distances lose all meaning in TF32."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def tiles(n: int, m: int, device: torch.device, symmetric: bool = False) -> Iterator[tuple[slice, slice]]:
    """Cut an (n, m) rectangle into blocks of bounded size; of a square its upper half only, if asked. Holds TF32 off."""
    block = BLOCK_CUDA if device.type == "cuda" else BLOCK_CPU
    side = max(1, int(block**0.5))
    rows = min(n, side)
    columns = rows if symmetric else min(m, max(side, block // rows))
    with full_precision(device):
        for i in range(0, n, rows):
            for j in range(i if symmetric else 0, m, columns):
                yield slice(i, min(i + rows, n)), slice(j, min(j + columns, m))


class Cloud:
    r"""Points (n, d) prepared for distances as products of small matrices.

    Lifted, :math:`|x-y|^2` is ``[x, |x|^2, 1]`` times ``[-2y, 1, |y|^2]``: one product in any dimension, with a rounding
    error of some ``eps max|x|^2``. Direct, it is the sum of the squares of ``[x_k, 1]`` times ``[1, -y_k]``, which is
    exactly :math:`x_k-y_k`: for kernels with a singularity, in few dimensions.
    """

    def __init__(self, x: Tensor, direct: bool) -> None:
        self.x, self.direct = x, direct

    @cached_property
    def one(self) -> Tensor:
        """A column of ones."""
        return torch.ones_like(self.x[:, :1])

    @cached_property
    def squares(self) -> Tensor:
        """Squared lengths, shape (n, 1)."""
        return self.x.square().sum(1, keepdim=True)

    @cached_property
    def rows(self) -> list[Tensor]:
        """Left factors, as the first of two clouds."""
        if self.direct:
            return [torch.cat([c, self.one], 1) for c in self.x.split(1, 1)]
        return [torch.cat([self.x, self.squares, self.one], 1)]

    @cached_property
    def columns(self) -> list[Tensor]:
        """Right factors, as the second."""
        if self.direct:
            return [torch.cat([self.one, -c], 1).T.contiguous() for c in self.x.split(1, 1)]
        return [torch.cat([-2 * self.x, self.one, self.squares], 1).T.contiguous()]


def _same_points(x: Points, y: Points) -> None:
    if x.shape[1:] != y.shape[1:] or x.dtype != y.dtype or x.device != y.device:
        ours, theirs = (f"{tuple(p.shape[1:])} {p.dtype} {p.device}" for p in (x, y))
        raise BadInput(f"two clouds must agree in the shape of a point, dtype and device: got {ours} and {theirs}")


class Distances:
    r"""Squared distances between two sets of points, block by block.

    Parameters
    ----------
    x, y : Tensor, shapes (n, \*event) and (m, \*event)
        The same tensor twice is one cloud. They are moved to a common centre, so that what the lifted form cancels is
        no larger than the clouds.
    smooth : bool
        For a function that is smooth at 0. For others coincident points are at distance 0 exactly: directly in few
        dimensions; lifted by counting as 0 what is below the rounding error.

    Raises
    ------
    BadInput
        When the points differ in shape, dtype or device.
    """

    def __init__(self, x: Points, y: Points, smooth: bool) -> None:
        _same_points(x, y)
        flat = x.detach().flatten(1)
        centre = flat.mean(0)
        self.direct = flat.shape[1] == 1 or (flat.shape[1] <= DIRECT and not smooth)
        self.one = y is x
        self.x = Cloud(flat - centre, self.direct)
        self.y = self.x if self.one else Cloud(y.detach().flatten(1) - centre, self.direct)
        self.columns = self.y.columns
        if not self.direct and not smooth:
            largest = torch.maximum(self.x.squares.amax(), self.y.squares.amax())
            self.columns = [self.columns[0].clone()]
            self.columns[0][-1] -= 16 * torch.finfo(x.dtype).eps * largest

    def block(self, i: slice, j: slice) -> Tensor:
        """Return a new block (rows, columns) that the caller may overwrite."""
        s = self.x.rows[0][i] @ self.columns[0][:, j]
        if self.direct:
            s.square_()
            for rows, columns in zip(self.x.rows[1:], self.columns[1:], strict=True):
                difference = rows[i] @ columns[:, j]
                s.addcmul_(difference, difference)
            return s
        s.clamp_(min=0)
        if self.one and i.start < j.stop and j.start < i.stop:
            s.diagonal(i.start - j.start).zero_()
        return s


def kernel_energy(kernel: "Kernel", x: Points, a: Tensor, y: Points | None = None, b: Tensor | None = None) -> Scalar:
    r"""Return :math:`\sum_{ij}a_ib_j\,k(x_i,y_j)`, over :math:`x` with itself when ``y`` is None.

    Parameters
    ----------
    kernel : Kernel
        Radial.
    x, y : Tensor, shapes (n, \*event) and (m, \*event)
        Differentiable once, as are the weights.
    a, b : Tensor, shapes (n,) and (m,)
        Weights.

    Notes
    -----
    One sweep gives the value and all derivatives: n m kernel values (half as many for one cloud), memory O(n + m).
    """
    return _Energy.apply(kernel, x, a, x if y is None else y, a if b is None else b)


def kernel_sums(kernel: "Kernel", x: Points, y: Points, b: Tensor) -> Tensor:
    r"""Return :math:`u_i=\sum_jb_j\,k(x_i,y_j)`, shape (n,); differentiable once in ``x``, ``y`` and ``b``.

    n m kernel values, and as many again for the derivatives; memory O(n + m).
    """
    return _Sums.apply(kernel, x, y, b)


def _moments(cloud: Cloud, w: Tensor) -> Tensor:
    """Rows ``[w y, w]``, shape (d + 1, n): one product with the slopes gives both sums that a gradient needs."""
    both = w.new_empty(cloud.x.shape[1] + 1, len(w))
    torch.mul(cloud.x.T, w, out=both[:-1])
    both[-1] = w
    return both


def _pull(cloud: Cloud, sums: Tensor, factor: Tensor, like: Points) -> Points:
    r"""From ``[sum q w y, sum q w]`` to ``factor`` times :math:`\sum_jw_jq_{ij}(x_i-y_j)`."""
    return (factor[:, None] * (cloud.x * sums[-1, :, None] - sums[:-1].T)).view_as(like)


def _on_a_line(kernel: "Kernel", x: Points) -> bool:
    return kernel.sorts and x[0].numel() == 1


def _distance_sums(x: Points, y: Points, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\sum_jb_j|x_i-y_j|` and its derivative :math:`\sum_jb_j\,\mathrm{sgn}(x_i-y_j)`, sgn 0 = 0, by sorting."""
    _same_points(x, y)
    x, y = x.detach().flatten().contiguous(), y.detach().flatten()
    y, order = y.sort()
    # Sums of many terms of both signs: in double precision.
    mass = torch.cat([b.new_zeros(1, dtype=torch.float64), b.detach()[order].double().cumsum(0)])
    moment = torch.cat([mass[:1], (b.detach()[order].double() * y).cumsum(0)])
    below, upto = torch.searchsorted(y, x, right=False), torch.searchsorted(y, x, right=True)
    sums = x * (2 * mass[upto] - mass[-1]) + moment[-1] - 2 * moment[upto]
    return sums.to(x.dtype), (mass[below] + mass[upto] - mass[-1]).to(x.dtype)


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: "Kernel", x: Points, a: Tensor, y: Points, b: Tensor) -> Scalar:
        if _on_a_line(kernel, x):  # k = -r
            (u, du), (v, dv) = _distance_sums(x, y, b), _distance_sums(y, x, a)
            ctx.save_for_backward(x, a, y, b, (-a * du).view_as(x), -u, (-b * dv).view_as(y), -v)
            return -(a @ u)
        between = Distances(x, y, kernel.smooth)
        symmetric = between.one and b is a
        _, wants_x, _, wants_y, wants_b = ctx.needs_input_grad
        A = _moments(between.x, a) if wants_y else a[:0, None]
        B = A if symmetric else _moments(between.y, b) if wants_x else b[:0, None]
        u, v = torch.zeros_like(a), torch.zeros_like(b)  # sums of kernel values
        to_x, to_y = a.new_zeros(len(B), len(a)), b.new_zeros(len(A), len(b))  # sums of slopes
        c: float | Tensor = 0.0
        for i, j in tiles(len(x), len(y), x.device, symmetric):
            k, q, c = kernel.evaluate(between.block(i, j))
            mirrored = symmetric and i.start != j.start  # its transpose, below the diagonal, is not visited
            u[i] += k @ b[j]
            if mirrored or (wants_b and not symmetric):
                v[j] += a[i] @ k
            if wants_x:
                to_x[:, i] += B[:, j] @ q.T
            if (mirrored and wants_x) or (wants_y and not symmetric):
                to_y[:, j] += A[:, i] @ q
        if symmetric:
            u, to_x = u + v, to_x + to_y
            v, to_y = u, to_x
        if any(ctx.needs_input_grad):
            dx = _pull(between.x, to_x, 2 * c * a, x) if wants_x else None
            dy = dx if symmetric else _pull(between.y, to_y, 2 * c * b, y) if wants_y else None
            ctx.save_for_backward(x, a, y, b, dx, u, dy, v)
        return a @ u

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        found = ctx.saved_tensors[4:]
        return (None, *(g * t if n else None for t, n in zip(found, ctx.needs_input_grad[1:], strict=True)))


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: "Kernel", x: Points, y: Points, b: Tensor) -> Tensor:
        ctx.kernel = kernel
        ctx.save_for_backward(x, y, b)
        if _on_a_line(kernel, x):
            return -_distance_sums(x, y, b)[0]
        between, u = Distances(x, y, kernel.smooth), x.new_zeros(len(x))
        ctx.one = between.one
        for i, j in tiles(len(x), len(y), x.device, between.one):
            k = kernel.evaluate(between.block(i, j))[0]
            u[i] += k @ b[j]
            if between.one and i.start != j.start:
                u[j] += b[i] @ k
        return u

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        x, y, b = ctx.saved_tensors
        _, wants_x, wants_y, wants_b = ctx.needs_input_grad
        if _on_a_line(ctx.kernel, x):
            (_, du), (v, dv) = _distance_sums(x, y, b), _distance_sums(y, x, g)
            return None, (-g * du).view_as(x), (-b * dv).view_as(y), -v
        between = Distances(x, x if ctx.one else y, ctx.kernel.smooth)
        A = _moments(between.x, g) if wants_y else g[:0, None]
        B = _moments(between.y, b) if wants_x else b[:0, None]
        to_x, to_y, v = g.new_zeros(len(B), len(g)), b.new_zeros(len(A), len(b)), torch.zeros_like(b)
        # Of one cloud both sums are over the same symmetric matrix: one product, and half of the blocks.
        both = torch.cat([A, B]) if ctx.one else A[:0]
        to_both = torch.zeros_like(both)
        c: float | Tensor = 0.0
        for i, j in tiles(len(x), len(y), x.device, ctx.one):
            k, q, c = ctx.kernel.evaluate(between.block(i, j))
            mirrored = ctx.one and i.start != j.start
            if wants_b:
                v[j] += g[i] @ k
                if mirrored:
                    v[i] += k @ g[j]
            if ctx.one and wants_x:
                to_both[:, i] += both[:, j] @ q.T
                if mirrored:
                    to_both[:, j] += both[:, i] @ q
                continue
            if wants_x:
                to_x[:, i] += B[:, j] @ q.T
            if wants_y:
                to_y[:, j] += A[:, i] @ q
        if ctx.one:
            to_y, to_x = to_both.chunk(2)
        dx = _pull(between.x, to_x, 2 * c * g, x) if wants_x else None
        dy = _pull(between.y, to_y, 2 * c * b, y) if wants_y else None
        return None, dx, dy, v if wants_b else None


def stein_sums(kernel: "Kernel", x: Points, w: Tensor, g: Points) -> tuple[Points, Points]:
    r"""Return :math:`\sum_jw_jk(x_i,x_j)g_j` and :math:`\sum_jw_j\nabla_{x_j}k(x_i,x_j)`, both (n, \*event), without gradient.

    n²/2 kernel values, memory O(n).
    """
    with torch.no_grad():
        between = Distances(x, x, kernel.smooth)
        A, G = _moments(between.x, w), torch.empty_like(between.x.x.T, memory_format=torch.contiguous_format)
        torch.mul(g.flatten(1).T, w, out=G)
        pulled, smoothed = torch.zeros_like(A), torch.zeros_like(G)
        c: float | Tensor = 0.0
        for i, j in tiles(len(x), len(x), x.device, symmetric=True):
            k, q, c = kernel.evaluate(between.block(i, j))
            pulled[:, i] += A[:, j] @ q.T
            smoothed[:, i] += G[:, j] @ k.T
            if i.start != j.start:
                pulled[:, j] += A[:, i] @ q
                smoothed[:, j] += G[:, i] @ k
        return smoothed.T.reshape(x.shape), _pull(between.x, pulled, -2 * c * torch.ones_like(w), x)
