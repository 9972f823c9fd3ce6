"""Second-order flows: particles with momentum and friction."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from wgflow.core.fields import NonNegative
from wgflow.core.typing import Info, Points
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure, Particles
from wgflow.solvers.base import State, advance, register_solver
from wgflow.solvers.explicit import Explicit, squared_speed


@dataclass(eq=False)
class AcceleratedState(State):
    """A state with a momentum.

    Attributes
    ----------
    velocity : Tensor, shape (n, *event)
        Of every particle; it follows its particle when particles are resampled.
    age : Tensor, 0-d
        Time since the momentum was last set to zero.
    """

    velocity: Tensor = None  # type: ignore[assignment]
    age: Tensor = None  # type: ignore[assignment]

    def take(self, index: Tensor) -> Self:
        """Take the velocities too."""
        return replace(self, velocity=self.velocity[index])


@register_solver("accelerated")
@dataclass(frozen=True)
class Accelerated(Explicit):
    r"""The damped Hamiltonian flow :math:`\dot x=v,\ \dot v=-\gamma v-\nabla\frac{\delta F}{\delta\rho}(x)`, from rest. Order 2.

    A symmetric splitting: half a drift, a kick whose damping is integrated exactly for a field held fixed, half a drift:

    .. math:: x'=x+\tfrac h2v,\qquad v\leftarrow e^{-\gamma h}v-\frac{1-e^{-\gamma h}}\gamma\nabla\tfrac{\delta F}{\delta\rho}(x'),
       \qquad x\leftarrow x'+\tfrac h2v.

    Parameters
    ----------
    estimator : Estimator
        How the first variation is found, at the positions in the middle of the step.
    friction : float or None
        :math:`\gamma\ge0`, one over a time; :math:`2\sqrt\alpha` suits an :math:`\alpha`-strongly convex functional. None is
        Nesterov's :math:`3/t`, with :math:`t` the time since the start or the last restart.
    restart : bool
        Set the momentum to zero where it has come to point uphill, :math:`E\langle v,\nabla\frac{\delta F}{\delta\rho}\rangle>0`.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    Cost: one gradient a step, and as much memory again as the positions. Time is that of the second-order flow: near a
    minimum of curvature :math:`\lambda` it is stable for :math:`h\sqrt\lambda<2`. For large friction it is the gradient flow with
    time slowed down by :math:`\gamma`. F itself need not decrease; without weights that move, kinetic energy plus F does.

    Reports the kinetic energy :math:`\tfrac12E|v|^2` and whether the momentum was reset. Sources: Liu, Zhuo, Cheng, Zhang and
    Zhu (2019), Wang and Li (2022); restarts by O'Donoghue and Candès (2015).

    Examples
    --------
    Critical damping, :math:`\gamma=2`, of :math:`F=\tfrac12E|x|^2`: :math:`x_t=(1+t)e^{-t}`, which is 0.7358 at t = 1.

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> wg.solve(F, wg.Accelerated(friction=2.0), wg.Particles(torch.ones(1, 1)), step_size=0.05, num_steps=20).measure.x
    tensor([[0.7359]])
    """

    friction: NonNegative | None = 1.0
    restart: bool = False

    order = 2
    needs_tracked_points = True
    reference = ("liu2019understanding", "wang2022accelerated", "odonoghue2015adaptive")

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> AcceleratedState:
        """Return the state at rest."""
        s = super().init(F, measure, rng)
        assert isinstance(s.measure, Particles), "why_not() asks for a measure that tracks its points"
        x = s.measure.x
        return AcceleratedState(s.measure, s.k, s.t, s.rng, s.estimator, torch.zeros_like(x), x.new_zeros(()))

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Complete one time step; reports the kinetic energy and whether the momentum was reset."""
        assert isinstance(state, AcceleratedState)
        F, info = self.realise(F.at(state.k, state.t), state)
        F = F.at(state.k, state.t + h / 2)
        v, age = state.velocity, state.age

        def move(p: Particles) -> Points:
            nonlocal v, age
            x = p.x + h / 2 * v
            pull = self.estimator.velocity(F, replace(p, x=x), state.estimator)
            if self.restart:
                uphill = p.mean((v * pull).flatten(1).sum(1)) < 0
                v, age = torch.where(uphill, 0.0, v), torch.where(uphill, 0.0, age)
                info["accelerated/restart"] = uphill.to(v.dtype)
            decay, gain = self._damping(age, h)
            v, age = decay * v + gain * pull, age + h
            info["accelerated/kinetic"] = squared_speed(p, v) / 2
            return x + h / 2 * v

        measure = state.measure.follow(move, state.rng)
        return replace(advance(state, measure, h), velocity=v, age=age), info

    def _damping(self, age: Tensor, h: float) -> tuple[Tensor | float, Tensor | float]:
        r"""Return :math:`(a,b)` with :math:`v(t+h)=a\,v(t)+b\,g` for a constant force :math:`g`."""
        if self.friction is None:
            ratio = age / (age + h)  # v' = -3v/t + g is (t³v)' = t³g
            return ratio**3, (age + h - age * ratio**3) / 4
        decay = math.exp(-self.friction * h)
        return decay, h if self.friction == 0 else -math.expm1(-self.friction * h) / self.friction
