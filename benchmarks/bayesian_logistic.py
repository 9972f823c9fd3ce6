"""Bayesian logistic regression on the sets of the flow papers: accuracy, log-likelihood and CPU time of four flows.

The step size of a method is a multiple of the inverse curvature of the posterior; the multiple is chosen on a set's first
split, by the mean log posterior of the particles. Test data choose nothing. (The training likelihood would not do: particles
that a too large step throws about can predict better than the posterior does.)
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from _logistic import POSITIVE, Posterior, Split, load, scores, split
from _record import Clock, parser, write

import wgflow as wg

SETS = (
    "banana",
    "german",
    "image",
    "waveform",
    "titanic",
    "breast-cancer",
    "ringnorm",
    "twonorm",
    "diabetis",
    "splice",
)
SUBSET = "covertype15k"
STEPS = (0.3, 1.0, 10.0)
METHODS: dict[str, wg.Solver] = {
    "svgd": wg.ForwardEuler(wg.Stein(wg.MedianRBF())),
    "langevin": wg.Langevin(),
    "mala": wg.MetropolisLangevin(),
    "blob": wg.ForwardEuler(wg.Blob(wg.KernelDensity(wg.NearestRBF()))),
}
# Accuracy, test log-likelihood and, where printed, seconds of training.
PUBLISHED: dict[str, Any] = {
    "sources": {
        "icnn_jko": "Mokrov et al. 2021, Large-Scale Wasserstein Gradient Flows (also prints svgd)",
        "svgd": "Liu and Wang 2016, as printed by Mokrov et al. 2021",
        "fan": "Fan et al. 2022, Variational Wasserstein Gradient Flow",
        "sw_jko": "Bonet et al. 2022, Efficient Gradient Flows in Sliced-Wasserstein Space (accuracy, sd, seconds)",
    },
    "german": {"icnn_jko": (0.670, -0.599, 3965), "svgd": (0.65, -0.60), "sw_jko": (0.680, 0.005, 83)},
    "diabetis": {"icnn_jko": (0.773, -0.451, 7618), "svgd": (0.78, -0.46), "sw_jko": (0.778, 0.003, 122)},
    "twonorm": {"icnn_jko": (0.982, -0.058, 10116), "svgd": (0.98, -0.062), "sw_jko": (0.981, 0.001, 301)},
    "ringnorm": {"icnn_jko": (0.740, -0.499, 1971), "svgd": (0.74, -0.50), "sw_jko": (0.741, 0.001, 83)},
    "banana": {"icnn_jko": (0.561, -0.691, 1102), "svgd": (0.54, -0.69), "sw_jko": (0.559, 0.011, 67)},
    "splice": {
        "icnn_jko": (0.835, -0.366, 5091),
        "svgd": (0.85, -0.355),
        "fan": (0.84, -0.38),
        "sw_jko": (0.850, 0.003, 114),
    },
    "waveform": {
        "icnn_jko": (0.781, -0.487, 1897),
        "svgd": (0.765, -0.465),
        "fan": (0.785, -0.455),
        "sw_jko": (0.776, 0.001, 121),
    },
    "image": {
        "icnn_jko": (0.818, -0.444, 3794),
        "svgd": (0.815, -0.44),
        "fan": (0.866, -0.394),
        "sw_jko": (0.821, 0.004, 72),
    },
}


def flow(method: str, data: Split, step: float, seed: int, args: argparse.Namespace) -> dict[str, Any] | None:
    """Run one flow; return its scores and seconds, or None when it diverged."""
    posterior = Posterior(data.x, data.y)
    F = wg.KL(wg.Unnormalised(posterior, posterior.dim))
    initial, h = wg.Particles(posterior.prior(args.particles, seed)), step / posterior.largest_curvature()
    clock = Clock(data.x.device)
    begun = clock()[0]
    try:
        end = wg.solve(F, METHODS[method], initial, step_size=h, num_steps=args.steps, seed=seed)
    except wg.Diverged:
        return None
    theta = end.measure.x
    seconds = clock()[0] - begun
    reached = float(posterior(theta).mean())
    return {"seconds": seconds, "log_posterior": reached, "test": scores(theta, data.test_x, data.test_y)}


def chosen(method: str, data: Split, args: argparse.Namespace) -> tuple[float, dict[str, float | None]]:
    """Return the step whose particles have the best mean log posterior, and those of all steps."""
    runs = {step: flow(method, data, step, 0, args) for step in args.step_grid}
    found = {step: None if run is None else run["log_posterior"] for step, run in runs.items()}
    finite = {step: v for step, v in found.items() if v is not None}
    return max(finite, key=finite.__getitem__), {str(step): v for step, v in found.items()}


def study(name: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Run all methods on the splits of one set."""
    x, y = load(args.data, name)
    splits = [split(x, y, seed, device) for seed in range(args.splits)]
    methods: dict[str, Any] = {}
    for method in METHODS:
        step, grid = chosen(method, splits[0], args)
        runs = [flow(method, data, step, seed, args) for seed, data in enumerate(splits)]
        done = [run for run in runs if run is not None]
        entry: dict[str, Any] = {"step": step, "log_posterior_of_steps": grid, "diverged": len(runs) - len(done)}
        for key in ("accuracy", "log_likelihood"):
            values = [run["test"][key] for run in done]
            entry[key] = {"mean": statistics.fmean(values), "std": statistics.pstdev(values)} if values else None
        entry["seconds"] = statistics.median(run["seconds"] for run in done) if done else None
        methods[method] = entry
    found = [m["accuracy"] for m in methods.values() if m["accuracy"]]
    return {
        "train": len(splits[0].x),
        "test": len(splits[0].test_x),
        "features": x.shape[1],
        "positive": float((y > 0).float().mean()),
        "methods": methods,
        # In units of what another split changes.
        "spread_of_accuracy": max(a["mean"] for a in found) - min(a["mean"] for a in found),
        "std_of_accuracy_over_splits": statistics.fmean(a["std"] for a in found),
        "published": PUBLISHED.get(name),
    }


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--data", type=Path, required=True, help="folder of NAME.npz files: x features, y labels")
    options.add_argument("--sets", nargs="+", default=[*SETS, SUBSET])
    options.add_argument("--splits", type=int, default=5, help="random 80/20 splits, each with its own seed")
    options.add_argument("--particles", type=int, default=50)
    options.add_argument("--steps", type=int, default=200)
    args = options.parse_args(argv)
    args.step_grid = STEPS
    if args.quick:
        args.sets, args.splits, args.particles, args.steps, args.step_grid = args.sets[:1], 2, 10, 5, STEPS[:2]
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    sets: dict[str, Any] = {}
    missing = [name for name in args.sets if not (args.data / f"{name}.npz").exists()]
    results = {
        "sets": sets,
        "missing": missing,
        "published": PUBLISHED["sources"],
        "caution": "Flows of one posterior should tie once they arrive: this ranks time, not quality. "
        f"{SUBSET} is a class-balanced subset and not the Covertype of the papers: no published number compares.",
        "positive_class": POSITIVE,
    }
    kept = {k: getattr(args, k) for k in ("sets", "splits", "particles", "steps", "step_grid", "quick")}
    kept["clock"] = Clock(device).name
    for name in (n for n in args.sets if n not in missing):
        sets[name] = study(name, args, device)
        for method, m in sets[name]["methods"].items():
            acc, ll = (m[k] or {"mean": float("nan"), "std": float("nan")} for k in ("accuracy", "log_likelihood"))
            print(
                f"{name:14} {method:9} {acc['mean']:.3f} ± {acc['std']:.3f}  {ll['mean']:.3f} ± {ll['std']:.3f}  "
                f"{m['seconds'] or 0:.2f} s  step {m['step']}",
                flush=True,
            )
        write("bayesian_logistic", args.results, kept, results, device)  # what is done is done
    return write("bayesian_logistic", args.results, kept, results, device)


if __name__ == "__main__":
    print(main())
