"""Answers how long a velocity or a time step of particles takes in the library of whichever checkout is on the path.

It imports nothing of the benchmarks: another checkout may have none, or others.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import wgflow as wg

TIME_STEPS = 10
FLOWS = ("driver", "langevin", "dopri5", "adam", "sinkhorn_flow")


def flow(case: str, n: int, d: int) -> Callable[[], Any]:
    """Return ten time steps: of the driver with forward Euler, of Langevin or dopri5 without it, or ten updates of JKO by Adam."""
    rng = torch.Generator().manual_seed(0)
    rho = wg.Particles(torch.randn(n, d, generator=rng))
    if case == "sinkhorn_flow":
        target = wg.Particles(0.8 * torch.randn(n, d, generator=rng) + 0.5)
        F = wg.SinkhornDivergence(target, blur=0.3 if d < 8 else math.sqrt(d) / 8, tol=1e-3)
        return lambda: wg.solve(F, wg.ForwardEuler(), rho, step_size=0.2, num_steps=TIME_STEPS)
    V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    if case == "driver":
        return lambda: wg.solve(V, wg.ForwardEuler(), rho, step_size=0.01, num_steps=20 * TIME_STEPS)
    solvers = {
        "langevin": (wg.Langevin(), wg.KL(wg.Unnormalised(lambda x: -0.5 * x.square().sum(1), d))),
        "dopri5": (wg.ODE(method="dopri5"), V),
        "adam": (wg.JKO(optim=wg.Adam(1e-2), iters=TIME_STEPS), V),
    }
    solver, F = solvers[case]

    def run() -> None:
        state = solver.init(F, rho, torch.Generator().manual_seed(0))
        for _ in range(TIME_STEPS):
            state, _ = solver.update(F, state, 0.1)

    return run


def step(case: str, n: int, d: int) -> Callable[[], Any]:
    """Return one velocity of ``n`` normal particles with ``d`` coordinates, by the library that is imported here."""
    if case in FLOWS:
        return flow(case, n, d)
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, d, generator=rng), 0.8 * torch.randn(n, d, generator=rng) + 0.5
    width, nu, rho = math.sqrt(d), wg.Particles(y), wg.Particles(x)
    rbf = wg.RBF(width)
    kl = wg.KL(wg.Unnormalised(lambda x: -0.5 * x.square().sum(1), d))
    functionals = {
        "mmd_rbf": lambda: wg.SquaredMMD(nu, rbf),
        "mmd_laplace": lambda: wg.SquaredMMD(nu, wg.Laplace(width)),
        "mmd_imq": lambda: wg.SquaredMMD(nu, wg.InverseMultiquadric(width)),
        "energy": lambda: wg.EnergyDistance(nu),
        "kale": lambda: wg.KALE(wg.Particles(y[:256]), rbf),
        "ksd": lambda: wg.SquaredKSD(wg.StandardNormal(d), rbf),
        "interaction_log": lambda: wg.InteractionEnergy(wg.Logarithmic()),
        "interaction_morse": lambda: wg.InteractionEnergy(wg.Morse(2.0, width / 2, 1.0, width)),
        "sliced": lambda: wg.SlicedWasserstein(nu, directions=torch.nn.functional.normalize(torch.randn(50, d), dim=1)),
        "sinkhorn": lambda: wg.SinkhornDivergence(nu, blur=0.3 if d < 8 else math.sqrt(d) / 8, tol=1e-3),
        "sinkhorn_precise": lambda: wg.SinkhornDivergence(nu, blur=0.3 if d < 8 else math.sqrt(d) / 8),
        "w2": lambda: wg.SquaredW2(nu),
    }
    estimators = {
        "stein": lambda: wg.Stein(rbf),
        "stein_median": lambda: wg.Stein(wg.MedianRBF()),
        "blob": lambda: wg.Blob(wg.KernelDensity(rbf)),
        "blob_nearest": lambda: wg.Blob(wg.KernelDensity(wg.NearestRBF())),
        "kde": lambda: wg.KDEScore(rbf),
        "proximal_score": lambda: wg.ProximalScore(0.1, log_normaliser=lambda x: x[:, 0]),
    }
    F = functionals[case]() if case in functionals else kl
    estimator = estimators[case]() if case in estimators else wg.Autograd()
    state = estimator.init(F, rng)
    return lambda: estimator.velocity(F, rho, state)


def serve() -> None:
    """Answer every ``[case, n, d, repeats]`` on the input with the mean CPU seconds of a step."""
    torch.set_num_threads(1)
    made: dict[tuple[Any, ...], Callable[[], Any]] = {}
    for line in sys.stdin:
        *key, repeats = json.loads(line)
        if tuple(key) not in made:
            made.clear()
            made[tuple(key)] = step(*key)
            made[tuple(key)]()
        begun = time.process_time()
        for _ in range(repeats):
            made[tuple(key)]()
        print(json.dumps((time.process_time() - begun) / repeats), flush=True)


if __name__ == "__main__":
    serve()
