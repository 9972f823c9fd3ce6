"""The law that a regularized Wasserstein proximal makes of particles."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.typing import Points
from wgflow.measures.base import Measure, register_measure
from wgflow.measures.particles import Particles
from wgflow.numerics.distances import readable
from wgflow.numerics.soft_sums import log_sums

if TYPE_CHECKING:
    from wgflow.measures.wasserstein_proximal import WassersteinProximal


@register_measure("proximal_mixture")
@dataclass(frozen=True, eq=False)
class ProximalMixture(Measure):
    r"""The regularized Wasserstein proximal of particles, :math:`\rho_T=\sum_jw_jK(\cdot,y_j)`: a law with density, score and draws.

    It comes from :meth:`WassersteinProximal.__call__`, and can be a target, or the start of a flow by a draw of it.

    Parameters
    ----------
    operator : WassersteinProximal
        What made it.
    base : Particles
        The particles :math:`y_j` with their weights.
    log_mean : Tensor, shape (m,)
        :math:`\log m(y_j)`.

    Raises
    ------
    BadInput
        Where an entry of ``log_mean`` is not finite, on a CPU: the kernel of that particle has underflown.

    Notes
    -----
    Cost of :meth:`log_prob` at n points: n m kernel values and n values of V, as many for its gradient; memory O(n + m). Differentiable
    once in the points and in the particles.

    Examples
    --------
    Of one particle at 0 under :math:`V=\tfrac12x^2`, :math:`T=1`, :math:`\tau=1` it is N(0, 1): :math:`2\tau T/(1+T)`.

    >>> import torch
    >>> import wgflow as wg
    >>> operator = wg.WassersteinProximal(wg.QuadraticPotential(torch.eye(1)), 1.0, temperature=1.0)
    >>> operator(wg.Particles(torch.zeros(1, 1))).score(torch.ones(1, 1))
    tensor([[-1.]])
    """

    operator: "WassersteinProximal"
    base: Particles
    log_mean: Tensor

    def __post_init__(self) -> None:
        if self.log_mean.shape != self.base.x.shape[:1]:
            raise BadInput(
                f"log_mean must have shape ({len(self.base)},), one entry a particle, got {tuple(self.log_mean.shape)}"
            )
        if readable(self.log_mean.detach()) and not bool(self.log_mean.detach().isfinite().all()):
            k = int((~self.log_mean.detach().isfinite()).nonzero()[0])
            raise BadInput(
                f"the normalizer at particle {k}, at {_place(self.base.x[k])}, has the logarithm {float(self.log_mean[k])}: "
                f"exp(-V / (2 temperature)) with temperature={self.operator.temperature:g} vanishes on all that was looked at around it. "
                "Take more samples or an exact normalizer, or move the particle to where V is finite"
            )

    @classmethod
    def example(cls) -> "ProximalMixture":
        """Return a tiny instance."""
        from wgflow.measures.potentials import QuadraticPotential
        from wgflow.measures.wasserstein_proximal import WassersteinProximal

        step = WassersteinProximal(QuadraticPotential(torch.tensor([[1.0, 0.2], [0.2, 2.0]])), 0.3, temperature=0.5)
        rho = Particles(torch.tensor([[0.0, 1.0], [1.0, -0.5], [2.0, 0.5]]))
        return cls(step, rho, step.log_mean(rho.x))

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.base.event_shape

    @property
    def device(self) -> torch.device:
        """Where the particles live."""
        return self.base.device

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points of equal weight: particles by their weights, and from each the kernel's own draw."""
        at = self.base.resampled(n, rng).x
        return Particles(self.operator.draw_from(at, rng), source=self)

    def log_prob(self, x: Points) -> Tensor:
        r"""Return :math:`\log\rho_T(x)`, shape (n,), normalized as far as ``log_mean`` is right."""
        step, bias = self.operator, self.base.log_weights - self.log_mean
        sums = log_sums(step.whiten(x), step.whiten(self.base.x), bias, step.width)
        return sums - step.at_points(x) / (2 * step.temperature) - step.log_constant(self.base.x[0].numel())

    def score(self, x: Points) -> Points:
        r"""Return :math:`\nabla\log\rho_T(x)`, of the shape of ``x``, without gradient.

        .. math:: \tau\nabla\log\rho_T(x)=-\tfrac12\nabla V(x)-\frac1{2T}M^{-1}\Bigl(x-\sum_jp_j(x)\,y_j\Bigr).
        """
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            (found,) = torch.autograd.grad(self.log_density(at).sum(), at)
        return found


def _place(x: Tensor) -> str:
    flat = x.detach().flatten()
    return str([round(v, 4) for v in flat[:4].tolist()])[:-1] + (", ...]" if len(flat) > 4 else "]")
