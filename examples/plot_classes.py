r"""
A generator of classes
======================

One network that draws any of three classes on demand. The points of the data have their label behind them, the generator keeps the
label of its latent, and functionals and solvers have no code for labels. The example uses the energy distance of every class by
itself with forward Euler, and the Kullback–Leibler divergence of the joint law by a critic with JKO.
"""

import math

import matplotlib.pyplot as plt
import torch

from wgflow import (
    JKO,
    R1,
    Adam,
    Balanced,
    Critic,
    Dataset,
    EnergyDistance,
    ForwardEuler,
    KLDonskerVaradhan,
    Labelled,
    LabelledLatent,
    PerClass,
    Pushforward,
    Regression,
    StandardNormal,
    solve,
)
from wgflow.generative import of_class
from wgflow.generative.nets import LabelledCritic, LabelledGenerator, ToyCritic, ToyGenerator

C, N = 3, 600

# %%
# Data with labels
# ----------------
# Three arcs of a circle with radius 2, a class each.

rng = torch.Generator().manual_seed(0)
labels = torch.arange(N) % C
angle = 2 * math.pi / C * (labels + 0.7 * torch.rand(N, generator=rng))
x = 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(N, 2, generator=rng)
data = Balanced(Labelled(Dataset(x, labels=labels)))

# %%
# Two flows of one generator
# --------------------------


def start():
    """Return the generator, untrained, of labeled latents."""
    net = lambda: LabelledGenerator(ToyGenerator, C, dim=2, noise_dim=2, width=32)  # noqa: E731
    latent = Balanced(LabelledLatent(StandardNormal(2), C))
    return Pushforward(latent, net, StandardNormal(2), ema=0.97, regression=Regression(Adam(2e-3), batch=96))


distance = PerClass(0.5 * EnergyDistance(data, batch=96))
by_distance = solve(distance, ForwardEuler(), start(), step_size=0.5, num_steps=500)

critic = Critic(lambda: LabelledCritic(ToyCritic, C, dim=2, width=32), Adam(2e-3), r1=R1(0.05))
by_critic = solve(
    KLDonskerVaradhan(data, 96), JKO(critic, optim=Adam(2e-3), iters=100, batch=96), start(), step_size=2.0, num_steps=6
)

# %%
# Every class on demand
# ---------------------

laws = {"energy distance, forward Euler": by_distance.measure, "KL by a critic, JKO": by_critic.measure}
fig, axes = plt.subplots(1, 3, figsize=(9, 3), sharex=True, sharey=True, layout="constrained")
axes[0].scatter(*x.T, c=labels, s=4, cmap="tab10", vmax=9)
axes[0].set_title("data")
drawn = {}
for ax, (name, rho) in zip(axes[1:], laws.items(), strict=True):
    for c in range(C):
        drawn[name, c] = of_class(rho.inference(), c).draw(200, torch.Generator().manual_seed(c)).x[:, :2]
        ax.scatter(*drawn[name, c].T, s=4, color=f"C{c}")
    ax.set_title(name)
for ax in axes:
    ax.set_aspect("equal")
plt.show()
