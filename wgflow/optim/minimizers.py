r"""Inner minimizers: immutable descriptions that build a live :class:`Descent` on some parameters."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, Decay, Fraction, NonNegative, Positive
from wgflow.core.instead import suggest
from wgflow.optim.descent import Descent, some
from wgflow.optim.quasi_newton import QuasiNewton


@dataclass(frozen=True)
class Cosine(Checked):
    r"""Cosine decay of the learning rate over a whole run, after a linear warm-up if one is asked for.

    .. math:: \eta_i = \min\bigl(1,\tfrac{i+1}{w}\bigr)
       \Bigl(\eta_\infty + \tfrac12(\eta_0-\eta_\infty)\bigl(1+\cos(\pi\min(i/N,1))\bigr)\Bigr),
       \qquad i = \text{number of updates made}.

    Parameters
    ----------
    updates : int
        :math:`N`, the updates until the floor is reached.
    floor : float
        :math:`\eta_\infty`, a learning rate (not a fraction). The learning rate itself for a constant one after the warm-up.
    warmup : int, optional
        :math:`w`, updates until the learning rate is that of the cosine, at most :math:`N`; without it all are.

    Raises
    ------
    BadInput
        For a warm-up that is longer than the cosine.

    Examples
    --------
    >>> Cosine(updates=100, floor=0.1)(0, 1.0), Cosine(updates=100, floor=0.1)(100, 1.0)
    (1.0, 0.1)
    >>> Cosine(updates=100, floor=1.0, warmup=4)(0, 1.0)
    0.25
    """

    updates: Count
    floor: NonNegative
    warmup: Count | None = None

    def __post_init__(self) -> None:
        if self.warmup is not None and self.warmup > self.updates:
            raise BadInput(
                f"warmup={self.warmup} is longer than the whole schedule of {self.updates} updates, and the learning rate would never "
                f"be the one asked for: warm up in {self.updates} updates or fewer, or make more updates"
            )

    def __call__(self, update: int, lr: float) -> float:
        """Learning rate of update number ``update`` (counted from 0) that starts at ``lr``."""
        rate = self.floor + 0.5 * (lr - self.floor) * (1 + math.cos(math.pi * min(update / self.updates, 1.0)))
        return rate if self.warmup is None else rate * min(1.0, (update + 1) / self.warmup)


class Optim(Protocol):
    """Anything that builds a :class:`Descent` on a list of parameters.

    One that compares values along lines has ``searches = True``; ``JKO`` then refuses estimators whose values are no guide.

    Examples
    --------
    One of PyTorch's optimizers that has no description here:

    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.optim import Descent
    >>> class Adagrad:
    ...     def build(self, parameters):
    ...         return Descent(torch.optim.Adagrad(parameters, lr=0.1), 0.1, None)
    >>> V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> wg.why_not(V, wg.JKO(optim=Adagrad()), wg.Particles(torch.zeros(3, 2))) is None
    True
    """

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimizer of these parameters."""
        ...


suggest(
    Optim,
    ((int, float), "Wrap the learning rate: Adam({value})"),
    (torch.optim.Optimizer, "Give the description of an optimizer, not a live one: Adam(lr)"),
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
    clip : float, optional
        Largest Euclidean norm of the gradient of all parameters together; a longer one is scaled down to it. The norm before that is
        reported as ``gradient``, behind the name of what is trained (``critic/gradient``, ``jko/gradient``).
    accumulate : int, optional
        Move the parameters once in so many updates, by the mean of their gradients: a batch of so many times the points in the
        memory of one; schedules and averages count updates as ever. :class:`JKO` refuses a number that does not divide the
        updates of its time steps. Where every update is a time step, gradients of several steps are averaged.

    Notes
    -----
    One pass over parameters, gradients and moments an update (PyTorch's ``fused``), on a GPU as on a CPU. Where a parameter is a
    view that is not dense it is the plain loop, and so in a run that a checkpoint without ``fused`` goes on with: its numbers
    stay what they were to the last bit.

    Examples
    --------
    The setting of a generator whose learning rate falls along a cosine over 10,000 updates:

    >>> import wgflow as wg
    >>> optim = wg.Adam(2e-4, (0.5, 0.9), schedule=wg.Cosine(updates=10_000, floor=5e-5))
    >>> solver = wg.JKO(optim=optim, iters=2000)
    """

    lr: Positive = 2e-4
    betas: tuple[Decay, Decay] = (0.5, 0.9)
    eps: Positive = 1e-8
    schedule: Cosine | None = None
    clip: Positive | None = None
    accumulate: Count | None = None

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimizer of these parameters; raises ``BadInput`` when there are none."""
        held = some(parameters)
        optimizer = torch.optim.Adam(held, self.lr, self.betas, self.eps, fused=all(map(_fusible, held)))
        return Descent(optimizer, self.lr, self.schedule, self.clip, self.accumulate)


def _fusible(p: Tensor) -> bool:
    """Whether the one kernel that makes a whole update may have this parameter: on a CPU it goes through memory as if it were dense."""
    dense = p.is_contiguous() or (p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last))
    return p.is_floating_point() and (p.is_cuda or (p.is_cpu and dense))


@dataclass(frozen=True)
class SGD(Checked):
    """Plain or heavy-ball gradient descent, as a description; exact expectations and tests use it.

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float
        Decay of the running sum of gradients; 0 for plain descent.
    schedule : Cosine or None
        Learning rate as a function of the update count; constant when None.
    clip, accumulate : optional
        As for :class:`Adam`.

    Examples
    --------
    >>> import wgflow as wg
    >>> solver = wg.JKO(optim=wg.SGD(0.1, momentum=0.9), iters=200)
    """

    lr: Positive
    momentum: Decay = 0.0
    schedule: Cosine | None = None
    clip: Positive | None = None
    accumulate: Count | None = None

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimizer of these parameters; raises ``BadInput`` when there are none."""
        optimizer = torch.optim.SGD(some(parameters), self.lr, self.momentum)
        return Descent(optimizer, self.lr, self.schedule, self.clip, self.accumulate)


@dataclass(frozen=True)
class LBFGS(Checked):
    r"""Limited-memory BFGS with a strong Wolfe line search, as a description: one update is a whole minimization.

    For smooth, deterministic objectives: particles under ``JKO(..., optim=LBFGS(), iters=1)``, where every update then
    completes a proximal step. Its memory starts anew in every update.

    Parameters
    ----------
    max_iter : int
        Iterations of one minimization; a step of a smooth energy takes some tens, a stiff one some hundreds.
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

    Examples
    --------
    >>> import wgflow as wg
    >>> solver = wg.JKO(optim=wg.LBFGS(max_iter=50))  # an implicit step is one update of at most 50 iterations
    """

    max_iter: Count = 500
    tolerance: Fraction | None = None
    history: Count = 10

    searches: ClassVar[bool] = True

    def build(self, parameters: Iterable[Tensor]) -> "Descent":
        """Return a fresh minimizer of these parameters; raises ``BadInput`` when there are none."""
        return QuasiNewton(some(parameters), self)


def check_accumulation(optim: object, counts: dict[str, int | None], times: int = 1) -> None:
    """Refuse a minimizer that would average gradients over the end of these counts, each of ``times`` updates of its own.

    Raises
    ------
    BadInput
        When ``accumulate`` does not divide one of them.
    """
    group = getattr(optim, "accumulate", None) or 1
    for name, count in counts.items():
        if group > 1 and count is not None and count * times % group:
            raise BadInput(
                f"accumulate={group} does not divide the {count * times} updates of {name}={count}, and the gradients of two time steps "
                "would be averaged: take numbers that divide each other"
            )


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float) -> None:
    r"""Exponential moving average in place: :math:`\bar\theta \leftarrow d\,\bar\theta + (1-d)\,\theta`.

    Floating-point buffers (running statistics) are averaged too, integer buffers copied. Two kernels in all;
    ``torch.optim.swa_utils.AveragedModel`` waits for the device at every update (its counter is copied or compared).

    Parameters
    ----------
    average : nn.Module
        The network that is changed, with the parameters :math:`\bar\theta`.
    net : nn.Module
        One of the same architecture, with the parameters :math:`\theta`.
    decay : float
        :math:`d`, from 0 to 1.

    Examples
    --------
    >>> import torch
    >>> from wgflow.optim import update_average
    >>> average, net = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(average.weight), torch.nn.init.ones_(net.weight)
    >>> update_average(average, net, 0.75)
    >>> average.weight.item()
    0.25
    """
    ours = [*average.parameters(), *average.buffers()]
    theirs = [*net.parameters(), *net.buffers()]
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in pairs], [b for _, b in pairs], 1 - decay)
    for a, b in zip(ours, theirs, strict=True):
        if not a.is_floating_point():
            a.copy_(b)
