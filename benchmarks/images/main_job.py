"""The README's main job, timed and judged: trains `fashion-mnist` in a fresh process and records what came out.

    python benchmarks/images/main_job.py                 # writes results/main_job.json and the pictures of the documentation

Goals of the project: at most 600 seconds on two CPU cores, and an excess of the Sinkhorn divergence over its
real-against-real floor at least 8 times smaller than that of the untrained generator.
"""

import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import _record


def main(argv: list[str] | None = None) -> Path:
    p = _record.parser(__doc__.partition("\n")[0])
    p.set_defaults(threads=torch.get_num_threads())
    o = p.parse_args(argv)
    device = torch.device(o.device)
    command = [sys.executable, "-m", "wgflow", "train", "fashion-mnist", "--device", o.device]
    if o.quick:
        command += ["--channels", "2", "--num_steps", "2", "--first_iters", "2", "--iters", "2", "--sinkhorn_n", "50"]
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        begun = time.perf_counter()
        subprocess.run([*command, "--folder", str(run)], check=True)
        seconds = time.perf_counter() - begun
        with open(run / "metrics.csv") as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        report = json.loads((run / "report.json").read_text())
        o.results.mkdir(parents=True, exist_ok=True)
        last = sorted((run / "samples").glob("*.png"))[-1]
        shutil.copy(last, _record.figure(o, "fashion_mnist_grid.png"))
        shutil.copy(run / "curves.png", _record.figure(o, "fashion_mnist_curves.png"))
        settings = json.loads((run / "recipe.json").read_text())
    first, end = rows[0], rows[-1]
    results = {
        "seconds": seconds,
        "untrained_excess": first["sinkhorn_excess"],
        "trained_excess": end["sinkhorn_excess"],
        "floor": end["sinkhorn_floor"],
        "fold": first["sinkhorn_excess"] / end["sinkhorn_excess"],
        "protocol": report["protocols"][0],
        "evaluations": rows,
    }
    print({k: v for k, v in results.items() if k != "evaluations"})
    return _record.write("main_job", o.results, settings, results, device)


if __name__ == "__main__":
    main()
