"""Does a generator that is trained on persistent targets learn faster, and better, than WGAN? The experiment of Malik and Huang (2024).

Every run is W1-FE-LP with K generator updates a step: toward the targets of forward Euler, or as the naive control, against the
critic evaluated again. K = 1 is WGAN-LP in both. W1 and W2 between 512 fixed latents and 512 fixed points of the target, by exact
transport; seconds are CPU time of the training alone. A run is kept when it is done, and the same call goes on with the others.
"""

import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._record import figure, parser, write
from benchmarks.w1_fe._w1_fe_toys import PROBLEMS, ResidualGenerator, critic
from wgflow import W1, Callback, Particles, Save, SquaredW2, presets

Method = tuple[int, str | None]
METHODS: list[Method] = [(1, None), (3, None), (5, None), (10, None), (3, "naive"), (5, "naive"), (10, "naive")]
NEAR = 0.25
"""A distance W1 that counts as having learned the target; the start is at 0.94 (ring) and 1.0 (four Gaussians)."""


def label(method: Method) -> str:
    k, control = method
    return f"K = {k}, naive control" if control else f"K = {k}" + (" (WGAN-LP)" if k == 1 else "")


class Watch(Callback):
    """Distances to the target every so many steps, with the CPU time that the training has taken until then."""

    def __init__(self, problem: str, every: int, points: int) -> None:
        source, target = PROBLEMS[problem]
        rng = torch.Generator().manual_seed(1)
        self.z, self.y = source.draw(points, rng).x, target.draw(points, rng)
        self.every, self.path, self.work, self.realised = every, [], 0.0, []

    def look(self, run: Any) -> None:
        self.work += time.process_time() - self.begun if self.path else 0.0
        with torch.no_grad():
            x = Particles(run.state.present.inference().apply((self.z,)))
        batch = len(self.z)
        row = {
            "k": run.state.k,
            "seconds": self.work,
            "w1": float(W1(self.y, batch).value(x)),
            "w2": float(SquaredW2(self.y, batch).value(x)) ** 0.5,
        }
        if self.realised:
            row["realised"] = float(np.mean(self.realised))
        self.path.append(row)
        self.realised, self.begun = [], time.process_time()

    def on_start(self, run: Any) -> None:
        self.look(run)

    def on_step(self, run: Any, row: dict[str, Any]) -> None:
        self.realised.append(row["regression/realised"])
        if run.state.k % self.every == 0 or run.state.k == run.num_steps:
            self.look(run)


def train(problem: str, method: Method, seed: int, args: Any) -> list[dict[str, float]]:
    """Return what was seen along one run."""
    source, target = PROBLEMS[problem]
    flow = presets.w1_fe(
        *(target, source, lambda: ResidualGenerator(args.width), lambda: critic(args.width)),
        persistent=method[0],
        control=method[1],
        step_size=args.step_size,
        num_steps=args.iterations,
        batch=args.batch,
    )
    watch = Watch(problem, args.every, args.points)
    flow.solve(seed=seed, save=Save(0), callbacks=[watch])
    return watch.path


def floor(problem: str, points: int, draws: int = 10) -> dict[str, float]:
    """Return the distances between independent draws of the target: less is not to be had."""
    rng, target = torch.Generator().manual_seed(2), PROBLEMS[problem][1]
    found = []
    for _ in range(draws):
        x, y = target.draw(points, rng), target.draw(points, rng)
        found.append((float(W1(y, points).value(x)), float(SquaredW2(y, points).value(x)) ** 0.5))
    (w1, w2), (s1, s2) = np.mean(found, 0), np.std(found, 0, ddof=1)
    return {"w1": float(w1), "w1_std": float(s1), "w2": float(w2), "w2_std": float(s2)}


def summary(runs: Sequence[list[dict[str, float]]]) -> dict[str, Any]:
    """Return means and spreads over seeds: at the end, over the last fifth of a run, and when it first came near."""
    ends = {key: [path[-1][key] for path in runs] for key in ("w1", "w2", "seconds", "realised")}
    late = [np.mean([r["w1"] for r in path[-max(len(path) // 5, 1) :]]) for path in runs]
    near = [next((r for r in path if r["w1"] < NEAR), None) for path in runs]
    found: dict[str, Any] = {"seeds": len(runs), "late_w1": float(np.mean(late)), "late_w1_std": _std(late)}
    for key, values in ends.items():
        found |= {f"end_{key}": float(np.mean(values)), f"end_{key}_std": _std(values)}
    found["near_iterations"] = None if None in near else float(np.median([r["k"] for r in near if r]))
    found["near_seconds"] = None if None in near else float(np.median([r["seconds"] for r in near if r]))
    return found


def _std(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def table(results: dict[str, Any]) -> str:
    lines = []
    for problem, of in results["problems"].items():
        low = of["floor"]
        lines.append(f"{problem}: between draws of the target W1 {low['w1']:.3f} ± {low['w1_std']:.3f}")
        lines.append(f"  {'method':22}{'seeds':>6}{'W1 at the end':>16}{'W1, last fifth':>16}{'W2 at the end':>16}")
        lines[-1] += f"{'below ' + str(NEAR) + ' at':>15}{'CPU s':>8}{'realised':>10}"
        for name, m in of["methods"].items():
            pm = lambda key, m=m: f"{m[key]:.3f}" + (f" ± {m[key + '_std']:.3f}" if m[key + "_std"] else "")  # noqa: E731
            near = "never in some" if m["near_iterations"] is None else f"{m['near_iterations']:.0f}"
            lines.append(
                f"  {name:22}{m['seeds']:>6}{pm('end_w1'):>16}{pm('late_w1'):>16}{pm('end_w2'):>16}{near:>15}"
                f"{m['end_seconds']:>8.0f}{m['end_realised']:>10.3f}"
            )
    return "\n".join(lines)


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot W1 against iterations and against CPU time, with the range over seeds."""
    from matplotlib.figure import Figure

    problems = results["problems"]
    drawing = Figure(figsize=(9.5, 3.2 * len(problems)), layout="constrained")
    axes = drawing.subplots(len(problems), 2, squeeze=False, sharey="row")
    colours = {1: "0.2", 3: "C0", 5: "C1", 10: "C3"}
    for row, (problem, of) in zip(axes, problems.items(), strict=True):
        for (k, control), (name, m) in zip(map(tuple, of["order"]), of["methods"].items(), strict=True):
            style = {"color": colours.get(k, "C4"), "linestyle": ":" if control else "-", "linewidth": 1.3}
            paths = m["paths"]
            values = np.array([[r["w1"] for r in p] for p in paths])
            for ax, key in zip(row, ("k", "seconds"), strict=True):
                at = np.mean([[r[key] for r in p] for p in paths], 0)
                ax.semilogy(at, values.mean(0), label=name, **style)
                if not control:
                    ax.fill_between(at, values.min(0), values.max(0), color=style["color"], alpha=0.12, linewidth=0)
        for ax in row:
            ax.axhline(of["floor"]["w1"], color="0.6", linewidth=0.8)
            ax.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(f"{problem}: $W_1$")
    axes[-1, 0].set_xlabel("iterations")
    axes[-1, 1].set_xlabel("CPU seconds of the training")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--name", default="w1_fe", help="of the record: another one for other settings")
    options.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--persistent", type=int, nargs="*", help="levels K; all of them when left out")
    options.add_argument("--iterations", type=int, default=5000)
    options.add_argument("--batch", type=int, default=512)
    options.add_argument("--step-size", type=float, default=1.0)
    options.add_argument("--every", type=int, default=100, help="iterations between two looks")
    args = options.parse_args(argv)
    args.width, args.points = 128, 512
    if args.quick:
        args.iterations, args.batch, args.every, args.width, args.points, args.seeds = 4, 16, 2, 8, 16, 2
    torch.set_num_threads(args.threads)
    methods = METHODS
    if args.persistent is not None:
        methods = [(k, c) for k in args.persistent for c in (None, "naive") if (k, c) != (1, "naive")]
    decisive = ("iterations", "batch", "step_size", "every", "width", "points")
    settings = {key: vars(args)[key] for key in decisive} | {
        "critic": "LP, weight 10, 5 updates a step, Adam 5e-4 (0.9, 0.999)",
        "generator": "Adam 1e-4 (0.9, 0.999); scored in evaluation mode",
    }
    path = args.results / f"{args.name}.json"
    done = earlier(path, settings)
    for seed, problem, method in itertools.product(range(args.seeds), args.problems, methods):
        name = f"{problem} | {label(method)} | {seed}"
        if name not in done:
            done[name] = train(problem, method, seed, args)
            path = write(args.name, args.results, settings, gathered(done, args.points), torch.device("cpu"))
            print(name, f"W1 {done[name][-1]['w1']:.3f}", f"{done[name][-1]['seconds']:.0f} s", flush=True)
    results = gathered(earlier(path, settings), args.points)
    record = json.loads(path.read_text())  # a record that is only looked at keeps its machine and its commit
    path.write_text(json.dumps(record | {"results": results}, indent=1, ensure_ascii=False) + "\n")
    draw(results, figure(args, f"{args.name}.png"))
    print(table(results))
    return path


def earlier(path: Path, settings: dict[str, Any]) -> dict[str, list[dict[str, float]]]:
    """Return the runs of a record; none where there is none, and refuse one with other settings."""
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    if record["settings"] != settings:
        raise SystemExit(f"{path} holds runs with other settings: give this one another --name")
    problems = record["results"]["problems"]
    return {
        f"{problem} | {name} | {seed}": run
        for problem, of in problems.items()
        for name, m in of["methods"].items()
        for seed, run in zip(m["of_seeds"], m["paths"], strict=True)
    }


def gathered(done: dict[str, list[dict[str, float]]], points: int) -> dict[str, Any]:
    """Return all runs by problem and method, with their summaries."""
    problems: dict[str, Any] = {}
    for name, run in done.items():
        problem, method, seed = name.split(" | ")
        of = problems.setdefault(problem, {"floor": floor(problem, points), "methods": {}})
        m = of["methods"].setdefault(method, {"of_seeds": [], "paths": []})
        m["of_seeds"].append(int(seed))
        m["paths"].append(run)
    for of in problems.values():
        of["methods"] = {name: summary(m["paths"]) | m for name, m in sorted(of["methods"].items(), key=_order)}
        of["order"] = [_parsed(name) for name in of["methods"]]
    rows = [
        {"problem": problem, "method": name, "floor": of["floor"]["w1"]}
        | {key: value for key, value in m.items() if key not in ("paths", "of_seeds")}
        for problem, of in problems.items()
        for name, m in of["methods"].items()
    ]
    return {"rows": rows, "problems": problems}


def _parsed(name: str) -> Method:
    return int(name.split()[2].rstrip(",")), "naive" if "naive" in name else None


def _order(item: tuple[str, Any]) -> tuple[bool, int]:
    k, control = _parsed(item[0])
    return control is not None, k


if __name__ == "__main__":
    main()
