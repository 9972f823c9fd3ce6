"""Everything a run needs, in one object, and options that one preset takes over from another."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from wgflow.core.docstrings import descriptions
from wgflow.core.fields import Checked, Count
from wgflow.core.placing import Placed
from wgflow.driver.solution import Solution
from wgflow.driver.solve import StepSize, solve
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure
from wgflow.solvers import Solver

Preset = TypeVar("Preset", bound=Callable[..., Any])


@dataclass(frozen=True)
class Flow(Checked, Placed):
    """A functional, a solver and a start with their step size: everything :func:`solve` asks for.

    Parameters
    ----------
    functional : Functional
        What decreases.
    solver : Solver
        The time discretization.
    initial : MovingMeasure
        The start.
    step_size : float or callable
        :math:`h`, or a function of the step.
    num_steps : int
        Time steps.

    Examples
    --------
    >>> import torch
    >>> from wgflow import Particles, PotentialEnergy, ForwardEuler
    >>> V = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> Flow(V, ForwardEuler(), Particles(torch.ones(1, 1)), step_size=0.5, num_steps=1).solve().measure.x
    tensor([[0.5000]])
    """

    goes_to = "a whole flow: run it, flow.solve()"

    functional: Functional
    solver: Solver
    initial: MovingMeasure
    step_size: StepSize
    num_steps: Count

    def solve(self, **options: Any) -> Solution:
        """Run it; ``options`` are those of :func:`solve` (seed, callbacks, checkpoint, ...)."""
        return solve(
            self.functional, self.solver, self.initial, step_size=self.step_size, num_steps=self.num_steps, **options
        )


def options_of(parent: Callable[..., Any], *without: str) -> Callable[[Preset], Preset]:
    r"""Let a preset that ends in ``**options`` show the options of its parent, but those that it sets itself.

    Its signature then has them by name, for help, checks and recipes; what the parent says of them is kept in
    ``option_texts``.

    Parameters
    ----------
    parent : callable
        The preset whose keyword options are taken over.
    \*without : str
        Options that the preset sets itself.

    Returns
    -------
    callable
        A decorator that changes the signature and nothing else.

    Examples
    --------
    >>> def parent(target, *, rate=1.0, batch=10): ...
    >>> @options_of(parent, "batch")
    ... def child(target, **options): ...
    >>> inspect.signature(child)
    <Signature (target, *, rate=1.0)>
    """

    def declared(preset: Preset) -> Preset:
        own = inspect.signature(preset)
        named = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {p.name for p in named} | set(without)
        more = [
            p for p in inspect.signature(parent).parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in names
        ]
        preset.__signature__ = own.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
        preset.option_texts = option_texts(parent)  # type: ignore[attr-defined]
        return preset

    return declared


def option_texts(preset: Callable[..., Any]) -> dict[str, str]:
    """Return what a preset, or the one that it takes its options from, says of each option.

    Parameters
    ----------
    preset : callable
        A function with sections in numpydoc style.

    Returns
    -------
    dict of str to str
        Texts by the names of options, in plain text.

    Examples
    --------
    >>> from wgflow.presets import svgd
    >>> sorted(option_texts(svgd))
    ['initial', 'kernel', 'num_steps', 'step_size', 'target']
    """
    return {**getattr(preset, "option_texts", {}), **descriptions(preset)}
