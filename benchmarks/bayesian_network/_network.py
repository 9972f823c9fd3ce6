"""A Bayesian network with one hidden layer: its log posterior as a function of flat parameters, and how predictions are scored."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.bayesian_network._uci import Regression

RATE = 0.1


@dataclass(frozen=True)
class Network:
    r"""Likelihood of weights and of :math:`\log\gamma`, the last coordinate of a particle, up to a constant.

    :math:`y\sim N(f_w(x),1/\gamma)` with :math:`f_w(x)=b+\sum_jv_j\max(0,\langle a_j,(x,1)\rangle)` and
    :math:`\gamma\sim\mathrm{Gamma}(1,0.1)` (shape, rate), the change of variables to :math:`\log\gamma` included. A flat particle holds the
    :math:`a_j`, the :math:`v_j`, :math:`b` and :math:`\log\gamma`. The prior of the weights is not part of it.
    """

    x: Tensor
    y: Tensor
    hidden: int = 50

    @property
    def weights(self) -> int:
        """How many weights there are."""
        return (self.x.shape[1] + 2) * self.hidden + 1

    @property
    def dim(self) -> int:
        """Coordinates of a particle."""
        return self.weights + 1

    def outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return the outputs of networks (n, dim) at inputs (m, d), shape (n, m)."""
        first = (x.shape[1] + 1) * self.hidden
        a = theta[:, :first].view(len(theta), -1, self.hidden)
        v, b = theta[:, first : first + self.hidden], theta[:, first + self.hidden : first + self.hidden + 1]
        units = torch.relu(x @ a[:, :-1] + a[:, -1:])
        return (units @ v[:, :, None]).squeeze(2) + b

    def __call__(self, theta: Tensor) -> Tensor:
        """Return the log likelihood with the log prior of the noise, for particles (n, dim), shape (n,)."""
        log_gamma = theta[:, -1]
        gamma, errors = log_gamma.exp(), (self.outputs(theta, self.x) - self.y).square().sum(1)
        return 0.5 * len(self.y) * log_gamma - 0.5 * gamma * errors + log_gamma - RATE * gamma

    def start(self, n: int, seed: int) -> Tensor:
        r"""Return n networks whose weights are normal, with the variance one over the inputs of a unit; :math:`\gamma=1`, no offset."""
        rng, d = torch.Generator().manual_seed(seed), self.x.shape[1] + 1
        a = torch.randn(n, d * self.hidden, generator=rng) / d**0.5
        v = torch.randn(n, self.hidden, generator=rng) / self.hidden**0.5
        return torch.cat([a, v, torch.zeros(n, 2)], 1)

    def scores(self, theta: Tensor, data: Regression) -> dict[str, float]:
        """Return error and mean log-likelihood, in the units of the data, of the prediction that averages over particles."""
        found, gamma = self.outputs(theta, data.test_x), theta[:, -1:].exp()
        log_p = 0.5 * (gamma / (2 * math.pi)).log() - 0.5 * gamma * (data.test_y - found).square()
        error = (found.mean(0) - data.test_y).square().mean().sqrt()
        likelihood = log_p.logsumexp(0).mean() - math.log(len(theta)) - math.log(data.unit)
        return {"rmse": float(error) * data.unit, "log_likelihood": float(likelihood)}
