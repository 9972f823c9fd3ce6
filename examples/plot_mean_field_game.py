r"""
One proximal step is a mean-field game
======================================

The regularized Wasserstein proximal of a potential energy is the end of an optimal control of laws: move :math:`\rho_0` in a time T
so that :math:`\int_0^T\!\int\tfrac12|v|^2\rho+\int V\rho_T` is least, while noise of temperature :math:`\tau` acts. The density goes
forward in time, the value function :math:`\Phi` backward, and the optimal velocity is :math:`\nabla\Phi`. Both are convolutions with
Gaussians, so ``MeanFieldGame`` knows them on a grid to rounding.
"""

import math

import matplotlib.pyplot as plt
import torch

from wgflow import Grid
from wgflow.reference import MeanFieldGame

# %%
# Density forward, value backward
# -------------------------------
# One hill of mass, and a terminal cost with two wells. The mass is spread by noise first and steered late: far from the end
# the value function is flat, near the end it is :math:`-V`. White lines are the paths of equal shares of the mass.


def wells(x):
    return 0.5 * (x[:, 0].square() - 2.25).square()


TIME = 1.0
start = Grid.of(lambda x: -2 * x[:, 0].square(), [-6.0], [6.0], [600])
game = MeanFieldGame(wells, start, TIME, temperature=0.5)
times = torch.linspace(0, TIME, 81).double()
x = start.axes[0]
shown = x.abs() < 3
density = torch.stack([game.density(t) for t in times.tolist()], 1)
value = torch.stack([game.value_function(t) for t in times.tolist()], 1)
levels = torch.linspace(0.1, 0.9, 9).double()
shares = (density.cumsum(0) - density / 2) * start.volume
paths = torch.stack([x[torch.searchsorted(column.contiguous(), levels)] for column in shares.T])

figure, axes = plt.subplots(1, 2, figsize=(10.4, 3.9), layout="constrained", sharey=True)
pictures = (
    (density.clamp(max=1), "magma", r"density $\rho_t$, forward from $\rho_0$", "white"),
    (value.clamp(min=-4), "viridis", r"value function $\Phi_t$, backward from $\Phi_T=-V$", "white"),
)
for ax, (field, colors, title, line) in zip(axes, pictures, strict=True):
    picture = ax.pcolormesh(times, x[shown], field[shown], cmap=colors, shading="gouraud", rasterized=True)
    ax.plot(times, paths, color=line, linewidth=0.8, alpha=0.8)
    ax.set(title=title, xlabel="time", ylim=(-3, 3))
    figure.colorbar(picture, ax=ax)
axes[0].set_ylabel("x")
plt.show()

masses = [game.mass(t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
print(f"largest error of the mass: {max(abs(m - 1) for m in masses):.1e}; optimal cost {game.cost:.4f}")

# %%
# The same game generates data
# ----------------------------
# With :math:`V=-2\tau\log\pi` the control is the drift of the reverse-time SDE of a score-based model. From data smoothed by noise
# the game leads back to the data exactly. Here :math:`\pi` is a ring of eight Gaussians, and arrows are :math:`\nabla\Phi`.

angles = torch.arange(8).double() * math.pi / 4
centres = 2 * torch.stack([angles.cos(), angles.sin()], 1)


def log_ring(x, extra=0.0):
    variance = 0.05 + extra
    squares = (x[:, None] - centres).square().sum(2)
    return torch.logsumexp(-squares / (2 * variance), 1) - math.log(8 * 2 * math.pi * variance)


TAU = 0.5
smoothed = Grid.of(lambda x: log_ring(x, 2 * TAU * TIME), [-7.0, -7.0], [7.0, 7.0], [140, 140])
ring = MeanFieldGame(lambda x: -2 * TAU * log_ring(x), smoothed, TIME, TAU)
lattice = torch.cartesian_prod(*[torch.linspace(-3, 3, 13).double()] * 2)

figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained", sharey=True)
for ax, t in zip(axes, (0.0, 0.6, 0.9, 1.0), strict=True):
    ax.imshow(ring.density(t).T, origin="lower", extent=(-7, 7, -7, 7), cmap="magma")
    v = ring.velocity(lattice, t)
    ax.quiver(*lattice.T, *v.T / (1 + v.norm(dim=1)), color="white", alpha=0.7, width=0.006, scale=16)
    ax.set(title=f"t = {t:g}", xlim=(-3.4, 3.4), ylim=(-3.4, 3.4))
plt.show()

exact = log_ring(smoothed.points).exp().view(140, 140)
error = float((ring.density(TIME) - exact).abs().max())
print(f"largest error of the density at the end: {error:.1e} (its peak is {float(exact.max()):.2f})")

# %%
# A wrong start comes nearer
# --------------------------
# A sampler starts at a Gaussian, not at the smoothed data. The kernel is a Markov kernel, so the difference can only fall.

variance = float((smoothed.mass.flatten()[:, None] * smoothed.points.square()).sum()) / 2
normal = Grid.of(lambda x: -x.square().sum(1) / (2 * variance), smoothed.low, smoothed.high, smoothed.mass.shape)
sampler = MeanFieldGame(lambda x: -2 * TAU * log_ring(x), normal, TIME, TAU)


def distance(t):
    rho, pi = sampler.law(t), log_ring(normal.points, 2 * TAU * (TIME - t))
    return float((rho.mass.flatten() * (rho.log_rho - pi)).nansum())


moments = [0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0]
divergence = [distance(t) for t in moments]
figure, ax = plt.subplots(figsize=(4.8, 3.2), layout="constrained")
ax.semilogy(moments, divergence, "o-", color="#0072B2")
ax.set(xlabel="time", ylabel=r"KL($\rho_t$ | data smoothed as far)")
ax.spines[["top", "right"]].set_visible(False)
plt.show()
print(f"KL {divergence[0]:.4f} at the start, {divergence[-1]:.4f} at the end")
