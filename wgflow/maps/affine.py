"""The map between Gaussians."""

import torch
from torch import Tensor, nn

from wgflow.core.typing import Points
from wgflow.maps.base import TransportMap, inverted, register_map


@register_map("affine")
class Affine(TransportMap):
    r"""The affine map :math:`T(x)=Sx+b` with :math:`S=LL^\top` symmetric positive definite.

    Symmetric, because the optimal map between two Gaussians is: it is the gradient of the convex
    :math:`\tfrac12x^\top Sx+b^\top x`, so the transport cost of a trained one is :math:`W_2^2` and not only a bound. The
    diagonal of the triangular :math:`L` is :math:`e^{\ell}`; no parameter makes :math:`S` singular.

    Parameters
    ----------
    \*event_shape : int
        Shape of one point; :math:`x` is flattened to :math:`d` numbers.

    Notes
    -----
    Exact log-determinant :math:`2\sum\ell_i` and inverse (two triangular solves). Cost: d² a point, d² parameters.

    Examples
    --------
    >>> T = Affine(2)
    >>> T(torch.tensor([[1.0, 2.0]]))
    tensor([[1., 2.]], grad_fn=...)
    """

    has_logdet = True
    invertible = True

    def __init__(self, *event_shape: int) -> None:
        super().__init__(*event_shape)
        self.log_diagonal = nn.Parameter(torch.zeros(self.dim))
        self.lower = nn.Parameter(torch.zeros(self.dim, self.dim))
        self.shift = nn.Parameter(torch.zeros(self.dim))

    @property
    def factor(self) -> Tensor:
        """The triangular factor, (d, d)."""
        return self.lower.tril(-1) + self.log_diagonal.exp().diag()

    def forward(self, x: Points) -> Points:
        r"""Return :math:`LL^\top x+b`."""
        factor = self.factor
        return (self.flat(x) @ factor @ factor.T + self.shift).view_as(x)

    def with_logdet(self, x: Points, rng: torch.Generator | None = None) -> tuple[Points, Tensor]:
        """Return the image and the log-determinant, the same at every point."""
        return self(x), (2 * self.log_diagonal.sum()).expand(len(x))

    @torch.no_grad()
    def inverse(self, y: Points) -> Points:
        r"""Return :math:`S^{-1}(y-b)`."""
        x = torch.cholesky_solve((self.flat(y) - self.shift).T, self.factor).T.reshape(y.shape)
        return inverted(x, y, "Affine")
