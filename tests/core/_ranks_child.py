"""What both ranks do for all tests of several processes: they are started once, for a start is most of the time."""

from pathlib import Path
from typing import Any

import _distributed_child
import _searching_child
import _sharing_child
import _starting_child
import _waiting_child
import torch

WORLD = 2
CHILDREN = {
    "shared batch": _distributed_child,
    "line searches": _searching_child,
    "shared sums": _sharing_child,
    "starts": _starting_child,
    "waiting": _waiting_child,
}


def work(rank: int, folder: Path) -> None:
    """Do what every module has its ranks do, each in a folder of its own."""
    for name, child in CHILDREN.items():
        child.work(rank, WORLD, folder / name)


def left_behind(folder: Path) -> list[dict[str, Any]]:
    """Return what each rank has found."""
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(WORLD)]
