"""What the processes of one distributed run must agree on; a single process agrees with itself at no cost."""

from typing import Any

import torch
import torch.distributed as dist


def parallel() -> bool:
    """Whether this process is one of several of a run."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the number of this process; the first one, 0, does all the writing."""
    return dist.get_rank() if parallel() else 0


def anywhere(flags: torch.Tensor) -> torch.Tensor:
    """Return, elementwise, which of the boolean ``flags`` are set on any rank. All ranks must call it together."""
    if not parallel():
        return flags
    counts = flags.float()
    dist.all_reduce(counts, op=dist.ReduceOp.MAX)
    return counts.bool()


def from_first(value: Any, device: torch.device) -> Any:
    """Return the first rank's ``value``, a plain object. All ranks must call it together."""
    if not parallel():
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0, device=device)
    return held[0]


def averaged(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``value`` over the ranks. All ranks must call it together."""
    if not parallel():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
