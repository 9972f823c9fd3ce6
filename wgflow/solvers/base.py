"""Time discretizations: frozen configuration, explicit state, one smallest unit of work."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from wgflow.core.brief import Brief
from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked
from wgflow.core.inner import Carried
from wgflow.core.instead import shown, suggest
from wgflow.core.placing import Placed
from wgflow.core.registry import Registry
from wgflow.core.typing import Info
from wgflow.estimators import Estimator
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure

SOLVERS: "Registry[Solver]" = Registry("solver")
register_solver = SOLVERS.register


@dataclass(eq=False)
class State(Brief, Placed):
    """Everything that changes along a flow, and nothing else.

    Attributes
    ----------
    measure : MovingMeasure
        The law after ``k`` completed time steps.
    k : int
        Completed time steps.
    t : float
        Time, the sum of the step sizes.
    rng : torch.Generator
        The only source of randomness.
    estimator : object
        What the estimator keeps: networks and optimizers.
    carried : Carried
        What solvers inside of the next update begin with, such as potentials of entropic transport.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> flow = wg.solve(wg.Entropy(), wg.Langevin(), wg.Particles(torch.zeros(5, 1)), step_size=0.1, num_steps=3)
    >>> flow.state.k, round(flow.state.t, 1)
    (3, 0.3)
    """

    measure: MovingMeasure
    k: int
    t: float
    rng: torch.Generator
    estimator: Any = None
    carried: Carried = field(default_factory=Carried, kw_only=True, repr=False)

    @property
    def present(self) -> MovingMeasure:
        """The law to look at now: inside an implicit step, the one being trained."""
        return self.measure

    def take(self, index: Tensor) -> Self:
        """Return the state whose particle ``i`` is the present particle ``index[i]``; what is kept a particle follows it."""
        return self


S = TypeVar("S", bound=State)


class Solver(Checked, Placed, ABC):
    """A time discretization. Subclasses are frozen dataclasses with a field ``estimator``.

    Examples
    --------
    Forward Euler, said anew. A solver gives ``update``; :func:`advance` counts the step and the time.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.solvers import advance
    >>> @dataclass(frozen=True)
    ... class Euler(wg.Solver):
    ...     estimator: wg.Estimator
    ...
    ...     def update(self, F, state, h):
    ...         move = lambda p: p.x + h * self.estimator.velocity(F, p, state.estimator)
    ...         return advance(state, state.measure.follow(move, state.rng), h), {}
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> wg.solve(F, Euler(wg.Autograd()), wg.Particles(torch.ones(1, 1)), step_size=0.5, num_steps=1).measure.x
    tensor([[0.5000]])
    """

    estimator: Estimator
    goes_to = "a solver: how time is discretized, solve(F, solver, start, ...)"
    order: ClassVar[int | None] = None
    """Order of the global error in the step size, for smooth fields."""
    implicit: ClassVar[bool] = False
    """It trains a successor (:meth:`MovingMeasure.propose`) rather than moving points (:meth:`MovingMeasure.follow`)."""
    needs_tracked_points: ClassVar[bool] = False
    """It attaches noise, momentum or weights to points, so the same points must persist."""
    splits_entropy: ClassVar[bool] = False
    """It takes :math:`F=E+T\\int\\rho\\log\\rho` apart and treats the entropy itself, by noise; its estimator serves E."""
    reference: ClassVar[tuple[str, ...]] = ()

    def refuses(self, F: Functional) -> str | None:
        """Return why this solver cannot serve ``F`` and what to use instead, beyond what the class declares; or None."""
        return None

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> State:
        """Return the state before the first step; ``measure`` itself is left untouched."""
        return State(measure.start(rng), 0, 0.0, rng, self.estimator.init(F, rng))

    @abstractmethod
    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Do the smallest unit of work after which the state is consistent and can be saved.

        ``state`` is consumed: networks and optimizers change in place. ``h`` is the size of the current time step.
        """

    def suited(self, measure: MovingMeasure) -> "Solver":
        """Return the solver with the settings that were left open chosen for what it moves; ``solve`` goes on with that one."""
        return self

    def updates(self, k: int) -> int:
        """How many updates time step number ``k`` (from 0) takes."""
        return 1

    def updates_before(self, k: int) -> int:
        """How many updates the first ``k`` time steps take; in closed form where they are counted for a progress bar."""
        return k if type(self).updates is Solver.updates else sum(map(self.updates, range(k)))

    def refuses_measure(self, measure: MovingMeasure) -> str | None:
        """Return why this solver cannot move ``measure`` and what to use instead; by default it asks what the measure can do."""
        needed = "propose" if self.implicit else "follow"
        if getattr(type(measure), needed) is not getattr(MovingMeasure, needed):
            return None
        m = type(measure).__name__
        return f"{type(self).__name__} cannot move a {m}, which has no {needed}(). Use a solver that is made for it, or Particles."

    @classmethod
    def example(cls, estimator: Estimator) -> "Solver":
        """Return a tiny instance for contract tests and the docs table."""
        return cls(estimator=estimator)  # type: ignore[call-arg]

    def parts(self, F: Functional) -> list[tuple[Functional, "Solver"]]:
        """Return the solvers that this one runs inside itself, each with the functional that it must be able to serve."""
        return []

    def remark(self, history: Sequence[dict[str, Any]]) -> str | None:
        """Return what to warn of at the end of a run, going by the records of its steps; None when there is nothing."""
        return None

    def rebase(self, state: State, measure: MovingMeasure, index: Tensor | None = None) -> State:
        """Return a state between two steps with another law, whose particle ``i`` was ``index[i]`` (None: ``i`` itself)."""
        return replace(state if index is None else state.take(index), measure=measure)

    def step(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Complete one time step: update until ``state.k`` increases. Returns the info of the last update."""
        k, info = state.k, dict[str, Any]()
        while state.k == k:
            state, info = self.update(F, state, h)
        return state, info


suggest(
    Solver,
    (Estimator, "Wrap the estimator: ForwardEuler(estimator), or JKO(estimator)"),
    (Functional, "The order is solve(F, solver, initial, ...)"),
)


def advance(state: S, measure: MovingMeasure, h: float) -> S:
    """Return the state after a completed time step.

    Parameters
    ----------
    state : State
        The state before the step. What a subclass of it holds besides stays as it is.
    measure : MovingMeasure
        The law after the step, such as ``state.measure.follow(move, state.rng)``.
    h : float
        Size of the step, by which the time grows.

    Returns
    -------
    State
        With one more completed step.

    Raises
    ------
    BadInput
        For a ``measure`` that is none, such as the positions alone.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.solvers import State, advance
    >>> state = State(wg.Particles(torch.zeros(1, 1)), k=0, t=0.0, rng=torch.Generator())
    >>> after = advance(state, wg.Particles(torch.ones(1, 1)), 0.5)
    >>> after.k, after.t, after.measure.x.item()
    (1, 0.5, 1.0)
    """
    if not isinstance(measure, MovingMeasure):
        raise BadInput(
            f"advance(measure={shown(measure)}): expected a MovingMeasure, such as state.measure.follow(move, state.rng)"
        )
    return replace(state, measure=measure, k=state.k + 1, t=state.t + h)
