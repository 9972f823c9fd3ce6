r"""
Porous medium: a density from particles
=======================================

The internal energy :math:`F(\rho)=\frac1{m-1}\int\rho^m` has the flow :math:`\partial_t\rho=\Delta\rho^m`. It spreads at finite
speed: from a point source the solution is Barenblatt's profile, which has an edge. Particles have no density, so one is
modeled; with ``KernelDensity`` the energy becomes a function of the particles, and any solver minimizes it.
"""

import matplotlib.pyplot as plt
import torch

from wgflow import JKO, LBFGS, RBF, Heun, KernelDensity, Particles, PowerEntropy, Spacings, plotting, solve
from wgflow.reference import Barenblatt

# %%
# On a line
# ---------
# Two density models from the same start, the quantiles of the exact profile. ``Spacings`` takes mass over the gap between
# neighbors; under ``JKO`` a step is then convex, and there is no bandwidth. The blob's kernel smooths the density, an error
# of the order of its variance.

M, N, T = 2.0, 100, 1.0
exact = Barenblatt(d=1, m=M, time=0.05)
levels = (torch.arange(N, dtype=torch.float64) + 0.5) / N
start = Particles(exact.quantiles(levels).view(-1, 1))

blob = solve(PowerEntropy(KernelDensity(RBF(0.1)), M), Heun(), start, step_size=0.01, num_steps=100)
gaps = solve(PowerEntropy(Spacings(), M), JKO(optim=LBFGS(tolerance=1e-5)), start, step_size=0.02, num_steps=50)

for name, solution in (("blob, Heun", blob), ("gaps, JKO", gaps)):
    figure, axes = plt.subplots(1, 4, figsize=(10.8, 2.7), layout="constrained")
    for ax, t in zip(axes, (0, 0.1, 0.4, 1), strict=True):
        plotting.particles(solution, over=plotting.Moving(exact.flow), times=[t], limits=[(-2.4, 2.4)], ax=ax)
    figure.suptitle(name, fontsize=10)
    plt.show()

# %%
# Second moment and energy are known, too.

figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.2), layout="constrained")


def second_moment(rho):
    return rho.x.square().sum(1).mean()


both = {"blob, Heun": blob, "gaps, JKO": gaps}
plotting.energy(both, second_moment, exact=lambda t: exact.flow(t).second_moment, ylabel="second moment", ax=axes[0])
model = PowerEntropy(KernelDensity(RBF(0.1)), M)
plotting.energy(both, model, exact=lambda t: exact.flow(t).energy, ylabel="energy of the smoothed density", ax=axes[1])
plt.show()

for name, solution in both.items():
    sorted_x = solution.measure.x[:, 0].sort().values
    error = (sorted_x - exact.flow(T).quantiles(levels)).square().mean().sqrt()
    print(f"{name:12} W2 to the exact solution at t = 1: {error:.4f} (its radius is {exact.flow(T).radius:.3f})")

# %%
# In the plane
# ------------
# Only kernels work there. The circle is the exact edge.

plane = Barenblatt(d=2, m=M, time=0.02)
cloud = plane.draw(400, torch.Generator().manual_seed(0))
flow = solve(PowerEntropy(KernelDensity(RBF(0.1)), M), Heun(), cloud, step_size=0.01, num_steps=60)
figure, axes = plt.subplots(1, 3, figsize=(8.1, 2.7), layout="constrained")
for ax, t in zip(axes, (0, 0.1, 0.6), strict=True):
    plotting.particles(flow, over=plotting.Moving(plane.flow), times=[t], limits=[(-1.6, 1.6)] * 2, ax=ax)
    ax.add_patch(plt.Circle((0, 0), plane.flow(t).radius, fill=False, color="#D55E00", linewidth=1))
plt.show()
print(f"second moment {second_moment(flow.measure):.4f}, exact {plane.flow(0.6).second_moment:.4f}")
