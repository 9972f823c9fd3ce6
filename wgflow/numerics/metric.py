"""Metrics of a flat space: coordinates in which a symmetric positive definite matrix becomes the identity."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.finite import require_finite
from wgflow.core.typing import Points


@dataclass(frozen=True, eq=False)
class Metric:
    r"""The metric :math:`|x|^2_{M^{-1}}=x^\top M^{-1}x` of points with their events flattened.

    With :math:`M=LL^\top` the coordinates :math:`u=L^{-1}x` have :math:`|u|^2=|x|^2_{M^{-1}}`.

    Parameters
    ----------
    matrix : Tensor, shape (d,) or (d, d)
        :math:`M`, a diagonal or a whole matrix, symmetric positive definite: large where steps may be long.

    Raises
    ------
    BadInput
        For another shape, entries that are not finite, or a matrix that is not symmetric positive definite.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        M = self.matrix.detach() if isinstance(self.matrix, Tensor) else None
        if M is None or M.dim() not in (1, 2) or M.numel() == 0 or len(M) != M.shape[-1]:
            got = type(self.matrix).__name__ if M is None else tuple(M.shape)
            raise BadInput(f"metric: expected a tensor (d,) or (d, d), got {got}")
        require_finite("metric", metric=M)
        least = M.min() if self.diagonal else torch.linalg.eigvalsh(M)[0]
        if not self.diagonal and not torch.allclose(M, M.mT, atol=1e-6 * float(M.abs().max())):
            raise BadInput("metric: the matrix is not symmetric. Give M itself, such as L @ L.T, not a factor of it")
        if not float(least) > 0:
            raise BadInput(f"metric: expected a positive definite matrix, and its least eigenvalue is {float(least):g}")

    @property
    def diagonal(self) -> bool:
        """Whether it is given by its diagonal."""
        return self.matrix.dim() == 1

    @cached_property
    def root(self) -> Tensor:
        """The factor :math:`L`: its diagonal (d,), or a lower triangle (d, d)."""
        return self.matrix.sqrt() if self.diagonal else torch.linalg.cholesky(self.matrix)

    @cached_property
    def log_det(self) -> Tensor:
        r""":math:`\log\det M`, 0-d."""
        return 2 * (self.root if self.diagonal else self.root.diagonal()).log().sum()

    def _fitting(self, x: Points) -> Points:
        flat = x.flatten(1)
        if flat.shape[1] != len(self.matrix):
            raise BadInput(f"metric: it is one of {len(self.matrix)} coordinates, and points have {flat.shape[1]}")
        if flat.dtype != self.matrix.dtype:
            raise BadInput(f"metric: it is of {self.matrix.dtype}, and points are of {flat.dtype}: convert one of them")
        return flat

    def whiten(self, x: Points) -> Points:
        r"""Return :math:`L^{-1}x` for points (n, \*event)."""
        flat = self._fitting(x)
        if self.diagonal:
            return (flat / self.root).view_as(x)
        return torch.linalg.solve_triangular(self.root, flat.T, upper=False).T.reshape(x.shape)

    def color(self, u: Points) -> Points:
        r"""Return :math:`Lu`, which undoes :meth:`whiten`."""
        flat = self._fitting(u)
        return (flat * self.root if self.diagonal else flat @ self.root.T).reshape(u.shape)

    def apply(self, g: Points) -> Points:
        r"""Return :math:`Mg` for gradients (n, \*event)."""
        flat = self._fitting(g)
        return (flat * self.matrix if self.diagonal else flat @ self.matrix).reshape(g.shape)
