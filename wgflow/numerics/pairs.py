"""Sums over all pairs of any differentiable function, block by block, by autograd."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from wgflow.core.ranks import shares
from wgflow.core.typing import Scalar
from wgflow.numerics.distances import tiles
from wgflow.numerics.once import Derivatives, differentiable_once

Block = Callable[..., Tensor]


def pair_energy(block: Block, rows: Sequence[Tensor], a: Tensor, columns: Sequence[Tensor], b: Tensor) -> Scalar:
    r"""Return :math:`\sum_{ij}a_ib_j\,f(\text{rows}_i,\text{columns}_j)` for any differentiable ``f``.

    Parameters
    ----------
    block : callable
        ``f(*rows[i], *columns[j])`` for slices i and j, shape (rows, columns).
    rows, columns : sequences of Tensor
        What ``f`` sees of a row and of a column, with leading sizes n and m; differentiable once.
    a, b : Tensor, shapes (n,) and (m,)
        Weights.

    Notes
    -----
    Each block is differentiated by autograd as soon as it is summed: time O(n m), memory that of one block's graph.
    """
    return _PairEnergy.apply(block, len(rows), a, b, *rows, *columns)


class _PairEnergy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Block, split: int, a: Tensor, b: Tensor, *parts: Tensor) -> Scalar:
        needs = ctx.needs_input_grad[2:]
        inputs = [t.detach() for t in (a, b, *parts)]
        grads = [torch.zeros_like(t) if n else None for t, n in zip(inputs, needs, strict=True)]
        on_rows = [True, False, *(k < split for k in range(len(parts)))]
        value, share = a.new_zeros(()), shares()
        for i, j in share.of(tiles(len(a), len(b), a.device)):
            cut = [t[i if row else j].requires_grad_(n) for t, row, n in zip(inputs, on_rows, needs, strict=True)]
            with torch.enable_grad():
                s = cut[0] @ block(*cut[2:]) @ cut[1]
            value += s.detach()
            wanted = [t for t, n in zip(cut, needs, strict=True) if n]
            found = iter(torch.autograd.grad(s, wanted, allow_unused=True) if wanted else ())
            for total, row in zip(grads, on_rows, strict=True):
                part = None if total is None else next(found)
                if part is not None:
                    total[i if row else j] += part  # type: ignore[index]
        value, *grads = share.added(value, *grads)
        ctx.save_for_backward(*grads, a, b, *parts)
        return value

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        grads = ctx.saved_tensors[: len(ctx.needs_input_grad) - 2]
        return (None, None, *(None if t is None else g * t for t in grads))
