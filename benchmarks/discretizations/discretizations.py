"""How close does each time discretization stay to the true flow, and what does it cost? Flows with known solutions, side by side.

Every row of a flow runs with several numbers of steps over the same time, by ``wgflow.bench``. Its error is that of the law at the end
against the exact flow, relative to the distance between start and end; the order is the slope of log error against log step size, over
errors above three times the sampling floor. Evaluations are of the functional with its gradient; for grids, scaling iterations.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks._record import Clock, figure, parser, write
from benchmarks.discretizations._cost_in_k import cost_in_k
from benchmarks.discretizations._flow_figures import draw
from benchmarks.discretizations._flow_problems import problems
from benchmarks.discretizations._flow_rows import Case
from wgflow.bench import Result, compare
from wgflow.bench.records.discretizations import table

SEEDS = 3
"""Of the methods with noise."""
ROUNDING = 1e-9
"""A relative floor below is none."""


def measure(case: Case, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Run all methods of a flow."""
    problem, counts = case.problem, case.counts[:2] if args.quick else case.counts
    print(f"{case.name}, d = {case.d}", flush=True)
    found = compare(problem, step_sizes=[problem.horizon / k for k in counts], seeds=1 if args.quick else SEEDS)
    return {
        "name": case.name,
        "d": case.d,
        "horizon": problem.horizon,
        "steps": list(counts),
        "methods": [method_row(found, label) for label in found.methods],
    }


def method_row(found: Result, label: str) -> dict[str, Any]:
    """Return what the record keeps of a method; errors are relative to that of the start, the distance traveled."""
    rows, traveled = found.of(label), found.start_errors[-1]
    assert traveled is not None
    errors = [None if found.unstable(row) or (e := row.error()) is None else e / traveled for row in rows]
    calls = [None if row.gradients is None else (row.gradients + (row.iterations or 0)) / row.steps for row in rows]
    seconds, floor = [row.cpu_seconds for row in rows], max(row.floor for row in rows) / traveled
    return {
        "label": label,
        "points": rows[0].points,
        "steps": [row.steps for row in rows],
        "errors": errors,
        "order": found.order(label).value,
        "order_spread": found.order(label).spread,
        "floor": floor if floor > ROUNDING else 0.0,
        "evaluations_per_step": [c or None for c in calls],
        "seconds": seconds,
        "seconds_per_step": [None if s is None else s / row.steps for s, row in zip(seconds, rows, strict=True)],
        "extra_mb": max((row.memory_mb for row in rows if row.memory_mb is not None), default=None),
        "reasons": sorted({row.reason for row in rows} - {""}),
    }


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--steps", type=int, default=384, help="JKO steps K of the comparison of S-JKO with chains")
    options.add_argument("--updates", type=int, default=1, help="updates in one of them")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--width", type=int, default=128, help="of its networks")
    options.add_argument("--buffer", type=int, default=2048, help="particles of its cached chain")
    options.add_argument(
        "--draw", action="store_true", help="draw the figures of the record that is there, and measure nothing"
    )
    args = options.parse_args(argv)
    if args.draw:
        path = args.results / "discretizations.json"
        draw(json.loads(path.read_text())["results"]["flows"], partial(figure, args))
        return path
    if args.quick:
        args.steps, args.updates, args.batch, args.width, args.buffer = 4, 2, 16, 16, 32
    torch.set_num_threads(args.threads)
    device = torch.device("cpu")  # the flows are small; on a GPU one would measure launches
    flows = [measure(problem, args, device) for problem in problems(args.quick)]
    results = {"flows": flows, "cost_in_k": cost_in_k(args, device)}
    draw(flows, partial(figure, args))
    settings = {k: v for k, v in vars(args).items() if k not in ("results", "device", "threads", "draw")}
    settings["clock"] = Clock(device).name
    path = write("discretizations", args.results, settings, results, device)
    print(table(json.loads(path.read_text())))
    return path


if __name__ == "__main__":
    print(main())
