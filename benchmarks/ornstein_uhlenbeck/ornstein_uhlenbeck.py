"""How close does JKO by networks come to exact JKO steps? The Ornstein–Uhlenbeck suite of Mokrov et al. (2021).

From N(0, I) towards N(b, S), 15 targets a dimension, steps of 0.05; scored at times 0.5 and 0.9 by log10 of the symmetric KL to the
exact law. All laws are Gaussian, so the scores of exact JKO steps, of forward Euler and of Langevin are formulas: no solver of JKO steps
can be expected below the first. The settings of the trained rows were chosen on targets numbered from 100 on, which are not
scored here. The record is written after every flow; `--resume` takes over the flows that a record has.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._record import figure, parser, write
from benchmarks.ornstein_uhlenbeck._mokrov import seconds_per_iteration
from benchmarks.ornstein_uhlenbeck._ou_methods import METHODS, Method, iteration_seconds, run
from benchmarks.ornstein_uhlenbeck._ou_suite import PUBLISHED, TARGETS, TIMES, H, exact_rows, recursion, target
from wgflow.bench.records.ornstein_uhlenbeck import table
from wgflow.reference import OrnsteinUhlenbeck

DIMS = (2, 4, 6, 10)


@functools.cache
def floor(d: int, number: int) -> dict[str, float | None]:
    """Return the scores of the exact JKO iterates for one target."""
    return recursion(d, OrnsteinUhlenbeck.jko, H, [number])


def row(method: Method, d: int, runs: dict[str, Any]) -> dict[str, Any]:
    """Return the means over the targets that have been run."""
    numbers = sorted(int(n) for n in runs)
    times = [f"{t:g}" for t in TIMES]
    scores = {t: [runs[str(n)]["log10_symkl"][t] for n in numbers] for t in times}
    above = {t: [runs[str(n)]["log10_symkl"][t] - floor(d, n)[t] for n in numbers] for t in times}
    return {
        "label": method.label,
        "shaped": method.shaped,
        "targets_run": len(numbers),
        "log10_symkl": {t: float(np.mean(v)) for t, v in scores.items()},
        "above_exact_jko": {t: float(np.mean(v)) for t, v in above.items()},
        "spread_above_exact_jko": {t: float(np.std(v)) for t, v in above.items()},
        "seconds_per_step": float(np.mean([np.mean(runs[str(n)]["seconds"]) for n in numbers])),
    }


def cost_of_step(method: Method, d: int, runs: dict[str, Any]) -> dict[str, Any]:
    """Return how the seconds of a step go with its number, medians over targets.

    The slope is of seconds an evaluation of the objective: a minimiser may need more of them here than there. The first step
    is left out: it starts at the identity, not at the map before.
    """
    seconds = np.median([r["seconds"] for r in runs.values()], axis=0)[1:]
    each = np.median([np.divide(r["seconds"], r["evaluations"]) for r in runs.values()], axis=0)[1:]
    slope = np.polyfit(np.arange(len(each)), each, 1)[0] * (len(each) - 1)
    return {
        "label": method.label,
        "d": d,
        "median_seconds": list(seconds),
        "median_seconds_an_evaluation": list(each),
        "second": float(seconds[0]),
        "last": float(seconds[-1]),
        "slope_percent": float(100 * slope / each.mean()),
    }


def collect(runs: dict[str, Any], dims: Sequence[int], exact: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the results as far as there are any."""
    found = {
        d: [(m, runs[m.label][str(d)]) for m in METHODS if str(d) in runs.get(m.label, {})] for d in dims
    }  # fmt: skip
    return {
        "times": [f"{t:g}" for t in TIMES],
        "dims": [{"d": d, "rows": exact[d] + [row(m, d, r) for m, r in found[d]]} for d in dims],
        "cost_of_step": [cost_of_step(m, d, r) for d in dims for m, r in found[d] if m.cached],
    }


def peer(clone: Path | None, dims: Sequence[int], quick: bool) -> list[dict[str, Any]]:
    """Return seconds of an iteration of the public code, and of ours with layers as wide and as used here, same batch."""
    if clone is None:
        print("--mokrov not given: the public code is not timed")
        return []
    batch, iters, last = (64, 1, 2) if quick else (1024, 10, round(max(TIMES) / H))
    found = []
    for d in dims:
        theirs = [seconds_per_iteration(clone, d, maps=maps, iters=iters, batch=batch) for maps in (0, last - 1)]
        same, used = (
            iteration_seconds(d, width=width, depth=depth, batch=batch, iters=10 * iters)
            for width, depth in ((64, 2), (32, 1))
        )
        found.append({"d": d, "batch": batch, "last": last, "theirs_first": theirs[0], "theirs_last": theirs[1]})
        found[-1] |= {"ours": same, "ours_as_used": used}
    return found


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot scores against the dimension, a panel a time."""
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(r["label"] for block in results["dims"] for r in block["rows"]))
    labels = [label for label in labels if not label.startswith("Langevin")]  # far below, but for its particles
    ours = [m.label for m in METHODS]
    style = {label: _style(label, ours) for label in labels}
    picture = Figure(figsize=(10.5, 5.2), layout="constrained")
    axes = picture.subplots(1, len(results["times"]), sharey=True, squeeze=False)[0]
    for ax, t in zip(axes, results["times"], strict=True):
        for label in labels:
            points = [
                (block["d"], r["log10_symkl"][t])
                for block in results["dims"]
                for r in block["rows"]
                if r["label"] == label and r["log10_symkl"].get(t) is not None
            ]
            if points:
                ax.plot(*zip(*points, strict=True), **style[label])
        ax.set_title(f"t = {t}", fontsize=10)
        ax.set_xlabel("dimension", fontsize=9)
        ax.set_xticks([block["d"] for block in results["dims"]])
        ax.set_ylim(-4.5, 1.0)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mean log10 of the symmetric KL to the exact law", fontsize=9)
    few = {
        r["label"]: f" ({r['targets_run']} targets)"
        for block in results["dims"]
        for r in block["rows"]
        if r.get("targets_run", TARGETS) < TARGETS
    }
    handles = [axes[0].plot([], [], label=label + few.get(label, ""), **s)[0] for label, s in style.items()]
    picture.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=150)


def _style(label: str, ours: Sequence[str]) -> dict[str, Any]:
    """Return colours for what is run here, grey for published rows, black for formulas, the floor as a broad band."""
    if label in ours:
        i = ours.index(label)
        return {"color": f"C{i}", "marker": "os^vDP"[i % 6], "linewidth": 1.6, "markersize": 5}
    if label in PUBLISHED:
        mark = "osvD"[list(PUBLISHED).index(label) % 4]
        return {"color": "0.6", "linestyle": "--", "marker": mark, "linewidth": 1.0, "markersize": 4}
    if label.startswith("exact JKO"):
        return {"color": "0.8", "linewidth": 7, "zorder": 1}
    dashes = {"forward Euler": ":", "forward-backw": "-."}
    return {"color": "black", "linestyle": dashes.get(label[:13], (0, (6, 4))), "linewidth": 1.2}


def taken_over(args: argparse.Namespace) -> dict[str, Any]:
    """Return the flows of the record that is there, of the methods that are still what they were."""
    path = args.results / "ornstein_uhlenbeck.json"
    if not args.resume or not path.exists():
        return {}
    record = json.loads(path.read_text())
    old = record["settings"]
    if old["quick"] != args.quick or old["points"] != args.points:
        return {}
    kept = {m.label for m in METHODS if old["methods"].get(m.label) == m.settings}
    return {label: runs for label, runs in record["results"]["runs"].items() if label in kept}


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--dims", type=int, nargs="+", default=list(DIMS))
    options.add_argument("--points", type=int, default=8192, help="draws of each law that score a chain")
    options.add_argument("--mokrov", type=Path, help="a copy of the public code of the paper, to be timed")
    options.add_argument("--resume", action="store_true", help="go on from the record in the folder of results")
    args = options.parse_args(argv)
    if args.quick:
        args.dims, args.points = args.dims[:1], 64
    torch.set_num_threads(args.threads)
    device = torch.device("cpu")  # the networks are small; on a GPU one would measure launches
    runs = taken_over(args)
    settings = {k: v for k, v in vars(args).items() if k not in ("results", "device", "threads", "mokrov", "resume")}
    settings |= {"h": H, "methods": {m.label: m.settings for m in METHODS}, "settings_chosen_on": "targets 100 and 101"}
    exact = {d: exact_rows(d) for d in args.dims}
    timed = peer(args.mokrov, sorted({min(args.dims), max(args.dims)}), args.quick)

    def save() -> Path:
        results = collect(runs, args.dims, exact) | {"mokrov": timed, "runs": runs}
        return write("ornstein_uhlenbeck", args.results, settings, results, device)

    path = save()
    for method in METHODS:
        for n in range(1 if args.quick else TARGETS):
            for d in (d for d in args.dims if n < method.targets.get(d, 0)):
                done = runs.setdefault(method.label, {}).setdefault(str(d), {})
                if str(n) not in done:
                    done[str(n)] = found = run(method, d, target(d, n), n, args.points, args.quick)
                    path = save()
                    print(f"d = {d}, target {n}: {method.label}", found["log10_symkl"], flush=True)
    record = json.loads(path.read_text())
    draw(record["results"], figure(args, "ornstein_uhlenbeck.png"))
    print(table(record))
    return path


if __name__ == "__main__":
    print(main())
