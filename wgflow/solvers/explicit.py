"""Explicit discretizations."""

from dataclasses import dataclass, field

from wgflow._typing import Info, Points
from wgflow.errors import BadInput
from wgflow.estimators import Autograd, Estimator
from wgflow.functionals import Functional
from wgflow.measures import Particles
from wgflow.solvers.base import Solver, State, advance, register_solver


@register_solver("forward_euler")
@dataclass(frozen=True)
class ForwardEuler(Solver):
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
    """

    estimator: Estimator = field(default_factory=Autograd)
    batch: int = 256

    order = 1

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise BadInput(f"ForwardEuler(batch={self.batch}): expected at least 1")

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        r"""Complete one time step; reports the dissipation :math:`E|v|^2`, at small :math:`h` the rate at which F falls."""
        F = F.at(state.k, state.t)
        info = self.estimator.refine(F, lambda rng: state.measure.draw(self.batch, rng), state.estimator, state.rng)
        F = F.freeze(state.rng)

        def move(p: Particles) -> Points:
            v = self.estimator.velocity(F, p, state.estimator)
            info["euler/dissipation"] = p.mean(v.square().flatten(1).sum(1))
            return p.x + h * v

        return advance(state, state.measure.follow(move, state.rng), h), info
