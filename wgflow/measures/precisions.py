r"""Precision matrices of many Gaussians, in forms that stay what they are when Gaussian noise is added."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, NonNegative, checked
from wgflow.core.finite import require_finite


class LocalPrecision(Checked, ABC):
    r"""Precision matrices :math:`\Gamma_k` (inverse covariances) of K Gaussians in d dimensions.

    Attributes
    ----------
    shape : tuple of int
        ``(K, d)``.

    Examples
    --------
    Both kinds hold the same matrices here:

    >>> import torch
    >>> import wgflow as wg
    >>> full = wg.FullPrecision.of(torch.tensor([[[0.2, 0.0], [0.0, 1.0]]]))
    >>> factors = wg.FactorCovariance(torch.ones(1, 2), torch.tensor([[[2.0], [0.0]]]))
    >>> full.log_det, factors.log_det  # log 0.2
    (tensor([-1.6094]), tensor([-1.6094]))
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """``(K, d)``."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the matrices."""

    @property
    @abstractmethod
    def log_det(self) -> Tensor:
        r""":math:`\log\det\Gamma_k`, shape (K,)."""

    @property
    @abstractmethod
    def trace(self) -> Tensor:
        r""":math:`\operatorname{tr}\Gamma_k`, shape (K,)."""

    @property
    @abstractmethod
    def covariance(self) -> Tensor:
        r""":math:`\Gamma_k^{-1}`, shape (K, d, d), for pictures and tests."""

    @property
    @abstractmethod
    def largest(self) -> Tensor:
        r"""Largest eigenvalues of :math:`\Gamma_k`, or a bound of them that is sharp off the low rank, shape (K,)."""

    @abstractmethod
    def applied(self, r: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`\Gamma_kr_{ik}`, (n, K, d), and :math:`r_{ik}^\top\Gamma_kr_{ik}`, (n, K), for ``r`` of shape (n, K, d)."""

    @abstractmethod
    def quadratic(self, r: Tensor) -> Tensor:
        r"""Return :math:`r_{ik}^\top\Gamma_kr_{ik}` alone, shape (n, K)."""

    @abstractmethod
    def drawn(self, index: Tensor, rng: torch.Generator) -> Tensor:
        r"""Return one point of :math:`N(0,\Gamma_k^{-1})` for every k in ``index`` (n,), shape (n, d), differentiable in the matrices."""

    @abstractmethod
    def noised(self, scale: float, variance: float) -> Self:
        r"""Return :math:`(a^2\Gamma_k^{-1}+vI)^{-1}`."""

    @abstractmethod
    def floored(self, floor: float) -> Self:
        r"""Return :math:`\Gamma_k+\varepsilon I`: no eigenvalue is below :math:`\varepsilon`."""

    @abstractmethod
    def marginal(self, coordinates: Sequence[int]) -> Self:
        """Return the precisions of some of the coordinates: the inverses of blocks of the *covariances*."""

    def ready(self) -> None:
        """Compute what is kept for all evaluations."""
        _ = self.log_det, self.trace

    def within(self, floor: float, ceiling: float) -> Self:
        r"""Return the precisions with eigenvalues :math:`\lambda` moved to :math:`(1/(\lambda+\varepsilon)+1/\Lambda)^{-1}`.

        A floor is added to a precision and the inverse of a ceiling to a covariance. Both are smooth, and the second is the heat
        evolution of :meth:`noised`, so that nothing new has to be evaluated.
        """
        return self.floored(floor).noised(1.0, 1 / ceiling)


@dataclass(frozen=True, eq=False)
class FullPrecision(LocalPrecision):
    r"""Any precision matrices, :math:`\Gamma_k=L_kL_k^\top`; for few dimensions.

    Parameters
    ----------
    factor : Tensor, shape (K, d, d)
        :math:`L_k`, lower triangular with a positive diagonal; :meth:`of` takes the matrices.

    Raises
    ------
    BadInput
        For factors that are not K square matrices.

    Notes
    -----
    Factors are computed in double precision. Memory O(K d²) here, O(n K d) for n points.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> wg.FullPrecision.of(torch.tensor([[[4.0, 0.0], [0.0, 1.0]]])).covariance.diagonal(dim1=1, dim2=2)
    tensor([[0.2500, 1.0000]])
    """

    factor: Tensor

    def __post_init__(self) -> None:
        if self.factor.dim() != 3 or self.factor.shape[1] != self.factor.shape[2] or self.factor.numel() == 0:
            raise BadInput(f"FullPrecision: expected factors (K, d, d), got {tuple(self.factor.shape)}")

    @classmethod
    @checked
    def of(cls, precision: Tensor) -> "FullPrecision":
        """Return those with these matrices (K, d, d); raises ``BadInput`` unless all are symmetric and positive definite."""
        if precision.dim() != 3 or precision.shape[1] != precision.shape[2] or precision.numel() == 0:
            raise BadInput(f"FullPrecision.of: expected precisions (K, d, d), got {tuple(precision.shape)}")
        require_finite("FullPrecision.of", precision=precision)
        size = precision.abs().amax((1, 2)).clamp(min=torch.finfo(precision.dtype).tiny)
        off = (precision - precision.mT).abs().amax((1, 2)) / size
        worst = int(off.argmax())
        if not float(off[worst]) <= torch.finfo(precision.dtype).eps ** 0.5:
            raise BadInput(f"FullPrecision.of: precision[{worst}] is not symmetric:\n{precision[worst]}")
        factor, failed = torch.linalg.cholesky_ex(precision.double())
        if bool(failed.any()):
            k = int(failed.bool().int().argmax())
            least = float(torch.linalg.eigvalsh(precision[k].double())[0])
            raise BadInput(
                f"FullPrecision.of: precision[{k}] is not positive definite, its least eigenvalue is {least:g}. Give precisions, the "
                "inverses of covariances, not factors of them"
            )
        return cls(factor.to(precision.dtype))

    @property
    def shape(self) -> tuple[int, int]:
        """``(K, d)``."""
        return self.factor.shape[0], self.factor.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """That of the factors."""
        return self.factor.dtype

    @cached_property
    def log_det(self) -> Tensor:  # type: ignore[override]
        """Twice the sum of the logarithms of the diagonal of the factor."""
        return 2 * self.factor.diagonal(dim1=1, dim2=2).log().sum(1)

    @cached_property
    def trace(self) -> Tensor:  # type: ignore[override]
        """Sum of the squares of the factor."""
        return self.factor.square().sum((1, 2))

    @property
    def covariance(self) -> Tensor:
        """Inverses, in double precision on the way."""
        return torch.cholesky_inverse(self.factor.double()).to(self.factor.dtype)

    @property
    def largest(self) -> Tensor:
        """Squares of the largest singular values of the factors."""
        return torch.linalg.matrix_norm(self.factor.double(), 2).square().to(self.factor.dtype)

    def applied(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Multiply by both factors: the form stays positive when rounded."""
        whitened = self._whitened(r)
        return torch.einsum("nkf,kdf->nkd", whitened, self.factor), whitened.square().sum(2)

    def quadratic(self, r: Tensor) -> Tensor:
        """Return the squared norms of the whitened differences."""
        return self._whitened(r).square().sum(2)

    def _whitened(self, r: Tensor) -> Tensor:
        return torch.einsum("nkd,kdf->nkf", r, self.factor)

    def drawn(self, index: Tensor, rng: torch.Generator) -> Tensor:
        r"""Solve :math:`L_k^\top x=\xi`."""
        L = self.factor[index]
        xi = torch.randn(L.shape[:2], generator=rng, device=L.device, dtype=L.dtype)
        return torch.linalg.solve_triangular(L.mT, xi[:, :, None], upper=True)[:, :, 0]

    @checked
    def noised(self, scale: float, variance: NonNegative) -> "FullPrecision":
        r"""Return :math:`L_k(a^2I+vL_k^\top L_k)^{-1}L_k^\top`, which inverts nothing that is singular."""
        if variance == 0:
            return FullPrecision(self.factor / abs(scale))
        L = self.factor.double()
        M = scale**2 * eye_like(L) + variance * L.mT @ L
        half = torch.linalg.solve_triangular(root(M), L.mT, upper=False)
        return FullPrecision(root(half.mT @ half).to(self.factor.dtype))

    def floored(self, floor: float) -> "FullPrecision":
        r"""Return the factors of :math:`L_kL_k^\top+\varepsilon I`."""
        L = self.factor.double()
        return FullPrecision(root(L @ L.mT + floor * eye_like(L)).to(self.factor.dtype))

    def marginal(self, coordinates: Sequence[int]) -> "FullPrecision":
        """Invert blocks of the covariances."""
        chosen = list(coordinates)
        block = torch.cholesky_inverse(self.factor.double())[:, chosen][:, :, chosen]
        return FullPrecision(root(torch.linalg.inv(block)).to(self.factor.dtype))


def eye_like(matrices: Tensor) -> Tensor:
    """Return the identity of the size of these matrices."""
    return torch.eye(matrices.shape[-1], device=matrices.device, dtype=matrices.dtype)


def root(matrices: Tensor) -> Tensor:
    """Return Cholesky factors of matrices that are positive definite by construction, without waiting for the device to say so."""
    return torch.linalg.cholesky_ex(matrices)[0]
