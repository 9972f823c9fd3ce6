"""Time steps of particles of this checkout against those of another one, in one run.

``python benchmarks/steps_against.py OTHER``, where ``OTHER`` is the root of the other checkout (``git worktree add OTHER
COMMIT``). Each of the two is served by a process of its own. They take turns, a step of the one and a step of the other, so
that what else the machine does meets both; the ratio of a case is that of the medians, in CPU time of the process.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from _record import ROOT, parser, write

SIZES = (
    (100, 2),
    (1000, 1),
    (1000, 2),
    (1000, 3),
    (1000, 5),
    (1000, 16),
    (1000, 64),
    (4000, 2),
    (4000, 8),
    (2000, 300),
)
CASES = (
    "mmd_rbf",
    "mmd_laplace",
    "mmd_imq",
    "energy",
    "kale",
    "ksd",
    "interaction_log",
    "interaction_morse",
    "stein",
    "stein_median",
    "blob",
    "blob_nearest",
    "kde",
    "proximal_score",
    "sliced",
)
LIMIT = 1.05


def step(case: str, n: int, d: int) -> Callable[[], Any]:
    """Return one velocity of ``n`` normal particles with ``d`` coordinates, by the library that is imported here."""
    import torch

    import wgflow as wg

    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, d, generator=rng), 0.8 * torch.randn(n, d, generator=rng) + 0.5
    width, nu, rho = math.sqrt(d), wg.Particles(y), wg.Particles(x)
    rbf = wg.RBF(width)
    kl = wg.KL(wg.Unnormalised(lambda x: -0.5 * x.square().sum(1), d))
    functionals = {
        "mmd_rbf": lambda: wg.SquaredMMD(nu, rbf),
        "mmd_laplace": lambda: wg.SquaredMMD(nu, wg.Laplace(width)),
        "mmd_imq": lambda: wg.SquaredMMD(nu, wg.InverseMultiquadric(width)),
        "energy": lambda: wg.EnergyDistance(nu),
        "kale": lambda: wg.KALE(wg.Particles(y[:256]), rbf),
        "ksd": lambda: wg.SquaredKSD(wg.StandardNormal(d), rbf),
        "interaction_log": lambda: wg.InteractionEnergy(wg.Logarithmic()),
        "interaction_morse": lambda: wg.InteractionEnergy(wg.Morse(2.0, width / 2, 1.0, width)),
        "sliced": lambda: wg.SlicedWasserstein(nu, directions=torch.nn.functional.normalize(torch.randn(50, d), dim=1)),
    }
    estimators = {
        "stein": lambda: wg.Stein(rbf),
        "stein_median": lambda: wg.Stein(wg.MedianRBF()),
        "blob": lambda: wg.Blob(wg.KernelDensity(rbf)),
        "blob_nearest": lambda: wg.Blob(wg.KernelDensity(wg.NearestRBF())),
        "kde": lambda: wg.KDEScore(rbf),
        "proximal_score": lambda: wg.ProximalScore(0.1, log_normaliser=lambda x: x[:, 0]),
    }
    F = functionals[case]() if case in functionals else kl
    estimator = estimators[case]() if case in estimators else wg.Autograd()
    state = estimator.init(F, rng)
    return lambda: estimator.velocity(F, rho, state)


def serve() -> None:
    """Answer every ``[case, n, d, repeats]`` on the input with the mean CPU seconds of a step."""
    import torch

    torch.set_num_threads(1)
    made: dict[tuple[Any, ...], Callable[[], Any]] = {}
    for line in sys.stdin:
        *key, repeats = json.loads(line)
        if tuple(key) not in made:
            made.clear()
            made[tuple(key)] = step(*key)
            made[tuple(key)]()
        begun = time.process_time()
        for _ in range(repeats):
            made[tuple(key)]()
        print(json.dumps((time.process_time() - begun) / repeats), flush=True)


class Side:
    """A checkout, served by a process of its own."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", "."],
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *asked: Any) -> float:
        """Return the CPU seconds of what is asked."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def compare(before: Side, after: Side, case: str, n: int, d: int, seconds: float) -> dict[str, Any]:
    """Time one case on both sides by turns, for about so many seconds, and for 7 turns at least."""
    first = max(before(case, n, d, 1), after(case, n, d, 1), 1e-5)
    repeats = max(1, int(0.005 / first))
    turns = min(101, max(7, int(seconds / (2 * repeats * first))))
    pairs = []
    for k in range(turns):
        order = (before, after) if k % 2 else (after, before)
        found = {side: side(case, n, d, repeats) for side in order}
        pairs.append((found[before], found[after]))
    old, new = (median(times) for times in zip(*pairs, strict=True))
    # What others do on the machine only ever adds: the least times say how far the medians can be trusted.
    of_least = min(b for _, b in pairs) / min(a for a, _ in pairs)
    return {
        "case": case,
        "n": n,
        "d": d,
        "before": old,
        "after": new,
        "ratio": new / old,
        "ratio_of_least": of_least,
        "turns": turns,
    }


def main(argv: list[str] | None = None) -> Path | None:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("other", type=Path, help="root of the other checkout")
    options.add_argument("--seconds", type=float, default=4.0, help="of every case")
    options.add_argument("--sizes", nargs="+", default=[f"{n}x{d}" for n, d in SIZES], help="particles x coordinates")
    options.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    options.add_argument("--serve", action="store_true", help="answer requests: what this script starts itself with")
    args = options.parse_args(argv)
    if args.serve:
        return serve()
    sizes = [tuple(map(int, size.split("x"))) for size in (["30x2"] if args.quick else args.sizes)]
    sides = Side(args.other), Side(ROOT)
    rows = []
    for case in args.cases:
        for n, d in sizes:
            if n * n * d > 1e9 and case in ("ksd", "proximal_score"):
                continue
            rows.append(compare(*sides, case, n, d, 0.0 if args.quick else args.seconds))
            line = "{case:18} n={n:<5} d={d:<4} {before:.5f} s {after:.5f} s  {ratio:.3f} {ratio_of_least:.3f}"
            print(line.format(**rows[-1]), flush=True)
    slower = [
        f"{r['case']} n={r['n']} d={r['d']}: {r['ratio']:.3f}"
        for r in rows
        if min(r["ratio"], r["ratio_of_least"]) > LIMIT
    ]
    print(f"slower than {LIMIT}:", ", ".join(slower) or "none")
    import torch

    settings = {"seconds": args.seconds, "quick": args.quick, "limit": LIMIT, "clock": "CPU time of the process"}
    return write("steps_against", args.results, settings, {"steps": rows, "slower": slower}, torch.device("cpu"))


if __name__ == "__main__":
    main()
