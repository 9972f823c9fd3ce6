"""Minimisers with a line search on two ranks whose objectives differ; ``test_searching_ranks.py`` looks at the results."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _distributed_child import join

import wgflow as wg
from wgflow.generative.runtime import Sharded
from wgflow.maps import Affine
from wgflow.optim import TridiagonalNewton

X = torch.linspace(-2, 3, 8, dtype=torch.float64)[:, None]


def split(f: Any, rank: int, world: int) -> Any:
    """Return this rank's part of a function: with several ranks, one whose mean over them is the function."""
    sign = 0.0 if world == 1 else (-1.0) ** rank
    return lambda x: f(x) + sign * (3 * x.sin() + x.square() * x / 10).flatten(1).sum(1)


def particles(optim: Any, rank: int, world: int) -> dict[str, Any]:
    """One step of the same particles on every rank, in another potential on each."""
    V = wg.PotentialEnergy(split(lambda x: 0.5 * x.square().sum(1), rank, world))
    flow = wg.solve(
        V + wg.Entropy(),
        wg.JKO(wg.Blob(wg.Spacings()), optim, iters=1),
        wg.Particles(X),
        step_size=0.7,
        num_steps=2,
    )
    return {"x": flow.measure.x, "evaluations": int(flow.history[-1]["jko/evaluations"])}


def chain(rank: int, world: int) -> dict[str, Any]:
    """Two maps, each rank with its share of the batch; the shares know their density."""
    normal = wg.StandardNormal(2, dtype=torch.float64)
    base = Sharded(normal, rank, world) if world > 1 else normal
    V = wg.PotentialEnergy(lambda x: 0.5 * (x - 1).square().sum(1) + 0.1 * x.cos().prod(1))
    solver = wg.JKO(optim=wg.LBFGS(max_iter=20), iters=1, batch=40 // world)
    flow = wg.solve(V + wg.Entropy(), solver, wg.Chain(base, lambda: Affine(2)), step_size=0.5, num_steps=2, seed=1)
    weights = torch.cat([p.flatten() for T in flow.measure.maps for p in T.parameters()])
    return {"x": weights.detach(), "evaluations": int(flow.history[-1]["jko/evaluations"])}


CASES = {
    "lbfgs": lambda rank, world: particles(wg.LBFGS(max_iter=100, tolerance=1e-6), rank, world),
    "newton": lambda rank, world: particles(TridiagonalNewton(), rank, world),
    "chain": chain,
}


def work(rank: int, world: int, folder: Path) -> None:
    """Run all cases on one rank, in the same order on every rank."""
    join(rank, world, folder)
    torch.save({name: case(rank, world) for name, case in CASES.items()}, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()
