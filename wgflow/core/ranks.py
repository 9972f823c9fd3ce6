"""What the processes of one distributed run must agree on; a single process agrees with itself at no cost."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from wgflow.core import errors

T = TypeVar("T")

_PATIENCE = timedelta(days=30)
_patient: tuple[Any, Any] = (None, None)  # the group of all ranks, and the one that waits


def parallel() -> bool:
    """Whether this process is one of several of a run."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Return the number of this process; the first one, 0, does all the writing."""
    return dist.get_rank() if parallel() else 0


def world() -> int:
    """Return the number of processes of the run."""
    return dist.get_world_size() if parallel() else 1


def anywhere(flags: torch.Tensor) -> torch.Tensor:
    """Return, elementwise, which of the boolean ``flags`` are set on any rank. All ranks must call it together."""
    if not parallel():
        return flags
    counts = flags.float()
    dist.all_reduce(counts, op=dist.ReduceOp.MAX)
    return counts.bool()


def _waiting_group() -> Any:
    """All ranks once more, in a group that waits for days, where the usual one gives up after minutes.

    A rank that works alone, on an evaluation or a download, may take long. One that has died still ends the wait: its
    connections close. None where PyTorch comes without gloo, that is the usual group.
    """
    global _patient
    if _patient[0] is not dist.group.WORLD:
        group = dist.new_group(backend="gloo", timeout=_PATIENCE) if dist.is_gloo_available() else None
        _patient = (dist.group.WORLD, group)
    return _patient[1]


def from_first(value: T, device: torch.device) -> T:
    """Return the first rank's ``value``, a plain object, for which the others wait. All ranks must call it together."""
    if not parallel():
        return value
    held, group = [value], _waiting_group()
    dist.broadcast_object_list(held, src=0, group=group, device=torch.device("cpu") if group else device)
    return held[0]


def together(work: Callable[[], T]) -> T:
    """Return ``work()`` once all ranks have done theirs, however long it takes. All ranks must call it together.

    What one of them cannot do is raised on all of them, with the same message.
    """
    if not parallel():
        return work()
    result: Any = None
    failed: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failed = error
    reasons: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(reasons, failed and (type(failed).__name__, str(failed)), group=_waiting_group())
    if failed is not None:
        raise failed
    for place, reason in enumerate(reasons):
        if reason is not None:
            raise _same_error(place, *reason)
    return result


def by_first(work: Callable[[], T], device: torch.device) -> T:
    """Return on all ranks what the first one alone has done, or raise its error. All ranks must call it together."""
    done: Any = together(work if rank() == 0 else lambda: None)
    return from_first(done, device)


def _same_error(place: int, name: str, message: str) -> errors.WgflowError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.WgflowError):
        return kind(message)
    return errors.WgflowError(f"rank {place} failed: {name}: {message}")


def averaged(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``value`` over the ranks. All ranks must call it together."""
    if not parallel():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
