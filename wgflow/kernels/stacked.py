"""Sums over all pairs of points within each of several clouds: dense kernel matrices, one batch of products."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wgflow.core.context import full_precision, without_autocast
from wgflow.core.typing import Points
from wgflow.kernels.features import by_features
from wgflow.kernels.sums import kernel_energy
from wgflow.numerics.distances import stacked_squares
from wgflow.numerics.once import Derivatives, differentiable_once

if TYPE_CHECKING:
    from wgflow.kernels import Kernel


@without_autocast()
def stacked_energy(kernel: "Kernel", x: Points, a: Tensor, y: Points, b: Tensor) -> Tensor:
    r"""Return :math:`\sum_{ij}a_{ci}b_{cj}\,k(x_{ci},y_{cj})` for every cloud c, shape (B,).

    Parameters
    ----------
    kernel : Kernel
        Radial.
    x, y : Tensor, shapes (B, n, \*event) and (B, m, \*event)
        Differentiable once, as are the weights.
    a, b : Tensor, shapes (B, n) and (B, m)
        Weights.

    Notes
    -----
    Memory B n m, for many clouds of few points; :func:`wgflow.kernels.sums.kernel_energy` is for one cloud of many.
    """
    if by_features(kernel):
        each = [kernel_energy(kernel, *cloud) for cloud in zip(x, a, y, b, strict=True)]
        return torch.stack(each).to(x.dtype)
    return _Stacked.apply(kernel, x, a, y, b)


class _Stacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernel: "Kernel", x: Points, a: Tensor, y: Points, b: Tensor) -> Tensor:
        with full_precision(x.device):
            inputs, kind = (
                (x, a, y, b),
                x.dtype if kernel.smooth else torch.float64,
            )  # a corner at 0 shows every rounding
            u, a, v, b = x.flatten(2).to(kind), a.to(kind), y.flatten(2).to(kind), b.to(kind)
            k, q, c = kernel.evaluate(stacked_squares(u, v))
            at_x = (k @ b[..., None])[..., 0]
            _, wants_x, _, wants_y, wants_b = ctx.needs_input_grad
            dx = _pull(u, a, v, b, q).mul_(2 * c).view_as(x) if wants_x else None
            dy = _pull(v, b, u, a, q.mT).mul_(2 * c).view_as(y) if wants_y else None
            db = (a[:, None] @ k)[:, 0] if wants_b else None
        found = (None if t is None else t.to(x.dtype) for t in (dx, at_x, dy, db))
        ctx.save_for_backward(*inputs, *found)
        return (a * at_x).sum(1).to(x.dtype)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        found = ctx.saved_tensors[4:]
        wanted = ctx.needs_input_grad[1:]
        return None, *(
            g.view(-1, *[1] * (t.dim() - 1)) * t if n and t is not None else None
            for t, n in zip(found, wanted, strict=True)
        )


def _pull(u: Tensor, a: Tensor, v: Tensor, b: Tensor, q: Tensor) -> Tensor:
    r"""Return :math:`a_i\sum_jb_jq_{ij}(u_i-v_j)`, shape (B, n, d)."""
    mass = q @ b[..., None]
    return (u * mass - q @ (b[..., None] * v)).mul_(a[..., None])
