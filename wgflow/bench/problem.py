"""What is compared: a flow that is known exactly, and the ways to discretize it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from wgflow import Flow, Functional, MovingMeasure, Solver
from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, NonNegative, Positive
from wgflow.core.instead import instead, shown, suggest
from wgflow.core.placing import Placed

Initial = MovingMeasure | Callable[[torch.Generator], MovingMeasure]
_WHOLE = 1e-6


@dataclass(frozen=True, eq=False)
class Problem(Checked, Placed):
    r"""A flow whose law is known at every time.

    Parameters
    ----------
    functional : Functional
        What decreases.
    initial : MovingMeasure or callable
        :math:`\rho_0`; a function of a ``torch.Generator`` draws another one for every seed.
    reference : callable
        The exact flow, a function of the time. What it returns is up to ``error``.
    error : callable, optional
        From a measure and what ``reference`` returned to a number. Without one, it goes by the reference: exact positions of the
        particles, a tensor (n, \*event), are compared particle by particle (:func:`path_error`), ``Moments`` and a ``Gaussian`` by
        the Bures distance (:func:`moment_error`), ``Particles`` by the exact :math:`W_2` (:func:`w2_error`).
    times : sequence of float
        When the error is taken; the last one ends the flow.
    step_sizes : sequence of float
        Those of a comparison that names none. Every time is a multiple of every step size.
    methods : mapping from labels to methods
        Those of a comparison that names none: solvers, :class:`Method` or ``Flow``.
    name : str, optional
        Title of tables and pictures; by default the class of the functional.

    Raises
    ------
    BadInput
        For times that do not increase, or step sizes that do not fit into them.

    Examples
    --------
    A single particle in a quadratic potential:

    >>> import math
    >>> import torch
    >>> import wgflow as wg
    >>> x = torch.ones(1, 1, dtype=torch.float64)
    >>> V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> problem = wg.bench.Problem(V, wg.Particles(x), lambda t: math.exp(-t) * x)
    >>> result = wg.bench.compare(problem, {"Euler": wg.ForwardEuler(), "Heun": wg.Heun()}, progress=False)
    >>> round(result.order("Euler").value, 1), round(result.order("Heun").value, 1)
    (1.0, 2.1)
    """

    functional: Functional
    initial: Initial
    reference: Callable[[float], Any]
    error: Callable[[MovingMeasure, Any], Any] | None = None
    times: tuple[Positive, ...] = (1.0,)
    step_sizes: tuple[Positive, ...] = (0.2, 0.1, 0.05, 0.025)
    methods: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.times or list(self.times) != sorted(set(self.times)):
            raise BadInput(f"Problem(times={self.times}): expected increasing times, at least one")
        for h in self.step_sizes:
            self.steps(h)

    @property
    def title(self) -> str:
        """Its name, or what it is made of."""
        return self.name or type(self.functional).__name__

    @property
    def horizon(self) -> float:
        """The last time."""
        return self.times[-1]

    def steps(self, h: float, time: float | None = None) -> int:
        """Return how many steps of size ``h`` lead to a time, by default the last; raises ``BadInput`` unless all times are multiples."""
        for t in self.times:
            n = round(t / h)
            if n < 1 or abs(t / h - n) > _WHOLE * n:
                raise BadInput(
                    f"step size {h:g} does not divide the time {t:g}: take {t:g}/{max(1, n)}, or another time"
                )
        return round((self.horizon if time is None else time) / h)


@dataclass(frozen=True, eq=False)
class Method(Checked):
    """A solver with choices of its own, where it needs others than the problem.

    Parameters
    ----------
    solver : Solver or callable
        The time discretization; or a function of the step size, for one with a scale to adapt to it.
    functional : Functional, optional
        In place of the problem's: the same flow in another form, such as with a density model.
    initial : MovingMeasure or callable, optional
        In place of the problem's: the same law in another form, such as a grid or a chain of maps.
    step_sizes : sequence of float, optional
        Those that it takes of the comparison's; all by default.
    floor : float, optional
        Error that a law without any error in time would have here, from sampling. By default it is measured: of the start, and for
        noisy methods of draws of the exact law.
    seeds : int, optional
        At most so many of the comparison's seeds: 1 for a method without noise, which only takes its time again.

    Examples
    --------
    Implicit steps without seeds, of two sizes only:

    >>> import wgflow as wg
    >>> method = Method(wg.JKO(), step_sizes=(0.1, 0.2), seeds=1)
    """

    solver: Solver | Callable[[float], Solver]
    functional: Functional | None = None
    initial: Initial | None = None
    step_sizes: tuple[Positive, ...] | None = None
    floor: NonNegative | None = None
    seeds: Count | None = None

    def with_step(self, h: float) -> Solver:
        """Return the solver for steps of size ``h``; raises ``BadInput`` when the function gives none."""
        solver = self.solver if isinstance(self.solver, Solver) else self.solver(h)
        if not isinstance(solver, Solver):
            raise BadInput(
                f"Method(solver=...): the function gives {shown(solver)} at step size {h:g}, expected a Solver"
            )
        return solver

    def takes(self, h: float) -> bool:
        """Whether a step size is one of its own."""
        return self.step_sizes is None or any(abs(h - own) <= _WHOLE * h for own in self.step_sizes)


suggest(
    Problem,
    (Functional, "Put it into a problem: Problem(F, initial, reference)"),
    (Callable, "Call it: a ready problem is what its function returns, such as bench.ornstein_uhlenbeck()"),
)


def as_method(value: Any, label: Any) -> Method:
    """Return a solver, a function of the step size or a ``Flow`` as a :class:`Method`.

    Of a ``Flow``, such as a preset, the functional, the solver and the start count; steps are those of the comparison.

    Raises
    ------
    BadInput
        For anything else.
    """
    if not isinstance(label, str):
        raise BadInput(f"methods has the label {shown(label)}: expected a text")
    if isinstance(value, Method):
        return value
    if isinstance(value, Flow):
        return Method(value.solver, value.functional, value.initial)
    if isinstance(value, Solver) or (callable(value) and not isinstance(value, type)):
        return Method(value)
    hint = instead(value, (Solver,))
    raise BadInput(
        f"methods[{label!r}] is {shown(value)}: expected a solver, a function of the step size that returns one, a Method or a Flow"
        f"{hint and f'. {hint}'}"
    )
