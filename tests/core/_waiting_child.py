"""What ranks do that wait for each other; ``test_waiting_ranks.py`` looks at what they leave behind."""

import time
import weakref
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _distributed_child import join
from torch.distributed.distributed_c10d import _set_pg_timeout

from wgflow import BadInput
from wgflow.core import ranks

CPU = torch.device("cpu")


def result_of(work: Any) -> Any:
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def late(seconds: float) -> str:
    time.sleep(seconds)
    return "late"


def refuse(error: Exception) -> Any:
    raise error


def work(rank: int, world: int, folder: Path) -> None:
    """Run all cases on one rank, in the same order on every rank."""
    join(rank, world, folder)
    ranks.together(lambda: None)  # both are here
    _set_pg_timeout(timedelta(seconds=0.5), dist.group.WORLD)
    found: dict[str, Any] = {
        "alone": result_of(lambda: ranks.by_first(lambda: late(1.5), CPU)),
        "late": result_of(lambda: ranks.together(lambda: late(1.5 * rank))),
        "value": ranks.from_first(rank, CPU),
        "refused": result_of(lambda: ranks.by_first(lambda: refuse(BadInput("the folder is another's")), CPU)),
        "last fails": result_of(lambda: ranks.together(lambda: refuse(KeyError("x")) if rank else "fine")),
        "afterwards": result_of(lambda: ranks.by_first(lambda: "goes on", CPU)),
    }
    _set_pg_timeout(timedelta(seconds=60), dist.group.WORLD)
    waiting = weakref.ref(ranks._waiting_group())
    dist.destroy_process_group()
    found["left"] = waiting() is not None
    torch.save(found, folder / f"rank-{rank}.pt")
