"""Two-dimensional transports of Malik and Huang (2024): laws, networks and settings of the public code."""

import itertools
import math

import torch
from torch import Tensor, nn

from wgflow import GaussianMixture


def circle(count: int) -> Tensor:
    angle = 2 * math.pi * torch.arange(count) / count
    return torch.stack([angle.cos(), angle.sin()], 1)


SQUARE = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 2)


def balanced(centres: Tensor, std: float) -> GaussianMixture:
    """Return a mixture whose batches have no errors of the masses, as in the public code."""
    return GaussianMixture(centres, std, stratified=True)


PROBLEMS = {
    "ring": (balanced(torch.zeros(1, 2), 0.05), balanced(circle(8), 0.1)),
    "four Gaussians": (balanced(math.sqrt(2) * SQUARE, 0.1), balanced(math.sqrt(0.5) * SQUARE, 0.1)),
}
"""Source and target."""


def _layers(widths: tuple[int, ...], std: float, normalised: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        linear = nn.Linear(a, b)
        nn.init.normal_(linear.weight, std=std)
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if normalised and b != widths[-1]:
            layers.append(nn.BatchNorm1d(b))
            nn.init.normal_(layers[-1].weight, std=std)
        layers.append(nn.ReLU())
    return nn.Sequential(*layers[:-1])


class ResidualGenerator(nn.Module):
    """z + MLP(z) with batch normalisation, starting as the identity."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.net = _layers((2, width, width, width, 2), 0.01, normalised=True)

    def forward(self, z: Tensor) -> Tensor:
        return z + self.net(z)


def critic(width: int = 128) -> nn.Module:
    return _layers((2, width, width, width, 1), 0.1, normalised=False)
