r"""Inner minimisers: immutable descriptions that build a live :class:`Descent` on some parameters."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from wgflow._fields import Checked, Count, Decay, Fraction, NonNegative, Positive
from wgflow._instead import suggest
from wgflow._ranks import averaged, parallel
from wgflow._typing import Info, Scalar
from wgflow.errors import BadInput


@dataclass(frozen=True)
class Cosine(Checked):
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

    updates: Count
    floor: NonNegative

    def __call__(self, update: int, lr: float) -> float:
        """Learning rate of update number ``update`` (counted from 0) that starts at ``lr``."""
        return self.floor + 0.5 * (lr - self.floor) * (1 + math.cos(math.pi * min(update / self.updates, 1.0)))


class Optim(Protocol):
    """Anything that builds a :class:`Descent` on a list of parameters.

    One that compares values along lines has ``searches = True``; ``JKO`` then refuses estimators whose values are no guide.
    """

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimiser of these parameters."""
        ...


suggest(
    Optim,
    ((int, float), "Wrap the learning rate: Adam({value})"),
    (torch.optim.Optimizer, "Give the description of an optimiser, not a live one: Adam(lr)"),
)


@dataclass(frozen=True)
class Adam(Checked):
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

    lr: Positive = 2e-4
    betas: tuple[Decay, Decay] = (0.5, 0.9)
    eps: Positive = 1e-8
    schedule: Cosine | None = None

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimiser of these parameters; raises ``BadInput`` when there are none."""
        held = _some(parameters)
        # One kernel for all tensors on a GPU; on a CPU the plain loop is as fast and exists for every dtype.
        optimizer = torch.optim.Adam(held, self.lr, self.betas, self.eps, fused=held[0].is_cuda)
        return Descent(optimizer, self.lr, self.schedule)


@dataclass(frozen=True)
class SGD(Checked):
    """Plain or heavy-ball gradient descent, as a description; exact expectations and tests use it."""

    lr: Positive
    momentum: Decay = 0.0
    schedule: Cosine | None = None

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimiser of these parameters; raises ``BadInput`` when there are none."""
        return Descent(torch.optim.SGD(_some(parameters), self.lr, self.momentum), self.lr, self.schedule)


@dataclass(frozen=True)
class LBFGS(Checked):
    r"""Limited-memory BFGS with a strong Wolfe line search, as a description: one update is a whole minimisation.

    For smooth, deterministic objectives: particles under ``JKO(..., optim=LBFGS(), iters=1)``, where every update then
    completes a proximal step. Its memory starts anew in every update.

    Parameters
    ----------
    max_iter : int
        Iterations of one minimisation; a step of a smooth energy takes some tens, a stiff one some hundreds.
    tolerance : float, optional
        Stop when the largest entry of the gradient has fallen to this fraction of what it was at the start. For
        a proximal step of equally weighted particles, :math:`|x^+-x+h\nabla\varphi(x^+)|\le` ``tolerance``
        :math:`\cdot h\max|\nabla\varphi(x)|`. By default 1e-6, and 3e-3 in float32: the line search compares values, so nothing
        below about the square root of the machine precision can be reached (1e-8 in float64, 4e-4 in float32), where it
        stops by itself. A step of particles that ends above is reported as ``minimiser/unconverged``, see ``JKO``.
    history : int
        Pairs of steps and gradient differences that approximate the Hessian.

    Notes
    -----
    Waits for the device at every evaluation. The objective is rescaled by its first gradient, so that neither the
    number of particles nor the scale of the functional matters. Source: Liu and Nocedal (1989).
    """

    max_iter: Count = 500
    tolerance: Fraction | None = None
    history: Count = 10

    searches: ClassVar[bool] = True

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimiser of these parameters; raises ``BadInput`` when there are none."""
        return _QuasiNewton(_some(parameters), self)


_DETACHED = (
    "nothing to train: what is minimised does not depend on the parameters. The output of the network was detached, rounded, "
    "computed without gradient, or went through NumPy"
)


def _some(parameters: Iterable[Tensor]) -> list[Tensor]:
    held = list(parameters)
    if not held:
        raise BadInput("nothing to train: the network (or list) that an optimiser was asked for has no parameters")
    free = [p for p in held if p.requires_grad]
    if not free:
        raise BadInput("nothing to train: all parameters are frozen, set requires_grad_(True) on those to be trained")
    return free


class Descent:
    """A live optimiser: one call of :meth:`minimise` is one update.

    Only the parameters it was built on receive gradients, so a critic inside a generator's loss is left alone. Under
    ``torch.distributed`` gradients are averaged over the ranks before the update.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float, schedule: Cosine | None) -> None:
        self.optimizer, self.lr, self.schedule = optimizer, lr, schedule
        self.updates = 0
        self.asked: float | None = None
        """Of a method with an end: the fraction of the first gradient at which it stops."""
        self.first = math.nan
        """Largest entry of the gradient at the start of the last update, for such a method."""
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def minimise(self, objective: Callable[[], Scalar]) -> Info:
        """Make one update down ``objective``, which returns a 0-d tensor and is a fixed function of the parameters.

        A first-order method evaluates it once. Returns what the minimiser has to report.
        """
        self.differentiate(objective)
        if self.schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(self.updates, self.lr)
        self.optimizer.step()
        self.updates += 1
        return {}

    def differentiate(self, objective: Callable[[], Scalar]) -> Scalar:
        """Evaluate the objective, put its gradient into the parameters and return its value."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = objective()
        if not loss.requires_grad:
            raise BadInput(_DETACHED)
        loss.backward(inputs=self.parameters)
        if self.updates == 0 and all(p.grad is None for p in self.parameters):
            raise BadInput(_DETACHED)
        average_gradients(self.parameters)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Plain form: the optimiser's moments and the update count."""
        return {"optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(saved["optimizer"])
        self.updates = saved["updates"]


class _QuasiNewton(Descent):
    """A minimiser that starts anew in every update, and so has no state but the count."""

    def __init__(self, parameters: list[Tensor], settings: LBFGS) -> None:
        super().__init__(torch.optim.SGD(parameters, 1.0), 1.0, None)
        single = torch.finfo(parameters[0].dtype).eps > 1e-10
        self.settings = settings
        self.asked: float = (3e-3 if single else 1e-6) if settings.tolerance is None else settings.tolerance

    def _search(self, parameters: list[Tensor]) -> torch.optim.LBFGS:
        s = self.settings
        return torch.optim.LBFGS(
            parameters,
            max_iter=s.max_iter,
            tolerance_grad=self.asked,
            tolerance_change=torch.finfo(parameters[0].dtype).eps,
            history_size=s.history,
            line_search_fn="strong_wolfe",
        )

    def minimise(self, objective: Callable[[], Scalar]) -> Info:
        """Minimise; reports the evaluations and the fraction of the first gradient that is left (``residual``)."""
        self.updates += 1
        self.differentiate(objective)
        self.first = first = self._largest()
        evaluations = 1
        if first == 0 or not math.isfinite(first):
            return {"residual": first, "evaluations": 1}
        # The search has numbers of its own for what is small, and begins with a step of 1 at most: it sees parameters of size 4
        # to 8 and a gradient of size 1, whatever their units.
        size = max(float(p.detach().abs().max()) for p in self.parameters)
        unit = 2.0 ** (math.floor(math.log2(size)) - 2) if 0 < size < math.inf else 1.0
        seen = [(p.detach() / unit).requires_grad_(True) for p in self.parameters]

        def scaled() -> Scalar:
            nonlocal evaluations
            evaluations += 1
            with torch.no_grad():
                for p, z in zip(self.parameters, seen, strict=True):
                    p.copy_(z * unit)
            loss = averaged(self.differentiate(objective))
            inside = math.isfinite(loss)
            # Outside of the domain without a slope: the line search then bisects, with one it would interpolate to nan.
            scale = first if inside else math.nan
            for p, z in zip(self.parameters, seen, strict=True):
                z.grad = None if p.grad is None else p.grad / scale
            return loss / first / unit if inside else torch.full_like(loss, math.inf)

        self._search(seen).step(scaled)
        scaled()  # the line search may have looked beyond the point that it took
        return {"residual": self._largest() / first, "evaluations": evaluations}

    def _largest(self) -> float:
        return float(torch.stack([p.grad.abs().max() for p in self.parameters if p.grad is not None]).max())

    def state_dict(self) -> dict[str, Any]:
        """Plain form: the count."""
        return {"updates": self.updates}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the count."""
        self.updates = saved["updates"]


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
