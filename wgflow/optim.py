r"""Inner minimisers: immutable descriptions that build a live :class:`Descent` on some parameters."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wgflow._typing import Scalar
from wgflow.errors import BadInput


@dataclass(frozen=True)
class Cosine:
    r"""Cosine decay of the learning rate over a whole run.

    .. math:: \eta_i = \eta_\infty + \tfrac12(\eta_0-\eta_\infty)\bigl(1+\cos(\pi\min(i/N,1))\bigr),
       \qquad i = \text{number of updates made}.

    Parameters
    ----------
    updates : int
        :math:`N`, the updates until the floor is reached.
    floor : float
        :math:`\eta_\infty`, a learning rate (not a fraction).

    Examples
    --------
    >>> Cosine(updates=100, floor=0.1)(0, 1.0), Cosine(updates=100, floor=0.1)(100, 1.0)
    (1.0, 0.1)
    """

    updates: int
    floor: float

    def __post_init__(self) -> None:
        if self.updates < 1 or not 0 <= self.floor < math.inf:
            raise BadInput(
                f"Cosine(updates={self.updates}, floor={self.floor}): expected at least 1 update and a nonnegative, "
                "finite learning rate"
            )

    def __call__(self, update: int, lr: float) -> float:
        """Learning rate of update number ``update`` (counted from 0) that starts at ``lr``."""
        return self.floor + 0.5 * (lr - self.floor) * (1 + math.cos(math.pi * min(update / self.updates, 1.0)))


class Optim(Protocol):
    """Anything that builds a :class:`Descent` on a list of parameters."""

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimiser of these parameters."""
        ...


@dataclass(frozen=True)
class Adam:
    """Adam, as a description. The default momenta are those of the S-JKO and UOTM experiments.

    Parameters
    ----------
    lr : float
        Learning rate.
    betas : tuple of float
        Decay of the first and second moment.
    eps : float
        Added to the root of the second moment.
    schedule : Cosine or None
        Learning rate as a function of the update count; constant when None.
    """

    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.9)
    eps: float = 1e-8
    schedule: Cosine | None = None

    def __post_init__(self) -> None:
        _check_rate("Adam", self.lr)

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimiser of these parameters; raises ``BadInput`` when there are none."""
        held = _some(parameters)
        # One kernel for all tensors on a GPU; on a CPU the plain loop is as fast and exists for every dtype.
        optimizer = torch.optim.Adam(held, self.lr, self.betas, self.eps, fused=held[0].is_cuda)
        return Descent(optimizer, self.lr, self.schedule)


@dataclass(frozen=True)
class SGD:
    """Plain or heavy-ball gradient descent, as a description; exact expectations and tests use it."""

    lr: float
    momentum: float = 0.0
    schedule: Cosine | None = None

    def __post_init__(self) -> None:
        _check_rate("SGD", self.lr)

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimiser of these parameters; raises ``BadInput`` when there are none."""
        return Descent(torch.optim.SGD(_some(parameters), self.lr, self.momentum), self.lr, self.schedule)


def _check_rate(name: str, lr: float) -> None:
    if not (lr > 0 and math.isfinite(lr)):
        raise BadInput(f"{name}(lr={lr}): expected a positive, finite learning rate")


def _some(parameters: Iterable[Tensor]) -> list[Tensor]:
    held = list(parameters)
    if not held:
        raise BadInput("nothing to train: the network (or list) that an optimiser was asked for has no parameters")
    return held


class Descent:
    """A live optimiser: one call of :meth:`minimise` is one update.

    Only the parameters it was built on receive gradients, so a critic inside a generator's loss is left alone. Under
    ``torch.distributed`` gradients are averaged over the ranks before the update.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float, schedule: Cosine | None) -> None:
        self.optimizer, self.lr, self.schedule = optimizer, lr, schedule
        self.updates = 0
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def minimise(self, loss: Scalar) -> None:
        """Take one step down ``loss``, a 0-d tensor."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=self.parameters)
        average_gradients(self.parameters)
        if self.schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(self.updates, self.lr)
        self.optimizer.step()
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Plain form: the optimiser's moments and the update count."""
        return {"optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(saved["optimizer"])
        self.updates = saved["updates"]


def average_gradients(parameters: list[Tensor]) -> None:
    """Replace every gradient by its mean over the ranks; nothing happens in a single process.

    One all-reduce of the flattened gradients. DistributedDataParallel is not used because a critic's objective runs
    several forward passes and, with R1, a backward pass of a backward pass, before the one backward that counts.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for g, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    r"""Exponential moving average in place: :math:`\bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta`.

    Floating-point buffers (running statistics) are averaged too, integer buffers copied. Two kernels in all;
    ``torch.optim.swa_utils.AveragedModel`` waits for the device at every update (its counter is copied or compared).
    """
    ours = [*average.parameters(), *average.buffers()]
    theirs = [*net.parameters(), *net.buffers()]
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - decay)
    for a, b in zip(ours, theirs, strict=True):
        if not a.is_floating_point():
            a.copy_(b)
