"""Bayesian logistic regression: files, the posterior and how predictions are scored. Nothing here uses the library."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

# Sets of more than two classes: the one that is told from the rest.
POSITIVE = {"splice": 2, "covertype15k": 2}
RATE = 0.01


@dataclass(frozen=True)
class Split:
    """Standardised features and labels of -1 and 1, for training and for testing."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def load(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Read ``NAME.npz`` with features ``x`` and labels ``y``."""
    with np.load(folder / f"{name}.npz") as file:
        x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    signs = 2 * (y == POSITIVE[name]) - 1 if name in POSITIVE else y
    if set(np.unique(signs)) != {-1, 1}:
        raise ValueError(f"{name}.npz: expected labels -1 and 1, got {np.unique(y)}")
    return torch.from_numpy(x), torch.from_numpy(signs.astype(np.float32))


def split(x: Tensor, y: Tensor, seed: int, device: torch.device | str = "cpu") -> Split:
    """Return a random 80/20 split, standardised by what is trained on; constant features become 0."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[: int(0.8 * len(x))], order[int(0.8 * len(x)) :]
    std, mean = torch.std_mean(x[train], 0)
    z = torch.where(std > 0, (x - mean) / std.clamp(min=1e-12), 0.0)
    return Split(*(t.to(device) for t in (z[train], y[train], z[test], y[test])))


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
        """Draw particles from the prior, where all methods start."""
        rng = torch.Generator().manual_seed(seed)
        alpha = -torch.rand(n, generator=rng).clamp(min=1e-6).log() / RATE
        w = torch.randn(n, self.dim - 1, generator=rng) / alpha.sqrt()[:, None]
        return torch.cat([w, alpha.log()[:, None]], 1).to(self.x)

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
