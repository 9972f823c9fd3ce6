"""How a solver inside of a step tells the flow that rests on it how far it came, and goes on from the step before.

Sinkhorn sweeps, matrix scalings and minimizers stop at a budget as well as at a tolerance. Where they stop at the budget,
a flow goes on, since one step among many may not matter, but it is not called done: ``solve`` gathers what they report,
keeps it in the history and says it in the status.
"""

import warnings
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wgflow.core.errors import NotConverged
from wgflow.core.placing import Placed
from wgflow.core.typing import Info

RESIDUAL, UNCONVERGED = "/residual", "/unconverged"


@dataclass(eq=False)
class Carried(Placed):
    """What solvers inside of an update begin with: solutions of the update before, by names that say what was solved."""

    held: dict[str, Tensor] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Tensor]:
        """Plain form."""
        return dict(self.held)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take what was saved."""
        if not all(isinstance(t, Tensor) for t in saved.values()):
            raise TypeError("expected tensors by their names")
        self.held = dict(saved)


class Reports:
    """What the solvers inside of one update have reported, without waiting for the device: gathered within its block."""

    __slots__ = ("advice", "before", "found", "reached", "token", "told")

    def __init__(self, before: Carried | None = None) -> None:
        self.before, self.found = before, Carried()
        self.reached: dict[str, list[tuple[Tensor, float]]] = {}
        self.told: dict[str, list[Tensor]] = {}
        self.advice: dict[str, str] = {}

    def __enter__(self) -> "Reports":
        self.token = _reports.set(self)
        return self

    def __exit__(self, *error: object) -> None:
        _reports.reset(self.token)

    def info(self) -> Info:
        """Return, for every solver, the largest residual and whether one of its solutions missed its tolerance (1) or not (0).

        Of what else was told, the mean.
        """
        info = Info({name: torch.stack(values).mean() for name, values in self.told.items()})
        for name, pairs in self.reached.items():
            device = pairs[-1][0].device
            info[name + RESIDUAL] = torch.stack([reached.to(device) for reached, _ in pairs]).amax()
            # Written so that NaN is a miss.
            missed = [~(reached <= asked) for reached, asked in pairs]
            info[name + UNCONVERGED] = torch.stack([m.to(device) for m in missed]).any().double()
        return info


_reports: ContextVar[Reports | None] = ContextVar("wgflow_inner_reports", default=None)


def gathered(before: Carried | None = None) -> Reports:
    """Gather what is reported in this block, and in this thread; solvers may begin with what was found before."""
    return Reports(before)


def begun_with(name: str) -> Tensor | None:
    """Return the solution of that name from the update before; None where there is none, and outside of a flow.

    It is the same one during an update: what a step minimizes does not change under it.
    """
    reports = _reports.get()
    return None if reports is None or reports.before is None else reports.before.held.get(name)


def carry(name: str, solution: Tensor) -> None:
    """Keep a solution for the next update; the last one of an update stays."""
    reports = _reports.get()
    if reports is not None:
        reports.found.held[name] = solution.detach()


def tell(name: str, value: Tensor) -> None:
    """Say a number (a 0-d tensor) about what is going on inside of a step; kept in a flow's history, and for nobody elsewhere."""
    reports = _reports.get()
    if reports is not None:
        reports.told.setdefault(name, []).append(value.detach())


def report(name: str, reached: Tensor | float, asked: float, advice: str) -> None:
    """Say that an inner solver asked for a residual of at most ``asked`` and stopped at ``reached``.

    Inside of a flow this is kept for its history and never waits for the device. Elsewhere a solution that missed its
    tolerance, or is NaN, gives a ``NotConverged`` warning with the advice, and looking waits for the device.

    Parameters
    ----------
    name : str
        Of the solver, short: ``"sinkhorn"`` gives ``"sinkhorn/residual"`` and ``"sinkhorn/unconverged"`` in the history.
    reached : Tensor or float
        The residual; of a batch of problems the largest.
    asked : float
        The tolerance that the user asked for.
    advice : str
        What to do, a sentence.
    """
    reached = torch.as_tensor(reached, dtype=None if isinstance(reached, Tensor) else torch.float64).detach().amax()
    reports = _reports.get()
    if reports is not None:
        reports.reached.setdefault(name, []).append((reached, asked))
        reports.advice[name] = advice
    elif not bool(reached <= asked):
        warnings.warn(
            f"{name} has not converged: residual {float(reached):.2g}, asked for {asked:.2g}. {advice}",
            NotConverged,
            stacklevel=3,
        )
