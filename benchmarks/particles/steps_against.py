"""Velocities and time steps of particles of this checkout against those of another one, in one run.

``python benchmarks/particles/steps_against.py OTHER``, where ``OTHER`` is the root of the other checkout (``git worktree add OTHER
COMMIT``). Each of the two is served by a process of its own. They take turns, a step of the one and a step of the other, so
that what else the machine does meets both; the ratio of a case is that of the medians, in CPU time of the process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks._record import ROOT, parser, write

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
    "driver",
    "langevin",
    "dopri5",
    "adam",
)
TRANSPORT = ("sinkhorn", "sinkhorn_precise", "sinkhorn_flow", "w2")
LIMIT = 1.05


class Side:
    """A checkout, served by a process of its own until it is left."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("_step_server.py"))],
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.__exit__(*error)  # closes its input, at which it ends

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


def main(argv: list[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("other", type=Path, help="root of the other checkout")
    options.add_argument("--seconds", type=float, default=4.0, help="of every case")
    options.add_argument("--sizes", nargs="+", default=[f"{n}x{d}" for n, d in SIZES], help="particles x coordinates")
    options.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES + TRANSPORT)
    options.add_argument("--name", default="steps_against", help="of the record")
    args = options.parse_args(argv)
    sizes = [tuple(map(int, size.split("x"))) for size in (["30x2"] if args.quick else args.sizes)]
    rows = []
    with Side(args.other) as before, Side(ROOT) as after:
        for case in args.cases:
            for n, d in sizes:
                if n * n * d > 1e9 and case in ("ksd", "proximal_score"):
                    continue
                rows.append(compare(before, after, case, n, d, 0.0 if args.quick else args.seconds))
                line = "{case:18} n={n:<5} d={d:<4} {before:.5f} s {after:.5f} s  {ratio:.3f} {ratio_of_least:.3f}"
                print(line.format(**rows[-1]), flush=True)
    slower = [
        f"{r['case']} n={r['n']} d={r['d']}: {r['ratio']:.3f}"
        for r in rows
        if min(r["ratio"], r["ratio_of_least"]) > LIMIT
    ]
    print(f"slower than {LIMIT}:", ", ".join(slower) or "none")
    asked = ["git", "-C", str(args.other), "rev-parse", "HEAD"]
    against = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    settings = {"seconds": args.seconds, "quick": args.quick, "limit": LIMIT, "against": against}
    settings["clock"] = "CPU time of the process"
    return write(args.name, args.results, settings, {"steps": rows, "slower": slower}, torch.device("cpu"))


if __name__ == "__main__":
    main()
