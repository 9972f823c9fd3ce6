r"""
Your own functional and your own solver
=======================================

Both are a class with one method. A new functional runs under every solver, a new solver with every functional, and both
have energies, orders and pictures at once.

The functional pulls the variance of a law toward one, without a target or a density:

.. math:: F(\rho)=\tfrac12\bigl(\operatorname{Var}\rho-1\bigr)^2,\qquad \operatorname{Var}\rho=E|x-E x|^2.

Its first variation is :math:`(\operatorname{Var}\rho-1)\,|x-Ex|^2`, so the variance obeys a logistic equation,
:math:`\dot V=-4V(V-1)`, and :math:`V(t)=V_0/(V_0+(1-V_0)e^{-4t})`. We do not write the first variation: ``Autograd`` finds it.
"""

import math
from dataclasses import dataclass, field, replace

import matplotlib.pyplot as plt
import torch

from wgflow import Autograd, Estimator, Functional, Particles, Solver, plotting, solve
from wgflow.solvers import advance


@dataclass(frozen=True)
class VarianceNearOne(Functional):
    """½ (Var ρ - 1)², for weighted particles in any dimension."""

    def value(self, rho):
        mean = (rho.w[:, None] * rho.x).sum(0)
        return 0.5 * (rho.mean((rho.x - mean).square().sum(1)) - 1).square()


# %%
# The solver is the explicit midpoint rule, of order two. ``follow`` hands it the particles and takes where they go.


@dataclass(frozen=True)
class Midpoint(Solver):
    """x' = x + h/2 v(x), then x + h v(x')."""

    estimator: Estimator = field(default_factory=Autograd)
    order = 2

    def update(self, F, state, h):
        F = F.at(state.k, state.t).freeze(state.rng)

        def move(rho):
            half = rho.x + h / 2 * self.estimator.velocity(F, rho, state.estimator)
            return rho.x + h * self.estimator.velocity(F, replace(rho, x=half), state.estimator)

        return advance(state, state.measure.follow(move, state.rng), h), {}


# %%
# Does it work?
# -------------
# The exact curve knows, and so does the order.

x = torch.randn(100, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
start = Particles(x / (x - x.mean(0)).square().sum(1).mean().sqrt() * 2)  # variance 4


def exact(t):
    return 4 / (4 - 3 * math.exp(-4 * t))


def variance(rho):
    return (rho.x - rho.x.mean(0)).square().sum(1).mean().item()


flow = solve(VarianceNearOne(), Midpoint(), start, step_size=0.02, num_steps=50)
steps = [20, 40, 80, 160]
ends = [solve(VarianceNearOne(), Midpoint(), start, step_size=0.5 / n, num_steps=n).measure for n in steps]

figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), layout="constrained")
plotting.trajectories(flow, count=100, ax=axes[0])
plotting.energy(flow, variance, exact=exact, ylabel="variance", ax=axes[1])
plotting.order(
    [0.5 / n for n in steps], {"midpoint": [abs(variance(rho) - exact(0.5)) for rho in ends]}, slopes=(2,), ax=axes[2]
)
plt.show()

# %%
# Registered with ``@register_functional("...")`` and ``@register_solver("...")`` they also appear in the compatibility table and in
# the contract tests; see :doc:`extending <../extending>`.
