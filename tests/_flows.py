"""Small flows with a checkpoint at every update, and callbacks that watch or end them."""

from pathlib import Path
from typing import Any

import torch
from _compare import whole

import wgflow
from wgflow import (
    JKO,
    Adam,
    Callback,
    Checkpoint,
    Critic,
    ForwardEuler,
    Particles,
    PotentialEnergy,
    Pushforward,
    Softplus,
    StandardNormal,
    solve,
)
from wgflow.storage import files as checkpoint_files

STEPS = 6


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x.square().sum(1)


def points(n: int = 3, value: float = 1.0) -> Particles:
    return Particles(torch.full((n, 2), value) * torch.arange(1, n + 1)[:, None])


def flow(folder: Path, num_steps: int = STEPS, **options: Any) -> wgflow.Solution:
    """Particles down a parabola with a checkpoint at every update."""
    settings = {
        "F": PotentialEnergy(quadratic),
        "solver": ForwardEuler(),
        "initial": points(),
        "step_size": 0.1,
        "num_steps": num_steps,
        "checkpoint": Checkpoint(folder, every_updates=1, keep=3),
    }
    return solve(**settings | options)


class Seen(Callback):
    """Remembers where a run went on and how many updates it made."""

    updates = 0

    def on_start(self, run):
        self.resumed_from = run.resumed_from

    def on_update(self, run, info):
        self.updates += 1


class Stop(Exception):
    pass


class Interrupt(Callback):
    """Ends a run the hard way."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_update(self, run, info):
        if run.updates == self.after:
            raise Stop


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def files(folder: Path) -> list[Path]:
    return checkpoint_files.files(folder)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint with nothing of ours: tensors and plain types only."""
    return torch.load(path, weights_only=True)


def newest(folder: Path) -> dict[str, Any]:
    return whole(files(folder)[0])


def tiny_pushforward(**options: Any) -> Pushforward:
    return Pushforward(StandardNormal(2), lambda: torch.nn.Linear(2, 2), **options)


def tiny_critic() -> Critic:
    return Critic(lambda: torch.nn.Linear(2, 1), Adam(1e-2))


def gaussian_divergence() -> Softplus:
    return Softplus(StandardNormal(2), batch=8)


def narrow(width: int) -> Pushforward:
    return Pushforward(
        StandardNormal(2), lambda: torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Linear(width, 2))
    )


def jko(target: wgflow.Measure, **options: Any) -> dict[str, Any]:
    return {
        "F": Softplus(target, batch=4),
        "solver": JKO(tiny_critic(), iters=2, batch=4),
        "initial": narrow(3),
        "num_steps": 2,
    } | options


START = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64)


def two_particles(**options: Any) -> wgflow.Solution:
    """Two particles down a parabola: each step multiplies them by 1 - h."""
    settings = {
        "F": PotentialEnergy(quadratic),
        "solver": ForwardEuler(),
        "initial": Particles(START),
        "step_size": 0.25,
        "num_steps": 4,
    }
    return solve(**settings | options)
