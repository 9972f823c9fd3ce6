"""The laws that samplers are compared on: potentials, starts, settings of the papers, and how far a cloud is from the law."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wgflow import Gaussian, Grid, Measure, Particles, SquaredW2, Unnormalised
from wgflow.reference import Moments, kl, squared_w2

POINTS = 200
DOUBLE = torch.float64


@dataclass(frozen=True)
class Case:
    """A target at temperature 1 with what the papers give: start, step, number of steps, and values of the regularisation T.

    ``covariance`` is that of a centred Gaussian target, None for others. These are symmetric about 0, and so are starts and draws: what is
    measured is the shape of the modes, not how much of the start fell to each.
    """

    potential: Callable[[Tensor], Tensor]
    d: int
    start: tuple[float, float]
    step: float
    num_steps: int
    times: tuple[float, ...]
    covariance: Tensor | None = None
    box: float = 8.0

    @property
    def target(self) -> Measure:
        """The law, known by its density alone."""
        return Unnormalised(lambda x: -self.potential(x), self.d)

    def cloud(self, seed: int, n: int) -> Particles:
        """Return particles from the normal start."""
        mean, std = self.start
        z = torch.randn(n, self.d, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        return Particles(mean + std * self._symmetric(z))

    def _symmetric(self, x: Tensor) -> Tensor:
        half = len(x) // 2
        return x if self.covariance is not None else torch.cat([x[:half], -x[:half]])

    def log_z(self, time: float, metric: Tensor | None = None) -> Callable[[Tensor], Tensor] | None:
        """Return the log normaliser of the proximal for a Gaussian target, up to a constant; None for others."""
        if self.covariance is None:
            return None
        H, eye = torch.linalg.inv(self.covariance), torch.eye(self.d, dtype=DOUBLE)
        A = H @ torch.linalg.inv(eye + time * (eye if metric is None else metric) @ H)
        return lambda y: -0.25 * ((y @ A) * y).sum(1)

    def exact(self, n: int, seed: int) -> Particles:
        """Return independent draws of the law; of the density on a fine grid where it is no Gaussian."""
        rng = torch.Generator().manual_seed(seed)
        if self.covariance is not None:
            return Gaussian(torch.zeros(self.d, dtype=DOUBLE), self.covariance).draw(n, rng)
        box = [-self.box] * self.d, [self.box] * self.d, [round(40 * self.box)] * self.d
        return Particles(self._symmetric(Grid.of(lambda x: -self.potential(x), *box).draw(n, rng).x))

    def distances(self, draws: int) -> dict[str, Callable[[Tensor], float]]:
        """Return W2 to the law as a function of points, ``w2``: of Gaussians with the same moments, or exactly to so many draws.

        For a Gaussian law also ``kl``, the KL divergence from it of the Gaussian with the same moments.
        """
        if self.covariance is not None:
            law = Moments(torch.zeros(self.d, dtype=DOUBLE), self.covariance)
            return {
                "w2": lambda x: math.sqrt(max(float(squared_w2(Moments.of(Particles(x)), law)), 0.0)),
                "kl": lambda x: float(kl(Moments.of(Particles(x)), law)),
            }
        truth = SquaredW2(self.exact(draws, 12345))
        return {"w2": lambda x: math.sqrt(float(truth.value(Particles(x.repeat(draws // len(x), 1)))))}


def quadratic(*curvatures: float) -> Callable[[Tensor], Tensor]:
    """Return half of the squares with these weights."""
    a = torch.tensor(curvatures, dtype=DOUBLE)
    return lambda x: 0.5 * (a * x.square()).sum(1)


def mixture(x: Tensor) -> Tensor:
    """Two unit Gaussians at (.5, .5) and its opposite."""
    a = x.new_tensor([0.5, 0.5])
    return 0.5 * (x - a).square().sum(1) - torch.nn.functional.softplus(-2 * x @ a)


def double_banana(x: Tensor) -> Tensor:
    """Two arcs of a ring of radius 3."""
    ring = 2 * (x.norm(dim=1) - 3).square()
    return ring - torch.logaddexp(-2 * (x[:, 0] - 3).square(), -2 * (x[:, 0] + 3).square())


def gaussian(curvatures: list[float], **settings: Any) -> Case:
    """Return a centred Gaussian target."""
    covariance = (1 / torch.tensor(curvatures, dtype=DOUBLE)).diag()
    return Case(quadratic(*curvatures), len(curvatures), covariance=covariance, **settings)


def cases() -> dict[str, Case]:
    """Return all of them; every one but the condition number of 100 is of Tan, Osher and Li (2024)."""
    ten = (1 / torch.linspace(10, 1, 5, dtype=DOUBLE)).tolist()
    return {
        "Gaussian, d = 1": gaussian([1.0], start=(1.0, 2.0), step=0.2, num_steps=50, times=(0.1, 0.4)),
        "condition 10, d = 5": gaussian(ten, start=(0.0, 1.0), step=0.1, num_steps=200, times=(0.25, 0.75)),
        "condition 100, d = 2": gaussian([1.0, 0.01], start=(0.0, 1.0), step=0.2, num_steps=400, times=(0.25, 0.75)),
        "mixture": Case(mixture, 2, (0.0, 2.0), 0.1, 200, (0.1, 0.4)),
        "double banana": Case(double_banana, 2, (0.0, 2.0), 0.05, 200, (0.05, 0.1)),
    }
