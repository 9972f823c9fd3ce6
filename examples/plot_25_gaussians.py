r"""
Twenty-five Gaussians: several steps
====================================

A grid of 25 narrow modes, the toy on which generators are seen to drop modes. S-JKO repeats the step of unbalanced optimal transport
with a hard source (source-fixed UOTM) from where the last one ended, at the same step size and with the same networks. Both get
the same number of updates from a normal source that is as wide as the grid.

Two settings decide. The **networks** see random Fourier features of their inputs, at the scale of the grid: plain layers of this
width learn the wide shape of the law first, and narrow modes and the jumps between them only long after. The **source** is as
wide as the target: from a narrow one the mass has to travel, and the modes that the first steps miss stay empty. Measured with
this file, seed 0, after eight steps:

=======================================  =============  ==========================
change                                   modes reached  points inside of a mode
=======================================  =============  ==========================
none                                     25 of 25       85 %
no Fourier features (FREQUENCY = 0.0)    20 of 25       38 %
narrow source (SOURCE = 1.0)             12 of 25       69 %
=======================================  =============  ==========================

With both, the single step does as well as the eight: on this toy the networks and the source were the obstacle, not the number of steps.
What is left, one point in six between two modes, are the jumps of a continuous generator. The paper's own experiment takes
50,000 updates.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from wgflow import Gaussian, GaussianMixture, Save, presets
from wgflow.metrics import sinkhorn_divergence

H = 1.0  # in the convention of the S-JKO paper: the cost is averaged over the two coordinates
STEPS, ITERS, SEEDS = 8, 500, 3
SOURCE, FREQUENCY = 3.5, 2.0  # standard deviations of the source, and of the frequencies of the Fourier features

side = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
target = GaussianMixture(torch.cartesian_prod(side, side), std=0.02**0.5, stratified=True)
source = Gaussian(torch.zeros(2), SOURCE**2 * torch.eye(2))


class Fourier(nn.Module):
    """x -> (x, sin(xB), cos(xB)) with 128 random frequencies."""

    def __init__(self):
        super().__init__()
        self.register_buffer("B", FREQUENCY * torch.randn(2, 128))

    def forward(self, x):
        return torch.cat([x, (x @ self.B).sin(), (x @ self.B).cos()], 1)


def mlp(outputs):
    width = 128
    return nn.Sequential(
        Fourier(), nn.Linear(258, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
    )


class Displacement(nn.Module):
    """x -> x + u(x)."""

    def __init__(self):
        super().__init__()
        self.u = mlp(2)

    def forward(self, x):
        return x + self.u(x)


def points(state):
    """Return 2000 points of the present law: the same latents every time."""
    return state.measure.inference().draw(2000, torch.Generator().manual_seed(5)).x


# %%
# Two presets
# -----------
# They differ in the number of steps and in how they name the step size: S-JKO's :math:`h` is UOTM's
# :math:`\tau=1/(2dh)`.

shared = {
    "target": target,
    "latent": source,
    "generator": Displacement,
    "critic": lambda: mlp(1),
    "divergence": "softplus",
    "lr": (5e-4, 5e-4),
    "lr_floor": 5e-5,
    "r1": 0.0,
    "ema": 0.99,
}
several = presets.s_jko(**shared, step_size=H, num_steps=STEPS, first_iters=ITERS, iters=ITERS)
single = presets.uotm_source_fixed(**shared, tau=1 / (2 * 2 * H), iters=STEPS * ITERS)

runs = [several.solve(seed=seed, save=Save(fn=points)).saved for seed in range(SEEDS)]
source_fixed = single.solve(save=Save(fn=points)).saved

# %%
# Coverage
# --------
# A mode counts as covered when at least 20 of 2,000 points lie within four standard deviations of its center (80 would be
# its share). The Sinkhorn divergence (half a squared Wasserstein distance, but for the blur) sees both where the mass is
# and how sharp the modes are; its floor is the value of the target itself.

reference = target.draw(1000, torch.Generator().manual_seed(1)).x


def coverage(x):
    """Return how many modes are covered, and the share of the points that lie in a mode."""
    distance, mode = torch.cdist(x, target.means).min(1)
    inside = distance < 4 * target.std
    near = torch.bincount(mode[inside], minlength=25)
    return int((near >= 20).sum()), float(inside.float().mean())


def report(name, x):
    modes, inside = coverage(x)
    s = float(sinkhorn_divergence(x[:1000], reference, blur=0.1))
    print(f"{name:22} {modes:2d} of 25 modes, {inside:4.0%} of the points inside of one, Sinkhorn divergence {s:.2f}")


for k in (0, 2, 4, 6, 8):
    report(f"S-JKO, {k} steps", runs[0][k])
for seed, saved in enumerate(runs[1:], 1):
    report(f"S-JKO, 8 steps, seed {seed}", saved[-1])
report("source-fixed UOTM", source_fixed[-1])
report("the target", target.draw(2000, torch.Generator().manual_seed(2)).x)

shown = [(f"S-JKO, k = {k}", runs[0][k]) for k in (0, 1, 4, 8)] + [("source-fixed UOTM", source_fixed[-1])]
figure, axes = plt.subplots(1, len(shown), figsize=(12, 3.5), layout="constrained")
for ax, (title, x) in zip(axes, shown, strict=True):
    ax.scatter(*x.T, s=1.5, color="C3" if "UOTM" in title else "C0")
    ax.scatter(*target.means.T, s=90, facecolors="none", edgecolors="0.35", linewidths=0.7)
    ax.set(xlim=(-5.5, 5.5), ylim=(-5.5, 5.5), xticks=[], yticks=[], aspect="equal")
    modes, inside = coverage(x)
    ax.set_title(f"{title}\n{modes} of 25 modes,\n{inside:.0%} of points inside one", fontsize=9)
ends = [coverage(saved[-1]) for saved in runs]
figure.suptitle(
    f"S-JKO after {STEPS * ITERS:,} updates, {SEEDS} seeds: {', '.join(str(modes) for modes, _ in ends)} of 25 modes; "
    f"{', '.join(f'{inside:.0%}' for _, inside in ends)} of points inside one",
    fontsize=10,
)
plt.show()
