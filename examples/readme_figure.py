"""Draw the picture of the README: one functional, three discretizations (writes docs/figures/sampling.png)."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import wgflow as wg


def log_prob(x):
    return -(x[:, 1] - x[:, 0].square() / 2).square() - x[:, 0].square() / 2


target = wg.Unnormalised(log_prob, 2)
F = wg.KL(target)
start = wg.StandardNormal(2).draw(500, torch.Generator().manual_seed(0))
solvers = {
    "Langevin()": wg.Langevin(),
    "Heun(Blob(KernelDensity(NearestRBF())))": wg.Heun(wg.Blob(wg.KernelDensity(wg.NearestRBF()))),
    "ForwardEuler(Stein(MedianRBF()))": wg.ForwardEuler(wg.Stein(wg.MedianRBF())),
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
for ax, (name, solver) in zip(axes, solvers.items(), strict=True):
    flow = wg.solve(F, solver, start, step_size=0.05, num_steps=200)
    wg.plotting.particles(flow, over=target, limits=[(-3.6, 3.6), (-2.5, 6)], ax=ax)
    ax.set_title(name, fontsize=9)
figure.savefig(Path(__file__).parents[1] / "docs" / "figures" / "sampling.png", dpi=110)
