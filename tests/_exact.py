"""Small worlds with known answers: a few atoms, Gaussians as quadrature nodes, affine maps, quadratic critics."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from wgflow import FUNCTIONALS, FDivergence, Measure, Particles

ALL = 10**9  # a batch that takes every node of weighted particles: expectations become exact
ENTROPIES = [name for name in FUNCTIONALS if issubclass(FUNCTIONALS[name], FDivergence)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def hermite(mean=0.0, root=1.0, n: int = 3) -> Particles:
    """N(mean, root rootᵀ) as Gauss–Hermite nodes: exact for polynomials of degree 2n - 1."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    return _nodes(double(x), double(np.log(w)), mean, root)


def trapezoid(mean=0.0, root=1.0, step: float = 0.2, half: float = 8.0) -> Particles:
    """N(mean, root rootᵀ) on an even grid: exact to rounding for what is smooth on the scale of a few steps."""
    x = torch.arange(-half, half + step / 2, step, dtype=torch.float64)
    return _nodes(x, -x.square() / 2, mean, root)


def _nodes(x: Tensor, log_w: Tensor, mean, root) -> Particles:
    mean = double(mean).reshape(-1)
    d = len(mean)
    z = torch.cartesian_prod(*[x] * d).reshape(-1, d)
    weights = torch.cartesian_prod(*[log_w] * d).reshape(-1, d).sum(1)
    return Particles(mean + z @ double(root).reshape(d, d).T, weights)


class Atoms(Measure):
    """A measure on given points that knows its density against the counting measure."""

    def __init__(self, x: Tensor, w: Tensor) -> None:
        self.x, self.probability, self.event_shape = x, w / w.sum(), x.shape[1:]

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        return Particles(self.x, self.probability.log(), source=self)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.probability.log()[nearest(x, self.x)]


def nearest(x: Tensor, atoms: Tensor) -> Tensor:
    return torch.cdist(x.detach().flatten(1), atoms.flatten(1)).argmin(1)


class Table(nn.Module):
    """A critic with one free value an atom: nothing is lost by restricting it."""

    def __init__(self, atoms: Tensor) -> None:
        super().__init__()
        self.atoms = atoms
        self.v = nn.Parameter(torch.zeros(len(atoms), dtype=atoms.dtype))

    def forward(self, y: Tensor) -> Tensor:
        return self.v[nearest(y, self.atoms)]


class Affine(nn.Module):
    """x -> A x + b, or A x + B z + b with noise."""

    def __init__(self, A, b, B=None) -> None:
        super().__init__()
        self.b = nn.Parameter(double(b).reshape(-1).clone())
        d = len(self.b)
        self.A = nn.Parameter(double(A).reshape(d, d).clone())
        self.B = None if B is None else nn.Parameter(double(B).reshape(d, -1).clone())

    def forward(self, x: Tensor, *z: Tensor) -> Tensor:
        y = x @ self.A.T + self.b
        return y if self.B is None else y + z[0] @ self.B.T


class Quadratic(nn.Module):
    """v(y) = y·Qy/2 + q·y + c, from zero."""

    def __init__(self, d: int = 1) -> None:
        super().__init__()
        self.Q = nn.Parameter(torch.zeros(d, d, dtype=torch.float64))
        self.q = nn.Parameter(torch.zeros(d, dtype=torch.float64))
        self.c = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, y: Tensor) -> Tensor:
        return ((y @ self.Q) * y).sum(1) / 2 + y @ self.q + self.c


def gaussian_kl(m0, s0, m1, s1) -> float:
    """KL(N(m0, s0²) | N(m1, s1²)) in one dimension; s are standard deviations."""
    return math.log(s1 / s0) + (s0**2 + (m0 - m1) ** 2) / (2 * s1**2) - 0.5


def mlp(d_in: int, d_out: int = 1, seed: int = 0, width: int = 8) -> nn.Module:
    """A smooth float64 perceptron that is a function of its seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(d_in, width), nn.Tanh(), nn.Linear(width, d_out))
    return net.double()
