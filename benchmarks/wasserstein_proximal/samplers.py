"""How do noise-free proximal samplers compare with Langevin and SVGD: distance to the target by step and by time, and where do they rest?

BRWP, with momentum (ARWP) and preconditioned (PRWP), beside ULA, MALA and SVGD: 200 particles from the starts of Tan, Osher and Li (2024).
For every method and target the step size is the best of three (SVGD: of four, further apart), and T of two, on a seed that is not scored.
The second part is the law of the bias: BRWP rests at the variance 1 - T² of a standard normal target whatever its step, and a proximal from
there has the variance 1.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import figure, parser, write
from benchmarks.wasserstein_proximal._targets import DOUBLE, POINTS, Case, cases
from wgflow import (
    KL,
    Accelerated,
    Diverged,
    ForwardEuler,
    Langevin,
    MedianRBF,
    MetropolisLangevin,
    Particles,
    ProximalScore,
    Save,
    Solver,
    Stein,
    solve,
)

FACTORS = (0.5, 1.0, 2.0)
OF_SVGD = (2.5, 10.0, 40.0, 160.0)  # its velocities are means over all particles
NAMES = ("BRWP", "ARWP", "ULA", "MALA", "SVGD", "PRWP")
TIMES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
COLORS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#000000")


def methods(case: Case) -> dict[str, list[tuple[Solver, float, float | None]]]:
    """Return what is tried for every sampler: solver, step size and T."""
    h, M = case.step, case.covariance
    found: dict[str, list[tuple[Solver, float, float | None]]] = {
        "BRWP": [(ForwardEuler(ProximalScore(T, case.log_z(T))), f * h, T) for T in case.times for f in FACTORS],
        "ARWP": [(Accelerated(ProximalScore(T, case.log_z(T))), 2 * f * h, T) for T in case.times for f in FACTORS],
        "ULA": [(Langevin(), f * h, None) for f in FACTORS],
        "MALA": [(MetropolisLangevin(), 2 * f * h, None) for f in FACTORS],
        "SVGD": [(ForwardEuler(Stein(MedianRBF())), f * h, None) for f in OF_SVGD],
    }
    if M is not None and not torch.equal(M, torch.eye(case.d, dtype=DOUBLE)):
        proximal = [(ProximalScore(T, case.log_z(T, M), metric=M), T) for T in case.times]
        found["PRWP"] = [(ForwardEuler(score), f * h, T) for score, T in proximal for f in FACTORS]
    return found


def run(case: Case, solver: Solver, h: float, seed: int, n: int, num_steps: int, every: int) -> tuple[list[Any], float]:
    """Return the saved points and the CPU seconds of a step; no points of a run that diverged."""
    begun = time.process_time()
    try:
        end = solve(
            KL(case.target), solver, case.cloud(seed, n), step_size=h, num_steps=num_steps, seed=seed, save=Save(every)
        )
    except Diverged:
        return [], float("nan")
    seconds = (time.process_time() - begun) / num_steps
    return [p.x for p in end.saved], seconds


def compared(case: Case, args: argparse.Namespace, earlier: dict[str, Any]) -> dict[str, Any]:
    """Return the curves of all methods on one target, means over seeds, earlier ones kept, and the distances of independent draws."""
    num_steps = 8 if args.quick else case.num_steps
    every = max(1, num_steps // 20)
    distances, n = case.distances(3 * args.particles), args.particles
    draws = [case.exact(n, 100 + s).x for s in range(args.seeds)]
    floors = {f"{key}_of_as_many_draws": statistics.mean(map(D, draws)) for key, D in distances.items()}
    rows: dict[str, Any] = {}
    for name, tried in methods(case).items():
        if name in earlier and name not in args.methods:
            rows[name] = earlier[name]
            continue
        ends = []
        for solver, h, _ in tried:
            saved, _ = run(case, solver, h, 99, n, num_steps, every)
            ends.append(sum(map(distances["w2"], saved[1::4])) if saved else float("inf"))
        solver, h, T = tried[ends.index(min(ends))]
        runs = [run(case, solver, h, seed, n, num_steps, every) for seed in range(args.seeds)]
        columns = list(zip(*(saved for saved, _ in runs if saved), strict=True))
        last = [distances["w2"](x) for x in columns[-1]] if columns else []
        rows[name] = {
            "step_size": h,
            "T": T,
            "steps": [min(k * every, num_steps) for k in range(len(columns))],
            **{key: [statistics.mean(map(D, c)) for c in columns] for key, D in distances.items()},
            "w2_spread_of_seeds": statistics.stdev(last) if len(last) > 1 else None,
            "diverged": args.seeds - len(last),
            "ms_per_step": 1e3 * statistics.median(s for _, s in runs),
        }
        print(
            f"{name:6} h = {h:<6g} W2 {rows[name]['w2'][0]:.3f} -> {rows[name]['w2'][-1]:.3f}  {rows[name]['ms_per_step']:.2f} ms a step"
        )
    return {**floors, "methods": rows}


def bias_law(args: argparse.Namespace) -> list[dict[str, float]]:
    """Return the variance at which BRWP rests on the line for every T, at two steps, and that of one proximal step from there."""
    n, rows = 40 if args.quick else 400, []
    levels = (torch.arange(n, dtype=DOUBLE) + 0.5) / n
    start = Particles(torch.special.ndtri(levels)[:, None])
    case = cases()["Gaussian, d = 1"]
    for T in TIMES:
        solver = ForwardEuler(ProximalScore(T, case.log_z(T)))
        for h in (0.1, 0.4):
            num_steps = 2 if args.quick else round(16 / h)
            end = solve(KL(case.target), solver, start, step_size=h, num_steps=num_steps, save=Save(0))
            v = float(end.measure.x.var(correction=0))
            rows.append(
                {
                    "T": T,
                    "step_size": h,
                    "variance": v,
                    "theory": 1 - T**2,
                    "after_a_proximal": v / (1 + T) ** 2 + 2 * T / (1 + T),
                }
            )
    return rows


def picture(results: dict[str, Any], path: Path) -> None:
    """Draw KL of Gaussian targets and W2 of others against steps and against CPU time, a row a target."""
    import matplotlib.pyplot as plt

    targets = results["targets"]
    drawn, axes = plt.subplots(len(targets), 2, figsize=(8, 2.1 * len(targets)), layout="constrained", squeeze=False)
    for (by_step, by_time), (name, found) in zip(axes, targets.items(), strict=True):
        key, label = ("kl", "KL") if "kl_of_as_many_draws" in found else ("w2", "$W_2$")
        for (method, row), color in zip(found["methods"].items(), COLORS, strict=False):
            by_step.semilogy(row["steps"], row[key], color=color, label=method)
            by_time.semilogy([k * row["ms_per_step"] for k in row["steps"]], row[key], color=color)
        for ax, xlabel in ((by_step, "steps"), (by_time, "CPU ms")):
            ax.axhline(found[f"{key}_of_as_many_draws"], color="0.6", linewidth=1, linestyle="--")
            ax.set(xlabel=xlabel, ylabel=label)
            ax.spines[["top", "right"]].set_visible(False)
        by_step.set_title(name, loc="left", fontsize=10)
    handles = {label: line for ax in axes[:, 0] for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    drawn.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    drawn.savefig(path, dpi=110)
    plt.close(drawn)


def main(argv: Sequence[str] | None = None) -> Path:
    """Run all of it and write the record."""
    given = parser(__doc__)
    given.add_argument("--seeds", type=int, default=5)
    given.add_argument("--particles", type=int, default=POINTS, help="an even number")
    given.add_argument("--targets", nargs="+", default=[*cases()], help="names of the record")
    given.add_argument(
        "--methods", nargs="+", default=[*NAMES], help="to run again; others are kept where the record has them"
    )
    args = given.parse_args(argv)
    if args.quick:
        args.seeds, args.particles = 1, 20
    torch.set_num_threads(args.threads)
    kept = {key: vars(args)[key] for key in ("particles", "seeds", "quick", "threads")}
    settings = kept | {"factors of step sizes": list(FACTORS)}
    record = args.results / "proximal_samplers.json"
    found = json.loads(record.read_text()) if record.exists() else {"settings": None}
    held = found["results"]["targets"] if found["settings"] == settings else {}
    results: dict[str, Any] = {"targets": {}}
    for name in args.targets:
        print(name)
        results["targets"][name] = compared(cases()[name], args, held.get(name, {}).get("methods", {}))
    results["bias_law"] = bias_law(args)
    path = write("proximal_samplers", args.results, settings, results, torch.device("cpu"))
    picture(results, figure(args, "proximal_samplers.png"))
    return path


if __name__ == "__main__":
    main()
