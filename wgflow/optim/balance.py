"""How far an inner minimization is from its end, in a unit that needs no scale: two forces that must cancel."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from wgflow.core.ranks import averaged
from wgflow.core.typing import Scalar

BATCHES = 4
"""Independent batches for one look."""


def imbalance(parts: Iterable[tuple[Scalar, Scalar]], parameters: Sequence[Tensor]) -> Tensor:
    r"""Return :math:`\lVert E[\nabla a+\nabla b]\rVert/(\lVert E\nabla a\rVert+\lVert E\nabla b\rVert)`, between 0 and 1, a 0-d tensor.

    ``parts`` yields the values of the two parts of an objective, (a, b), on two or more independent batches; gradients are in
    ``parameters``. Squared norms of the expectations are means of products of *different* batches, which noise leaves
    unbiased: near a stationary point the norm of one batch's gradient is that of its noise. 0 where both parts vanish.
    Costs two backward passes a batch and the memory of six gradients. All ranks must call it together.
    """
    sums = [_SquaredNorm(), _SquaredNorm(), _SquaredNorm()]
    for a, b in parts:
        da = _gradient(a, parameters, retain=True)
        db = _gradient(b, parameters, retain=False)
        for total, v in zip(sums, (da + db, da, db), strict=True):
            total.add(v)
    left, first, second = (s.of_the_mean().clamp(min=0).sqrt() for s in sums)
    scale = first + second
    return torch.where(scale > 0, left / scale, torch.zeros_like(left)).clamp(max=1)


def _gradient(part: Scalar, parameters: Sequence[Tensor], retain: bool) -> Tensor:
    grads = torch.autograd.grad(part, parameters, retain_graph=retain, materialize_grads=True)
    return averaged(torch.cat([g.reshape(-1) for g in grads]))


class _SquaredNorm:
    """Squared norm of an expectation, from independent draws."""

    def __init__(self) -> None:
        self.m, self.sum, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, v: Tensor) -> None:
        self.m += 1
        self.sum, self.squares = self.sum.to(v) + v, self.squares.to(v) + v.square().sum()

    def of_the_mean(self) -> Tensor:
        return (self.sum.square().sum() - self.squares) / (self.m * (self.m - 1))
