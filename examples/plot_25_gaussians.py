r"""
Twenty-five Gaussians: why several steps
========================================

A single step of unbalanced optimal transport with a hard source (source-fixed UOTM) may leave parts of the target out:
what lies far from the source is expensive, and the divergence only *discourages* missing it. S-JKO repeats the step
from where the last one ended, at the same step size and with the same networks, and the mass travels outwards. Here both
get 2,000 updates on a grid of 25 modes with a standard normal in its middle as source.

**S-JKO does not solve the problem here.** It reaches most modes, but most of its points lie between them: the law is still close to a
uniform square. The paper's own experiment takes 50,000 updates; this one takes 2,000, in seconds. More updates alone (``ITERS``)
do not help at these settings, they trade modes for sharpness.

See it as a comparison of where the mass goes, not as a measurement of what either method can do.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from wgflow import GaussianMixture, Save, StandardNormal, presets
from wgflow.metrics import sinkhorn_divergence

H = 1.0  # in the convention of the S-JKO paper: the cost is averaged over the two coordinates
STEPS, ITERS = 8, 250

side = torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0])
target = GaussianMixture(torch.cartesian_prod(side, side), std=0.02**0.5, stratified=True)


def mlp(outputs):
    width = 96
    return nn.Sequential(
        nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
        nn.Linear(width, outputs),
    )  # fmt: skip


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
    "latent": StandardNormal(2),
    "generator": Displacement,
    "critic": lambda: mlp(1),
    "divergence": "js_nonsat",
    "lr": (7e-4, 1e-3),
    "lr_floor": 1e-4,
    "r1": 0.0,
    "ema": 0.99,
}
several = presets.s_jko(**shared, step_size=H, num_steps=STEPS, first_iters=ITERS, iters=ITERS)
single = presets.uotm_source_fixed(**shared, tau=1 / (2 * 2 * H), iters=STEPS * ITERS)

s_jko = several.solve(save=Save(fn=points)).saved
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
    report(f"S-JKO, {k} steps", s_jko[k])
report("source-fixed UOTM", source_fixed[-1])
report("the target", target.draw(2000, torch.Generator().manual_seed(2)).x)

shown = [(f"S-JKO, k = {k}", s_jko[k]) for k in (0, 2, 4, 8)] + [("source-fixed UOTM", source_fixed[-1])]
figure, axes = plt.subplots(1, len(shown), figsize=(12, 3.4), layout="constrained")
for ax, (title, x) in zip(axes, shown, strict=True):
    ax.scatter(*x.T, s=1.5, color="C3" if "UOTM" in title else "C0")
    ax.scatter(*target.means.T, s=90, facecolors="none", edgecolors="0.35", linewidths=0.7)
    ax.set(xlim=(-5.5, 5.5), ylim=(-5.5, 5.5), xticks=[], yticks=[], aspect="equal")
    modes, inside = coverage(x)
    ax.set_title(f"{title}\n{modes} of 25 modes reached,\n{inside:.0%} of points inside one", fontsize=9)
figure.suptitle(
    "After 2,000 updates S-JKO reaches more modes, and two of three of its points still lie between them", fontsize=10
)
plt.show()
