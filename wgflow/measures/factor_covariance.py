"""Covariances of a diagonal plus a low rank, for many dimensions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import NonNegative, checked
from wgflow.core.finite import require_finite
from wgflow.measures.precisions import LocalPrecision, eye_like, root


@dataclass(frozen=True, eq=False)
class FactorCovariance(LocalPrecision):
    r"""Covariances of a diagonal plus a low rank, :math:`\Gamma_k^{-1}=\operatorname{diag}(c_k)+V_kV_k^\top`; for many dimensions.

    The columns of :math:`V_k` are tangents of the data manifold near :math:`k`, and :math:`c_k` is the variance off it. The precision is
    a diagonal *minus* a low rank. Nothing of size K d² is made but by :attr:`covariance`.

    Parameters
    ----------
    diagonal : Tensor, shape (K, d)
        :math:`c_k`, positive variances.
    factor : Tensor, shape (K, d, r)
        :math:`V_k`.

    Raises
    ------
    BadInput
        For shapes that do not fit.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> wg.FactorCovariance(torch.ones(1, 2), torch.tensor([[[2.0], [0.0]]])).covariance  # I + v v^T
    tensor([[[5., 0.],
             [0., 1.]]])
    """

    diagonal: Tensor
    factor: Tensor

    def __post_init__(self) -> None:
        c, V = self.diagonal, self.factor
        if c.dim() != 2 or c.numel() == 0 or V.dim() != 3 or V.shape[:2] != c.shape or V.dtype != c.dtype:
            raise BadInput(
                f"FactorCovariance: expected diagonal (K, d) and factor (K, d, r) of one dtype, got {tuple(c.shape)} {c.dtype} and "
                f"{tuple(V.shape)} {V.dtype}"
            )

    @classmethod
    @checked
    def of(cls, diagonal: Tensor, factor: Tensor) -> "FactorCovariance":
        """Return these, looked at: raises ``BadInput`` for variances that are not positive and for entries that are not finite."""
        require_finite("FactorCovariance.of", diagonal=diagonal, factor=factor)
        if not bool(diagonal.min() > 0):
            raise BadInput(
                f"FactorCovariance.of: the variances of the diagonal must be positive, the least is {float(diagonal.min()):g}"
            )
        return cls(diagonal, factor)

    @property
    def shape(self) -> tuple[int, int]:
        """``(K, d)``."""
        return self.diagonal.shape[0], self.diagonal.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """That of the diagonals."""
        return self.diagonal.dtype

    @cached_property
    def _inner(self) -> Tensor:
        r"""Cholesky factors (K, r, r) of :math:`I+V^\top D^{-1}V`."""
        V, c = self.factor.double(), self.diagonal.double()
        inner = V.mT @ (V / c[:, :, None])
        return root(eye_like(inner) + inner)

    @cached_property
    def _whitened(self) -> Tensor:
        r""":math:`L^{-1}V^\top D^{-1}`, (K, r, d), with :math:`LL^\top=I+V^\top D^{-1}V`."""
        scaled = self.factor.double() / self.diagonal.double()[:, :, None]
        return torch.linalg.solve_triangular(self._inner, scaled.mT, upper=False)

    @cached_property
    def _coefficients(self) -> Tensor:
        r""":math:`(I+V^\top D^{-1}V)^{-1}V^\top D^{-1}`, (K, r, d): the ridge regression of differences onto the columns."""
        return torch.linalg.solve_triangular(self._inner.mT, self._whitened, upper=True).to(self.factor.dtype)

    @cached_property
    def log_det(self) -> Tensor:  # type: ignore[override]
        """By the matrix determinant lemma."""
        inner = 2 * self._inner.diagonal(dim1=1, dim2=2).log().sum(1)
        return -self.diagonal.log().sum(1) - inner.to(self.diagonal.dtype)

    @cached_property
    def trace(self) -> Tensor:  # type: ignore[override]
        """That of the diagonal less that of the low rank."""
        return ((1 / self.diagonal.double()).sum(1) - self._whitened.square().sum((1, 2))).to(self.diagonal.dtype)

    @property
    def covariance(self) -> Tensor:
        """The matrices in full."""
        return torch.diag_embed(self.diagonal) + self.factor @ self.factor.mT

    @property
    def largest(self) -> Tensor:
        """The inverse of the least variance of the diagonal."""
        return 1 / self.diagonal.amin(1)

    def applied(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Divide what the columns leave of the differences by the diagonal."""
        left, along = self._off_columns(r)
        scaled = left / self.diagonal
        return scaled, (left * scaled).sum(2) + along

    def quadratic(self, r: Tensor) -> Tensor:
        """Return the sum of two squares: nothing cancels, however thin the Gaussian is."""
        left, along = self._off_columns(r)
        return (left.square() / self.diagonal).sum(2) + along

    def ready(self) -> None:
        """Compute what is kept, the coefficients too."""
        super().ready()
        _ = self._coefficients

    def _off_columns(self, r: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`r-Va`, (n, K, d), and :math:`|a|^2`, (n, K), at the least :math:`|r-Va|^2_{D^{-1}}+|a|^2`, which is the form."""
        a = torch.einsum("nkd,krd->nkr", r, self._coefficients)
        return r - torch.einsum("nkr,kdr->nkd", a, self.factor), a.square().sum(2)

    def drawn(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """Add noise of the diagonal and noise along the columns."""
        c, V = self.diagonal[index], self.factor[index]
        xi = torch.randn(c.shape, generator=rng, device=c.device, dtype=c.dtype)
        along = torch.randn(len(c), V.shape[2], 1, generator=rng, device=c.device, dtype=c.dtype)
        return c.sqrt() * xi + (V @ along)[:, :, 0]

    @checked
    def noised(self, scale: float, variance: NonNegative) -> "FactorCovariance":
        """Scale both, and raise the diagonal."""
        return replace(self, diagonal=scale**2 * self.diagonal + variance, factor=scale * self.factor)

    def floored(self, floor: float) -> "FactorCovariance":
        r"""Return :math:`C(I+\varepsilon C)^{-1}`, which is a diagonal plus a low rank again."""
        V, lifted = self.factor.double(), 1 + floor * self.diagonal.double()
        scaled = V / lifted[:, :, None]
        inner = floor * V.mT @ scaled
        L = root(eye_like(inner) + inner)
        factor = torch.linalg.solve_triangular(L, scaled.mT, upper=False).mT.to(self.factor.dtype)
        return FactorCovariance(self.diagonal / (1 + floor * self.diagonal), factor)

    def marginal(self, coordinates: Sequence[int]) -> "FactorCovariance":
        """Keep rows."""
        chosen = list(coordinates)
        return FactorCovariance(self.diagonal[:, chosen], self.factor[:, chosen])
