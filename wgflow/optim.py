r"""Inner minimisers: immutable descriptions that build a live :class:`Descent` on some parameters."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

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
        a proximal step of particles, whatever their weights, :math:`|x^+-x+h\nabla\varphi(x^+)|\le` ``tolerance``
        :math:`\cdot h\max|\nabla\varphi(x)|`. By default 1e-6, and 3e-3 in float32: the line search compares values, so nothing
        below about the square root of the machine precision can be reached (1e-8 in float64, 4e-4 in float32), where it
        stops by itself. A step of particles that ends above is reported as ``minimiser/unconverged``, see ``JKO``.
    history : int
        Pairs of steps and gradient differences that approximate the Hessian.

    Notes
    -----
    Waits for the device at every evaluation. The objective is rescaled by its first gradient, so that neither the
    number of particles nor the scale of the functional matters. Source: Liu and Nocedal (1989).

    Particles of unequal weight are searched for in the coordinates :math:`\sqrt{w_i}x_i`, in which a step is equally stiff for
    all. Those so light that the objective's value does not show them (below a weight of 2e-4 of the largest, 1e-2 in float32)
    are searched for in turn with the others; the line search then has the trapezoidal rule over gradients for values, which
    makes it the approximate Wolfe search of Hager and Zhang (2005).
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


_VISIBLE = 0.01
"""Relative weight above which the objective's value tells of a particle, at any tolerance."""
_LIGHTEST = 1e-8
"""Relative weight below which a particle's effect on the others is left out of a joint search."""
_SWEEPS = 4
"""Turns of the search over light particles and over all."""


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
        self.mass: Tensor | None = None
        """Weights (n,) of the rows of the one parameter over the largest of them; None where they are all equal.

        A gradient is then divided by them, so that every particle moves as it would with the largest weight. One of weight 0 stays.
        """
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def minimise(self, objective: Callable[[], Scalar]) -> Info:
        """Make one update down ``objective``, which returns a 0-d tensor and is a fixed function of the parameters.

        A first-order method evaluates it once. Returns what the minimiser has to report.
        """
        self.differentiate(objective)
        if self.mass is not None:
            (p,) = self.parameters
            p.grad = self.per_mass(p.grad)
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

    def per_mass(self, gradient: Tensor) -> Tensor:
        """Divide a gradient by the weights of its rows; that of a row without weight is 0."""
        if self.mass is None:
            return gradient
        return gradient * _rows(torch.where(self.mass > 0, 1 / self.mass, 0.0), gradient)

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
        self.settings = settings
        self.asked: float = reachable(parameters[0]) if settings.tolerance is None else settings.tolerance

    def minimise(self, objective: Callable[[], Scalar]) -> Info:
        """Minimise; reports the evaluations and the fraction of the first gradient that is left (``residual``)."""
        self.updates += 1
        self.differentiate(objective)
        self.first = first = self._largest()
        if first == 0 or not math.isfinite(first):
            return {"residual": first, "evaluations": 1}
        if self.mass is None:
            evaluations = 1 + self._search(objective, None)
            return {"residual": self._largest() / first, "evaluations": evaluations}
        # Values end at a gradient of the root of the machine precision, and show the root of the weight of what is left in it.
        visible = self.mass >= min(torch.finfo(self.mass.dtype).eps / self.asked**2, _VISIBLE)
        light = ~visible & (self.mass > 0)
        evaluations = 1 + self._search(objective, self.mass.where(visible, 0.0))
        for _ in range(_SWEEPS):
            if bool(light.any()):
                among = (self.mass / self.mass[light].max()).clamp(min=_VISIBLE).where(light, 0.0)
                evaluations += self._search(objective, among, values=False)
            if self._largest() <= self.asked * first:
                break
            joint = self.mass.clamp(min=_LIGHTEST).where(self.mass > 0, 0.0)
            evaluations += self._search(objective, joint, values=False)
        return {"residual": self._largest() / first, "evaluations": evaluations}

    def _search(self, objective: Callable[[], Scalar], metric: Tensor | None, values: bool = True) -> int:
        """Minimise over the rows with a metric above 0, given values or by gradients alone; return the evaluations."""
        # The search has numbers of its own for what is small, and begins with a step of 1 at most: it sees parameters of size 4
        # to 8 and a gradient of size 1, whatever their units.
        size = max(float(p.detach().abs().max()) for p in self.parameters)
        unit = 2.0 ** (math.floor(math.log2(size)) - 2) if 0 < size < math.inf else 1.0
        scale, asked = self.first, self.asked
        if metric is not None:
            (p,) = self.parameters
            asked *= math.sqrt(float(metric[metric > 0].min()))
            left = float(_times_root(self.per_mass(cast(Tensor, p.grad)), metric).abs().max()) / self.first
            if not asked < left < math.inf:
                return 0
            shrunk = 2.0 ** math.floor(math.log2(left))
            unit, scale, asked = unit * shrunk, scale * shrunk, asked / shrunk
        fixed = [p.detach().clone() for p in self.parameters]
        seen = [(_times_root(p, metric) / unit).requires_grad_(True) for p in fixed]
        evaluations, path = 0, _Path()

        def scaled() -> Scalar:
            nonlocal evaluations
            evaluations += 1
            with torch.no_grad():
                for p, z, x in zip(self.parameters, seen, fixed, strict=True):
                    p.copy_(
                        z * unit
                        if metric is None
                        else (z * unit / _rows(metric, z).sqrt()).where(_rows(metric, z) > 0, x)
                    )
            loss = averaged(self.differentiate(objective))
            inside = math.isfinite(loss)
            # Outside of the domain without a slope: the line search then bisects, with one it would interpolate to nan.
            by = scale if inside else math.nan
            for p, z in zip(self.parameters, seen, strict=True):
                z.grad = None if p.grad is None else _times_root(self.per_mass(p.grad), metric) / by
            if not inside:
                return torch.full_like(loss, math.inf)
            return loss / scale / unit if values else path.value(seen)

        torch.optim.LBFGS(
            seen,
            max_iter=self.settings.max_iter,
            tolerance_grad=asked,
            tolerance_change=torch.finfo(seen[0].dtype).eps,
            history_size=self.settings.history,
            line_search_fn="strong_wolfe",
        ).step(scaled)
        scaled()  # the line search may have looked beyond the point that it took
        return evaluations

    def _largest(self) -> float:
        return float(
            torch.stack([self.per_mass(p.grad).abs().max() for p in self.parameters if p.grad is not None]).max()
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain form: the count."""
        return {"updates": self.updates}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the count."""
        self.updates = saved["updates"]


class _Path:
    """Values of a function at the points that a search visits, from gradients by the trapezoidal rule between them."""

    def __init__(self) -> None:
        self.last: list[tuple[Tensor, Tensor]] = []
        self.total: Tensor | float = 0.0

    def value(self, points: list[Tensor]) -> Tensor:
        """Return the value at the points, which hold their gradients, less that at the first ones."""
        here = [(z.detach().clone(), cast(Tensor, z.grad)) for z in points]
        for (z, g), (last, slope) in zip(here, self.last or here, strict=True):
            self.total = self.total + ((g + slope) * (z - last)).sum() / 2
        self.last = here
        return cast(Tensor, self.total)


def reachable(x: Tensor) -> float:
    """Return the default tolerance of a minimiser that compares values, as a fraction of the first gradient."""
    return 3e-3 if torch.finfo(x.dtype).eps > 1e-10 else 1e-6


def _rows(v: Tensor, like: Tensor) -> Tensor:
    return v.view(-1, *[1] * (like.dim() - 1))


def _times_root(x: Tensor, metric: Tensor | None) -> Tensor:
    return x if metric is None else x * _rows(metric, x).sqrt()


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
