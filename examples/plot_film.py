r"""
A film
======

``plotting.animate`` writes a GIF, or an MP4 where ffmpeg is found, from the saved states of a solution; in a notebook the
result shows itself. Here the particles flow down the sliced Wasserstein distance to points on a spiral.
"""

import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from wgflow import ForwardEuler, Particles, SlicedWasserstein, plotting, solve

rng = torch.Generator().manual_seed(1)
turn = 4.5 * math.pi * torch.rand(500, generator=rng).sqrt()
spiral = torch.stack([turn * turn.cos(), turn * turn.sin()], 1) / 5 + 0.04 * torch.randn(500, 2, generator=rng)
start = Particles(0.3 * torch.randn(400, 2, generator=rng))

F = 0.5 * SlicedWasserstein(Particles(spiral), directions=50)
flow = solve(F, ForwardEuler(), start, step_size=lambda k: min(0.4, 0.1 * 1.02**k), num_steps=130)

figure, axes = plt.subplots(1, 4, figsize=(10.8, 2.9), layout="constrained")
for ax, t in zip(axes, (0, 1, 4, flow.times[-1]), strict=True):
    plotting.particles(flow, over=Particles(spiral), times=[t], limits=[(-3.2, 3.2)] * 2, ax=ax)
plt.show()

# %%
# The steps grow, since a flow slows down toward its end: a film at equal times would show mostly the end. At most 66 of the
# saved states become pictures, evenly spread over the steps. The dot on the right is the energy at that time.

folder = Path(tempfile.mkdtemp())
film = plotting.animate(
    flow, folder / "spiral.gif", Particles(spiral), quantity=F, max_frames=66, fps=15, dpi=70, progress=False
)
film  # noqa: B018
