"""Energies, and other numbers, against time."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Whole, checked
from wgflow.core.outputs import number
from wgflow.core.rng import generator
from wgflow.driver.solution import Solution
from wgflow.functionals import Functional
from wgflow.measures import Particles
from wgflow.plotting._frames import saved_particles, saved_steps
from wgflow.plotting._style import COLOURS, GREY, PALE, drawing, legend, wide

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Quantity = str | Functional | Callable[[Particles], Tensor | float]


@checked
def values_along(solution: Solution, quantity: Quantity, *, seed: Whole = 0) -> tuple[list[float], list[float]]:
    r"""Return times and values of a quantity along a solution.

    Parameters
    ----------
    solution : Solution
        What was solved.
    quantity : str, Functional or callable
        A key of the history (completed steps only, so without the start); or a functional, or a function of particles, at
        every saved state. A functional is frozen with the same ``seed`` each time, so that its batches of targets do not differ.
    seed : int
        Of the target batches.

    Returns
    -------
    times, values : list of float

    Raises
    ------
    BadInput
        For a key that is not in the history, or a solution without saved particles.

    Examples
    --------
    >>> import torch
    >>> from wgflow import ForwardEuler, Particles, PotentialEnergy, plotting, solve
    >>> V = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> flow = solve(V, ForwardEuler(), Particles(torch.ones(1, 1)), step_size=0.5, num_steps=2)
    >>> plotting.values_along(flow, V)
    ([0.0, 0.5, 1.0], [0.5, 0.125, 0.03125])
    """
    if isinstance(quantity, str):
        times, values = solution.curve(quantity)
        if not times:
            keys = sorted(set().union(*solution.history) - {"k", "t", "update", "seconds"}) if solution.history else []
            raise BadInput(
                f"the history has no {quantity!r}. Pass the functional, energy(solution, F), which is evaluated at the saved states"
                + (f"; or one of the history: {', '.join(map(repr, keys))}" if keys else "")
            )
        return times, values
    values = []
    for t, k, p in zip(solution.times, saved_steps(solution), saved_particles(solution), strict=True):
        rho = Particles(
            p.x.to(solution.measure.device), None if p.log_w is None else p.log_w.to(solution.measure.device)
        )
        with torch.no_grad():
            if isinstance(quantity, Functional):
                now = quantity.at(k, t).freeze(generator(seed, rho.device))
                values.append(float(now.value(rho)))
            else:
                values.append(number(quantity(rho), f"the quantity {_name(quantity)}"))
    return list(solution.times), values


@checked
def energy(
    solutions: Solution | Mapping[str, Solution],
    quantity: Quantity = "functional",
    *,
    exact: Callable[[float], Tensor | float] | None = None,
    minimum: float = 0.0,
    floor: float | None = None,
    scale: Literal["auto", "linear", "log"] = "auto",
    ylabel: str | None = None,
    ax: "Axes | None" = None,
) -> "Figure | Axes":
    r"""Draw an energy, or another quantity, against time.

    Parameters
    ----------
    solutions : Solution or mapping from labels to solutions
        What was solved.
    quantity : str, Functional or callable
        As for :func:`values_along`: a key of the history, a functional, or a function of particles.
    exact : callable, optional
        From a time to the exact value: a wide, pale line below the others.
    minimum : float
        Subtracted from all values and from ``exact``: the least energy, so that a logarithmic axis shows the rate.
    floor : float, optional
        A level that is not meant to be passed, such as the value of a sample of the target; dotted.
    scale : {"auto", "linear", "log"}
        Logarithmic, when "auto", if all values are positive and one is twenty times another.
    ylabel : str, optional
        By default the name of the quantity, ``energy`` for a functional.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Figure, or Axes when they were given

    Raises
    ------
    BadInput
        For another ``scale`` or no solution, and as :func:`values_along` does.

    Examples
    --------
    The energy :math:`\tfrac12E|x|^2` of a step :math:`1-h`, beside the exact :math:`\tfrac12e^{-2t}`:

    >>> import math
    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> flow = wg.solve(F, wg.ForwardEuler(), wg.Particles(torch.ones(1, 1)), step_size=0.1, num_steps=10, save=wg.Save(every=1))
    >>> figure = wg.plotting.energy({"Euler": flow}, F, exact=lambda t: 0.5 * math.exp(-2 * t))
    >>> figure.axes[0].get_xlabel()
    't'
    """
    named = {"": solutions} if isinstance(solutions, Solution) else dict(solutions)
    if not named or scale not in ("auto", "linear", "log"):
        raise BadInput(f"expected at least one solution and scale auto, linear or log, got {len(named)} and {scale!r}")
    curves = {label: values_along(s, quantity) for label, s in named.items()}
    with drawing(ax, size=(4.4, 3.2)) as (picture, axes):
        panel = axes[0]
        drawn = np.concatenate([np.array(v) - minimum for _, v in curves.values()])
        if exact is not None:
            first, last = min(t[0] for t, _ in curves.values()), max(t[-1] for t, _ in curves.values())
            grid = np.linspace(first, last, 201)
            panel.plot(
                grid, [number(exact(t), "exact") - minimum for t in grid], color=PALE, linewidth=4.5, label="exact"
            )
        for j, (label, (t, v)) in enumerate(curves.items()):
            panel.plot(t, np.array(v) - minimum, color=COLOURS[j % len(COLOURS)], label=label or None)
        if floor is not None:
            panel.axhline(floor - minimum, linestyle=":", color=GREY, linewidth=1.2, label="floor")
        if scale == "log" or (scale == "auto" and wide(drawn)):
            panel.set_yscale("log")
        panel.set(xlabel="t", ylabel=_name(quantity) if ylabel is None else ylabel)
        legend(panel)
    return picture


def _name(quantity: Quantity) -> str:
    if isinstance(quantity, str):
        return quantity.rpartition("/")[2]
    name = "energy" if isinstance(quantity, Functional) else getattr(quantity, "__name__", "value")
    return "value" if name == "<lambda>" else name
