r"""
One target, four discretizations
================================

Langevin, SVGD, the blob method and GFSD descend the same functional, :math:`F(\rho)=\mathrm{KL}(\rho|\pi)`. They differ in how
they treat its entropy: noise, a kernel mean, a mollified density, or the score of a kernel density. In wgflow that is
the solver or the estimator; the functional is written once.
"""

import math

import matplotlib.pyplot as plt
import torch

from wgflow import (
    KL,
    RBF,
    Blob,
    ForwardEuler,
    KDEScore,
    KernelDensity,
    Langevin,
    MedianRBF,
    NearestRBF,
    Particles,
    Stein,
    Unnormalised,
    plotting,
    solve,
)

# %%
# A banana
# --------
# :math:`x_1\sim N(0,2)` and :math:`x_2\sim N(x_1^2/2,\,1/2)`: known up to a constant, and its moments are known exactly.


def log_banana(x):
    return -x[:, 0].square() / 4 - (x[:, 1] - x[:, 0].square() / 2).square()


target = Unnormalised(log_banana, 2)
exact = {"E x1^2": 2.0, "E x2": 1.0, "var x2": 0.5 + 2.0}  # var x1^2 = 2 * 2^2, a quarter of it

F = KL(target)
start = Particles(torch.tensor([0.0, 3.0]) + 0.5 * torch.randn(200, 2, generator=torch.Generator().manual_seed(1)))
METHODS = {
    "Langevin": (Langevin(), 0.02, 400),
    "SVGD": (ForwardEuler(Stein(MedianRBF())), 0.1, 400),
    "blob": (ForwardEuler(Blob(KernelDensity(NearestRBF(2.0)))), 0.02, 400),
    "GFSD": (ForwardEuler(KDEScore(NearestRBF(2.0))), 0.02, 400),
}
flows = {name: solve(F, solver, start, step_size=h, num_steps=steps) for name, (solver, h, steps) in METHODS.items()}

figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), layout="constrained")
for ax, (name, flow) in zip(axes, flows.items(), strict=True):
    plotting.particles(flow, over=target, limits=[(-4, 4), (-2.5, 7)], ax=ax)
    ax.set_title(name)
plt.show()

# %%
# Langevin's particles are independent draws: two hundred of them know :math:`E x_1^2` up to 0.2. The others are spread out
# evenly, because each knows where the rest are, and pay for it in the tails, where few particles are far apart: the one
# bandwidth of SVGD is too wide there, and the arms stay short; that of the two density estimates is too narrow across the
# arms to see a neighbor, and the arms become lines.

print(f"{'':10}" + "".join(f"{key:>9}" for key in exact))
print(f"{'exact':10}" + "".join(f"{value:9.2f}" for value in exact.values()))
for name, flow in flows.items():
    x1, x2 = flow.measure.x.T
    print(f"{name:10}{x1.square().mean():9.2f}{x2.mean():9.2f}{x2.var(correction=0):9.2f}")

# %%
# What the bandwidth does
# -----------------------
# Blob and GFSD look alike and are not. With a kernel of variance :math:`\varepsilon^2` and the target N(0, 1), the stationary
# variance is :math:`1-\varepsilon^2` for GFSD, which loses all that the kernel adds, and
#
# .. math:: q-\varepsilon^2,\qquad q=\tfrac12\Bigl(1+\sqrt{1+4\varepsilon^2}\Bigr),\qquad\text{that is}\quad 1-O(\varepsilon^4)
#
# for the blob method, which descends a function of the particles. (Both exact for a Gaussian of infinitely many particles.)

normal = KL(Unnormalised(lambda x: -0.5 * x[:, 0].square(), 1))
line = Particles(torch.special.ndtri((torch.arange(150, dtype=torch.float64) + 0.5) / 150)[:, None])


def stationary_variance(estimator):
    flow = solve(normal, ForwardEuler(estimator), line, step_size=0.15, num_steps=80)
    return flow.measure.x.var(correction=0).item()


widths = [0.3, 0.45, 0.6, 0.75, 0.9]
blob = [stationary_variance(Blob(KernelDensity(RBF(e)))) for e in widths]
gfsd = [stationary_variance(KDEScore(RBF(e))) for e in widths]

figure, ax = plt.subplots(figsize=(4.6, 3.3), layout="constrained")
e = torch.linspace(0, 1, 101)
ax.plot(e, 0.5 * (1 + (1 + 4 * e**2).sqrt()) - e**2, color="#0072B2", alpha=0.5, label="blob, exact")
ax.plot(e, 1 - e**2, color="#D55E00", alpha=0.5, label="GFSD, exact")
ax.plot(widths, blob, "o", color="#0072B2", label="blob, 150 particles")
ax.plot(widths, gfsd, "s", color="#D55E00", label="GFSD, 150 particles")
ax.set(xlabel=r"bandwidth $\varepsilon$", ylabel="stationary variance", ylim=(0, 1.1))
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plt.show()

for e, b, g in zip(widths, blob, gfsd, strict=True):
    q = 0.5 * (1 + math.sqrt(1 + 4 * e**2))
    print(f"bandwidth {e:.2f}:  blob {b:.3f}, exact {q - e**2:.3f};  GFSD {g:.3f}, exact {1 - e**2:.3f}")
