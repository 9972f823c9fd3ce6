"""Flows that one rank alone cannot start, or stops; ``test_starting_ranks.py`` looks at what the ranks leave behind."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _distributed_child import join

import wgflow as wg

V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
REGRESSION = wg.Regression(wg.Adam())
START = wg.Particles(torch.ones(4, 2))


class Fails(wg.Callback):
    """Fails where it says."""

    def __init__(self, where: str) -> None:
        self.where = where

    def fail(self, where: str) -> None:
        if self.where == where:
            raise wg.BadInput("the log is another's")

    def on_start(self, run: Any) -> None:
        self.fail("start")

    def on_update(self, run: Any, info: Any) -> None:
        self.fail("update")

    def on_log(self, run: Any, window: Any) -> None:
        self.fail("look")

    def on_step(self, run: Any, row: Any) -> None:
        self.fail("step")

    def on_end(self, run: Any) -> None:
        self.fail("end")


class Stops(wg.Callback):
    """Says at the start, or after the step ``k``, that the run shall stop."""

    def __init__(self, k: int) -> None:
        self.k = k

    def on_start(self, run: Any) -> str | None:
        return run.STOP if self.k == 0 else None

    def on_step(self, run: Any, row: Any) -> str | None:
        return run.STOP if run.state.k == self.k else None


class Told(wg.Callback):
    def on_stop(self, run: Any, row: Any) -> None:
        run.record({"told": 1.0})


def no_network() -> Any:
    raise KeyError("weights")


# For every case: the rank that is given other options, and these.
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "an argument": (1, {"step_size": -1.0}),
    "a schedule": (0, {"step_size": lambda k: -1.0}),
    "parts that do not fit": (1, {"F": wg.Entropy()}),
    "numbers": (1, {"initial": wg.Particles(torch.full((4, 2), torch.nan))}),
    "a network": (1, {"initial": wg.Pushforward(wg.StandardNormal(2), no_network, regression=REGRESSION)}),
    "a callback": (0, {"callbacks": [Fails("start")]}),
    "its update": (1, {"callbacks": [Fails("update")]}),
    "its look": (0, {"callbacks": [Fails("look")]}),
    "its step": (1, {"callbacks": [Fails("step")]}),
    "its end": (1, {"callbacks": [Fails("end")]}),
}


def outcome(**options: Any) -> str:
    settings = {"F": V, "solver": wg.ForwardEuler(), "initial": START, "step_size": 0.5, "num_steps": 3, "seed": 3}
    settings["log_every"] = 2
    try:
        flow = wg.solve(**settings | options)
    except (wg.WgflowError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{flow.status} after {len(flow.history)}, told {flow.history[-1].get('told') if flow.history else None}"


def work(rank: int, world: int, folder: Path) -> None:
    """Start all flows on one rank, in the same order on every rank."""
    join(rank, world, folder)
    found = {name: outcome(**options if rank == place else {}) for name, (place, options) in CASES.items()}
    with wg.shared_sums():
        found["shared sums"] = outcome(**{"step_size": -1.0} if rank else {})
    for k in (0, 2):
        found[f"stopped at {k}"] = outcome(callbacks=[Told()] + [Stops(k)] * (rank == 0))
    torch.save(found, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()
