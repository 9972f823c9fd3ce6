"""Flows of particles whose sums two ranks share; ``test_shared_sums.py`` compares with one process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _distributed_child import join
from torch import Tensor

import wgflow as wg
from wgflow.core.ranks import Shares, shares
from wgflow.numerics import sinkhorn_problem

N = 600  # of 512 points and more there are several blocks of pairs


def cloud(n: int, d: int, seed: int, weights: bool = False) -> wg.Particles:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=rng, dtype=torch.float64) + seed
    return wg.Particles(x, torch.randn(n, generator=rng, dtype=torch.float64) / 3 if weights else None)


def quadratic(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)


V = wg.PotentialEnergy(quadratic)
TARGET, WEIGHTED = cloud(N + 50, 2, 1), cloud(N + 50, 2, 1, weights=True)
WIDE, POSTERIOR = cloud(N, 30, 1), wg.Unnormalised(lambda x: -quadratic(x), 2)
EULER = wg.ForwardEuler()

FLOWS: dict[str, dict[str, Any]] = {
    "mmd": {"F": 0.5 * wg.SquaredMMD(TARGET, wg.RBF(1.0))},
    "mmd, weights": {"F": wg.SquaredMMD(WEIGHTED, wg.RBF(1.0)), "initial": cloud(N, 2, 0, weights=True)},
    "mmd, 30 coordinates": {"F": wg.SquaredMMD(WIDE, wg.RBF(6.0)), "initial": cloud(N, 30, 0)},
    "random features": {"F": wg.SquaredMMD(WEIGHTED, wg.RandomFourierFeatures(wg.RBF(1.0), 600))},
    "nystrom": {"F": wg.SquaredMMD(TARGET, wg.Nystrom(wg.RBF(1.0), TARGET.x[:20]))},
    "energy distance": {"F": wg.EnergyDistance(TARGET)},
    "interaction": {"F": V + wg.InteractionEnergy(wg.Logarithmic())},
    "interaction, a function": {"F": wg.InteractionEnergy(lambda z: z.square().sum(-1).sin())},
    "svgd": {"F": wg.KL(POSTERIOR), "solver": wg.ForwardEuler(wg.Stein(wg.RBF(1.0)))},
    "svgd, 30 coordinates": {
        "F": wg.PotentialEnergy(quadratic) + wg.Entropy(),
        "solver": wg.ForwardEuler(wg.Stein(wg.RBF(6.0))),
        "initial": cloud(N, 30, 0),
    },
    "stein discrepancy": {"F": wg.SquaredKSD(POSTERIOR, wg.InverseMultiquadric(1.0))},
    "blob": {"F": V + wg.Entropy(), "solver": wg.ForwardEuler(wg.Blob(wg.KernelDensity(wg.RBF(0.5))))},
    "noise": {
        "F": V + wg.Entropy() + wg.EnergyDistance(TARGET),
        "solver": wg.Langevin(),
    },
    "proximal score": {"F": V + wg.Entropy(), "solver": wg.ForwardEuler(wg.ProximalScore(0.2))},
    "sliced": {"F": wg.SlicedWasserstein(TARGET, directions=7, batch=N)},
    "sliced, weights": {"F": wg.SlicedWasserstein(WEIGHTED, directions=7), "initial": cloud(N, 2, 0, weights=True)},
    "sliced, fewer lines than ranks": {"F": wg.SlicedWasserstein(TARGET, directions=1)},
    "sliced energy": {"F": wg.SlicedEnergyDistance(WEIGHTED, directions=7)},
    "sinkhorn": {"F": wg.SinkhornDivergence(TARGET, blur=1.0, tol=1e-10)},
    "adaptive": {"F": wg.EnergyDistance(TARGET), "solver": wg.ODE(method="dopri5")},
    "implicit": {"F": wg.SquaredMMD(TARGET, wg.RBF(1.0)), "solver": wg.JKO(optim=wg.LBFGS(tolerance=1e-3), iters=1)},
    "single precision": {
        "F": 0.5 * wg.EnergyDistance(wg.Particles(TARGET.x.float())),
        "initial": wg.Particles(cloud(N, 2, 0).x.float()),
    },
}


def flow(name: str, **options: Any) -> wg.Solution:
    settings = {"solver": EULER, "initial": cloud(N, 2, 0), "step_size": 0.2, "num_steps": 2, "seed": 3, "log_every": 1}
    return wg.solve(**settings | FLOWS[name] | options)


@contextmanager
def nothing_stored() -> Iterator[None]:
    """Sweep as large problems do, whose pairs are too many to keep."""
    before, sinkhorn_problem.STORED_CPU = sinkhorn_problem.STORED_CPU, 0
    try:
        yield
    finally:
        sinkhorn_problem.STORED_CPU = before


def ends() -> dict[str, Tensor]:
    with nothing_stored():
        return {name: flow(name).measure.x for name in FLOWS}


class Distance(wg.Callback):
    """Several distances, in the turn of one rank alone; each would push a target's own term out of what is remembered."""

    def on_step(self, run: wg.driver.run.Run, row: dict[str, Any]) -> None:
        assert shares() == Shares()
        for k in range(6):
            wg.EnergyDistance(cloud(N, 2, 5 + k)).value(run.state.measure)


class Stop(wg.Callback):
    def on_step(self, run: Any, row: Any) -> str | None:
        return wg.driver.run.Run.STOP if run.state.k == 1 else None


def begin_alone(folder: Path) -> None:
    """Leave a run of one process, half done, for two to finish."""
    flow("noise", callbacks=[Stop()], checkpoint=wg.Checkpoint(folder / "from one"))


def work(rank: int, world: int, folder: Path) -> None:
    """Run all flows on one rank, in the same order on every rank."""
    join(rank, world, folder)
    with wg.shared_sums():
        found = ends()
        found["watched by one"] = flow("mmd", callbacks=[Distance()] if rank == 0 else []).measure.x
        checkpoint = wg.Checkpoint(folder / "from one")
        found["from one"] = flow("noise", checkpoint=checkpoint).measure.x
        flow("noise", callbacks=[Stop()], checkpoint=wg.Checkpoint(folder / "from two"))
        try:
            flow("mmd", initial=cloud(N, 2, rank))
        except wg.BadInput as error:
            found["other starts"] = torch.tensor("those of process 1 are not those of process 0" in str(error))
        try:
            flow("mmd", initial=cloud(N, 2, 0) if rank == 0 else wg.Particles(torch.full((N, 2), torch.nan)))
        except wg.BadInput as error:
            found["no numbers"] = torch.tensor("those of process 1 are not those of process 0" in str(error))
        pieces = torch.tensor([float(piece) for piece in shares().of(range(5))])
        found["pieces"] = pieces
    found["alone again"] = torch.tensor(shares() == Shares())
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()
