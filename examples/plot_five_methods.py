r"""
One generator, five methods, the same time
==========================================

A method consists of a functional and a way to decrease it; it does not depend on the generator or the data. This example trains
one small network on eight Gaussians by five presets, each for the same CPU time. Some train a critic beside the generator and take
implicit or explicit steps. The others have no critic; their field is a sum over batches.

Every run takes four seconds, with one seed, in the plane, so the comparison says little about images.
``wgflow train fashion-mnist --method NAME`` asks
the same question there.
"""

import time

import matplotlib.pyplot as plt
import torch
from torch import nn

from wgflow import Callback, EnergyDistance, GaussianMixture, Particles, StandardNormal, presets

SECONDS, LOOKS = 4.0, 8

angles = torch.arange(8) * torch.pi / 4
target = GaussianMixture(3 * torch.stack([angles.cos(), angles.sin()], 1), std=0.15, stratified=True)


def mlp(outputs):
    width = 64
    return nn.Sequential(
        nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
        nn.Linear(width, outputs),
    )  # fmt: skip


# %%
# Five methods
# --------------
# All get the same generator, the same source and batches of 128. ``num_steps`` is more than anyone reaches.

generator = {"target": target, "latent": StandardNormal(2), "generator": lambda: mlp(2)}
common = {"batch": 128, "ema": 0.99, "num_steps": 100_000}
critic = {"critic": lambda: mlp(1), "lr": (1e-3, 1e-3)}

flows = {
    "S-JKO": presets.s_jko(
        **generator, **critic, **common, divergence="softplus", step_size=1.0, first_iters=50, iters=50, lr_floor=None
    ),
    "WGAN-GP": presets.wgan_gp(**generator, **critic, **common, betas=(0.5, 0.9)),
    "W1-FE": presets.w1_fe(**generator, **critic, **common, persistent=5, step_size=0.3, betas=(0.5, 0.9)),
    "energy drift": presets.energy_drift(**generator, **common, lr=1e-3),
    "W-Flow": presets.w_flow(**generator, **common, lr=1e-3),
}

# %%
# A clock
# -------
# A callback stops a flow when its time is over. It looks at the generator on the way; that is not counted.


class Clock(Callback):
    def __init__(self):
        self.used, self.looks = 0.0, []

    def on_start(self, run):
        self.look(run)
        self.since = time.process_time()

    def on_step(self, run, row):
        self.used += time.process_time() - self.since
        if self.used > len(self.looks) * SECONDS / LOOKS:
            self.look(run)
        self.since = time.process_time()
        return run.STOP if self.used >= SECONDS else None

    def look(self, run):
        x = run.state.present.inference().draw(2000, torch.Generator().manual_seed(5)).x
        self.looks.append((self.used, x))


to_data = EnergyDistance(target.draw(2000, torch.Generator().manual_seed(1)))


def distance(x):
    return float(to_data.value(Particles(x)))


def covered(x):
    apart, mode = torch.cdist(x, target.means).min(1)
    return int((torch.bincount(mode[apart < 3 * target.std], minlength=8) >= 50).sum())


floor = distance(target.draw(2000, torch.Generator().manual_seed(2)).x)
curves, ends = {}, {}
for name, flow in flows.items():
    clock = Clock()
    solution = flow.solve(callbacks=[clock], seed=0)
    curves[name] = [(seconds, distance(x)) for seconds, x in clock.looks]
    ends[name] = clock.looks[-1][1]
    updates = solution.history[-1]["update"]
    print(f"{name:13} {updates:5} updates, {covered(ends[name])} of 8 modes, energy distance {curves[name][-1][1]:.4f}")
print(f"{'the data':13} {'':13} 8 of 8 modes, energy distance {floor:.4f}")

# %%
# Where they are after the same time
# ----------------------------------
# No method has converged. Each step of W1-FE makes five generator updates of what one critic has learned, where WGAN-GP makes one. The two
# drifts cost little a step and have filled the ring from the inside; what is left in its middle goes slowly.

figure, axes = plt.subplots(2, 3, figsize=(8.4, 5.8), layout="constrained")
*clouds, last = axes.flat
for ax, (name, x) in zip(clouds, ends.items(), strict=True):
    ax.scatter(*x.T, s=1.5, color="C0")
    ax.scatter(*target.means.T, s=90, facecolors="none", edgecolors="0.35", linewidths=0.7)
    ax.set(xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), xticks=[], yticks=[], aspect="equal")
    ax.set_title(f"{name}\n{covered(x)} of 8 modes", fontsize=10)
for name, curve in curves.items():
    last.semilogy(*zip(*curve, strict=True), label=name)
last.axhline(floor, color="0.4", linestyle="--", linewidth=1)
last.set_xlabel("CPU seconds")
last.set_title("energy distance\n(dashed: data to data)", fontsize=10)
last.legend(frameon=False, fontsize=8)
plt.show()
