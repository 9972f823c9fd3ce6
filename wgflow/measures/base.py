"""What can be drawn from, and what a solver can move."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import Unsupported
from wgflow.core.fields import Checked
from wgflow.core.instead import suggest
from wgflow.core.outputs import per_point
from wgflow.core.placing import Placed
from wgflow.core.points import at_points
from wgflow.core.registry import Registry
from wgflow.core.typing import Points

if TYPE_CHECKING:
    from wgflow.measures.particles import Particles
    from wgflow.measures.successor import Successor

MEASURES: "Registry[Measure]" = Registry("measure")
register_measure = MEASURES.register
_AT_POINTS = ("log_prob", "score", "hyvarinen_score")


class Measure(Checked, Placed, ABC):
    r"""A probability measure that can be drawn from.

    Where an argument is to be one, a tensor or a NumPy array of points (n, \*event) is taken as :class:`Particles` of equal weight:
    a tensor keeps its type, an array is copied into PyTorch's default type.

    Attributes
    ----------
    event_shape : torch.Size
        Shape of one point: ``(d,)`` for vectors, ``(c, h, w)`` for images.
    device : torch.device
        Where its points live.

    Examples
    --------
    The uniform law on [0, 1]:

    >>> import torch
    >>> import wgflow as wg
    >>> class Uniform(wg.Measure):
    ...     event_shape = torch.Size([1])
    ...
    ...     def draw(self, n, rng):
    ...         return wg.Particles(torch.rand(n, 1, generator=rng))
    >>> F = wg.EnergyDistance(Uniform(), batch=2000).freeze(torch.Generator().manual_seed(0))
    >>> F.value(wg.Particles(torch.zeros(1, 1))).round(decimals=1)  # 2 E|X| - E|X - X'| = 1 - 1/3
    tensor(0.7000)
    """

    event_shape: torch.Size
    goes_to = "a measure: the target of a functional, KL(target), or the start of solve(F, solver, start, ...)"
    can_draw: ClassVar[bool] = True
    """False for a density without a sampler."""
    labels: Tensor | None = None
    """Classes of the atoms that :meth:`take` returns, int64 (num_atoms,), where they are known."""
    behind: int = 0
    """Coordinates at the end of a point that belong to it and are no part of its position: a label, a latent."""
    parts_in_turn: int = 1
    """Parts of the law, such as classes, that a draw takes in turn: one of fewer points never has any of the last ones."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """What a class answers at points, it is asked at its points only."""
        super().__init_subclass__(**kwargs)
        for name in _AT_POINTS:
            if inspect.isfunction(method := vars(cls).get(name)):  # and no property or static method of the user's
                setattr(cls, name, at_points(method))

    @classmethod
    def example(cls) -> "Measure":
        """Return a tiny instance for contract tests, of points with two coordinates."""
        raise Unsupported(f"{cls.__name__} has no example(): write one so that the contract tests cover it")

    @property
    def device(self) -> torch.device:
        """Where draws of this measure live."""
        return torch.device("cpu")

    @abstractmethod
    def draw(self, n: int, rng: torch.Generator) -> "Particles":
        """Return ``n`` points ``(n, *event)`` with their weights, drawn with ``rng`` and nothing else."""

    @property
    def num_atoms(self) -> int | None:
        """Number of atoms of a finite set of equally likely points, which :meth:`take` returns; None for other measures."""
        return None

    def take(self, index: Tensor, rng: torch.Generator) -> "Particles":
        """Return the atoms of the numbers ``index`` (n,), which a metric chooses; what blurs them is drawn with ``rng``."""
        raise Unsupported(f"{type(self).__name__} has no numbered atoms (num_atoms is None): use draw")

    @property
    def num_points(self) -> int | None:
        """Number of points of a finite law, of equal weight or not, which :meth:`whole` returns; None for infinitely many."""
        return self.num_atoms

    def whole(self, rng: torch.Generator) -> "Particles":
        """Return all points of a finite law with their weights, in their order; what blurs them is drawn with ``rng``."""
        n = self.num_atoms
        if n is None:
            raise Unsupported(f"{type(self).__name__} has infinitely many points (num_points is None): use draw")
        return self.take(torch.arange(n, device=self.device), rng)

    def log_prob(self, x: Points) -> Tensor:
        r"""Log density at ``x``, shape ``(n,)``, possibly up to a constant.

        Raises
        ------
        Unsupported
            When the density is not known.
        """
        raise Unsupported(
            f"{type(self).__name__} has no density at a point. Use a functional that needs draws only (an f-divergence "
            "under Critic), or a target with log_prob such as Gaussian."
        )

    @at_points
    def log_density(self, x: Points) -> Tensor:
        """Return :meth:`log_prob` at ``x``, checked: raises ``BadInput`` unless it is one number a point, differentiable in it."""
        return per_point(self.log_prob, x, f"{type(self).__name__}.log_prob")

    @at_points
    def score(self, x: Points) -> Points:
        r"""Score :math:`\nabla\log\rho` at ``x``, of its shape; by automatic differentiation, without gradient, unless a class knows it."""
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.log_density(x).sum(), x)[0]

    @at_points
    def hyvarinen_score(self, x: Points) -> Tensor:
        r"""Hyvärinen's scoring rule :math:`2\Delta\log\rho+|\nabla\log\rho|^2` at ``x``, shape (n,), least on average at the data's law.

        Differentiable in what the density depends on. This one differentiates the score once a coordinate.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (score,) = torch.autograd.grad(self.log_density(x).sum(), x, create_graph=True)
            s, laplacian = score.flatten(1), x.new_zeros(len(x))
            for j in range(s.shape[1]) if s.requires_grad else ():
                (row,) = torch.autograd.grad(s[:, j].sum(), x, create_graph=True, materialize_grads=True)
                laplacian = laplacian + row.flatten(1)[:, j]
        return 2 * laplacian + s.square().sum(1)

    def noised(self, scale: float, variance: float) -> "Measure":
        r"""Return the law of :math:`aX+\sqrt v\,\xi`, :math:`\xi\sim N(0,I)`, for :math:`X` from this one, where it is known.

        ``scale`` is :math:`a`, ``variance`` is :math:`v`, a variance a coordinate.
        """
        raise Unsupported(
            f"the law of {type(self).__name__} plus Gaussian noise is not known in closed form: use a Gaussian, a GaussianMixture or "
            "LocalGaussians"
        )

    def normals(self, like: Points, rng: torch.Generator) -> Points:
        """Return standard normal numbers for drawn points; a process's share of a measure takes its share of the numbers."""
        return torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)

    def at(self, k: int, t: float) -> "Measure":
        """Return the measure of time step ``k`` (time ``t``); itself unless it changes along the flow."""
        return self

    @property
    def has_density(self) -> bool:
        """Whether :meth:`log_prob` is known."""
        return self.supports("log_prob")

    @classmethod
    def supports(cls, method: str) -> bool:
        """Whether this class implements an optional method, such as ``"log_prob"``."""
        return getattr(cls, method) is not getattr(Measure, method)


NOT_POINTS = (
    (
        (Tensor, np.ndarray),
        "An array of points is floating-point and finite, of shape (n, *event) with n >= 1, as x[:, None] is",
    ),
    ((list, tuple), "Make a tensor of the points: torch.tensor(x), of shape (n, *event)"),
    (str, "Read the points of a file first: numpy.load(path), or numpy.loadtxt(path, delimiter=',', ndmin=2)"),
)
suggest(
    Measure,
    *NOT_POINTS,
    (
        torch.distributions.Distribution,
        "Wrap its log density: Unnormalised(p.log_prob, d); Gaussian and GaussianMixture can be drawn from as well",
    ),
    (Callable, "Wrap a log density, with the shape of a point: Unnormalised(log_prob, d)"),
)


class MovingMeasure(Measure):
    """A measure that a solver can move, either by an explicit displacement or by training a successor.

    Examples
    --------
    A Gaussian of fixed width that moves as a whole, by the mean displacement of its draws:

    >>> import torch
    >>> import wgflow as wg
    >>> class Rigid(wg.MovingMeasure):
    ...     event_shape = torch.Size([1])
    ...
    ...     def __init__(self, mean):
    ...         self.mean = mean
    ...
    ...     def draw(self, n, rng):
    ...         return wg.Particles(self.mean + torch.randn(n, 1, generator=rng))
    ...
    ...     def start(self, rng):
    ...         return self
    ...
    ...     def follow(self, move, rng):
    ...         rho = self.draw(1000, rng)
    ...         return Rigid(self.mean + (move(rho) - rho.x).mean(0))
    >>> F = wg.PotentialEnergy(lambda x: (x - 3).square().sum(1) / 2)
    >>> flow = wg.solve(F, wg.ForwardEuler(), Rigid(torch.zeros(1)), step_size=0.5, num_steps=10)
    >>> round(flow.measure.mean.item(), 1)
    3.0
    """

    tracks_points: ClassVar[bool] = False
    """The same points persist between steps, so noise, momentum and weights can be attached to them."""
    replays_moves: ClassVar[bool] = False
    """Moves are applied again to fresh points later, so they must be pointwise maps."""

    parametric: ClassVar[bool] = False
    """Points of what an implicit step trains carry its law as their source, with a density that depends on its parameters."""
    made_of: Tensor | None = None
    """Data ``(k, *event)`` that the law is made of: fitted to the same points, it would put all of its mass on them."""

    @property
    def carries_density(self) -> bool:
        """Whether what an implicit step trains knows its log density (:attr:`Particles.log_rho`)."""
        return False

    def start(self, rng: torch.Generator) -> "MovingMeasure":
        """Return a private copy ready to move: what ``rng`` initializes is built, nothing is shared with ``self``."""
        raise Unsupported(f"{type(self).__name__} cannot start a flow")

    def follow(self, move: Callable[["Particles"], Points], rng: torch.Generator) -> "MovingMeasure":
        """Return the measure after the explicit displacement ``x -> move(x)``."""
        raise Unsupported(f"{type(self).__name__} cannot follow an explicit move; use an implicit solver such as JKO")

    def snapshot(self) -> "MovingMeasure":
        """Return the law of a started measure as it is now, which later moves leave as it is; draws use the same latents."""
        if self.tracks_points:
            return self
        raise Unsupported(f"{type(self).__name__} keeps no snapshots of itself")

    def inference(self) -> "Measure":
        """View this measure as one samples it after training; itself where training and sampling do not differ."""
        return self

    def propose(self, rng: torch.Generator, last: "Successor | None" = None) -> "Successor":
        """Return a trainable successor. ``last`` is the accepted one of the step before, for a warm start."""
        raise Unsupported(f"{type(self).__name__} has no trainable successor; use an explicit solver (ForwardEuler)")


suggest(
    MovingMeasure,
    *NOT_POINTS,
    (Measure, "It cannot be moved: start from Particles, such as a draw of it, or from a Pushforward of it"),
)
