"""Ways to a Gaussian mixture, each a combination of the library's parts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from benchmarks.mixtures._mixture_suite import HORIZON, start
from wgflow import (
    JKO,
    Adam,
    BirthDeath,
    Blob,
    Callback,
    Cosine,
    EqualMovement,
    ForwardEuler,
    Geometric,
    KernelDensity,
    Langevin,
    MetropolisLangevin,
    MovingMeasure,
    NearestRBF,
    Particles,
    Solver,
    StopWhenFlat,
    WithReaction,
)
from wgflow.maps import ICNNGradient, NeuralODE, TransportMap
from wgflow.measures.chain import Chain

Pace = tuple[float | Callable[[int], float], Sequence[Callback]]


@dataclass(frozen=True)
class Method:
    """A solver with its start, at most ``steps`` steps of sizes that ``pace`` says, looked at ``looks`` times on the way."""

    label: str
    solver: Solver
    start: Callable[[torch.Generator], MovingMeasure]
    steps: int
    pace: Callable[[], Pace]
    looks: int = 4

    @property
    def every(self) -> int:
        return max(self.steps // self.looks, 1)


@dataclass(frozen=True)
class Size:
    """How much work: updates in a short and in a long step, width of networks, batch, points kept, steps, particles' share."""

    iters: int = 60
    long_iters: int = 150
    width: int = 128
    batch: int = 512
    cached: int = 20000
    steps: int = 40
    long_steps: int = 12
    share: float = 1.0
    lr: float = 3e-3

    def particles(self, n: int) -> int:
        return max(round(self.share * n), 50)


QUICK = Size(iters=2, long_iters=2, width=8, batch=32, cached=100, steps=2, long_steps=3, share=0.01)


def methods(d: int, size: Size) -> list[Method]:
    """Return the methods for a dimension."""
    mlp = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(d, size.width), nn.SiLU(), nn.Linear(size.width, size.width), nn.SiLU(), nn.Linear(size.width, d)
    )
    ode = lambda: NeuralODE(d, net=mlp(), trace="hutchinson", method="midpoint", steps=1)  # noqa: E731
    icnn = lambda: ICNNGradient(  # noqa: E731
        d, width=size.width // 2, scale=4.0, logdet="stochastic" if d > 12 else "exact", lanczos=min(d, 16)
    )

    def jko(iters: int) -> JKO:
        optim = Adam(size.lr, (0.9, 0.999), schedule=Cosine(iters, size.lr / 20))
        return JKO(optim=optim, iters=iters, batch=size.batch)

    def chain(make: Callable[[], TransportMap]) -> Callable[[torch.Generator], MovingMeasure]:
        return lambda rng: Chain(start(d), make, cached=size.cached)

    def cloud(n: int) -> Callable[[torch.Generator], MovingMeasure]:
        return lambda rng: Particles(start(d).draw(size.particles(n), rng).x)

    def fixed(steps: int) -> Callable[[], Pace]:
        return lambda: (HORIZON / steps, ())

    def until_flat() -> Pace:
        pace = EqualMovement(first=0.1, distance=0.4 * math.sqrt(d), largest=4.0)
        return pace, (pace, StopWhenFlat("kl", tolerance=0.3, patience=2))

    growth = 1.25
    growing = Geometric(HORIZON * (growth - 1) / (growth**size.long_steps - 1), growth)
    short, long = size.steps, size.long_steps
    blob = Blob(KernelDensity(NearestRBF()))
    reacting = WithReaction(Langevin(), BirthDeath(), estimator=blob)
    return [
        Method("JKO, ICNN gradients", jko(size.iters), chain(icnn), short, fixed(short)),
        Method("JKO, neural ODEs", jko(size.iters), chain(ode), short, fixed(short)),
        Method("JKO, neural ODEs, growing steps", jko(size.long_iters), chain(ode), long, lambda: (growing, ()), long),
        Method(
            "JKO, neural ODEs, equal movement until flat", jko(size.long_iters), chain(ode), long + 4, until_flat, 99
        ),
        Method("Langevin, 10,000 particles", Langevin(), cloud(10000), 10 * short, fixed(10 * short), 8),
        Method("MALA, 4000 particles", MetropolisLangevin(), cloud(4000), 2 * short, fixed(2 * short), 8),
        Method(
            "forward Euler with Blob, 1000 particles", ForwardEuler(blob), cloud(1000), 2 * short, fixed(2 * short), 8
        ),
        Method("Langevin with birth and death, 2000 particles", reacting, cloud(2000), 5 * short, fixed(5 * short), 8),
    ]
