"""What several processes make of the sums of particle flows: CPU time a process, beside a model that has seen one and two only.

Every process holds all particles and does its part of the pairs or directions (`wgflow.shared_sums`). Processes wait for each
other without using the processor, so CPU time tells what they do even where they are more than the cores.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import wgflow as wg
from benchmarks._record import parser, write
from benchmarks.particles._particle_cases import LINES, Problem, library
from wgflow.core.ranks import Shares, Sharing
from wgflow.generative import runtime
from wgflow.numerics.distances import BLOCK_CPU

CASES = (
    ("mmd_rbf", 10_000, 2),
    ("mmd_rbf", 10_000, 64),
    ("stein", 10_000, 2),
    ("blob", 10_000, 2),
    ("sliced", 50_000, 64),
)
PROCESSES = (1, 2, 4)
SIMULATED = 16
"""Processes of which one is done alone, without messages, for the model."""
MESSAGES = (2**10, 2**22)
"""Sizes in bytes between which the cost of adding up is a line."""
FAR, MANY = 1_000_000, (1, 8, 64, 512, 1024)
"""Particles and processes of the prediction."""


@dataclass(frozen=True)
class Part(Shares):
    """One rank's work without the others: what it would send stays where it is."""

    def added(self, *parts: Tensor | None) -> Any:
        """Return this rank's own part."""
        return parts[0] if len(parts) == 1 else parts


def least(step: Callable[[], Any], repeats: int) -> float:
    """Return the least CPU seconds of a call: others on the machine only add to it."""
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        step()
        found.append(time.process_time() - begun)
    return min(found)


def adding(size: int) -> Callable[[], None]:
    """Return the adding up of so many bytes."""
    message = torch.zeros(size // 4)
    return lambda: dist.all_reduce(message)


def one(found: Path, cases: Sequence[Sequence[Any]], repeats: int) -> None:
    """Measure one process of as many as ``torchrun`` has started, and leave it in a file."""
    with runtime("cpu") as here, wg.shared_sums():
        torch.set_num_threads(1)
        out: dict[str, Any] = {"steps": [], "parts": [], "messages": []}
        for case, n, d in cases:
            step = library(Problem.make(case, n, d))
            step()
            out["steps"].append(least(step, repeats))
            if here.world == 1:
                with Sharing(Part(0, SIMULATED)):
                    step()
                    out["parts"].append(least(step, repeats))
        if here.world > 1:
            out["messages"] = [least(adding(size), 10 * repeats) for size in MESSAGES]
        (found / f"{here.world}-{here.rank}.json").write_text(json.dumps(out))


def measured(world: int, cases: Sequence[Sequence[Any]], repeats: int) -> dict[str, Any]:
    """Start so many processes; return what the slowest of them took."""
    with tempfile.TemporaryDirectory() as folder:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
        subprocess.run([*launch, __file__, "--one", json.dumps([folder, cases, repeats])], check=True)
        ranks = [json.loads((Path(folder) / f"{world}-{rank}.json").read_text()) for rank in range(world)]
    return {key: [max(times) for times in zip(*(r[key] for r in ranks), strict=True)] for key in ranks[0]}


def share(case: str, n: int, world: int) -> float:
    """Return the part of the pieces that a process has at the most."""
    pieces = LINES if case == "sliced" else math.ceil(n * n / BLOCK_CPU)
    return math.ceil(pieces / world) / pieces


def sent(case: str, n: int, d: int) -> int:
    """Return the bytes that a step adds up: derivatives, and numbers a particle."""
    return 4 * n * (d + {"blob": 2}.get(case, 0))


class Model:
    """CPU seconds of a process: what all do alike, its share of the sums, and a ring of messages; fitted to one and two processes."""

    def __init__(self, single: dict[str, Any], pair: dict[str, Any], cases: Sequence[Sequence[Any]]) -> None:
        few, many = pair["messages"]
        self.byte = (many - few) / (MESSAGES[1] - MESSAGES[0])
        self.message = max(0.0, few - self.byte * MESSAGES[0]) / 2
        self.work, self.alike = {}, {}
        for (case, n, d), whole, part in zip(cases, single["steps"], single["parts"], strict=True):
            work = max(0.0, whole - part) / (1 - share(case, n, SIMULATED))
            self.work[case, n, d], self.alike[case, n, d] = work, max(0.0, whole - work)

    def seconds(self, case: str, n: int, d: int, world: int, like: int) -> float:
        """Predict a step of ``n`` particles from one of ``like`` particles."""
        grows = n / like
        work = self.work[case, like, d] * (grows if case == "sliced" else grows**2)
        ring = 2 * (world - 1) * self.message + 2 * (world - 1) / world * self.byte * sent(case, n, d)
        return self.alike[case, like, d] * grows + work * share(case, n, world) + ring


def main(argv: Sequence[str] | None = None) -> Path | None:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--repeats", type=int, default=5, help="steps of which the fastest counts")
    options.add_argument("--rounds", type=int, default=3, help="turns of one, two and four processes")
    options.add_argument("--one", help="what a process does (internal)")
    args = options.parse_args(argv)
    if args.one:
        folder, cases, repeats = json.loads(args.one)
        one(Path(folder), cases, repeats)
        return None
    cases: Sequence[Sequence[Any]] = CASES
    if args.quick:
        cases, args.repeats, args.rounds = [("mmd_rbf", 1500, 2), ("sliced", 500, 2)], 1, 1
    rounds = [{world: measured(world, cases, args.repeats) for world in PROCESSES} for _ in range(args.rounds)]
    best = {
        world: {
            key: [min(times) for times in zip(*(r[world][key] for r in rounds), strict=True)]
            for key in rounds[0][world]
        }
        for world in PROCESSES
    }
    model, rows, predicted = Model(best[1], best[2], cases), [], []
    for k, (case, n, d) in enumerate(cases):
        single = best[1]["steps"][k]
        for world in PROCESSES:
            seconds, expected = best[world]["steps"][k], model.seconds(case, n, d, world, like=n)
            row = {"case": case, "n": n, "d": d, "processes": world, "cpu_seconds": seconds}
            row |= {"efficiency": single / (world * seconds), "predicted": single / (world * expected)}
            rows.append(row)
            print({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
        alone = model.seconds(case, FAR, d, 1, like=n)
        predicted += [
            {"case": case, "n": FAR, "d": d, "processes": p, "cpu_seconds": s, "efficiency": alone / (p * s)}
            for p in MANY
            for s in [model.seconds(case, FAR, d, p, like=n)]
        ]
    costs = {"seconds_a_message": model.message, "seconds_a_byte": model.byte}
    settings = {"repeats": args.repeats, "rounds": args.rounds, "quick": args.quick}
    results = {"measured": rows, "messages": costs, "predicted": predicted}
    return write("ranks", args.results, settings, results, torch.device("cpu"))


if __name__ == "__main__":
    print(main() or "", end="")
