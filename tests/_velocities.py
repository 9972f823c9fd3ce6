"""What velocities of particles are tested for, whatever made them."""

import torch
from torch import Tensor

from wgflow import Particles, solve
from wgflow.estimators import Autograd
from wgflow.solvers import ForwardEuler


def velocity(F, rho, estimator=None) -> Tensor:
    return (estimator or Autograd()).velocity(F, rho, None)


def asymmetry(field, x: Tensor, h: float = 1e-5) -> float:
    """|J - Jᵀ|/|J| of the Jacobian of all velocities in all positions: 0 for a gradient of a function of the particles.

    Central differences: an error of order h² and of rounding over h, both below 1e-9 here.
    """
    flat = x.flatten()
    columns = []
    for k in range(len(flat)):
        e = torch.zeros_like(flat)
        e[k] = h
        ends = [field((flat + sign * e).view_as(x)).flatten() for sign in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * h))
    J = torch.stack(columns, 1)
    return float((J - J.T).norm() / J.norm())


def assert_twins_move_as_one(F, x: Tensor, estimator=None, step_size: float = 0.05, tolerance: float = 1e-11) -> None:
    """A particle of weight 2/(n + 1) flows as two particles at its place do, and so do the others."""
    n = len(x)
    w = torch.full((n,), 1 / (n + 1), dtype=x.dtype)
    w[0] *= 2
    solver = ForwardEuler(estimator or Autograd())
    ends = [
        solve(F, solver, p, step_size=step_size, num_steps=5).measure.x
        for p in (Particles.weighted(x, w), Particles(torch.cat([x, x[:1]])))
    ]
    assert float((ends[0] - x).abs().max()) > 1e-3, "nothing moved"
    torch.testing.assert_close(ends[1], torch.cat([ends[0], ends[0][:1]]), rtol=tolerance, atol=tolerance)
