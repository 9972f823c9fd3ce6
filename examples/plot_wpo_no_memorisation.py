r"""
Generation that does not copy its data
======================================

Score-based generation runs a diffusion backwards, pulled by the scores :math:`\nabla\log\eta_s` of the noised data. With the scores of the
data points themselves, every path ends on one of them. The kernel score model of Zhang et al. (2024) keeps the closed form and
replaces the points by Gaussians, whose shapes a network learns from other points: see :doc:`/kernel_score_model`.
"""

import math

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Ellipse

from wgflow import LocalGaussians, Noising, Reversed, Save, fit_kernel_score, presets
from wgflow.metrics import Memorization

# %%
# A thin spiral
# -------------


def spiral(n, seed):
    rng = torch.Generator().manual_seed(seed)
    t = 3 * math.pi * (0.1 + 0.9 * torch.rand(n, generator=rng)).sqrt()
    return torch.stack([t * t.cos(), t * t.sin()], 1) / 3 + 0.03 * torch.randn(n, 2, generator=rng)


x, fresh = spiral(900, seed=0), spiral(2000, seed=1)
fit = fit_kernel_score(x, num_centres=80, floor=25.0, max_iters=1500)  # no kernel wider than a fifth of the data
kde = presets.isotropic_kde(fit.points)

print(f"log-likelihood of fresh points, {len(x)} points in all, 80 of them centers")
print(f"  kernel score model       {fit.law.log_prob(fresh).mean():.2f}")
print(f"  best isotropic kernels   {kde.log_prob(fresh).mean():.2f}")

# %%
# Precisions are the manifold
# ---------------------------
# Every center with the ellipse of one standard deviation of its kernel. The model was not told that the data lie on a curve: the short axes
# are its normals and the long ones its tangents.

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.5), layout="constrained", sharex=True, sharey=True)
axes[0].scatter(*x.T, s=3, color="#999999")
axes[0].set_title("data")
variances, directions = torch.linalg.eigh(fit.law.precision.covariance)
angles = torch.rad2deg(torch.atan2(directions[:, 1, 1], directions[:, 0, 1]))
for centre, variance, angle in zip(fit.law.centres, variances, angles, strict=True):
    short, long = (2 * variance.sqrt()).tolist()
    axes[1].add_patch(
        Ellipse(centre.tolist(), long, short, angle=float(angle), color="#0072B2", alpha=0.35, linewidth=0)
    )
axes[1].set_title("kernels that were learned")
axes[2].scatter(*fit.law.draw(900, torch.Generator().manual_seed(2)).x.T, s=3, color="#D55E00")
axes[2].set_title("draws of the model")
for ax in axes:
    ax.set_aspect("equal")
    ax.set_axis_off()
plt.show()

# %%
# Backwards
# ---------
# The reverse diffusion is a flow like any other: a cross-entropy with a target that changes in time, an entropy, and ``Langevin``.
# It starts from the noised model and ends at the model. The same flow with kernels of width zero, the scores of the data, ends at the data.

empirical = LocalGaussians.isotropic(x, 1e-6)
HORIZON = 20.0
ends = {}
for name, law in {"kernel score model": fit.law, "empirical kernel": empirical}.items():
    noise = Reversed(law, Noising(0.5), HORIZON).draw(500, torch.Generator().manual_seed(3))
    flow = presets.reverse_diffusion(law, noise, beta=0.5, horizon=HORIZON, last=1e-8, num_steps=200)
    ends[name] = flow.solve(save=Save(every=0)).measure

figure, axes = plt.subplots(1, 2, figsize=(7, 3.5), layout="constrained", sharex=True, sharey=True)
for ax, (name, rho) in zip(axes, ends.items(), strict=True):
    ax.scatter(*x.T, s=14, facecolors="none", edgecolors="#999999", linewidths=0.6, label="data")
    ax.scatter(*rho.x.T, s=3, color="#D55E00", label="generated")
    ax.set_title(name)
    ax.set_aspect("equal")
    ax.set(xlim=(0, 3.2), ylim=(-1.6, 1.6), xticks=[], yticks=[])
axes[0].legend(frameon=False, loc="lower right")
plt.show()

# %%
# Who copies
# ----------
# The ratio of the distances to the nearest and to the second-nearest data point is 0 for a copy. For fresh points it has the law in gray,
# and below 1/3 with the probability that the last column calls chance.

copies = Memorization(x, held_out=fresh, n=500)
reports = {name: copies.report(rho) for name, rho in ends.items()}
figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
bins = torch.linspace(0, 1, 31).numpy()
ax.hist(reports["kernel score model"].real.ratio.numpy(), bins, density=True, color="#999999", label="fresh data")
for (name, report), colour in zip(reports.items(), ("#0072B2", "#D55E00"), strict=True):
    ax.hist(report.model.ratio.numpy(), bins, density=True, histtype="step", linewidth=1.5, color=colour, label=name)
ax.set(xlabel="distance to the nearest / to the second-nearest data point", yticks=[], ylim=(0, 4))
ax.legend(frameon=False)
plt.show()

rows = {name: copies(rho, torch.Generator().manual_seed(4)) for name, rho in ends.items()}
for name, row in rows.items():
    print(f"{name:20} ratio below 1/3: {row['memorized']:.2f}, chance {row['memorized_chance']:.2f}")
