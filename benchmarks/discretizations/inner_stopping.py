"""What does it cost to solve a JKO step to a given imbalance of its forces, and how far from the exact step does one stop?

KL from N(0, I) to a Gaussian in the plane, steps of 0.1; errors are W2 between the law after the last step and the exact JKO
iterate, both as Gaussians, relative to the distance from the start. Means over seeds. The learning rate is constant, but for one
row of the chains, whose steps take all that they may and decay it.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._record import Clock, parser, write
from wgflow import (
    JKO,
    KL,
    Adam,
    Chain,
    Cosine,
    Critic,
    Functional,
    Gaussian,
    MovingMeasure,
    Particles,
    Pushforward,
    Save,
    StandardNormal,
    solve,
)
from wgflow.maps import Affine, ICNNGradient, Residual
from wgflow.reference import Moments, OrnsteinUhlenbeck, squared_w2

H, D = 0.1, 2
TOLERANCES = (None, 0.3, 0.2, 0.1, 0.05)
Way = tuple[str, Functional, JKO, Callable[[], MovingMeasure]]


def perceptron(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(D, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, outputs))


def ways(target: Gaussian, args: argparse.Namespace) -> list[Way]:
    """Return the ways to take a step, without tolerance."""
    base = StandardNormal(D)
    adam = Adam(1e-2, (0.9, 0.99))
    density = JKO(optim=adam, iters=args.iters, batch=args.batch, look_every=args.look_every)
    dual = JKO(
        Critic(lambda: perceptron(1), Adam(2e-3)),
        Adam(1e-3),
        iters=2 * args.iters,
        batch=args.batch,
        look_every=args.look_every,
    )
    return [
        ("chain of affine maps", KL(target), density, lambda: Chain(base, lambda: Affine(D), cached=args.cached)),
        (
            "chain of ICNN gradients",
            KL(target),
            density,
            lambda: Chain(base, lambda: ICNNGradient(D, width=32), cached=args.cached),
        ),
        (
            "S-JKO",
            KL(target, args.batch),
            dual,
            lambda: Pushforward(base, lambda: Residual(D, net=perceptron(D), logdet=None)),
        ),
    ]


def decayed(solver: JKO) -> JKO:
    """Let the learning rate fall to a hundredth within every step: chains have a new minimiser in each."""
    assert isinstance(solver.optim, Adam)
    return replace(solver, optim=replace(solver.optim, schedule=Cosine(solver.iters, solver.optim.lr / 100)))


def run(way: Way, tolerance: float | None, args: argparse.Namespace, end: Moments, traveled: float) -> dict[str, Any]:
    """Run one way with one tolerance."""
    label, F, solver, start = way
    solver = replace(solver, tolerance=tolerance)
    clock, rows = Clock(torch.device("cpu")), []
    for seed in range(args.seeds):
        begun = clock()[0]
        flow = solve(F, solver, start(), step_size=H, num_steps=args.steps, seed=seed, save=Save(0))
        seconds = clock()[0] - begun
        x = flow.measure.inference().draw(args.points, torch.Generator().manual_seed(seed)).x
        error = float(squared_w2(Moments.of(Particles(x.double())), end).sqrt()) / traveled
        rows.append((error, flow.history[-1]["update"] / args.steps, seconds / args.steps))
    error, updates, seconds = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    print(f"{label}, {tolerance}: error {error:.3f}, {updates:.0f} updates and {seconds:.2f} s a step", flush=True)
    return {"tolerance": tolerance, "error": error, "updates_per_step": updates, "seconds_per_step": seconds}


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--steps", type=int, default=3)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--iters", type=int, default=400, help="updates that a step may take; twice as many for S-JKO")
    options.add_argument("--look-every", type=int, default=20)
    options.add_argument("--batch", type=int, default=512)
    options.add_argument("--cached", type=int, default=20000, help="points that a chain keeps")
    options.add_argument("--points", type=int, default=100000, help="fresh points that are scored")
    args = options.parse_args(argv)
    if args.quick:
        args.steps, args.seeds, args.iters, args.look_every, args.batch, args.cached, args.points = (
            1,
            1,
            3,
            1,
            16,
            32,
            64,
        )
    torch.set_num_threads(args.threads)
    target = Gaussian(torch.tensor([1.0, -1.0]), torch.tensor([[0.6, -0.3], [-0.3, 1.2]]))
    exact = OrnsteinUhlenbeck.towards(Gaussian(target.mean.double(), target.cov.double()))
    start = end = Moments(torch.zeros(D, dtype=torch.float64), torch.eye(D, dtype=torch.float64))
    for _ in range(args.steps):
        end = exact.jko(end, H)
    traveled = float(squared_w2(start, end).sqrt())
    tolerances = TOLERANCES[:2] if args.quick else TOLERANCES
    results = []
    for way in ways(target, args):
        label, F, solver, initial = way
        rows = [run(way, t, args, end, traveled) for t in tolerances]
        if isinstance(initial(), Chain):
            rows.insert(0, {"decayed": True} | run((label, F, decayed(solver), initial), None, args, end, traveled))
        results.append({"label": label, "rows": rows})
    settings = {k: v for k, v in vars(args).items() if k not in ("results", "device", "threads")}
    settings |= {"h": H, "d": D, "clock": Clock(torch.device("cpu")).name}
    return write("inner_stopping", args.results, settings, {"ways": results}, torch.device("cpu"))


if __name__ == "__main__":
    print(main())
