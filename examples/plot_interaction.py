r"""
Rings, gases and disks
======================

Interaction energies, :math:`F(\rho)=\tfrac12\iint W(x-y)\,d\rho\,d\rho`, need no target. This example shows three flows
whose limit is known; for two of them the law is known at all times.
"""

import math

import matplotlib.pyplot as plt
import torch

from wgflow import (
    RK4,
    InteractionEnergy,
    Logarithmic,
    Particles,
    PotentialEnergy,
    PowerLaw,
    Unnormalised,
    plotting,
    solve,
)

rng = torch.Generator().manual_seed(0)

# %%
# A ring
# ------
# :math:`W=\tfrac14|z|^4-\tfrac12|z|^2` repels at short distances and attracts at long ones. On a ring of radius R in the plane
# the force is :math:`R(3R^2-1)`, so particles settle at :math:`R=1/\sqrt3`.

ring = InteractionEnergy(PowerLaw(4) + (-1.0) * PowerLaw(2))
square = Particles(torch.rand(150, 2, generator=rng, dtype=torch.float64) - 0.5)
aggregation = solve(ring, RK4(), square, step_size=0.25, num_steps=160)
figure, axes = plt.subplots(1, 4, figsize=(10.8, 2.7), layout="constrained")
for ax, t in zip(axes, (0, 2, 8, 40), strict=True):
    plotting.particles(aggregation, times=[t], limits=[(-0.75, 0.75)] * 2, ax=ax)
    ax.add_patch(plt.Circle((0, 0), 1 / math.sqrt(3), fill=False, color="#D55E00", linewidth=0.8))
plt.show()

radii = aggregation.measure.x.norm(dim=1)
print(f"radii from {radii.min():.6f} to {radii.max():.6f}, exact {1 / math.sqrt(3):.6f}")

# %%
# A gas on a line
# ---------------
# Logarithmic repulsion and a quadratic well are the flow of eigenvalues,
#
# .. math:: F(\rho)=\tfrac12\iint-\log|x-y|\,d\rho\,d\rho+\tfrac12\int x^2\,d\rho.
#
# A semicircle law stays one, of radius :math:`R(t)^2=2+(R_0^2-2)e^{-2t}`. It is drawn behind the particles, and N particles have
# exactly the second moment :math:`\tfrac{N-1}{2N}+(m_0-\tfrac{N-1}{2N})e^{-2t}`.

N, R0 = 100, 0.6


def semicircle(t):
    R2 = 2 + (R0**2 - 2) * math.exp(-2 * t)
    return Unnormalised(lambda x: 0.5 * (R2 - x[:, 0].square()).clamp(min=0).log(), 1)


# Quantiles of the semicircle: its distribution function is that of (2 theta - sin 2 theta) / 2 pi.
theta = torch.linspace(0, math.pi, 100_001, dtype=torch.float64)
levels = (theta - theta.sin() * theta.cos()) / math.pi
at = torch.searchsorted(levels, (torch.arange(N, dtype=torch.float64) + 0.5) / N)
start = Particles(-R0 * theta[at].cos()[:, None])

gas = InteractionEnergy(Logarithmic()) + PotentialEnergy(lambda x: 0.5 * x[:, 0].square())
spreading = solve(gas, RK4(), start, step_size=lambda k: min(0.02, 0.003 * 1.03**k), num_steps=150)
figure, axes = plt.subplots(1, 4, figsize=(10.8, 2.7), layout="constrained")
for ax, t in zip(axes, (0, 0.1, 0.3, 2), strict=True):
    plotting.particles(spreading, over=plotting.Moving(semicircle), times=[t], limits=[(-1.6, 1.6)], ax=ax)
plt.show()


def second_moment(rho):
    return rho.x.square().mean()


m0, limit = second_moment(start).item(), (N - 1) / (2 * N)
figure, ax = plt.subplots(figsize=(4.4, 3.2), layout="constrained")
plotting.energy(
    spreading, second_moment, exact=lambda t: limit + (m0 - limit) * math.exp(-2 * t), ylabel="second moment", ax=ax
)
plt.show()
_, moments = plotting.values_along(spreading, second_moment)
error = max(abs(m - limit - (m0 - limit) * math.exp(-2 * t)) for t, m in zip(spreading.times, moments, strict=True))
print(f"largest error of the second moment: {error:.1e}")

# %%
# A disc
# ------
# In the plane the logarithm is the Newtonian repulsion, and with a quadratic attraction, :math:`W=\tfrac12|z|^2-\log|z|`, a
# uniform disc stays one: :math:`R(t)^2=1+(R_0^2-1)e^{-2t}`. The circles are :math:`R(0)` and :math:`R(3)`. The repulsion keeps
# particles apart, so the paths are nearly straight and never meet.

sunflower = torch.arange(250, dtype=torch.float64) + 0.5  # an even disc, by the golden angle
radius, angle = 0.25 * (sunflower / 250).sqrt(), sunflower * math.pi * (3 - math.sqrt(5))
disc = Particles(torch.stack([radius * angle.cos(), radius * angle.sin()], 1))
spread = solve(
    InteractionEnergy(PowerLaw(2) + Logarithmic()),
    RK4(),
    disc,
    step_size=lambda k: min(0.03, 0.002 * 1.05**k),
    num_steps=140,
)
figure, ax = plt.subplots(figsize=(4.2, 3.6), layout="constrained")
plotting.trajectories(spread, count=250, ax=ax)
for R2 in (0.25**2, 1 + (0.25**2 - 1) * math.exp(-2 * spread.times[-1])):
    ax.add_patch(plt.Circle((0, 0), math.sqrt(R2), fill=False, color="#D55E00", linewidth=1.2, zorder=5))
plt.show()

outermost = spread.measure.x.norm(dim=1).max().item()
print(
    f"t = {spread.times[-1]:.2f}: outermost particle at {outermost:.3f}, edge of the exact disc at {math.sqrt(R2):.3f}"
)
