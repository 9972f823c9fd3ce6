"""How a solver inside of a step tells the flow that rests on it how far it came.

Sinkhorn sweeps, matrix scalings and minimizers stop at a budget as well as at a tolerance. Where they stop at the budget,
a flow goes on, since one step among many may not matter, but it is not called done: ``solve`` gathers what they report,
keeps it in the history and says it in the status.
"""

import warnings
from contextvars import ContextVar

import torch
from torch import Tensor

from wgflow.core.errors import NotConverged
from wgflow.core.typing import Info

RESIDUAL, UNCONVERGED = "/residual", "/unconverged"


class Reports:
    """What the solvers inside of one update have reported, without waiting for the device: gathered within its block."""

    __slots__ = ("advice", "reached", "token", "told")

    def __init__(self) -> None:
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


def gathered() -> Reports:
    """Gather what is reported in this block, and in this thread."""
    return Reports()


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
