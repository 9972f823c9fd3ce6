"""Bayesian logistic regression: the posterior and how predictions are scored. Nothing here uses the library."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

RATE = 0.01
EULER = 0.5772156649


@dataclass(frozen=True)
class Posterior:
    r"""Log posterior of the weights w and of :math:`\log\alpha`, the last coordinate, up to a constant.

    :math:`y\sim\mathrm{Bernoulli}(\sigma(\langle w,x\rangle))` without intercept, :math:`w\sim N(0,I/\alpha)`,
    :math:`\alpha\sim\mathrm{Gamma}(1,0.01)` (shape, rate), the change of variables to :math:`\log\alpha` included.
    """

    x: Tensor
    y: Tensor

    @property
    def dim(self) -> int:
        """Coordinates of a particle."""
        return self.x.shape[1] + 1

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the log posterior of particles (n, dim), shape (n,)."""
        w, log_alpha = theta[:, :-1], theta[:, -1]
        fits = nnf.logsigmoid(w @ (self.x * self.y[:, None]).T).sum(1)
        alpha = log_alpha.exp()
        prior = 0.5 * w.shape[1] * log_alpha - 0.5 * alpha * w.square().sum(1)
        return fits + prior + log_alpha - RATE * alpha

    def prior(self, n: int, seed: int) -> Tensor:
        """Draw particles from the prior, where flows of particles start."""
        rng = torch.Generator().manual_seed(seed)
        alpha = -torch.rand(n, generator=rng).clamp(min=1e-6).log() / RATE
        w = torch.randn(n, self.dim - 1, generator=rng) / alpha.sqrt()[:, None]
        return torch.cat([w, alpha.log()[:, None]], 1).to(self.x)

    def normal(self) -> tuple[Tensor, Tensor]:
        r"""Return mean and covariance of a normal law like the prior, where chains of maps start.

        :math:`w` as given :math:`\alpha` at its mean, :math:`\log\alpha` with its mean and variance. From the prior itself no
        implicit step is defined: :math:`E|w|^2=\infty`, so it is infinitely far from the posterior.
        """
        mean, variance = self.x.new_zeros(self.dim), self.x.new_full((self.dim,), RATE)
        mean[-1], variance[-1] = -math.log(RATE) - EULER, math.pi**2 / 6
        return mean, variance.diag()

    def largest_curvature(self) -> float:
        """Return a bound on the curvature in w, with alpha at its prior mean: step sizes are multiples of its inverse."""
        return float(torch.linalg.matrix_norm(self.x, 2) ** 2 / 4 + 1 / RATE)


def scores(theta: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return accuracy and mean log-likelihood of the prediction that averages over particles."""
    p = torch.sigmoid(y[:, None] * (x @ theta[:, :-1].T)).mean(1)
    return {
        "accuracy": float((p > 0.5).float().mean()),
        "log_likelihood": float(p.clamp(min=torch.finfo(p.dtype).tiny).log().mean()),
    }
