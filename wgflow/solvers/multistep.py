r"""Explicit discretizations with a memory: the Adams–Bashforth method of two steps."""

import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from wgflow.core.typing import Info, Points
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure, Particles
from wgflow.solvers.base import State, advance, register_solver
from wgflow.solvers.explicit import Explicit, squared_speed
from wgflow.storage.state import load_state, state_dict


@dataclass(eq=False)
class Earlier:
    """The law a step ago and what its estimator had learned by then, both as copies that training does not change."""

    measure: MovingMeasure
    estimator: Any


@dataclass(eq=False)
class MultistepState(State):
    r"""A state with the step before.

    Attributes
    ----------
    last : float
        Its size; 0 before the first step.
    velocity : Tensor, shape (n, \*event), optional
        Its velocities, where the same points persist.
    earlier : Earlier, optional
        Its law and estimator, where every step draws other points.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> flow = wg.solve(V, wg.AdamsBashforth(), wg.Particles(torch.ones(1, 1)), step_size=0.5, num_steps=1)
    >>> flow.state.last, flow.state.velocity.item()
    (0.5, -1.0)
    """

    last: float = 0.0
    velocity: Tensor | None = None
    earlier: Earlier | None = None

    def take(self, index: Tensor) -> Self:
        """Take the velocities too."""
        return self if self.velocity is None else replace(self, velocity=self.velocity[index])


@register_solver("ab2")
@dataclass(frozen=True)
class AdamsBashforth(Explicit):
    r"""The Adams–Bashforth method of two steps, :math:`x\leftarrow x+h\bigl(v_n+\tfrac{h}{2h'}(v_n-v_{n-1})\bigr)`. Order 2.

    :math:`h'` is the size of the step before; for equal steps the weights are 3/2 and -1/2. The first step is Euler's.

    Parameters
    ----------
    estimator : Estimator
        How the first variation is found.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    Cost: one gradient a step. For ``Particles`` the memory is their velocities. For a ``Pushforward`` it is the network of the step
    before and what the estimator had learned then: :math:`v_{n-1}` is *that* critic's velocity at *that* generator's output for the same
    latents. The functional is that of the step before (:meth:`Functional.at`), with the random numbers of the present one: a target that
    does not change shows the same batch. It costs a second evaluation and a copy of both networks. (The public code of
    W1-FE keeps references instead of copies, and its method is Euler's.) A critic with piecewise linear activations has a
    piecewise constant velocity: higher order gains nothing there.

    Source: Bashforth and Adams (1883).

    Examples
    --------
    For :math:`F=\tfrac12E|x|^2` and :math:`h=\tfrac12`: 1, then 1/2 by Euler, then :math:`\tfrac12-\tfrac14(\tfrac32-1)=\tfrac38`.

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> wg.solve(F, wg.AdamsBashforth(), wg.Particles(torch.ones(1, 1)), step_size=0.5, num_steps=2).measure.x
    tensor([[0.3750]])
    """

    order = 2

    def refuses_measure(self, measure: MovingMeasure) -> str | None:
        """Refuse a measure that keeps neither its points nor snapshots of itself."""
        name = type(measure).__name__
        if not measure.tracks_points and type(measure).snapshot is MovingMeasure.snapshot:
            return f"AdamsBashforth needs the law of the step before, and {name} keeps none. Use ForwardEuler, or Particles."
        return super().refuses_measure(measure)

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> MultistepState:
        """Return a state without a step before."""
        s = super().init(F, measure, rng)
        state = MultistepState(s.measure, s.k, s.t, s.rng, s.estimator)
        if isinstance(s.measure, Particles):
            return replace(state, velocity=torch.zeros_like(s.measure.x))
        return replace(state, earlier=Earlier(s.measure.snapshot(), copy.deepcopy(s.estimator)))

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        r"""Complete one time step; reports the dissipation :math:`E|v|^2` at its start."""
        assert isinstance(state, MultistepState)
        now = F.at(state.k, state.t)
        info = self.refined(now, state)
        drawn = _twin(state.rng)
        F, before = now.freeze(state.rng), self._before(F, now, state, drawn)
        ahead = h / (2 * state.last) if state.last else 0.0
        latents = _twin(state.rng)
        memory, earlier = state.velocity, state.earlier
        change: Points | None = None

        def move(p: Particles) -> Points:
            nonlocal memory, earlier, change
            v = self.estimator.velocity(F, p, state.estimator)
            if change is None:  # a measure may ask again for the points of the same latents
                change = (
                    self._change(F if before is None else before, v, latents, state) if ahead else torch.zeros_like(v)
                )
                if earlier is None:
                    memory = v
                else:  # now: the network is trained after this
                    earlier = load_state(earlier, state_dict(Earlier(state.measure, state.estimator)))
            info.setdefault("flow/dissipation", squared_speed(p, v))
            return p.x + h * (v + ahead * change)

        measure = state.measure.follow(move, state.rng)
        return replace(advance(state, measure, h), last=h, velocity=memory, earlier=earlier), info

    def _before(
        self, F: Functional, now: Functional, state: MultistepState, drawn: torch.Generator
    ) -> Functional | None:
        """Return the functional of the step before as the same draws realize it; None where it is the present one, or not asked for."""
        if state.earlier is None or not state.last:
            return None
        then = F.at(state.k - 1, state.t - state.last)
        return None if then is now else then.freeze(drawn)

    def _change(self, F: Functional, v: Points, latents: torch.Generator, state: MultistepState) -> Points:
        """Return the velocities less those of the step before."""
        earlier = state.earlier
        if earlier is None:
            assert state.velocity is not None
            return v - state.velocity
        return v - self.estimator.velocity(F, earlier.measure.draw(len(v), latents), earlier.estimator)


def _twin(rng: torch.Generator) -> torch.Generator:
    """Return another generator of the same state."""
    return torch.Generator(device=rng.device).set_state(rng.get_state())
