"""How close do flows come to a Gaussian mixture in up to 32 dimensions, and what do they cost? The experiment of Mokrov et al. (2021).

Chains of maps are scored by the densities that they carry, particles by the masses of the components and by distances to
fresh draws of the target, beside what exact draws score; no density is estimated with kernels. Seconds are of the flow alone.
"""

import argparse
import itertools
import json
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._record import ROOT, parser, write
from benchmarks.mixtures._mixture_methods import QUICK, Method, Size, methods
from benchmarks.mixtures._mixture_suite import (
    PUBLISHED,
    PUBLISHED_ENERGY,
    SETTINGS,
    Progression,
    density_errors,
    mass_errors,
    sample_errors,
    target,
)
from wgflow import KL, Diverged, Evaluate, Particles, Save, Unsupported, solve
from wgflow.bench.records.gaussian_mixtures import table
from wgflow.maps import NeuralODE
from wgflow.measures.chain import Chain

MASSES = "a lower bound: KL of the masses of Langevin"
RUNS = {2: 5, 4: 3, 6: 2, 8: 2, 10: 1, 12: 1, 32: 1}


def run(method: Method, d: int, number: int, args: argparse.Namespace) -> dict[str, Any]:
    """Run a method on one target; return its scores, its seconds a step and what was seen on the way."""
    pi = target(d, number)
    seed = zlib.crc32(f"{method.label} {d} {number}".encode())
    rng = torch.Generator().manual_seed(seed)
    seen, (step_size, callbacks) = Progression(pi, args.points), method.pace()
    evaluate = Evaluate([seen], every=method.every)
    begun = time.process_time()
    try:
        flow = solve(
            KL(pi),
            method.solver,
            method.start(rng),
            step_size=step_size,
            num_steps=method.steps,
            seed=seed,
            save=Save(0),
            callbacks=[evaluate, *callbacks],
        )
    except Diverged as error:
        return {"run": number, "failed": str(error)}
    seconds = time.process_time() - begun - seen.seconds
    path = [{"t": 0.0} | evaluate.initial, *({"t": r["t"]} | _known(r) for r in flow.history if "mass_tv" in r)]
    found = {"run": number, "steps": flow.state.k, "time": flow.state.t, "seconds": seconds, "path": path}
    rho = flow.measure
    if isinstance(rho, Chain):
        for T in rho.maps:
            if isinstance(
                T, NeuralODE
            ):  # the law is that of the exact flow of its fields, not of the coarse steps of the training
                T.method, T.steps = "rk4", 2
        try:
            found |= density_errors(rho, pi, args.points, rng)
        except Unsupported as error:
            found["failed"] = str(error)
    with torch.no_grad():
        x = rho.x if isinstance(rho, Particles) else rho.inference().draw(10 * args.points, rng).x
    return found | mass_errors(pi, x) | sample_errors(x, pi, 4 * args.points, rng)


def _known(row: dict[str, Any]) -> dict[str, float]:
    return {key: row[key] for key in ("kl", "mass_kl", "mass_tv") if key in row}


def summary(label: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of the scores over the runs, of the symmetric KL that of its logarithm, with the runs themselves."""
    done = [r for r in runs if "mass_tv" in r]
    keys = sorted({key for r in done for key, value in r.items() if isinstance(value, float)})
    found: dict[str, Any] = {key: float(np.mean([r[key] for r in done if key in r])) for key in keys}
    if done:
        found["steps"] = float(np.mean([r["steps"] for r in done]))
        found["seconds_per_step"] = found["seconds"] / found["steps"]
    scores = [r["symkl"] for r in done if r.get("symkl", 0) > 0]
    found["log10_symkl"] = float(np.mean(np.log10(scores))) if scores else None
    return {"label": label, "runs": len(done), "failed": len(runs) - len(done), **found, "all": list(runs)}


def published(d: int, runs: int) -> list[dict[str, Any]]:
    """Return the published rows of a dimension: the means over the first targets, and over all of them where these are not all."""
    found = []
    for label, scores in PUBLISHED.items():
        energies = PUBLISHED_ENERGY.get(label, {})
        for n in dict.fromkeys((min(runs, 5), 5) if d in scores else ()):
            row: dict[str, Any] = {"label": label, "runs": n, "log10_symkl": float(np.mean(np.log10(scores[d][:n])))}
            found.append(row | ({"energy_distance": float(np.mean(energies[d][:n]))} if d in energies else {}))
    return found


def earlier(path: Path, settings: dict[str, Any]) -> dict[tuple[int, str, int], dict[str, Any]]:
    """Return the runs of a record by dimension, method and target; none if it was made with other settings."""
    record = json.loads(path.read_text()) if path.exists() else None
    same = ("size", "points", "quick", "threads")
    if record is None or any(record["settings"][key] != settings[key] for key in same):
        return {}
    suites = record["results"]["suites"]
    return {(s["d"], row["label"], r["run"]): r for s in suites for row in s["rows"] for r in row["all"]}


def draw(suites: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot KL and the error of the masses against time, a column a dimension, for the first target of each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * max(len(suites), 3), 5.6), layout="constrained")
    axes = figure.subplots(2, len(suites), squeeze=False, sharex="col")
    for column, suite in enumerate(suites):
        axes[0, column].set_title(f"d = {suite['d']}", fontsize=9)
        for i, row in enumerate(suite["rows"]):
            trace = next((r["path"] for r in row["all"] if "path" in r), [])
            style = {"color": f"C{i}", "linewidth": 1.2, "marker": "os^vD*Px"[i % 8], "markersize": 3}
            for ax, key in zip(axes[:, column], ("kl", "mass_tv"), strict=True):
                points = [(r["t"], r[key]) for r in trace if key in r]
                if points:
                    ax.plot(*zip(*points, strict=True), **style, label=row["label"])
            bound = [(r["t"], r["mass_kl"]) for r in trace if "kl" not in r and r["t"] > 0.5]
            if bound and row["label"].startswith("Langevin, "):
                axes[0, column].plot(
                    *zip(*bound, strict=True), color=f"C{i}", linestyle=":", linewidth=1.6, label=MASSES
                )
        axes[0, column].set_yscale("log")
        axes[1, column].set_ylim(bottom=0)
        # One method goes on until it is flat, four times as long as the others.
        axes[1, column].set_xscale("function", functions=(lambda t: t.clip(0) ** 0.5, lambda s: s**2))
        axes[1, column].set_xticks([t for t in (0, 1, 2, 4, 8, 16) if t <= axes[1, column].get_xlim()[1]])
        axes[1, column].set_xlabel("time, on a scale of square roots", fontsize=8)
    axes[0, 0].set_ylabel("KL to the target", fontsize=8)
    axes[1, 0].set_ylabel("total variation of the masses", fontsize=8)
    for ax in axes.flat:
        ax.tick_params(labelsize=7, which="both")
        ax.spines[["top", "right"]].set_visible(False)
    known = [axes[i, 0].get_legend_handles_labels() for i in (1, 0)]
    named = {label: handle for handles, labels in known for handle, label in zip(handles, labels, strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument(
        "--dims", type=int, nargs="*", default=[2, 6, 12, 32], help=f"of {', '.join(map(str, SETTINGS))}"
    )
    options.add_argument("--runs", type=int, nargs="*", help=f"targets of every dimension; of {RUNS} when left out")
    options.add_argument("--points", type=int, default=1000, help="fresh points that score a density")
    options.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "gaussian_mixtures.png")
    options.add_argument(
        "--resume", action="store_true", help="take the runs that the record holds, if its settings are these"
    )
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    size = Size()
    if args.quick:
        size, args.dims, args.runs, args.points = QUICK, args.dims[:1], [1], 50
        args.figure = args.results / args.figure.name
    counts = dict(zip(args.dims, args.runs or [RUNS[d] for d in args.dims], strict=True))
    settings = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if key not in ("results", "figure", "resume", "runs")
    } | {"runs_asked": counts, "size": vars(size)}
    done = earlier(args.results / "gaussian_mixtures.json", settings) if args.resume else {}
    for method in methods(args.dims[0], QUICK):  # imports and first calls are not the methods'
        run(method, args.dims[0], 0, args)
    found: dict[int, dict[str, list[dict[str, Any]]]] = {d: {} for d in args.dims}
    # One target of every dimension first, and a record after every run: one that is cut short has all dimensions.
    for number, d in itertools.product(range(max(counts.values())), args.dims):
        if number >= counts[d]:
            continue
        for method in methods(d, size):
            result = done.get((d, method.label, number)) or run(method, d, number, args)
            found[d].setdefault(method.label, []).append(result)
            suites = [
                {"d": d, "rows": [summary(*row) for row in rows.items()], "published": published(d, len(first))}
                for d, rows in found.items()
                for first in list(rows.values())[:1]
            ]
            path = write("gaussian_mixtures", args.results, settings, {"suites": suites}, torch.device("cpu"))
            print(f"d = {d}, target {number}: {method.label}", flush=True)
        draw(suites, args.figure)
    print(table(json.loads(path.read_text())))
    return path


if __name__ == "__main__":
    main()
