"""The rows of the Ornstein–Uhlenbeck suite that are computed rather than known: particles, chains of maps, and S-JKO."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from benchmarks.ornstein_uhlenbeck._ou_suite import TIMES, H, score, start, symmetric_kl_by_density
from wgflow import JKO, KL, Adam, Callback, Critic, Functional, Gaussian, Particles, Save, Solver, StandardNormal, solve
from wgflow.maps import Affine, ICNNGradient, NeuralODE, Residual, TransportMap
from wgflow.measures import MovingMeasure
from wgflow.measures.chain import Chain
from wgflow.optim import LBFGS
from wgflow.presets import s_jko, ula
from wgflow.reference import Moments, OrnsteinUhlenbeck

STEPS = round(max(TIMES) / H)
DRAWS = 50_000
"""Points whose moments score a law without a density."""
Composed = tuple[Functional, Solver, MovingMeasure]


class EvenNormal(StandardNormal):
    """N(0, I) whose clouds are scrambled Sobol points through the inverse of the distribution function, not independent.

    A chain trained on a fixed cloud takes over its errors; those of such a cloud are many times smaller.
    """

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points, a power of two for best balance."""
        seed = int(torch.randint(2**31, (), generator=rng))
        engine = torch.quasirandom.SobolEngine(self.event_shape.numel(), scramble=True, seed=seed)
        u = engine.draw(n, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        return Particles(torch.special.ndtri(u).to(self.dtype), source=self)


@dataclass(frozen=True)
class Method:
    """One row: how a flow towards a target is composed, and how its law is scored."""

    label: str
    settings: str
    compose: Callable[[int, Gaussian, int, bool], Composed]
    scored_by: Literal["density", "moments"]
    targets: dict[int, int] = field(default_factory=lambda: {2: 15, 4: 15, 6: 15, 10: 15})
    h: float = H
    shaped: bool = False
    cached: bool = False


class StepCosts(Callback):
    """CPU seconds and evaluations of the objective of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.evaluations: list[float] = []

    def on_start(self, run: Any) -> None:
        self.begun = time.process_time()

    def on_step(self, run: Any, row: dict[str, Any]) -> None:
        self.seconds.append(time.process_time() - self.begun)
        self.evaluations.append(row.get("jko/evaluations", 1.0) * run.solver.updates(run.state.k - 1))
        self.begun = time.process_time()


def run(method: Method, d: int, nu: Gaussian, seed: int, points: int, quick: bool) -> dict[str, Any]:
    """Follow one flow to the last time; return scores at all times and the costs of every step."""
    F, solver, measure = method.compose(d, nu, seed, quick)
    flow, rng, costs = OrnsteinUhlenbeck.towards(nu), torch.Generator().manual_seed(seed), StepCosts()
    state, scores = None, {}
    for t in TIMES:
        solution = solve(
            F, solver, measure, step_size=method.h, num_steps=round(t / method.h), seed=seed, save=Save(0),
            callbacks=[costs], state=state,
        )  # fmt: skip
        state = solution.state
        if method.scored_by == "density":
            law = flow.exact(start(d), t).gaussian()
            scores[f"{t:g}"] = math.log10(
                max(symmetric_kl_by_density(double(solution.measure), law, points, rng), 1e-12)
            )
        else:
            scores[f"{t:g}"] = score(fitted(solution.measure, rng), flow, t)
    if len(costs.seconds) > STEPS:  # small ones, and all alike
        return {"log10_symkl": scores, "seconds": [sum(costs.seconds) / len(costs.seconds)]}
    return {"log10_symkl": scores, "seconds": costs.seconds, "evaluations": costs.evaluations}


def double(chain: MovingMeasure) -> Chain:
    """Return the chain of maps in double precision from independent points: rounding is no part of a score."""
    assert isinstance(chain, Chain)
    d = chain.event_shape.numel()
    fresh = Chain(StandardNormal(d, dtype=torch.float64), chain.make_map).start(torch.Generator())
    for T in chain.maps:
        fresh.append(copy.deepcopy(T).double())
    return fresh


def fitted(law: MovingMeasure, rng: torch.Generator) -> Moments:
    """Return the moments of fresh draws, or of the particles that a law consists of."""
    p = law if isinstance(law, Particles) else law.inference().draw(DRAWS, rng)
    return Moments.of(Particles(p.x.double()))


def single(nu: Gaussian) -> Gaussian:
    return Gaussian(nu.mean.float(), nu.cov.float())


def icnn(d: int) -> TransportMap:
    return ICNNGradient(d, width=32, depth=1, scale=4.0)


def chained(
    make: Callable[[int], TransportMap], solver: JKO, dtype: torch.dtype
) -> Callable[[int, Gaussian, int, bool], Composed]:
    """Return how KL flows on a chain of maps that are fitted to evenly spread points, all of them at once."""

    def compose(d: int, nu: Gaussian, seed: int, quick: bool) -> Composed:
        settings = JKO(optim=LBFGS(max_iter=2), iters=1, batch=64) if quick else solver
        target = Gaussian(nu.mean.to(dtype), nu.cov.to(dtype))
        return KL(target), settings, Chain(EvenNormal(d, dtype=dtype), lambda: make(d), cached=settings.batch)

    return compose


def perceptron(inputs: int, outputs: int, width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
    )


def semidual(d: int, nu: Gaussian, seed: int, quick: bool) -> Composed:
    """S-JKO from samples of the target: one map from the source and one critic through all steps."""
    updates, batch, width = (2, 32, 8) if quick else (200, 512, 64)
    flow = s_jko(
        single(nu), StandardNormal(d), lambda: Residual(d, net=perceptron(d, d, width), logdet=None),
        lambda: perceptron(d, 1, width), first_iters=updates, iters=updates, batch=batch, lr=(1e-3, 1e-3), lr_floor=None,
        r1=0.0, ema=0.0,
    )  # fmt: skip
    return flow.functional, replace(flow.solver, cost="sum"), flow.initial


def dual(d: int, nu: Gaussian, seed: int, quick: bool) -> Composed:
    """The primal-dual scheme: one residual map a step on a chain, from samples of the target, with the critic kept."""
    updates, batch, width, stored = (2, 32, 8, 64) if quick else (200, 512, 64, 16384)
    solver = JKO(Critic(lambda: perceptron(d, 1, width), Adam(1e-3), iters=3), Adam(1e-3), iters=updates, batch=batch)
    maps = lambda: Residual(d, net=perceptron(d, d, width), logdet=None)  # noqa: E731
    return KL(single(nu), batch), solver, Chain(StandardNormal(d), maps, cached=stored, density=False)


def euler_maruyama(d: int, nu: Gaussian, seed: int, quick: bool) -> Composed:
    x = StandardNormal(d).draw(1000 if quick else DRAWS, torch.Generator().manual_seed(seed)).x
    flow = ula(single(nu), Particles(x))
    return flow.functional, flow.solver, flow.initial


def neural_ode(d: int) -> TransportMap:
    return NeuralODE(d, net=nn.Sequential(nn.Linear(d, 32), nn.Tanh(), nn.Linear(32, d)), steps=2)


FITTED = JKO(optim=LBFGS(max_iter=50, tolerance=1e-6), iters=1, batch=4096)


def icnns(d: int, nu: Gaussian, seed: int, quick: bool) -> Composed:
    """Stop early, on many points: what an ICNN gains late it gains from the errors of the cloud, for all later steps.

    Where the floor is higher single precision will do, in which the line search ends earlier.
    """
    iters, points, dtype = (30, 8192, torch.float64) if d <= 4 else (20, 16384, torch.float32)
    optim = LBFGS(max_iter=iters, tolerance=1e-6, history=20)
    return chained(icnn, JKO(optim=optim, iters=1, first_iters=2, batch=points), dtype)(d, nu, seed, quick)


EVERYWHERE, SOME, IN_TWO = {2: 15, 4: 15, 6: 15, 10: 15}, {2: 5, 4: 5, 6: 5, 10: 5}, {2: 2}
METHODS = [
    Method(
        "JKO, chain of ICNN gradients",
        "one layer of 32 units, scale 4; iterations of LBFGS, twice as many in the first step: 30 on 8192 Sobol points in "
        "float64 for d <= 4, 20 on 16,384 in float32 above",
        icnns, "density", EVERYWHERE, cached=True,
    ),
    Method(
        "JKO, chain of affine maps",
        "LBFGS on 4096 Sobol points; float64",
        chained(Affine, FITTED, torch.float64), "density", EVERYWHERE, shaped=True,
    ),
    Method(
        "Euler–Maruyama, 50,000 particles",
        "steps of 0.001; scored by the moments of the particles",
        euler_maruyama, "moments", SOME, h=1e-3,
    ),
    Method(
        "S-JKO",
        "residual map and critic, 2 x 64; 200 updates a step, batch 512, Adam 0.001; scored by moments of 50,000 draws",
        semidual, "moments", SOME,
    ),
    Method(
        "JKO, chain of residual maps, dual form",
        "residual maps and critic, 2 x 64; 200 updates a step, 3 of the critic to each, batch 512 of 16,384, Adam 0.001; "
        "scored by moments of 50,000 draws",
        dual, "moments", IN_TWO, cached=True,
    ),
    Method(
        "JKO, chain of neural ODEs",
        "32 units, 2 steps of RK4, exact trace; LBFGS on 4096 Sobol points; float64",
        chained(neural_ode, FITTED, torch.float64), "density", IN_TWO,
    ),
]  # fmt: skip


def iteration_seconds(d: int, *, width: int, depth: int, batch: int, iters: int) -> float:
    """Return CPU seconds of one update of a chain of ICNN gradients in its second step, of Adam as the public code has it."""
    make = lambda d: ICNNGradient(d, width=width, depth=depth)  # noqa: E731
    compose = chained(make, JKO(optim=Adam(5e-3), iters=iters, batch=batch), torch.float32)
    F, solver, measure = compose(d, Gaussian(torch.zeros(d), 2 * torch.eye(d)), 0, False)
    costs = StepCosts()
    solve(F, solver, measure, step_size=H, num_steps=2, save=Save(0), callbacks=[costs])
    return costs.seconds[1] / iters
