"""Explicit discretizations: Runge-Kutta schemes of the flow, each given by its tableau."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, Finite
from wgflow.core.typing import Info, Points, Scalar
from wgflow.estimators import Autograd, Estimator
from wgflow.estimators.base import with_mass
from wgflow.functionals import Functional
from wgflow.measures import Particles
from wgflow.optim.descent import rows
from wgflow.solvers.base import Solver, State, advance, register_solver

_FEW, _MANY = 4, 500


@dataclass(frozen=True)
class Explicit(Solver):
    """What explicit solvers share: an estimator, refined and then applied to one realization of the functional a step.

    Parameters
    ----------
    estimator : Estimator
        How the first variation is found.
    batch : int
        Points per batch shown to an estimator that learns; moving particles are always all moved.
    """

    estimator: Estimator = field(default_factory=Autograd)
    batch: Count = field(default=256, kw_only=True)

    def realise(self, F: Functional, state: State) -> tuple[Functional, Info]:
        """Refine the estimator and return the realization of ``F`` (of this step already) that the step goes by."""
        info = self.refined(F, state)
        return F.freeze(state.rng), info

    def refined(self, F: Functional, state: State) -> Info:
        """Refine the estimator at the present law."""
        return self.estimator.refine(F, lambda rng: state.measure.draw(self.batch, rng), state.estimator, state.rng)


def squared_speed(p: Particles, v: Points) -> Scalar:
    r"""Return :math:`E|v|^2`, summed over coordinates: the rate at which the flow of a functional dissipates it."""
    squares = v.square().flatten(1)
    if squares.shape[1] > _FEW or len(squares) < _MANY or not squares.is_cpu:
        return p.mean(squares.sum(1))
    # Rows of so few are what a CPU sums slowest; column by column it is the same sum, to the last bit.
    total, *others = squares.unbind(1)
    for column in others:
        total = total + column
    return p.mean(total)


@dataclass(frozen=True)
class Tableau(Checked):
    r"""An explicit Runge-Kutta scheme: :math:`v_i=v\bigl(t+c_ih,\ x+h\sum_{j<i}a_{ij}v_j\bigr)`, :math:`x\leftarrow x+h\sum_ib_iv_i`.

    Parameters
    ----------
    a : sequence of rows
        Row ``i`` has ``i`` entries; the first, empty row is left out. The times are :math:`c_i=\sum_ja_{ij}`.
    b : sequence of float
        Weights of the stages.

    Raises
    ------
    BadInput
        When the rows do not have 1, 2, ... entries, or the weights do not sum to one.

    Examples
    --------
    Ralston's method of order 2: the second stage two thirds of a step ahead.

    >>> ralston = Tableau(a=((2 / 3,),), b=(1 / 4, 3 / 4))
    >>> sum(b * sum(row) for b, row in zip(ralston.b, ((), *ralston.a)))  # the condition of order 2
    0.5
    """

    a: tuple[tuple[Finite, ...], ...]
    b: tuple[Finite, ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(1, len(self.b))) or abs(sum(self.b) - 1) > 1e-12:
            raise BadInput(
                f"Tableau(a={self.a}, b={self.b}): expected rows of 1, 2, ... entries, one weight more than rows, and "
                "weights that sum to 1"
            )


class RungeKutta(Explicit):
    r"""The family: a subclass is a tableau, an order and a name.

    Examples
    --------
    Ralston's method of order 2 as a subclass. For :math:`F=\tfrac12E|x|^2` a step is :math:`1-h+h^2/2` times x:

    >>> import torch
    >>> import wgflow as wg
    >>> class Ralston(wg.RungeKutta):
    ...     tableau = wg.Tableau(a=((2 / 3,),), b=(1 / 4, 3 / 4))
    ...     order = 2
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> wg.solve(F, Ralston(), wg.Particles(torch.ones(1, 1)), step_size=0.5, num_steps=1).measure.x
    tensor([[0.6250]])
    """

    tableau: ClassVar[Tableau]

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        r"""Complete one time step; reports the dissipation :math:`E|v|^2` at its start, the rate at which F falls."""
        F, info = self.realise(F.at(state.k, state.t), state)

        def move(p: Particles) -> Points:
            stages: list[Points] = []
            for row in ((), *self.tableau.a):
                q = replace(p, x=_ahead(p.x, h, row, stages)) if row else p
                G = F.at(state.k, state.t + sum(row) * h) if row else F
                stages.append(self.estimator.velocity(G, q, state.estimator))
            info.setdefault("flow/dissipation", squared_speed(p, stages[0]))
            return _ahead(p.x, h, self.tableau.b, stages)

        return advance(state, state.measure.follow(move, state.rng), h), info


def _ahead(x: Points, h: float, weights: Sequence[float], stages: Sequence[Points]) -> Points:
    r"""Return :math:`x+h\sum_iw_iv_i`."""
    for w, v in zip(weights, stages, strict=True):
        if w:
            x = ((h * w) * v).add_(x)
    return x


@register_solver("forward_euler")
@dataclass(frozen=True)
class ForwardEuler(RungeKutta):
    r"""Forward Euler, :math:`x\leftarrow x-h\,\nabla\frac{\delta F}{\delta\rho}(x)`. Order 1 in :math:`h`.

    Parameters
    ----------
    estimator : Estimator
        How the first variation is found.
    batch : int
        Points per batch shown to an estimator that learns; moving particles are always all moved.

    Notes
    -----
    On ``Particles`` one step costs one gradient of the functional. On a ``Pushforward`` the network is regressed onto
    the moved samples (its ``regression``), which with a ``Critic`` on W1 is W1-FE and, with one regression step, WGAN.

    Stable for :math:`h\lambda<2` where :math:`\lambda` is the largest curvature of the field; with the exact score of a
    Gaussian cloud the entropy doubles the rate at equilibrium and leaves :math:`h\lambda<1`.

    Examples
    --------
    For :math:`F=\tfrac12E|x|^2` a step is :math:`1-h` times x:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> wg.solve(F, wg.ForwardEuler(), wg.Particles(torch.ones(1, 1)), step_size=0.5, num_steps=2).measure.x
    tensor([[0.2500]])
    """

    tableau = Tableau((), (1.0,))
    order = 1


@register_solver("heun")
@dataclass(frozen=True)
class Heun(RungeKutta):
    r"""Heun's rule, the explicit trapezoidal rule: the mean of the velocities at both ends of an Euler step. Order 2.

    Parameters
    ----------
    estimator : Estimator
        How the first variation is found. The velocity at the second stage is that of the moved particles: all of them
        move together.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    Cost: two gradients a step. One realization of the functional serves both stages, and a functional that depends on
    time explicitly (``at``) is evaluated at the times of the stages. Source: Heun (1900).

    Examples
    --------
    For :math:`F=\tfrac12E|x|^2` a step is :math:`1-h+h^2/2` times x:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> wg.solve(F, wg.Heun(), wg.Particles(torch.ones(1, 1)), step_size=0.5, num_steps=1).measure.x
    tensor([[0.6250]])
    """

    tableau = Tableau(((1.0,),), (0.5, 0.5))
    order = 2


@register_solver("rk4")
@dataclass(frozen=True)
class RK4(RungeKutta):
    r"""The classical Runge-Kutta scheme of order 4.

    Parameters
    ----------
    estimator : Estimator
        How the first variation is found, at every stage for the particles of that stage.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    Cost: four gradients a step. The order needs a smooth field: fields of sorted particles (sliced Wasserstein, W1) have
    kinks where particles change places. Source: Kutta (1901).

    Examples
    --------
    For :math:`F=\tfrac12E|x|^2` a step is :math:`1-h+h^2/2-h^3/6+h^4/24` times x, here 3/8 against the exact :math:`e^{-1}=0.3679`:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> wg.solve(F, wg.RK4(), wg.Particles(torch.ones(1, 1)), step_size=1.0, num_steps=1).measure.x
    tensor([[0.3750]])
    """

    tableau = Tableau(((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
    order = 4


@register_solver("bounded_euler")
@dataclass(frozen=True)
class BoundedEuler(Explicit):
    r"""Forward Euler that does not overshoot: :math:`x\leftarrow x+\min(h,\,r/|v|)\,v`, with :math:`r` the distance to the destination.

    Plain forward Euler for ``W1`` ends in a cycle around the target, within h of it. Here a particle closer than a step lands on its
    partner and stays, and the distance falls to zero.

    Parameters
    ----------
    estimator : Estimator
        How the first variation is found.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    For functionals that know distances (``W1``, ``SquaredW2``): the optimal plan between the batches is solved once more a step.
    Where it splits a particle's mass, the distance is that to its nearest partner. The published scheme of W1-FE is ``ForwardEuler``.

    Examples
    --------
    With W1 particles move at unit speed. Here the last step would overshoot, and is cut where the particle arrives:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.W1(wg.Particles(torch.tensor([[1.0]])))
    >>> wg.solve(F, wg.BoundedEuler(), wg.Particles(torch.zeros(1, 1)), step_size=0.4, num_steps=3).measure.x
    tensor([[1.]])
    """

    order = 1

    def refuses(self, F: Functional) -> str | None:
        """Refuse what knows no distances."""
        if F.can("remaining"):
            return None
        return f"BoundedEuler goes by distances to a destination, and {type(F).__name__} knows none. Use ForwardEuler."

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        r"""Complete one time step; reports the dissipation :math:`E|v|^2` at its start."""
        F, info = self.realise(F.at(state.k, state.t), state)

        def move(p: Particles) -> Points:
            v = self.estimator.velocity(F, p, state.estimator)
            info.setdefault("flow/dissipation", squared_speed(p, v))
            speed = v.flatten(1).norm(dim=1)
            time = torch.where(speed > 0, F.remaining(with_mass(p)) / speed, torch.inf).clamp(max=h)
            return p.x + rows(time, v) * v

        return advance(state, state.measure.follow(move, state.rng), h), info
