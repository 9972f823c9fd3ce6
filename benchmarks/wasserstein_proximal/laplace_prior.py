"""Which sampler copes with a prior that has kinks? Bayesian logistic regression with the Laplace prior exp(-|w|_1).

The splitting of BRWP and MYULA take the prior by its proximal map (a Moreau envelope at the time of the step), BRWP, ULA and SVGD by a
subgradient. All move 50 particles 300 steps from N(0, I), with the step size whose mean is best on the first split. What is scored is the
posterior itself: mean and standard deviations of the weights against those of long Metropolis-adjusted chains, beside accuracy and
log-likelihood on held-out data.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from benchmarks._record import parser, write
from benchmarks.logistic._logistic_data import Split, as_published, split
from wgflow import (
    KL,
    Diverged,
    ForwardEuler,
    L1Potential,
    Langevin,
    MedianRBF,
    MetropolisLangevin,
    Particles,
    PotentialEnergy,
    ProximalScore,
    Save,
    Stein,
    Unnormalised,
    presets,
    solve,
)

SETS = ("titanic", "diabetis", "german")
FACTORS = (0.3, 1.0)
OF_SVGD = 30.0  # its velocities are means over all particles
PRIOR = L1Potential(1.0)
Runner = Callable[[Callable[[Tensor], Tensor], Particles, float, int, int], Tensor]


def loss(data: Split) -> tuple[Callable[[Tensor], Tensor], float]:
    """Return minus the log likelihood of weights (n, d), and a bound of its curvature."""
    signed = (data.x * data.y[:, None]).double()
    return lambda w: nnf.softplus(-w @ signed.T).sum(1), float(torch.linalg.matrix_norm(signed, 2) ** 2 / 4)


def _whole(solver: Any) -> Runner:
    """Return what flows under the whole posterior, with a subgradient of the prior."""

    def run(f: Callable[[Tensor], Tensor], start: Particles, h: float, num_steps: int, seed: int) -> Tensor:
        F = KL(Unnormalised(lambda w: -f(w) - PRIOR(w), *start.x.shape[1:]))
        return solve(F, solver(h), start, step_size=h, num_steps=num_steps, seed=seed, save=Save(0)).measure.x

    return run


def _splitting(f: Callable[[Tensor], Tensor], start: Particles, h: float, num_steps: int, seed: int) -> Tensor:
    likelihood, penalty = Unnormalised(lambda w: -f(w), *start.x.shape[1:]), PotentialEnergy(PRIOR, PRIOR.prox)
    flow = presets.brwp_splitting(
        likelihood, start, penalty=penalty, normalizer=PRIOR, step_size=h, num_steps=num_steps
    )
    return flow.solve(seed=seed, save=Save(0)).measure.x


def _myula(f: Callable[[Tensor], Tensor], start: Particles, h: float, num_steps: int, seed: int) -> Tensor:
    F = KL(Unnormalised(lambda w: -f(w), *start.x.shape[1:])) + PotentialEnergy(PRIOR, PRIOR.prox).envelope(h)
    return solve(F, Langevin(), start, step_size=h, num_steps=num_steps, seed=seed, save=Save(0)).measure.x


METHODS: dict[str, Runner] = {
    "BRWP splitting": _splitting,
    "BRWP": _whole(lambda h: ForwardEuler(ProximalScore(h / 2, samples=10))),
    "MYULA": _myula,
    "ULA": _whole(lambda h: Langevin()),
    "SVGD": _whole(lambda h: ForwardEuler(Stein(MedianRBF()))),
}


def truth(f: Callable[[Tensor], Tensor], curvature: float, start: Particles, num_steps: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviations of the posterior, from the second half of as many Metropolis chains as particles."""
    F = KL(Unnormalised(lambda w: -f(w) - PRIOR(w), *start.x.shape[1:]))
    every = max(1, num_steps // 100)
    end = solve(F, MetropolisLangevin(), start, step_size=0.5 / curvature, num_steps=num_steps, save=Save(every))
    x = torch.cat([p.x for p in end.saved[len(end.saved) // 2 :]])
    return x.mean(0), x.std(0)


def scored(w: Tensor, data: Split, mean: Tensor, std: Tensor) -> dict[str, float]:
    """Return errors of the moments, in units of the posterior's standard deviations, and the scores of the prediction."""
    p = torch.sigmoid(data.test_y.double()[:, None] * (data.test_x.double() @ w.T)).mean(1)
    return {
        "error_of_mean": float(((w.mean(0) - mean) / std).square().mean().sqrt()),
        "ratio_of_std": float((w.std(0, correction=0) / std).mean()),
        "accuracy": float((p > 0.5).double().mean()),
        "log_likelihood": float(p.log().mean()),
    }


def study(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run all methods on the splits of one set."""
    splits = [split(as_published(args.data, name), seed) for seed in range(args.splits)]
    rows: dict[str, dict[str, list[float]]] = {method: {} for method in METHODS}
    chosen: dict[str, float] = {}
    for seed, data in enumerate(splits):
        f, curvature = loss(data)
        z = torch.randn(args.particles, data.x.shape[1], generator=torch.Generator().manual_seed(seed))
        start = Particles(z.double())
        mean, std = truth(f, curvature, start, args.chain)
        for method, run in METHODS.items():
            scale = OF_SVGD if method == "SVGD" else 1.0
            tries = [scale * c for c in FACTORS] if seed == 0 else [chosen[method]]
            found = {}
            for factor in tries:
                begun = time.process_time()
                try:
                    w = run(f, start, factor / curvature, args.steps, seed)
                except Diverged:
                    continue
                ms = 1e3 * (time.process_time() - begun) / args.steps
                found[factor] = scored(w, data, mean, std) | {"ms_per_step": ms}
            if not found:
                chosen.setdefault(method, tries[0])
                continue
            best = min(found, key=lambda k: found[k]["error_of_mean"])
            chosen.setdefault(method, best)
            for key, value in found[best].items():
                rows[method].setdefault(key, []).append(value)
    methods = {
        method: {"step_times_curvature": chosen[method], "runs": len(row.get("accuracy", ()))}
        | {key: statistics.mean(values) for key, values in row.items()}
        for method, row in rows.items()
    }
    for method, row in methods.items():
        print(f"{name:9} {method:15}", "  ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    return {"train": len(splits[0].x), "features": splits[0].x.shape[1], "methods": methods}


def main(argv: Sequence[str] | None = None) -> Path:
    """Run all sets and write the record."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder of NAME.npz files: x features, y labels")
    options.add_argument("--sets", nargs="+", default=[*SETS])
    options.add_argument("--splits", type=int, default=5, help="random 80/20 splits, each with its own start and seed")
    options.add_argument("--particles", type=int, default=50)
    options.add_argument("--steps", type=int, default=300)
    options.add_argument("--chain", type=int, default=2000, help="steps of the chains that are the reference")
    args = options.parse_args(argv)
    if args.quick:
        args.sets, args.splits, args.particles, args.steps, args.chain = args.sets[:1], 1, 10, 5, 10
    torch.set_num_threads(args.threads)
    results = {"prior": "Laplace, scale 1", "sets": {name: study(name, args) for name in args.sets}}
    kept = {k: v for k, v in vars(args).items() if k not in ("data", "results", "device", "threads")}
    return write("laplace_prior", args.results, kept, results, torch.device("cpu"))


if __name__ == "__main__":
    print(main())
