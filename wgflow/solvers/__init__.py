"""Solvers: the time discretizations."""

from wgflow.solvers.accelerated import Accelerated
from wgflow.solvers.base import SOLVERS, Solver, State, advance, register_solver
from wgflow.solvers.entropic import EntropicJKO
from wgflow.solvers.explicit import RK4, BoundedEuler, ForwardEuler, Heun, RungeKutta, Tableau
from wgflow.solvers.jko import JKO, JKOState
from wgflow.solvers.langevin import Langevin, MetropolisLangevin
from wgflow.solvers.multistep import AdamsBashforth, MultistepState
from wgflow.solvers.ode import ODE, ODEState
from wgflow.solvers.proximal import Proximal
from wgflow.solvers.reaction import BirthDeath, Reaction, Reweight
from wgflow.solvers.splitting import ForwardBackward, WithReaction
from wgflow.solvers.transport import transport_cost

__all__ = [
    "JKO",
    "ODE",
    "RK4",
    "SOLVERS",
    "Accelerated",
    "AdamsBashforth",
    "BirthDeath",
    "BoundedEuler",
    "EntropicJKO",
    "ForwardBackward",
    "ForwardEuler",
    "Heun",
    "JKOState",
    "Langevin",
    "MetropolisLangevin",
    "MultistepState",
    "ODEState",
    "Proximal",
    "Reaction",
    "Reweight",
    "RungeKutta",
    "Solver",
    "State",
    "Tableau",
    "WithReaction",
    "advance",
    "register_solver",
    "transport_cost",
]
