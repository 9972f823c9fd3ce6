"""Mixtures of Gaussians with one width, and the toy problem that is made of them."""

import copy
import math

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Device, NonNegative, Positive, checked
from wgflow.core.finite import require_finite
from wgflow.core.typing import Points
from wgflow.measures.base import Measure, register_measure
from wgflow.measures.particles import Particles
from wgflow.numerics.by_blocks import by_blocks


@register_measure("gaussian_mixture")
class GaussianMixture(Measure):
    r"""The mixture :math:`\sum_j p_j N(m_j, \sigma^2 I)`.

    Parameters
    ----------
    means : Tensor, shape (k, d)
        Centers :math:`m_j`.
    std : float
        Common standard deviation :math:`\sigma` (not a variance).
    weights : Tensor, shape (k,), optional
        Probabilities; equal when None.
    stratified : bool
        Draw every component as equally often as ``n`` allows, as the public S-JKO toys do (equal weights only); the floor of a
        comparison between samples falls a lot. Where ``n`` is no multiple of their number, which ones have one point more is random.

    Raises
    ------
    BadInput
        For other shapes, entries that are not finite, negative weights, or stratified draws with weights.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> law = wg.GaussianMixture(torch.tensor([[-3.0], [3.0]]), 0.1, weights=torch.tensor([0.25, 0.75]))
    >>> round((law.draw(10_000, torch.Generator().manual_seed(0)).x > 0).float().mean().item(), 2)
    0.75
    """

    @checked
    def __init__(
        self, means: Tensor, std: Positive, weights: Tensor | None = None, *, stratified: bool = False
    ) -> None:
        if means.dim() != 2 or means.numel() == 0:
            raise BadInput(f"GaussianMixture: expected means (k, d), got {tuple(means.shape)}")
        require_finite("GaussianMixture", means=means, **({} if weights is None else {"weights": weights}))
        if weights is not None and (weights.shape != means.shape[:1] or not bool(0 <= weights.min() < weights.sum())):
            raise BadInput(f"GaussianMixture: expected {len(means)} nonnegative weights, not all 0, got {weights}")
        if stratified and weights is not None:
            raise BadInput("GaussianMixture: stratified draws are for equal weights; leave weights out")
        self.means, self.std, self.stratified = means, std, stratified
        self.weights = torch.full_like(means[:, 0], 1 / len(means)) if weights is None else weights / weights.sum()
        self.event_shape = means.shape[1:]

    @classmethod
    def example(cls) -> "GaussianMixture":
        """Return a tiny instance."""
        return cls(torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.7, torch.tensor([0.25, 0.75]))

    @property
    def device(self) -> torch.device:
        """Where draws live."""
        return self.means.device

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points: independent, or with every component in turn when stratified."""
        if self.stratified:
            j = torch.arange(n, device=self.device)
            if n % len(self.means):
                j = j + torch.randint(len(self.means), (1,), generator=rng, device=self.device)
            j = j % len(self.means)
        else:
            j = torch.multinomial(self.weights, n, replacement=True, generator=rng)
        z = torch.randn(n, *self.event_shape, generator=rng, device=self.device, dtype=self.means.dtype)
        return Particles(self.means[j] + self.std * z, source=self)

    def log_prob(self, x: Points) -> Tensor:
        """Normalized log density, shape (n,); differences (n, k, d) are formed for a block of points at a time."""
        d = self.means.shape[1]

        def of_block(x: Points) -> Tensor:
            z = (x[:, None] - self.means) / self.std
            log_normal = -0.5 * z.square().sum(-1) - d * math.log(self.std * math.sqrt(2 * math.pi))
            return torch.logsumexp(self.weights.log() + log_normal, 1)

        return by_blocks(of_block, x, self.means.numel())

    @checked
    def noised(self, scale: Positive, variance: NonNegative) -> "GaussianMixture":
        r"""Return the mixture with means :math:`am_j` and the variance :math:`a^2\sigma^2+v`."""
        noised = copy.copy(self)
        noised.means, noised.std = scale * self.means, math.hypot(scale * self.std, math.sqrt(variance))
        return noised


@checked
def twenty_five_gaussians(device: Device = "cpu") -> GaussianMixture:
    r"""The 25-Gaussians toy of Choi et al.: means :math:`\{-6,-3,0,3,6\}^2`, covariance :math:`0.005\,I`, stratified.

    Parameters
    ----------
    device : torch.device or str
        Where draws are made.

    Returns
    -------
    GaussianMixture
        In the plane.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> wg.twenty_five_gaussians().draw(2500, torch.Generator().manual_seed(0)).x.var(0).round()  # 18 + 0.005
    tensor([18., 18.])
    """
    side = torch.tensor([-6.0, -3.0, 0.0, 3.0, 6.0], device=device)
    return GaussianMixture(torch.cartesian_prod(side, side), math.sqrt(0.005), stratified=True)
