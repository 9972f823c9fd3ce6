"""Step sizes that follow the flow: every step moves the law by the same distance."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Finite, Positive, PositiveOrInfinite, checked
from wgflow.core.typing import Info
from wgflow.driver.callbacks import Callback

if TYPE_CHECKING:
    from wgflow.driver.run import Run


@dataclass
class EqualMovement(Callback):
    r"""Implicit steps that each move the law by about the same distance, chosen on the way.

    It is the step size and a callback at once: ``solve(..., step_size=pace, callbacks=[pace])``. A constant step size
    makes the first steps carry nearly all of the movement; here

    .. math:: h_{k+1}=h_k\cdot\operatorname{clip}\bigl(\text{distance}/m_k,\ 1/\text{factor},\ \text{factor}\bigr),
       \qquad m_k^2=2\,E[c(x_k,x_{k+1})],

    since a short step moves by :math:`h` times the speed.

    Parameters
    ----------
    first : float
        The first step size.
    distance : float
        What a step should move by: a root mean square of :math:`\lVert x_{k+1}-x_k\rVert`, about :math:`W_2`, in the units
        of the solver's ``cost`` (summed over coordinates by default).
    factor : float
        Most that a step size differs from the one before.
    largest : float
        Upper bound of the step sizes.

    Notes
    -----
    Movement is what ``JKO`` reports for the last update of a step. A checkpoint holds the size in force. The geometric
    schedule :math:`h_k=h_0c^k` of JKO-iFlow is the case of a speed that decays by :math:`1/c` a step. Combine with
    ``StopAt(time)``. Source: Xu, Cheng and Xie (2023).

    Raises
    ------
    BadInput
        For numbers that are not positive or a factor that is not above 1; after a step of a solver that reports no
        transport.

    Examples
    --------
    For :math:`F=\tfrac12E|x|^2` from 100 a step moves by :math:`hx/(1+h)`, about 1 here:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> pace = wg.EqualMovement(first=0.01, distance=1.0)
    >>> start = wg.Particles(torch.tensor([[100.0]], dtype=torch.float64))
    >>> flow = wg.solve(F, wg.JKO(), start, step_size=pace, num_steps=10, callbacks=[pace], save=wg.Save())
    >>> round((flow.saved[-2].x - flow.saved[-1].x).item(), 2)
    0.99
    """

    first: Positive
    distance: Positive
    factor: Positive = 2.0
    largest: PositiveOrInfinite = math.inf
    _h: float = field(init=False, repr=False)
    _cost: Tensor | float | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if not self.factor > 1:
            raise BadInput(f"EqualMovement(factor={self.factor}): expected a factor above 1")
        self._h = min(self.first, self.largest)

    def run_identity(self) -> tuple[float, ...]:
        """Return what decides the step sizes; the one in force is part of the state."""
        return self.first, self.distance, self.factor, self.largest

    def __call__(self, k: int) -> float:
        """Return the step size in force."""
        return self._h

    def on_start(self, run: "Run") -> None:
        """Begin at the first size, unless the run goes on."""
        if not run.updates:
            self._h = min(self.first, self.largest)

    def on_update(self, run: "Run", info: Info) -> None:
        """Remember the transport cost, without waiting for it."""
        self._cost = info.get("jko/transport")

    def on_step(self, run: "Run", row: dict[str, Any]) -> None:
        """Choose the next size; the record gets ``step_size`` and ``movement``."""
        if self._cost is None:
            raise BadInput("EqualMovement needs what JKO reports, jko/transport; give other solvers a plain step_size")
        moved = math.sqrt(2 * float(self._cost))
        run.record({"step_size": self._h, "movement": moved})
        ratio = self.factor if moved == 0 else self.distance / moved
        self._h = min(self._h * min(max(ratio, 1 / self.factor), self.factor), self.largest)

    def state_dict(self) -> dict[str, Any]:
        """Return the size in force."""
        return {"h": self._h}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the size in force."""
        self._h = saved["h"]


@checked
def retimed(step_sizes: Sequence[Finite], movements: Sequence[Finite], mix: Finite = 0.5) -> list[float]:
    r"""Return as many step sizes, with the same sum, whose steps move more evenly than those of a finished run.

    The distance moved until time :math:`t` is taken to be linear within each step; times at which it is an equal share of
    the whole are mixed with the old ones. Repeat after another run. Source: Xu, Cheng and Xie (2023), Section 4.

    Parameters
    ----------
    step_sizes, movements : sequence of float
        Of the steps of the run: ``solution.curve("step_size")[1]``, ``solution.curve("movement")[1]``, say.
    mix : float
        Share of the new times, in (0, 1].

    Returns
    -------
    list of float
        The step sizes.

    Raises
    ------
    BadInput
        For sequences of different length, numbers that are not positive or a mix out of range.

    Examples
    --------
    >>> [round(h, 3) for h in retimed([1.0, 1.0], [3.0, 1.0], mix=1.0)]
    [0.667, 1.333]
    """
    if len(step_sizes) != len(movements) or not step_sizes or not min(*step_sizes, *movements) > 0 or not 0 < mix <= 1:
        raise BadInput(
            f"retimed({list(step_sizes)}, {list(movements)}, mix={mix}): expected one positive movement for every step size "
            "and 0 < mix <= 1"
        )
    times, moved = (np.concatenate([[0.0], np.cumsum(v)]) for v in (step_sizes, movements))
    even = np.interp(np.linspace(0, moved[-1], len(times)), moved, times)
    new = (1 - mix) * times + mix * even
    return [float(b - a) for a, b in itertools.pairwise(new)]
