"""JKO with networks: the rows of discretizations.py that are trained, for a flow of any f-divergence.

Every row has the sizes below whatever the flow, so that none is tuned to it. A step is a training; hence fewer numbers of steps
than elsewhere. Scored by fresh draws.
"""

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from benchmarks.discretizations._flow_rows import once
from wgflow import JKO, Adam, Chain, Critic, FDivergence, Gaussian, GaussianMixture, MovingMeasure, Solver
from wgflow.bench import Method, Problem
from wgflow.maps import ICNNGradient, NeuralODE, Residual, TransportMap
from wgflow.optim import LBFGS
from wgflow.presets import s_jko

STEPS = (5, 10)
UPDATES, BATCH, WIDTH, RATE = 200, 512, 64, 1e-3
STORED, FITTED = 20_000, 4000
"""Points that a chain keeps: where a map sees batches of them, and where it is fitted to all of them at once."""
Law = Gaussian | GaussianMixture


def single(law: Law) -> Law:
    """Return the law in single precision, in which networks are trained."""
    if isinstance(law, Gaussian):
        return Gaussian(law.mean.float(), law.cov.float())
    return GaussianMixture(law.means.float(), law.std, law.weights.float())


def perceptron(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs)
    )


def learned(
    problem: Problem,
    divergence: type[FDivergence],
    start: Law,
    target: Law,
    floor: float,
    quick: bool,
    kinds: tuple[str, ...] = ("S-JKO", "dual form", "ICNN"),
) -> dict[str, Method]:
    """Return the methods: two from samples of the target and two from its density."""
    d, start, target = start.event_shape.numel(), single(start), single(target)
    F = divergence(target, BATCH)
    updates, batch, stored, fitted = (2, 32, 64, 64) if quick else (UPDATES, BATCH, STORED, FITTED)

    methods: dict[str, Method] = {}
    sizes = tuple(problem.horizon / k for k in STEPS)

    def add(label: str, solver: Solver, measure: MovingMeasure) -> None:
        methods[label] = once(solver, F, measure, step_sizes=sizes, floor=floor)

    def residual() -> Residual:
        return Residual(d, net=perceptron(d, d), logdet=None)

    def critic() -> nn.Module:
        return perceptron(d, 1)

    def chain(make: Callable[[], TransportMap], **options: object) -> Chain:
        return Chain(start, make, **options)

    if "S-JKO" in kinds:
        flow = s_jko(
            target,
            start,
            residual,
            critic,
            divergence=divergence.registered_name,
            first_iters=updates,
            iters=updates,
            batch=batch,
            lr=(RATE, RATE),
            lr_floor=None,
            r1=0.0,
            ema=0.0,
        )
        add("S-JKO", replace(flow.solver, cost="sum"), flow.initial)
    if "dual form" in kinds:
        adam = Adam(RATE)
        solver = JKO(Critic(critic, adam, iters=3), adam, iters=updates, batch=batch)
        add("JKO, chain of residual maps, dual form", solver, chain(residual, cached=stored, density=False))
    smooth = JKO(optim=LBFGS(max_iter=2 if quick else 100, tolerance=1e-3), iters=1, batch=fitted)
    if "ICNN" in kinds:
        add("JKO, chain of ICNN gradients", smooth, chain(lambda: ICNNGradient(d, width=32), cached=fitted))
    if "neural ODE" in kinds:
        net = lambda: nn.Sequential(nn.Linear(d, 32), nn.Tanh(), nn.Linear(32, d))  # noqa: E731
        add("JKO, chain of neural ODEs", smooth, chain(lambda: NeuralODE(d, net=net(), steps=1), cached=fitted))
    return methods
