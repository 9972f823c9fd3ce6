"""Make the film of the front page (writes docs/figures/flow.gif): eight lines that the page shows, and its size."""

from pathlib import Path

import torch

import wgflow as wg

turn = 9.4 * torch.rand(800, generator=torch.Generator().manual_seed(0)).sqrt()
data = wg.Particles(torch.stack([turn * turn.cos(), turn * turn.sin()], 1) / 4)  # samples of a target
start = wg.StandardNormal(2).draw(400, torch.Generator().manual_seed(1))  # the measure that moves
F = wg.SinkhornDivergence(data, blur=0.05)  # what decreases
flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.1, num_steps=60)  # time: explicit Euler

if __name__ == "__main__":
    path = Path(__file__).parents[1] / "docs" / "figures" / "flow.gif"
    limits = [(-2.6, 2.6), (-2.6, 2.6)]
    wg.plotting.animate(flow, path, over=data, quantity=F, limits=limits, max_frames=40, fps=12, progress=False)
    print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB, last value {float(F.value(flow.measure)):.4f}")
