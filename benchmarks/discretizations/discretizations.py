"""How close does each time discretization stay to the true flow, and what does it cost? Flows with known solutions, side by side.

Every row of a flow runs with several numbers of steps over the same time. Its error is that of the law at the end against the exact
flow, relative to the distance between start and end; the order is the slope of log error against log step size, over errors above
three times the sampling floor. Evaluations are of the functional with its gradient; for grids, scaling iterations.
"""

import argparse
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._record import Clock, figure, parser, peak_memory_mb, reset_peak, write
from benchmarks.discretizations._cost_in_k import cost_in_k
from benchmarks.discretizations._flow_problems import problems
from benchmarks.discretizations._flow_rows import Method, Problem
from wgflow import Autograd, Critic, Diverged, Save, solve
from wgflow.bench.records.discretizations import table
from wgflow.estimators.entropic import EntropyEstimator

UNSTABLE = 3.0
"""A relative error from which a run counts as unstable."""


class Evaluations:
    """Counts what estimators are asked for."""

    count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the surrogates that are made meanwhile: each stands for one evaluation of the functional."""
        kept = {cls: cls.surrogate for cls in (Autograd, Critic, EntropyEstimator)}

        def counting(original: Any) -> Any:
            def surrogate(estimator: Any, *arguments: Any) -> Any:
                self.count += 1
                return original(estimator, *arguments)

            return surrogate

        try:
            for cls, original in kept.items():
                cls.surrogate = counting(original)  # type: ignore[method-assign]
            yield
        finally:
            for cls, original in kept.items():
                cls.surrogate = original  # type: ignore[method-assign]


def run(method: Method, horizon: float, steps: int, device: torch.device) -> dict[str, float | None]:
    """Run one method with one step size; the error is the root mean square over its seeds."""
    h, clock, counter = horizon / steps, Clock(device), Evaluations()
    squares, seconds = [], []
    reset_peak(device)
    before = peak_memory_mb(device)
    for seed in range(method.seeds):
        begun = clock()[0]
        with counter.counted():
            try:
                flow = solve(
                    method.F, method.solver(h), method.start, step_size=h, num_steps=steps, seed=seed, save=Save(0)
                )
            except Diverged:
                return {"error": None, "evaluations": None, "seconds": None, "extra_mb": None}
        seconds.append(clock()[0] - begun)
        squares.append(method.error(flow.measure) ** 2)
        counter.count += round(sum(row.get("entropic/iterations", 0) for row in flow.history))
    after = peak_memory_mb(device)
    error = math.sqrt(sum(squares) / len(squares))
    return {
        "error": error if error < UNSTABLE else None,
        "evaluations": counter.count / method.seeds or None,
        "seconds": min(seconds),
        "extra_mb": None if before is None or after is None else after - before,
    }


def order(horizon: float, steps: Sequence[int], errors: Sequence[float | None], floor: float) -> float | None:
    """Return the slope of log error against log h where errors are above the floor; None for fewer than two of them."""
    pairs = [(horizon / k, e) for k, e in zip(steps, errors, strict=True) if e is not None and e > max(3 * floor, 1e-8)]
    if len(pairs) < 2:
        return None
    h, e = np.log(np.array(pairs)).T
    return float(np.polyfit(h, e, 1)[0])


def measure(problem: Problem, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Run all methods of a flow."""
    rows = []
    counts = problem.steps[:2] if args.quick else problem.steps
    for method in problem.methods:
        steps = [k for k in counts if method.steps is None or k in method.steps]
        h = problem.horizon / steps[0]
        run(replace(method, seeds=1), h, 1, device)  # warm-up: imports and allocations are not the method's
        found = [run(method, problem.horizon, k, device) for k in steps]
        errors = [f["error"] for f in found]
        rows.append(
            {
                "label": method.label,
                "points": method.points,
                "steps": steps,
                "errors": errors,
                "order": order(problem.horizon, steps, errors, method.floor),
                "floor": method.floor,
                "evaluations_per_step": _per_step(found, "evaluations", steps),
                "seconds": [f["seconds"] for f in found],
                "seconds_per_step": _per_step(found, "seconds", steps),
                "extra_mb": max((f["extra_mb"] for f in found if f["extra_mb"] is not None), default=None),
            }
        )
        print(f"{problem.name}, d = {problem.d}: {method.label}", flush=True)
    return {
        "name": problem.name,
        "d": problem.d,
        "horizon": problem.horizon,
        "steps": list(counts),
        "methods": rows,
    }


def _per_step(found: Sequence[dict[str, Any]], key: str, steps: Sequence[int]) -> list[float | None]:
    return [None if f[key] is None else f[key] / k for f, k in zip(found, steps, strict=True)]


def draw(flows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot errors against step size (above) and against seconds (below), a column a flow."""
    from matplotlib.figure import Figure

    shown = [f for f in flows if f["name"] != "quadratic attraction"]
    labels = list(dict.fromkeys(_short(r["label"]) for f in shown for r in f["methods"]))
    style = {
        label: {
            "color": f"C{i % 10}",
            "marker": "os^vD*"[i % 6],
            "linestyle": ("-", "--", ":")[i // 10],
            "linewidth": 1.1,
            "markersize": 4,
        }
        for i, label in enumerate(labels)
    }
    across = min(5, len(shown))
    down = -(-len(shown) // across)
    picture = Figure(figsize=(2.9 * across, 5.6 * down + 1), layout="constrained")
    axes = picture.subplots(2 * down, across, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for i, flow in enumerate(shown):
        above, below = axes[2 * (i // across), i % across], axes[2 * (i // across) + 1, i % across]
        for row in flow["methods"]:
            kept = [
                (flow["horizon"] / k, s, e)
                for k, s, e in zip(row["steps"], row["seconds"], row["errors"], strict=True)
                if e is not None and e > 0
            ]
            if not kept:
                continue
            h, seconds, error = zip(*kept, strict=True)
            above.loglog(h, error, **style[_short(row["label"])])
            below.loglog(seconds, error, **style[_short(row["label"])])
        above.set_title(f"{flow['name']}, d = {flow['d']}", fontsize=9)
        sizes = [flow["horizon"] / k for k in flow["steps"]]
        above.set_xticks(sizes, [f"{h:g}" for h in sizes])
        above.set_xticks([], minor=True)
        for ax, label in ((above, "step size"), (below, "seconds")):
            ax.set_axis_on()
            ax.set_xlabel(label, fontsize=8)
            ax.tick_params(labelsize=7, which="both")
            ax.spines[["top", "right"]].set_visible(False)
            if i % across == 0:
                ax.set_ylabel("relative error", fontsize=8)
    handles = [axes[0, 0].plot([], [], label=label, **s)[0] for label, s in style.items()]
    picture.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=150)


def _short(label: str) -> str:
    """One name for a method whatever its number of points."""
    words = re.sub(r", exact \w+|, \d+ (cells a side|particles)| of particles", "", label)
    return re.sub(r" of \d+ quantiles", " of quantiles", words)


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--steps", type=int, default=384, help="JKO steps K of the comparison of S-JKO with chains")
    options.add_argument("--updates", type=int, default=1, help="updates in one of them")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--width", type=int, default=128, help="of its networks")
    options.add_argument("--buffer", type=int, default=2048, help="particles of its cached chain")
    args = options.parse_args(argv)
    if args.quick:
        args.steps, args.updates, args.batch, args.width, args.buffer = 4, 2, 16, 16, 32
    torch.set_num_threads(args.threads)
    device = torch.device("cpu")  # the flows are small; on a GPU one would measure launches
    flows = [measure(problem, args, device) for problem in problems(args.quick)]
    results = {"flows": flows, "cost_in_k": cost_in_k(args, device)}
    draw(flows, figure(args, "discretizations.png"))
    settings = {k: v for k, v in vars(args).items() if k not in ("results", "device", "threads")}
    settings["clock"] = Clock(device).name
    path = write("discretizations", args.results, settings, results, device)
    print(table(json.loads(path.read_text())))
    return path


if __name__ == "__main__":
    print(main())
