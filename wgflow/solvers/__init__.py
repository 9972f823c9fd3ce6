"""Solvers: the time discretizations."""

from wgflow.solvers.base import SOLVERS, Solver, State, advance, register_solver
from wgflow.solvers.explicit import RK4, ForwardEuler, Heun
from wgflow.solvers.jko import JKO, JKOState, transport_cost

__all__ = [
    "JKO",
    "RK4",
    "SOLVERS",
    "ForwardEuler",
    "Heun",
    "JKOState",
    "Solver",
    "State",
    "advance",
    "register_solver",
    "transport_cost",
]
