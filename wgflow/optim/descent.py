"""Live optimizers: what a description of a minimizer builds."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.ranks import averaged, parallel
from wgflow.core.typing import Info, Scalar

if TYPE_CHECKING:
    from wgflow.optim.minimizers import Cosine

_DETACHED = (
    "nothing to train: what is minimized does not depend on the parameters. The output of the network was detached, rounded, "
    "computed without gradient, or went through NumPy"
)


def some(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return those that can be trained; raises ``BadInput`` when there are none."""
    held = list(parameters)
    if not held:
        raise BadInput("nothing to train: the network (or list) that an optimizer was asked for has no parameters")
    free = [p for p in held if p.requires_grad]
    if not free:
        raise BadInput("nothing to train: all parameters are frozen, set requires_grad_(True) on those to be trained")
    return free


class Descent:
    """A live optimizer: one call of :meth:`minimise` is one update.

    Only the parameters it was built on receive gradients, so a critic inside a generator's loss is left alone. Under
    ``torch.distributed`` gradients are averaged over the ranks before the update.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        A live optimizer.
    lr : float
        Its learning rate at the start.
    schedule : Cosine, optional
        How the rate changes from update to update; None keeps it.
    clip : float, optional
        Largest norm of the gradient of all parameters together.
    accumulate : int, optional
        Updates whose gradients are averaged before the parameters move; 1 by default.

    Examples
    --------
    >>> import torch
    >>> from wgflow.optim import SGD
    >>> x = torch.ones(1, requires_grad=True)
    >>> descent = SGD(0.25).build([x])  # a Descent
    >>> _ = descent.minimise(lambda: x.square().sum())
    >>> x.item()
    0.5
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        lr: float,
        schedule: "Cosine | None",
        clip: float | None = None,
        accumulate: int | None = None,
    ) -> None:
        self.optimizer, self.lr, self.schedule = optimizer, lr, schedule
        self.clip, self.accumulate = clip, accumulate or 1
        self.updates = 0
        self.gathered = 0
        """Updates whose gradients are held until the parameters move."""
        self.asked: float | None = None
        """Of a method with an end: the fraction of the first gradient at which it stops."""
        self.first = math.nan
        """Largest entry of the gradient at the start of the last update, for such a method."""
        self.mass: Tensor | None = None
        """Weights (n,) of the rows of the one parameter over the largest of them; None where they are all equal.

        All but SGD divide a gradient by them, so that a particle moves as with the largest weight. One of weight 0 stays.
        """
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def minimise(self, objective: Callable[[], Scalar]) -> Info:
        """Make one update down ``objective``, which returns a 0-d tensor and is a fixed function of the parameters.

        A first-order method evaluates it once. Returns what the minimizer has to report.
        """
        self.differentiate(objective)
        if self.gathered:
            self.updates += 1
            return {}
        if self.mass is not None and isinstance(
            self.optimizer, torch.optim.Adam
        ):  # whose eps would hide light particles
            (p,) = self.parameters
            p.grad = self.per_mass(p.grad)
        if self.schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(self.updates, self.lr)
        length = None if self.clip is None else nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        self.updates += 1
        return {} if length is None else {"gradient": length}

    def differentiate(self, objective: Callable[[], Scalar]) -> Scalar:
        """Evaluate the objective, put its gradient, or its share of one, into the parameters and return its value."""
        if not self.gathered:
            self.optimizer.zero_grad(set_to_none=True)
        loss = objective()
        if not loss.requires_grad:
            raise BadInput(_DETACHED)
        (loss / self.accumulate if self.accumulate > 1 else loss).backward(inputs=self.parameters)
        if self.updates == 0 and all(p.grad is None for p in self.parameters):
            raise BadInput(_DETACHED)
        self.gathered = (self.gathered + 1) % self.accumulate
        if not self.gathered:
            average_gradients(self.parameters)
        return loss.detach()

    def per_mass(self, gradient: Tensor) -> Tensor:
        """Divide a gradient by the weights of its rows; that of a row without weight is 0."""
        if self.mass is None:
            return gradient
        return gradient * rows(torch.where(self.mass > 0, 1 / self.mass, 0.0), gradient)

    def state_dict(self) -> dict[str, Any]:
        """Plain form: the optimizer's moments, the update count and gradients that have not moved the parameters yet."""
        saved = {"optimizer": self.optimizer.state_dict(), "updates": self.updates}
        if self.gathered:
            saved |= {"gathered": self.gathered, "gradients": [p.grad for p in self.parameters]}
        return saved

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(saved["optimizer"])
        self.updates = saved["updates"]
        self.gathered = saved.get("gathered", 0)
        for p, grad in zip(self.parameters, saved.get("gradients", ()), strict=False):
            p.grad = None if grad is None else grad.to(p)


def rows(v: Tensor, like: Tensor) -> Tensor:
    r"""Return numbers (n,) in the shape that multiplies the rows of ``like`` (n, ...)."""
    return v.view(-1, *[1] * (like.dim() - 1))


def average_gradients(parameters: list[Tensor]) -> None:
    """Replace every gradient by its mean over the ranks; nothing happens in a single process.

    One all-reduce of the flattened gradients. DistributedDataParallel is not used because a critic's objective runs
    several forward passes and, with R1, a backward pass of a backward pass, before the one backward that counts.
    """
    if not parallel():
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    mean = averaged(torch.cat([g.reshape(-1) for g in grads]))
    for g, part in zip(grads, mean.split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))
