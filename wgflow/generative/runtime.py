"""Where a training runs: device, precision and ranks, behind one small object."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wgflow._typing import Points
from wgflow.errors import BadInput
from wgflow.measures import Derived, Measure, Particles


@dataclass(frozen=True)
class Runtime:
    """Device, precision and ranks of this process. Under ``torchrun`` there is one process a GPU.

    Every rank draws the same global batch from the same generator and keeps its share (:class:`Sharded`), and
    gradients are averaged, so several GPUs give the result of one up to the order of sums. Exceptions are terms that
    are not means over the batch: batch normalisation, minibatch statistics and Donsker–Varadhan see a rank's share.
    """

    device: torch.device
    precision: Literal["fp32", "bf16"] = "fp32"
    rank: int = 0
    world: int = 1

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
        """Return a network in the memory layout and precision of this runtime."""
        if self.device.type == "cuda":  # a CPU gains nothing: benchmarks/hot_loop.py, contiguous_layout
            net = net.to(memory_format=torch.channels_last)
        return net if self.precision == "fp32" else Autocast(net)


@contextmanager
def runtime(device: str = "auto", precision: Literal["fp32", "bf16"] = "fp32") -> Iterator[Runtime]:
    """Start the process group when ``torchrun`` asks for one, choose the device, and clean up at the end.

    Parameters
    ----------
    device : str
        ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    precision : {"fp32", "bf16"}
        bf16 runs the networks under autocast, their outputs and all losses stay in fp32. TF32 products are allowed
        on a GPU in both.

    Raises
    ------
    BadInput
        For a device that this machine does not have.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        place = torch.device(chosen)
    except RuntimeError:
        raise BadInput(f"device={device!r}: expected auto, cpu, cuda or cuda:N") from None
    if place.type == "cuda":
        if not torch.cuda.is_available():
            raise BadInput(f"device={device!r}, and torch sees no GPU here: use --device cpu")
        place = torch.device("cuda", local if world > 1 else place.index or 0)
        torch.cuda.set_device(place)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if world > 1:
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Runtime(place, precision, int(os.environ.get("RANK", "0")), world)
    finally:
        if world > 1:
            dist.destroy_process_group()


@dataclass(frozen=True, eq=False)
class Sharded(Derived):
    """One rank's part of a measure: of a global draw with the common generator, every ``world``-th point, of equal weight.

    It comes last: noise put on a part (``Smoothed(Sharded(data))``) would be the same on every rank.
    """

    rank: int
    world: int

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points: this rank's part of a draw of ``n * world``."""
        p = self.base.draw(n * self.world, rng)
        if p.log_w is not None or len(p) % self.world:  # parts of unequal mass, which all ranks would count alike
            p = p.resampled(n * self.world, rng)
        part = slice(self.rank, None, self.world)
        return Particles(p.x[part], log_rho=None if p.log_rho is None else p.log_rho[part])

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
