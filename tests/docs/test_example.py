"""The example of the README runs as its first lines say."""

import contextlib
import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cifar10_sjko.py"
pytest.importorskip("torchvision")
pytest.importorskip("safetensors")


def run(*options: str) -> str:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(EXAMPLE), "--device", "cpu", *options],
        check=True,
        env=env,
        capture_output=True,
        text=True,
        timeout=1800,
    ).stdout


def run_here(*options: str) -> str:
    """Run the example in this process, which has imported everything before."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [str(EXAMPLE), "--device", "cpu", *options])
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    return printed.getvalue()


@pytest.mark.parametrize(("divergence", "run"), [("kl", run), ("js_nonsat", run_here)])
def test_a_few_updates_of_the_example(tmp_path, divergence, run):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "pictures.npz", images=rng.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    options = ["--data", str(tmp_path / "pictures.npz"), "--folder", str(tmp_path / "run"), "--divergence", divergence,
               "--variant", "code", "--channels", "4", "--K", "2", "--first-iters", "3", "--iters", "2", "--batch", "8",
               "--every", "3"]  # fmt: skip
    assert "done after 2 JKO steps" in run(*options)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["last_step"]["update"] == 5
    assert "energy_distance" in (tmp_path / "run" / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert {p.name for p in (tmp_path / "run" / "samples").iterdir()} == {f"update-00000{u}.png" for u in (0, 3, 5)}
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["divergence"] == divergence


@pytest.mark.slow
def test_quick_on_real_pictures(tmp_path, shared_data, monkeypatch):
    """The distance in a classifier's features falls from that of the untrained generator."""
    monkeypatch.syspath_prepend(str(shared_data("imgpack.py").parent))
    load = __import__("imgpack").load
    np.savez(tmp_path / "cifar.npz", images=load(str(shared_data("cifar10") / "test_0.npz")))
    weights = str(shared_data("cifar10_resnet") / "resnet20.npz")
    options = ["--quick", "--data", str(tmp_path / "cifar.npz"), "--folder", str(tmp_path / "run")]
    run(*options, "--features", "cifar-resnet", "--weights", weights)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("frechet")
    first, last = (float(rows[i].split(",")[column]) for i in (1, -1))
    assert last < 0.9 * first
