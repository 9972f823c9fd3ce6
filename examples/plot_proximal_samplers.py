r"""
Samplers without noise
======================

BRWP moves particles along :math:`-\nabla V-\tau\nabla\log\rho_T`, where :math:`\rho_T` is the regularized Wasserstein proximal of the
particles themselves: the entropy is a score in closed form, one proximal step ahead, and no noise. Here it stands beside Langevin (ULA),
its Metropolis version (MALA) and SVGD, which flow toward the same law.
"""

import math

import matplotlib.pyplot as plt
import torch

from wgflow import (
    KL,
    Accelerated,
    ForwardEuler,
    Grid,
    Langevin,
    MedianRBF,
    MetropolisLangevin,
    Particles,
    ProximalScore,
    QuadraticPotential,
    Save,
    SquaredW2,
    Stein,
    Unnormalised,
    plotting,
    solve,
)
from wgflow.reference import Moments, squared_w2

# %%
# Particles in order
# ------------------
# Two arcs of a ring, 200 particles, 200 steps. Step sizes and T are those with which the repository's benchmark of samplers compares.


def log_banana(x):
    arcs = torch.logaddexp(-2 * (x[:, 0] - 3).square(), -2 * (x[:, 0] + 3).square())
    return arcs - 2 * (x.norm(dim=1) - 3).square()


target = Unnormalised(log_banana, 2)
F = KL(target)
half = 2 * torch.randn(100, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
start = Particles(torch.cat([half, -half]))  # as many for each arc, so that only their shape is compared
SAMPLERS = {
    "BRWP": (ForwardEuler(ProximalScore(0.1)), 0.1, "#0072B2"),
    "ULA": (Langevin(), 0.05, "#009E73"),
    "MALA": (MetropolisLangevin(), 0.1, "#D55E00"),
    "SVGD": (ForwardEuler(Stein(MedianRBF())), 0.5, "#CC79A7"),
}
flows = {
    name: solve(F, solver, start, step_size=h, num_steps=200, save=Save(10))
    for name, (solver, h, _) in SAMPLERS.items()
}
figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained", sharey=True)
for ax, (name, flow) in zip(axes, flows.items(), strict=True):
    plotting.particles(flow, over=target, limits=[(-4.6, 4.6)] * 2, ax=ax)
    ax.set_title(name)
plt.show()

# %%
# How near, and how soon
# ----------------------
# The exact :math:`W_2` to 600 draws of the target. The dashed line is where 200 independent draws are: particles that know where the
# others are come nearer than that.

grid = Grid.of(log_banana, [-6.0, -6.0], [6.0, 6.0], [400, 400])


def exact(n, seed):
    x = grid.draw(n // 2, torch.Generator().manual_seed(seed)).x
    return Particles(torch.cat([x, -x]))


truth = SquaredW2(exact(600, 0))


def distance(p):
    return math.sqrt(float(truth.value(Particles(p.x.repeat(3, 1)))))


curves = {name: [distance(p) for p in flow.saved] for name, flow in flows.items()}
floor = sum(distance(exact(200, seed)) for seed in range(1, 6)) / 5
figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
for name, curve in curves.items():
    ax.semilogy(range(0, 201, 10), curve, color=SAMPLERS[name][2], label=name)
ax.axhline(floor, color="0.6", linestyle="--", linewidth=1)
ax.set(xlabel="steps", ylabel=r"$W_2$ to the target")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()
print(f"200 independent draws: {floor:.3f}")
for name, curve in curves.items():
    print(f"{name:5} after 100 steps {curve[10]:.3f}, after 200 {curve[-1]:.3f}")

# %%
# A narrow valley
# ---------------
# Curvatures 1 and 1/100. Along the valley BRWP is as slow as any gradient flow; momentum helps, and the metric of the inverse Hessian
# makes the target round. What is left at the end is the bias of T and of 200 particles.

a, T = torch.tensor([1.0, 0.01], dtype=torch.float64), 0.25
V = QuadraticPotential(a.diag())
law = Moments(torch.zeros_like(a), (1 / a).diag())
point = Particles(torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
VALLEY = {
    "BRWP": (ForwardEuler(ProximalScore(T, V)), 0.4, "#0072B2"),
    "with momentum": (Accelerated(ProximalScore(T, V), friction=0.2), 0.8, "#56B4E9"),
    "preconditioned": (ForwardEuler(ProximalScore(T, V, metric=1 / a)), 0.4, "#000000"),
}
figure, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
valley = {}
for name, (solver, h, color) in VALLEY.items():
    flow = solve(KL(Unnormalised(lambda x: -V(x), 2)), solver, point, step_size=h, num_steps=200, save=Save(5))
    valley[name] = [math.sqrt(float(squared_w2(Moments.of(p), law))) for p in flow.saved]
    ax.semilogy(range(0, 201, 5), valley[name], color=color, label=name)
ax.set(xlabel="steps", ylabel=r"$W_2$ of the moments to the target")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()
for name, curve in valley.items():
    print(f"{name:14} after 50 steps {curve[10]:.2f}, after 200 {curve[-1]:.2f}")
