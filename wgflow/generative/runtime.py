"""Where a training runs: device, precision and ranks, behind one small object."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wgflow import Measure, Particles
from wgflow.core.compiling import Compile, check_compiles, mark
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.fields import Checked, Count, Whole, checked
from wgflow.core.typing import Points
from wgflow.measures import Derived

_MEETING = timedelta(seconds=60)
_OF_OTHERS = re.compile(r"gloo/transport|NCCL|Connection (closed|reset) by peer")
"""In what the backends of torch.distributed say of a process that is not there any more: they have no class for it."""


@dataclass(frozen=True)
class Runtime(Checked):
    """Device, precision and ranks of this process. Under ``torchrun`` there is one process a GPU.

    Every rank draws the same global batch from the same generator and keeps its share (:class:`Sharded`), and
    gradients are averaged, so several GPUs give the result of one up to the order of sums. Exceptions are terms that
    are not means over the batch: batch normalization, minibatch statistics and Donsker–Varadhan see a rank's share.

    Parameters
    ----------
    device : torch.device
        Where this process computes.
    precision : {"fp32", "bf16"}
        As for :func:`runtime`.
    rank, world : int
        Number of this process, and of all of them.
    local : int
        Number of this process on its machine.
    compile : bool or "graphs"
        As for :func:`runtime`.

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative import Runtime
    >>> Runtime(torch.device("cpu")).first
    True
    """

    device: torch.device
    precision: Literal["fp32", "bf16"] = "fp32"
    rank: Whole = 0
    world: Count = 1
    local: Whole = 0
    compile: Compile = False

    def run_identity(self) -> tuple[str, str]:
        """Return what of it decides a run: not the rank, nor how many there are, nor what is compiled."""
        return self.device.type, self.precision

    @property
    def leads(self) -> bool:
        """Whether this is the first rank of its machine."""
        return self.local == 0

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes."""
        return self.rank == 0

    def share(self, measure: Measure) -> Measure:
        """Return this rank's part of the draws of a measure."""
        return measure if self.world == 1 else Sharded(measure, self.rank, self.world)

    def share_of(self, batch: int) -> int:
        """Return this rank's part of a batch size; raises ``BadInput`` unless the ranks divide it."""
        if batch % self.world:
            raise BadInput(f"batch={batch} cannot be divided over {self.world} processes: choose a multiple")
        return batch // self.world

    def network(self, net: nn.Module) -> nn.Module:
        """Return a network in the memory layout and precision of this runtime, marked where it is to be compiled."""
        if self.device.type == "cuda":  # a CPU gains nothing: benchmarks/images/hot_loop.py, contiguous_layout
            net = net.to(memory_format=torch.channels_last)
        return mark(net if self.precision == "fp32" else Autocast(net), self.compile)


@checked
@contextmanager
def runtime(
    device: str | torch.device = "auto", precision: Literal["fp32", "bf16"] = "fp32", compile: Compile = False
) -> Iterator[Runtime]:
    """Start the process group when ``torchrun`` asks for one, choose the device, and clean up at the end.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    precision : {"fp32", "bf16"}
        bf16 runs the networks under autocast; their last layers, so images and values of critics, and all losses stay in
        fp32. TF32 products are allowed on a GPU in both, and the setting of before is restored.
    compile : bool or "graphs"
        Run networks in training, and the whole loss of a critic with its gradient penalty, by ``torch.compile``. The first updates
        wait for the compiler. ``"graphs"`` also replays the kernels of a call as one CUDA graph, for small networks on a GPU; it has not
        been run on one yet. A run may go on with another value: its numbers then differ by rounding.

    Returns
    -------
    context manager of Runtime
        What this process is, within ``with``.

    Raises
    ------
    BadInput
        For a device that this machine does not have, or CUDA graphs on a CPU; for variables of a launcher that do not fit each other,
        or whose other processes do not come.
    MissingDependency
        Where torch is too old to compile, or has no C++ compiler.
    WgflowError
        At the end of the block, where another process has ended in the middle of it.

    Examples
    --------
    >>> from wgflow.generative import runtime
    >>> with runtime("cpu") as here:
    ...     here.world
    1
    """
    rank, local, world = processes()
    place = _place(device, local if world > 1 else None)
    check_compiles(compile, place)
    with _fast(place):
        if world > 1:
            _meet(place, rank, world)
        try:
            with _others_named(rank, world):
                yield Runtime(place, precision, rank, world, local, compile)
        finally:
            if world > 1:
                dist.destroy_process_group()


@contextmanager
def _others_named(rank: int, world: int) -> Iterator[None]:
    """Say of an error of the connection that it is another process that has ended."""
    try:
        yield
    except RuntimeError as error:
        if world == 1 or isinstance(error, WgflowError) or not _OF_OTHERS.search(str(error)):
            raise
        raise WgflowError(
            f"process {rank} of {world} waited for another one that has ended or does not answer: see what that one says, or the "
            f"launcher of it ({str(error).splitlines()[0][:200]})"
        ) from error


@contextmanager
def _fast(place: torch.device) -> Iterator[None]:
    """Make a GPU the present one, with TF32 products and its fastest convolutions, and leave all of it as it was."""
    if place.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before, precision = (cudnn.allow_tf32, cudnn.benchmark), torch.get_float32_matmul_precision()
    with torch.cuda.device(place):
        try:
            # By its name: the switch of the products alone loses a "medium" of the user's.
            torch.set_float32_matmul_precision("high")
            cudnn.allow_tf32 = cudnn.benchmark = True
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            cudnn.allow_tf32, cudnn.benchmark = before


def _place(device: str | torch.device, local: int | None) -> torch.device:
    """Return the device of this process; ``local`` is its number on this machine, where it is one of several."""
    expected = "expected auto, cpu, cuda or cuda:N"
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except (RuntimeError, TypeError):
        raise BadInput(f"device={str(device)!r}: {expected}") from None
    if place.type == "cpu" and not place.index:
        return torch.device("cpu")
    if place.type != "cuda":
        raise BadInput(f"device={str(device)!r}: {expected}; wgflow trains on no others")
    if not torch.cuda.is_available():
        raise BadInput(f"device={str(device)!r}, and torch sees no GPU here: use --device cpu")
    number, count = local if local is not None else place.index or 0, torch.cuda.device_count()
    if number >= count:
        raise BadInput(f"device={str(device)!r}: torch sees {count} GPUs here, and number {number} is not one of them")
    return torch.device("cuda", number)


def processes() -> tuple[int, int, int]:
    """Return rank, rank on this machine and number of processes, as torchrun says them; (0, 0, 1) without it.

    A scheduler or an older shell may leave some of its variables behind: a single process never asks for the others.
    """
    world = _variable("WORLD_SIZE") or 1
    if world == 1:
        return 0, 0, 1
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise BadInput(
            f"WORLD_SIZE={world} is set and {', '.join(missing)} not: start {world} processes with torchrun, or unset WORLD_SIZE "
            "for a single one"
        )
    rank, local = _variable("RANK") or 0, _variable("LOCAL_RANK") or 0
    if rank >= world:
        raise BadInput(f"RANK={rank} is set and WORLD_SIZE={world}: ranks are 0 to {world - 1}. Start with torchrun")
    return rank, local, world


def _variable(name: str) -> int | None:
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) > 2**31:
        raise BadInput(f"the environment has {name}={text!r}: expected a number. Start with torchrun, or unset it")
    return int(text)


def _meet(place: torch.device, rank: int, world: int) -> None:
    """Start the process group; raises ``BadInput`` when the other processes do not come."""
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        # The store waits for the others; a collective may take longer than they may.
        store, _, _ = next(dist.rendezvous("env://", rank, world, timeout=_MEETING))
    except (RuntimeError, ValueError, OSError) as error:  # torch.distributed's own are RuntimeErrors
        raise BadInput(
            f"WORLD_SIZE={world} is set, and the {world} processes did not meet at {address} in {_MEETING.seconds} s "
            f"({str(error).splitlines()[0][:100]}). Start them with torchrun, or unset WORLD_SIZE for a single one"
        ) from error
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", store=store, rank=rank, world_size=world)


@dataclass(frozen=True, eq=False)
class Sharded(Derived):
    """One rank's part of a measure: of a global draw with the common generator, every ``world``-th point, of equal weight.

    Noise that is put on a part, as by ``Smoothed``, is the part of what it would be on the whole.

    Parameters
    ----------
    base : Measure
        The whole.
    rank, world : int
        Which part, and of how many.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative import Sharded
    >>> part = Sharded(wg.Dataset(torch.arange(6.0)[:, None]), rank=0, world=2)
    >>> len(part.draw(3, torch.Generator()))
    3
    """

    rank: Whole
    world: Count

    @property
    def parts_in_turn(self) -> int:  # type: ignore[override]
        """Those of the whole that a rank's part has to have points for: the ranks draw them together."""
        return -(-self.base.parts_in_turn // self.world)

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points: this rank's part of a draw of ``n * world``."""
        p = self.base.draw(n * self.world, rng)
        if p.log_w is not None or len(p) % self.world:  # parts of unequal mass, which all ranks would count alike
            p = p.resampled(n * self.world, rng)
        part = slice(self.rank, None, self.world)
        return Particles(p.x[part], log_rho=None if p.log_rho is None else p.log_rho[part])

    def normals(self, like: Points, rng: torch.Generator) -> Points:
        """Return this rank's part of the numbers for a global draw."""
        shape = (len(like) * self.world, *like.shape[1:])
        return self.base.normals(like.new_empty(1).expand(shape), rng)[self.rank :: self.world]

    @property
    def has_density(self) -> bool:
        """Whether that of the whole is known: every part is drawn from it."""
        return self.base.has_density

    def log_prob(self, x: Points) -> Tensor:
        """Return the log density of the whole."""
        return self.base.log_prob(x)


class Autocast(nn.Module):
    """Runs a network under bfloat16 autocast and returns float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the network."""
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            return self.net(*inputs).float()
