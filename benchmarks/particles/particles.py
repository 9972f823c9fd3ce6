"""The cost of a gradient step of particle flows against plain PyTorch, geomloss, KeOps and POT, at measured accuracy.

Errors are against float64. Methods run side by side, in random order. The largest sizes run alone, each in a fresh
process, where the growth of its resident set is the memory that a step takes.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._record import ROOT, Clock, parser, peak_memory_mb, reset_peak, write
from benchmarks.particles._particle_cases import CASES, Problem, library, reference_value, reference_velocity, value
from benchmarks.particles._peers import METHODS, peer_versions, refused
from benchmarks.particles._transport import exact, sinkhorn, timed

ALL = {case: {"wgflow": library} | peers for case, peers in METHODS.items()}
SAMPLED = 200  # particles whose velocity is compared
FEW = 2000  # up to this many particles values are compared too
# Products of this size are all that a step in many dimensions does: two cases stand for all there.
WIDE, WIDE_CASES = 100 * 10_000**2, ("mmd_rbf", "stein", "sliced")
SHARE = 50  # peers at the largest size do one in so many rows
LONG = 2e9  # products n² d from which KeOps does only a tenth of the rows
# What is run at the largest size, and alone for its memory at the second largest.
LARGE = {"stein": (2,), "mmd_rbf": (2, 64), "sliced": (2, 64, 1000), "energy": (2,), "blob": (2,)}
ALONE = ("mmd_rbf", "stein")


def compare(case: str, n: int, d: int, enough: float, device: torch.device) -> dict[str, Any]:
    """Time all methods of one case side by side, with their errors."""
    found: dict[str, Any] = {"case": case, "n": n, "d": d, "methods": {}, "not_run": {}}
    if n * n * d > WIDE and case not in WIDE_CASES:
        found["not_run"]["all"] = f"too long at d = {d}; {WIDE_CASES} stand for it"
        return found
    problem, steps, shares = Problem.make(case, n, d, device), {}, {}
    for method, make in ALL[case].items():
        reason = refused(case, method, n, d)
        if reason is not None:
            found["not_run"][method] = reason
            continue
        shares[method] = 10 if method == "keops" and n * n * d > LONG else 1
        steps[method] = make(problem, rows=n // 10 if shares[method] > 1 else None)
    seconds, results = timed(steps, enough, device)
    rows = torch.arange(0, n, max(1, n // SAMPLED), device=device)
    velocity = reference_velocity(problem, rows)
    number = reference_value(problem) if n <= FEW else None
    for method, (v, moved) in results.items():
        v = value(problem) if method == "wgflow" and number is not None else v
        some = rows < len(moved)
        error = (moved[rows[some]].double() - velocity[some]).norm() / velocity[some].norm()
        found["methods"][method] = {
            "seconds": float(np.median(seconds[method])) * shares[method],
            "repeats": len(seconds[method]),
            "rows_done": n // shares[method],
            "velocity_error": None if case == "blob" and shares[method] > 1 else float(error),
            "value_error": None if v is None or number is None else abs(float(v) / number - 1),
        }
    return found | rated(found["methods"])


def rated(methods: dict[str, Any]) -> dict[str, Any]:
    """Return how many times the library's seconds the others take, and the fastest of them."""
    ours = methods["wgflow"]["seconds"]
    ratio = {m: r["seconds"] / ours for m, r in methods.items() if m != "wgflow"}
    best = min(ratio, key=ratio.__getitem__, default=None)
    return {"ratio": ratio, "fastest_peer": best, "ratio_to_fastest_peer": None if best is None else ratio[best]}


def alone(case: str, method: str, n: int, d: int, rows: int | None, args: argparse.Namespace) -> dict[str, Any]:
    """Run one step in a fresh process; return its seconds, scaled from ``rows`` to all, its memory and its error."""
    reason = refused(case, method, n, d)
    if reason is not None:
        return {"not_run": reason}
    asked = json.dumps([case, method, n, d, rows])
    call = [sys.executable, __file__, "--one", asked, "--device", args.device, "--threads", str(args.threads)]
    done = subprocess.run(call, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(args.threads)})
    if done.returncode != 0:
        return {"not_run": (done.stderr.strip().splitlines() or ["killed"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def one(case: str, method: str, n: int, d: int, rows: int | None, device: torch.device) -> dict[str, Any]:
    """Do what :func:`alone` asks for."""
    problem, clock = Problem.make(case, n, d, device), Clock(device)
    small = Problem.make(case, 200, d, device)
    ALL[case][method](small)()  # libraries start up and compile
    step = ALL[case][method](problem, rows=rows)
    reset_peak(device)
    before, begun = peak_memory_mb(device), clock()[0]
    _, moved = step()
    seconds, after = clock()[0] - begun, peak_memory_mb(device)
    some = torch.arange(0, rows or n, max(1, (rows or n) // 50), device=device)
    comparable = case != "blob"  # needs the density at all particles, another sweep over all pairs
    reference = reference_velocity(problem, some) if comparable else None
    return {
        "seconds": seconds * (n / rows if rows else 1.0),
        "rows_done": rows or n,
        "memory_mb": None if before is None or after is None else after - before,
        "velocity_error": None
        if reference is None
        else float((moved[some].double() - reference).norm() / reference.norm()),
    }


def large(case: str, n: int, d: int, args: argparse.Namespace) -> dict[str, Any]:
    """Run the library at the largest size, and those peers that can do some of its rows."""
    entry: dict[str, Any] = {"case": case, "n": n, "d": d, "methods": {}, "not_run": {}}
    for method in ALL[case] if not args.quick else ("wgflow", "torch_blocks"):
        # The library always does all of its rows; POT and sorting cannot do some.
        some = None if method == "wgflow" or case == "sliced" else max(1, n // SHARE)
        run = alone(case, method, n, d, some, args)
        entry["not_run" if "not_run" in run else "methods"][method] = run.get("not_run", run)
    return entry | (rated(entry["methods"]) if "wgflow" in entry["methods"] else {})


def memory(n: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the memory of single steps in fresh processes."""
    return [
        {"case": case, "n": n, "d": 2, "method": method} | alone(case, method, n, 2, None, args)
        for case in (ALONE if not args.quick else ALONE[:1])
        for method in (ALL[case] if not args.quick else ("wgflow", "torch"))
    ]


def report(entry: dict[str, Any]) -> None:
    """Print one line."""
    cells = [f"{m} {r['seconds'] * 1e3:.4g} ms ({r['velocity_error'] or 0:.0e})" for m, r in entry["methods"].items()]
    ratio = entry.get("ratio_to_fastest_peer")
    best = f"; {entry['fastest_peer']} takes {ratio:.2f} times ours" if ratio else ""
    print(
        f"{entry['case']:8} n={entry['n']:<7} d={entry['d']:<5}" + ", ".join(cells) + best, entry["not_run"], flush=True
    )


def draw(entries: list[dict[str, Any]], path: Path) -> None:
    """Plot the ratio of every peer to the library against the number of particles, a panel a case."""
    from matplotlib.figure import Figure

    colors = {"torch": "C3", "torch_blocks": "C1", "geomloss": "C4", "keops": "C2", "pot": "C5"}
    names = {
        "torch": "PyTorch, all pairs",
        "torch_blocks": "PyTorch, by rows",
        "geomloss": "geomloss",
        "keops": "KeOps",
    }
    titles = {"mmd_rbf": "MMD, Gaussian kernel", "energy": "energy distance", "stein": "Stein (SVGD)", "blob": "blob"}
    marks = {2: "o-", 64: "s--", 1000: "^:"}
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    *panels, last = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for ax, case in zip(panels, CASES, strict=True):
        for method in METHODS[case]:
            for d, mark in marks.items():
                points = [
                    (e["n"], e["ratio"][method])
                    for e in entries
                    if (e["case"], e["d"]) == (case, d) and method in e.get("ratio", {})
                ]
                if points:
                    ax.loglog(
                        *zip(*sorted(points), strict=True), mark, color=colors[method], markersize=4, linewidth=1.2
                    )
        ax.axhline(1.0, color="black", linewidth=0.8)
        ax.set(title=titles.get(case, "sliced W2, 50 lines"), xlabel="particles")
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize(10)
    for ax in (panels[0], panels[3]):
        ax.set_ylabel("time of a step, in steps of wgflow")
    used = {m for methods in METHODS.values() for m in methods}
    for method in (m for m in colors if m in used):
        last.plot([], [], color=colors[method], label=names.get(method, "POT"))
    for d, mark in marks.items():
        last.plot([], [], mark, color="grey", markersize=4, label=f"d = {d}")
    last.legend(loc="center", frameon=False)
    last.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> Path | None:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="particles, methods side by side")
    options.add_argument("--large", type=int, default=100_000, help="particles of the runs in processes of their own")
    options.add_argument("--dims", type=int, nargs="+", default=[2, 64, 1000])
    options.add_argument("--enough", type=float, default=2.0, help="seconds after which a method is not repeated")
    options.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "particles_peers.png")
    options.add_argument("--one", help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.set_float32_matmul_precision("highest")
    if args.one:
        print(json.dumps(one(*json.loads(args.one), device)))
        return None
    plans = [(1000, 2, 0.1), (1000, 64, 1.0), (2000, 2, 0.3)]
    assigned = [(1000, 2), (1000, 64), (2000, 2)]
    if args.quick:
        args.sizes, args.large, args.dims, args.enough = [100], 300, [2], 0.0
        plans, assigned = [(60, 2, 0.3)], [(50, 2)]
    steps: list[dict[str, Any]] = []
    beyond: list[dict[str, Any]] = []
    results: dict[str, Any] = {"peers": peer_versions(), "steps": steps, "large": beyond}
    kept = {k: getattr(args, k) for k in ("sizes", "large", "dims", "enough", "quick")} | {"clock": Clock(device).name}

    def keep() -> Path:
        draw(steps + beyond, args.figure)
        return write("particles" if device.type == "cpu" else "particles-cuda", args.results, kept, results, device)

    far = LARGE if not args.quick else {"mmd_rbf": (2,)}
    jobs = [(n, d, case) for n in args.sizes for d in args.dims for case in CASES]
    jobs += [(args.large, d, case) for case, dims in far.items() for d in dims if d in args.dims]
    # The long ones last; what is done is kept.
    for n, d, case in sorted(jobs, key=lambda job: job[0] ** 2 * job[1]):
        done = large(case, n, d, args) if n == args.large else compare(case, n, d, args.enough, device)
        (beyond if n == args.large else steps).append(done)
        report(done)
        keep()
    results["sinkhorn"] = [sinkhorn(*plan, args.enough, device) for plan in plans]
    results["exact_w2"] = [exact(*sizes, args.enough, device) for sizes in assigned]
    keep()
    results["memory"] = memory(max(args.sizes), args)
    path = keep()
    for run in results["memory"]:
        print("memory", {k: run.get(k) for k in ("case", "method", "n", "memory_mb", "not_run")})
    for s in results["sinkhorn"]:
        print("sinkhorn", {k: s[k] for k in ("n", "d", "blur", "at_equal_error")})
    for e in results["exact_w2"]:
        print("exact W2", {k: e[k] for k in ("n", "d", "ratio")})
    return path


if __name__ == "__main__":
    print(main() or "", end="")
