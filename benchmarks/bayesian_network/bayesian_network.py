"""Bayesian networks on the UCI sets: test error and log-likelihood of proximal samplers, Langevin, SVGD and flows with momentum.

One hidden layer of 50 units, a Laplace prior of scale 1 on the weights, whose proximal map the splitting of BRWP takes, and a
Gamma prior on the precision of the noise. All methods move the same particles in the same posterior for as many steps over all of
the data. Of two step sizes each takes the one with the better log-likelihood on a tenth of the training data of the first split.
Test data choose nothing.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import figure, parser, write
from benchmarks.bayesian_network._network import Network
from benchmarks.bayesian_network._uci import PUBLISHED, SOURCES, Regression, split
from wgflow import (
    KL,
    Accelerated,
    Blob,
    Diverged,
    ForwardEuler,
    KernelDensity,
    L1Potential,
    Langevin,
    MedianRBF,
    NearestRBF,
    Particles,
    PotentialEnergy,
    ProximalScore,
    QuadraticPotential,
    Save,
    SeparablePotential,
    Solver,
    Stein,
    Unnormalised,
    presets,
)

SETS = ("energy", "concrete")
FACTORS = (1.0, 2.0)
FRICTION = 10.0
STEIN, BLOB = Stein(MedianRBF()), Blob(KernelDensity(NearestRBF()))


@dataclass(frozen=True)
class Problem:
    """The posterior, in two parts, and where particles start."""

    network: Network
    initial: Particles

    @property
    def penalty(self) -> SeparablePotential:
        """Minus the log prior: the l1 norm of the weights, and nothing of the noise."""
        nothing = QuadraticPotential(torch.zeros(1, 1))
        return SeparablePotential(((L1Potential(1.0), self.network.weights, None), (nothing, 1, None)))

    def whole(self, solver: Solver, h: float, num_steps: int) -> presets.Flow:
        """Return a flow of KL to the posterior, with a subgradient of the prior."""
        V = self.penalty
        target = Unnormalised(lambda theta: self.network(theta) - V(theta), self.network.dim)
        return presets.Flow(KL(target), solver, self.initial, h, num_steps)

    def splitting(self, h: float, num_steps: int) -> presets.Flow:
        """Return the flow that takes the prior by its proximal map."""
        V, likelihood = self.penalty, Unnormalised(self.network, self.network.dim)
        penalty = PotentialEnergy(V, V.prox)
        return presets.brwp_splitting(
            likelihood, self.initial, penalty=penalty, normalizer=V, step_size=h, num_steps=num_steps
        )


Method = Callable[[Problem, float, int], presets.Flow]
METHODS: dict[str, tuple[Method, float]] = {
    "BRWP splitting": (Problem.splitting, 1e-4),
    "BRWP": (lambda p, h, k: p.whole(ForwardEuler(ProximalScore(h / 2, samples=5)), h, k), 1e-4),
    "ARWP": (lambda p, h, k: p.whole(Accelerated(ProximalScore(h**2 / 2, samples=5), FRICTION), h, k), 1e-3),
    "Langevin": (lambda p, h, k: p.whole(Langevin(), h, k), 1e-4),
    "SVGD": (lambda p, h, k: p.whole(ForwardEuler(STEIN), h, k), 1e-3),
    "SVGD, momentum": (lambda p, h, k: p.whole(Accelerated(STEIN, FRICTION), h, k), 1e-2),
    "blob, momentum": (lambda p, h, k: p.whole(Accelerated(BLOB, FRICTION), h, k), 1e-3),
}
"""How a step size h and a number of steps become a flow, and the smaller step size that is tried. SVGD's velocities are means over all
particles."""


def run(method: str, data: Regression, h: float, seed: int, args: argparse.Namespace) -> dict[str, Any] | None:
    """Return the curves of the scores of one flow with its seconds a step; None when it diverged."""
    network = Network(data.x, data.y, args.hidden)
    problem = Problem(network, Particles(network.start(args.particles, seed)))
    flow = METHODS[method][0](problem, h, args.steps)
    begun = time.process_time()
    try:
        saved = flow.solve(seed=seed, save=Save(args.every)).saved
    except Diverged:
        return None
    seconds = time.process_time() - begun
    curve = [network.scores(p.x, data) for p in saved]
    return {"seconds": seconds, **{key: [found[key] for found in curve] for key in curve[0]}}


def chosen(method: str, data: Regression, args: argparse.Namespace) -> tuple[float, dict[str, float | None]]:
    """Return the step size with the best log-likelihood on held-out training data, and those of all that are tried."""
    held_out = data.validation()
    steps = [factor * METHODS[method][1] for factor in FACTORS]
    runs = {h: run(method, held_out, h, 0, args) for h in steps}
    found = {h: None if r is None else r["log_likelihood"][-1] for h, r in runs.items()}
    finite = {h: v for h, v in found.items() if v is not None}
    return max(finite, key=finite.__getitem__, default=steps[0]), {f"{h:g}": v for h, v in found.items()}


def measured(method: str, splits: Sequence[Regression], args: argparse.Namespace) -> dict[str, Any]:
    """Run one method on all splits: means at the end with their spread, and the curves of the first."""
    h, tried = chosen(method, splits[0], args)
    runs = [run(method, data, h, seed, args) for seed, data in enumerate(splits)]
    done = [r for r in runs if r is not None]
    row: dict[str, Any] = {"step_size": h, "validation": tried, "diverged": len(runs) - len(done)}
    for key in ("rmse", "log_likelihood"):
        ends = [r[key][-1] for r in done]
        row[key] = {"mean": statistics.fmean(ends), "std": statistics.pstdev(ends)} if ends else None
        row[f"{key}_curve"] = [statistics.fmean(c) for c in zip(*(r[key] for r in done), strict=True)]
    row["ms_per_step"] = 1e3 * statistics.median(r["seconds"] for r in done) / args.steps if done else None
    return row


def study(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run all methods on the splits of one set."""
    splits = [split(args.data, name, number) for number in range(args.splits)]
    methods: dict[str, Any] = {}
    for method in METHODS:
        row = methods[method] = measured(method, splits, args)
        if row["rmse"]:
            ends = "  ".join(f"{row[k]['mean']:.2f} ± {row[k]['std']:.2f}" for k in ("rmse", "log_likelihood"))
            print(f"{name:10} {method:15} h = {row['step_size']:g}  {ends}  {row['ms_per_step']:.1f} ms", flush=True)
    return {
        "train": len(splits[0].x),
        "test": len(splits[0].test_x),
        "inputs": splits[0].x.shape[1],
        "std_of_outputs": splits[0].unit,
        "methods": methods,
        "published": PUBLISHED.get(name),
    }


def picture(sets: dict[str, Any], args: argparse.Namespace) -> None:
    """Draw the test error against steps and against time, a row a set."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    drawn = Figure(figsize=(9, 2.8 * len(sets)), layout="constrained")
    axes = drawn.subplots(len(sets), 2, squeeze=False, sharey="row")
    for (name, found), (by_step, by_time) in zip(sets.items(), axes, strict=True):
        for i, (method, row) in enumerate(found["methods"].items()):
            curve, style = row["rmse_curve"], {"color": f"C{i}", "linestyle": "--" if "momentum" in method else "-"}
            steps = [min(k * args.every, args.steps) for k in range(len(curve))]
            by_step.plot(steps, curve, label=method, linewidth=1.3, **style)
            by_time.plot([k * (row["ms_per_step"] or 0) / 1e3 for k in steps], curve, linewidth=1.3, **style)
        by_step.set_ylabel(f"{name}: test error")
    for ax in axes.flat:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("steps")
    axes[-1, 1].set_xlabel("CPU seconds")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    drawn.savefig(figure(args, "bayesian_network.png"), dpi=130)


def main(argv: Sequence[str] | None = None) -> Path:
    """Run all sets and write the record."""
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--data", type=Path, required=True, help="folder of NAME.npz.xz files: x, y, test")
    options.add_argument("--sets", nargs="+", default=[*SETS])
    options.add_argument("--splits", type=int, default=2, help="of the 20 of each file, the first ones")
    options.add_argument("--particles", type=int, default=20)
    options.add_argument("--hidden", type=int, default=50, help="units")
    options.add_argument("--steps", type=int, default=500)
    args = options.parse_args(argv)
    if args.quick:
        args.sets, args.splits, args.particles, args.hidden, args.steps = args.sets[:1], 2, 4, 3, 5
    args.every = max(1, args.steps // 20)
    torch.set_num_threads(args.threads)
    kept = {k: v for k, v in vars(args).items() if k not in ("data", "results", "device", "threads", "every")}
    sets: dict[str, Any] = {}
    results = {"sets": sets, "published": SOURCES}
    for name in args.sets:
        sets[name] = study(name, args)
        path = write("bayesian_network", args.results, kept, results, torch.device("cpu"))
    picture(sets, args)
    return path


if __name__ == "__main__":
    print(main())
