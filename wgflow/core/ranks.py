"""What the processes of one distributed run must agree on; a single process agrees with itself at no cost."""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from wgflow.core import errors

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

COLLECTIVE = "collective"

_PATIENCE = timedelta(days=30)
# The group that waits, for that of all ranks: it goes with it, or its threads would still run when the process ends.
_patient: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


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


def on_any(flag: bool, device: torch.device) -> bool:
    """Return whether ``flag`` is set on any rank. All ranks must call it together."""
    return bool(anywhere(torch.tensor(flag, device=device))) if parallel() else flag


def _waiting_group() -> Any:
    """All ranks once more, in a group that waits for days, where the usual one gives up after minutes.

    A rank that works alone, on an evaluation or a download, may take long. One that has died still ends the wait: its
    connections close. None where PyTorch comes without gloo, that is the usual group.
    """
    everybody = dist.group.WORLD
    if everybody not in _patient:
        _patient[everybody] = dist.new_group(backend="gloo", timeout=_PATIENCE) if dist.is_gloo_available() else None
    return _patient[everybody]


def from_first(value: T, device: torch.device) -> T:
    """Return the first rank's ``value``, a plain object, for which the others wait. All ranks must call it together."""
    if not parallel():
        return value
    held, group = [value], _waiting_group()
    dist.broadcast_object_list(held, src=0, group=group, device=torch.device("cpu") if group else device)
    return held[0]


def from_all(value: T) -> list[T]:
    """Return the values of all ranks, plain objects, in the order of the ranks. All ranks must call it together."""
    if not parallel():
        return [value]
    held: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(held, value, group=_waiting_group())
    return held


def said_anywhere(*flags: bool) -> list[bool]:
    """Return which of some flags are set on any rank, for which all wait. All ranks must call it together.

    One short message, where objects take two and are pickled: a flow asks in every time step.
    """
    if not parallel():
        return list(flags)
    group = _waiting_group()
    if group is None:
        return [any(said) for said in zip(*from_all(flags), strict=True)]
    counts = torch.tensor(flags, dtype=torch.uint8, device="cpu")
    dist.all_reduce(counts, op=dist.ReduceOp.MAX, group=group)
    return [bool(said) for said in counts.tolist()]


def collective(function: F) -> F:
    """Mark a function that all ranks call together, for ``checked``: an argument that one of them has wrong is refused on all."""
    setattr(function, COLLECTIVE, True)
    return function


def together(work: Callable[[], T]) -> T:
    """Return ``work()`` once all ranks have done theirs, however long it takes. All ranks must call it together.

    What one of them cannot do is raised on all of them; the others say which rank it was.
    """
    return _agreed(work, "rank {}: ")


def by_first(work: Callable[[], T], device: torch.device) -> T:
    """Return on all ranks what the first one alone has done, or raise its error. All ranks must call it together."""
    done: Any = _agreed(work if rank() == 0 else lambda: None, "")
    return from_first(done, device)


def _agreed(work: Callable[[], T], teller: str) -> T:
    if not parallel():
        return work()
    result: Any = None
    failed: Any = None
    try:
        result = work()
    except Exception as error:
        if hasattr(error, "known_to_all"):  # nobody waits to hear of it once more
            raise
        failed = error
    reasons: list[Any] = from_all(failed and (type(failed).__name__, str(failed)))
    for place, reason in enumerate(reasons):
        if reason is not None:
            failed = failed or _same_error(teller.format(place), place, *reason)
            failed.known_to_all = True
            raise failed
    return result


def _same_error(teller: str, place: int, name: str, message: str) -> errors.WgflowError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.WgflowError):
        return kind(teller + message)
    return errors.WgflowError(f"rank {place} failed: {name}: {message}")


def take_first(tensors: Iterable[torch.Tensor]) -> None:
    """Put those of the first rank in the place of tensors. All ranks must call it together."""
    for t in tensors if parallel() else ():
        held = t.detach().contiguous()
        dist.broadcast(held, 0)
        t.detach().copy_(held)


def averaged(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of ``value`` over the ranks. All ranks must call it together."""
    if not parallel():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


@dataclass(frozen=True)
class Shares:
    """How the pieces of a sum are shared out: every ``world``-th to each rank, or all of them to the only one.

    What is added up must be linear in the pieces. All ranks hold the same points and get the same sums.
    """

    rank: int = 0
    world: int = 1

    def of(self, pieces: Iterable[T]) -> Iterable[T]:
        """Return the pieces that are this rank's."""
        return pieces if self.world == 1 else islice(pieces, self.rank, None, self.world)

    def added(self, *parts: torch.Tensor | None) -> Any:
        """Return what the ranks have made of their pieces, added up; one tensor for one, None for None."""
        if self.world > 1:
            parts = tuple(None if t is None else t.contiguous() for t in parts)
            for t in parts:
                if t is not None:
                    dist.all_reduce(t)
        return parts[0] if len(parts) == 1 else parts

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` as this rank's pieces see it: its derivative is what those of all ranks add up to."""
        return x if self.world == 1 else _Seen.apply(x, self)

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """Return the values of all ranks added up, differentiable in each rank's own."""
        return value if self.world == 1 else _Total.apply(value, self)


class _Seen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, how: Shares) -> torch.Tensor:
        ctx.how = how
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.how.added(g.clone()), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, how: Shares) -> torch.Tensor:
        return how.added(value.clone())

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor, None]:
        return g, None


class _InForce(threading.local):
    shares = Shares()


_in_force = _InForce()


def shares() -> Shares:
    """Return how sums are shared here and now. What works in another thread later on, as a backward pass may, keeps it."""
    return _in_force.shares


class Sharing:
    """The block in which sums are shared like that; every update of a flow is one."""

    __slots__ = ("before", "how")

    def __init__(self, how: Shares) -> None:
        self.how = how

    def __enter__(self) -> None:
        self.before, _in_force.shares = _in_force.shares, self.how

    def __exit__(self, *error: object) -> None:
        _in_force.shares = self.before


def check_same(held: Iterable[torch.Tensor]) -> None:
    """Refuse tensors that differ between the ranks, which add up sums over them. All ranks must call it together."""
    digest = hashlib.sha256()
    for t in held:
        digest.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    found = from_all(digest.hexdigest())
    others = [k for k, other in enumerate(found) if other != found[0]]
    if others:
        raise errors.BadInput(
            "within shared_sums() all processes must begin with the same particles, targets and seed, and those of process "
            f"{others[0]} are not those of process 0: draw them with one seed, or load them from one file"
        )


@contextmanager
def shared_sums() -> Iterator[None]:
    r"""Share the work of sums over pairs and over directions out to the processes of ``torch.distributed``.

    Every process runs the same program on the same particles. Of the :math:`n^2` pairs of a sum, or the directions of a
    sliced distance, each does its part, and the parts are added up: the answer is that of one process up to the order of
    sums, the same on all of them to the last bit. In a single process nothing changes.

    Returns
    -------
    context manager
        Sums are shared within ``with``.

    Raises
    ------
    BadInput
        By :func:`solve`, when the processes begin with different particles, targets or seeds.

    Notes
    -----
    Shared: MMD, energy distances, interaction energies, Stein velocities and discrepancies, kernel densities, sliced
    distances, proximal scores, and Sinkhorn sweeps over more than 2²⁴ pairs. Everything else (potentials, noise, sorting on a
    line, exact transport) each process does for itself, in the same way. A process holds all n d numbers of the particles
    and sends some 2 n d of them a sum.

    In :func:`solve` the time steps share. Callbacks and what is saved do not: they may be there on the first process alone.
    A sum that they take inside of ``shared_sums()`` all processes must take together. A run goes on from a checkpoint
    with any number of processes.

    Examples
    --------
    Started by ``torchrun --nproc_per_node 4 flow.py``; alone it is a flow of one process:

    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative import runtime
    >>> start = wg.Particles(torch.tensor([[0.0], [1.0]]))
    >>> F = wg.InteractionEnergy(wg.PowerLaw(2.0))
    >>> with runtime("cpu") as here, wg.shared_sums():
    ...     flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=1)
    >>> flow.measure.x.flatten()
    tensor([0.2500, 0.7500])
    """
    with Sharing(Shares(rank(), world())):
        yield
