"""Identity plus a network."""

from typing import Literal

import torch
from torch import Tensor, nn

from wgflow.core.errors import Unsupported
from wgflow.core.fields import Count, checked
from wgflow.core.typing import Points
from wgflow.maps.base import TransportMap, evaluate, jacobian, newton_inverse, rademacher, register_map, start_at_zero


@register_map("residual")
class Residual(TransportMap):
    r"""The map :math:`T(x)=x+u(x)` with a network :math:`u` whose output layer starts at zero.

    Parameters
    ----------
    \*event_shape : int
        Shape of one point.
    net : nn.Module
        :math:`u`, from (n, \*event) to the same shape, every point by itself (no batch normalization). It is used as it
        is, not copied; its last layer is set to zero.
    logdet : {"exact", "series", None}
        ``"exact"``: the Jacobian by d backward passes at once and :math:`\log|\det|` of it, in d net evaluations and d³.
        ``"series"``: while training, :math:`\log\det(I+J)=\sum_{j\ge1}\frac{(-1)^{j+1}}j\operatorname{tr}J^j` cut after
        ``terms`` and each trace from one random sign vector (Hutchinson). It needs :math:`\|J\|\le c<1` (spectral
        normalization) and is biased by :math:`O(c^{\text{terms}+1})`. None: the density is not tracked.
    terms : int
        Terms of the series.

    Raises
    ------
    BadInput
        For a network without a layer, or one that normalizes over the batch.

    Notes
    -----
    The inverse is by Newton's method and exists where :math:`\|J\|<1`, which nothing enforces; where it is not found,
    ``Unsupported`` is raised. Source: He et al. (2016); the series, Behrmann et al. (2019).

    Examples
    --------
    >>> T = Residual(2, net=nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)))
    >>> T.with_logdet(torch.ones(1, 2))[1]
    tensor([0.], grad_fn=...)
    """

    @checked
    def __init__(
        self,
        *event_shape: Count,
        net: nn.Module,
        logdet: Literal["exact", "series"] | None = "exact",
        terms: Count = 8,
    ) -> None:
        super().__init__(*event_shape)
        start_at_zero(net, "Residual")
        self.net, self.logdet, self.terms = net, logdet, terms

    @classmethod
    def example(cls) -> "Residual":
        """Return a tiny instance."""
        return cls(2, net=nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)))

    @property
    def has_logdet(self) -> bool:  # type: ignore[override]
        """Whether it was asked for."""
        return self.logdet is not None

    @property
    def invertible(self) -> bool:  # type: ignore[override]
        """Whether Newton's method has a Jacobian to work with."""
        return self.logdet is not None

    def forward(self, x: Points) -> Points:
        r"""Return :math:`x+u(x)`."""
        self.flat(x)
        return x + evaluate(self.net, x)

    def with_logdet(self, x: Points, rng: torch.Generator | None = None) -> tuple[Points, Tensor]:
        """Return the image and the log-determinant: exact without ``rng``, by the series with one where that was chosen."""
        if self.logdet is None:
            return super().with_logdet(x, rng)
        self.flat(x)
        if self.logdet == "series" and rng is not None:
            return self._series(x, rng)
        u, jac = jacobian(self.net, x)
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        return x + u, torch.linalg.slogdet(eye + jac)[1]

    def _series(self, x: Points, rng: torch.Generator) -> tuple[Points, Tensor]:
        signs = rademacher(x, rng)
        with torch.enable_grad():
            u, pull = torch.func.vjp(lambda x: evaluate(self.net, x), x)  # type: ignore[misc]
            v, total = signs, x.new_zeros(len(x))
            for j in range(1, self.terms + 1):
                (v,) = pull(v)
                total = total + (-1) ** (j + 1) / j * (v * signs).flatten(1).sum(1)
        return x + u, total

    def inverse(self, y: Points) -> Points:
        """Return the solution of x + u(x) = y by Newton's method from y."""
        if self.logdet is None:
            raise Unsupported(
                "Residual(logdet=None) has no inverse: it keeps no Jacobian. Use Residual(logdet='exact')."
            )

        def linearised(x: Tensor) -> tuple[Tensor, Tensor]:
            points = x.view(-1, *self.event_shape)
            u, jac = jacobian(self.net, points)
            return x + u.flatten(1), torch.eye(self.dim, dtype=x.dtype, device=x.device) + jac

        return newton_inverse(linearised, self.flat(y), "Residual").view_as(y)
