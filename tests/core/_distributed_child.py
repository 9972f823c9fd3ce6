"""What every rank of the two-process runs does; ``test_distributed.py`` looks at what they leave behind."""

import errno
import math
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

import wgflow
from wgflow.generative.runtime import Sharded

BATCH = 12
UPDATES = 7 + 5


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 2)).double()

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x + self.body(torch.cat([x, z], 1))


class Critic(nn.Module):
    """``poison``: the call at which it turns NaN."""

    def __init__(self, poison: int | None = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1)).double()
        self.poison, self.calls = poison, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x) * (torch.nan if self.calls == self.poison else 1.0)


def normal() -> wgflow.StandardNormal:
    return wgflow.StandardNormal(2, dtype=torch.float64)


def run(
    rank: int = 0, world: int = 1, poison: int | None = None, batch: int = BATCH, **options: Any
) -> wgflow.Solution:
    """Two JKO steps on this rank's share of the batch; with one rank, on all of it."""
    share = lambda measure: Sharded(measure, rank, world) if world > 1 else measure  # noqa: E731
    target = wgflow.Gaussian(
        torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
    )
    schedule = wgflow.Cosine(UPDATES, 1e-3)
    critic = wgflow.Critic(lambda: Critic(poison), wgflow.Adam(2e-2, schedule=schedule), iters=2, r1=wgflow.R1(0.1))
    settings = {
        "F": wgflow.Softplus(share(target), batch=batch // world),
        "solver": wgflow.JKO(
            critic,
            wgflow.Adam(1e-2, schedule=schedule),
            iters=5,
            first_iters=7,
            batch=batch // world,
            tolerance=1e-6,
            look_every=3,
        ),
        "initial": wgflow.Pushforward(share(normal()), Generator, noise=share(normal()), ema=0.8),
        "step_size": 0.5,
        "num_steps": 2,
        "seed": 3,
        "log_every": 3,
    }
    return wgflow.solve(**settings | options)


def weights(solution: wgflow.Solution) -> dict[str, Tensor]:
    """Generator, critic and running average, and where the generator of random numbers stands."""
    nets = {
        "generator": solution.state.successor.net,
        "critic": solution.state.estimator.net,
        "average": solution.measure.inference().net,
    }
    flat = {name: torch.cat([p.detach().flatten() for p in net.parameters()]) for name, net in nets.items()}
    return flat | {"rng": solution.state.rng.get_state()}


class Interrupt(wgflow.Callback):
    def on_update(self, run: Any, info: Any) -> None:
        if run.updates == 6:
            raise InterruptedError


class Pause(wgflow.Callback):
    """Lets the writer of checkpoints finish."""

    def on_log(self, run: Any, info: Any) -> None:
        time.sleep(0.2)


class FillDisk(wgflow.Callback):
    """From the fourth update on there is no room on the disk that this process writes to."""

    def on_update(self, run: Any, info: Any) -> None:
        def refuse(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        if run.updates == 4:
            self.save, torch.save = torch.save, refuse

    def on_end(self, run: Any) -> None:
        torch.save = self.save


def error_of(*args: Any, **options: Any) -> str:
    try:
        run(*args, **options)
    except (wgflow.WgflowError, InterruptedError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def begin_alone(folder: Path) -> None:
    """Leave the checkpoint of a run of one process, for both ranks to go on with."""
    error_of(callbacks=[Interrupt()], checkpoint=wgflow.Checkpoint(folder / "from one", every_updates=4))


def join(rank: int, world: int, folder: Path) -> None:
    """Meet the other ranks in a folder."""
    if Path("/sys/class/net/lo").exists():  # talk over the loopback whatever the name of this machine resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    meet = f"file://{folder / 'meet'}"
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world, timeout=timedelta(seconds=60))


def work(rank: int, world: int, folder: Path) -> None:
    """Run all cases on one rank, in the same order on every rank."""
    join(rank, world, folder)
    here = (rank, world)
    first = lambda *callbacks: callbacks if rank == 0 else ()  # noqa: E731

    def checkpoint(name: str, **pace: Any) -> dict[str, Any]:
        return {"checkpoint": wgflow.Checkpoint(folder / name, **pace)}

    found: dict[str, Any] = {"whole": weights(run(*here))}
    found["interrupted"] = error_of(*here, callbacks=[Interrupt()], **checkpoint("parts", every_updates=4))
    log = wgflow.JsonLog(folder / "log")
    found["resumed"] = weights(run(*here, callbacks=first(log), **checkpoint("parts", every_updates=4)))
    found["handed over"] = error_of(*here, callbacks=[Interrupt()], **checkpoint("from two", every_updates=4))
    found["taken over"] = weights(run(*here, **checkpoint("from one", every_updates=4)))
    found["finished"] = weights(run(*here, callbacks=first(log), **checkpoint("parts")))
    with mock.patch("wgflow.driver.checkpoint._SHARE", math.inf):  # however long the first write has taken
        found["timed"] = weights(run(*here, callbacks=[Pause()], **checkpoint("timed", every_seconds=0.0, keep=99)))
    # The call for the generator in the eighth update; the looks at the imbalance before it call the critic as well.
    found["poisoned"] = error_of(*here, poison=77 if rank == 1 else None)
    found["no folder"] = error_of(*here, **checkpoint("meet", every_updates=4))
    found["other run"] = error_of(*here, seed=4, **checkpoint("parts"))
    found["full"] = error_of(*here, callbacks=first(FillDisk()), **checkpoint("full", every_updates=2))
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()
