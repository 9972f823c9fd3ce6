"""The prepared call for a GPU runs whole on a CPU, part by part, and keeps what was done when a part is cut off."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from wgflow.core import compiling


@pytest.fixture
def gpu(script):
    return script("gpu")


def rows(path):
    record = json.loads(path.read_text())
    assert {"id", "dirty"} == record["commit"].keys()
    return record["results"]["rows"]


def test_a_part_records_every_case_and_its_peers(gpu, tmp_path):
    found = rows(gpu.main(["--dry", "--part", "particles", "--results", str(tmp_path)]))
    assert {row["case"] for row in found} == {"mmd_rbf", "energy", "stein", "blob", "sliced"}
    timed = [row for row in found if "left_out" not in row]
    assert {"library", "torch"} <= {row["method"] for row in timed}
    assert all(row["velocity_error"] < 1e-4 and row["seconds"] > 0 for row in timed)
    assert all("not installed" in row["left_out"] for row in found if row not in timed)


def test_updates_of_the_small_pair_do_not_wait(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PAIRS", {"small": "cifar10-small"})
    monkeypatch.setattr(gpu, "toys", lambda device: {})
    (row,) = rows(gpu.main(["--dry", "--part", "waits", "--results", str(tmp_path)]))
    assert row["host_reads"]["per_update"] == 0


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder that has what is used of a clone of the public code."""
    folder = tmp_path / "clone"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "__init__.py").write_text(
        "from torch import nn\n"
        "class Generator(nn.Linear):\n"
        "    def forward(self, x, z):\n"
        "        return super().forward(x).view(-1, 3, 32, 32)\n"
        "def get_model(args):\n"
        "    assert args.model_name == 'otm' and args.ngf == 64\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 1)), Generator(192, 3072)\n"
    )
    (folder / "utils.py").write_text("def EMA(optimizer, ema_decay):\n    return optimizer\n")
    return folder


def test_updates_are_timed_eager_and_compiled_beside_the_public_code(gpu, tmp_path, monkeypatch, clone):
    throughput = sys.modules["benchmarks.images._throughput"]
    monkeypatch.setattr(throughput, "PAIRS", {"small": "cifar10-small"})
    monkeypatch.setattr(compiling, "BACKEND", compiling.BACKEND)  # which a dry call changes for its process
    found = rows(gpu.main(["--dry", "--part", "images", "--peer", str(clone), "--results", str(tmp_path)]))
    labels = [(row["how"], row["precision"]) for row in found]
    assert labels == [
        ("eager", "fp32"),
        ("eager", "bf16"),
        ("public code", "fp32"),
        ("compiled", "fp32"),
        ("compiled", "bf16"),
    ]
    assert all(row["images_per_second"] > 0 and row["peak_memory_mb"] > 0 for row in found)
    eager, compiled = found[0], found[3]
    assert eager["gflop_per_image"] == found[1]["gflop_per_image"] > 0
    assert eager["operators_per_update"] > compiled["operators_per_update"] / 2 > 0


def test_a_row_that_fails_says_why_and_leaves_the_others(gpu):
    throughput = sys.modules["benchmarks.images._throughput"]

    def broken(batch: int) -> None:
        raise RuntimeError("no kernel image")

    found = throughput.attempted(broken, 4, torch.device("cpu"), True, True)
    assert found == {"batch": 4, "failed": "RuntimeError: no kernel image"}
    made = []

    def large(batch: int) -> None:
        made.append(batch)
        raise torch.OutOfMemoryError

    assert throughput.attempted(large, 4, torch.device("cpu"), True, True)["failed"].startswith("out of memory")
    assert made == [4, 2, 1]


def test_a_part_that_hangs_is_cut_off(gpu):
    assert gpu.limited([sys.executable, "-c", "import time; time.sleep(60)"], 1.0)["ended"] == "cut off after 1 s"


def test_the_whole_call_keeps_its_outcomes(gpu, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        gpu, "limited", lambda call, seconds: {"ended": done.append((list(map(str, call)), seconds)) or 0}
    )
    path = gpu.main(["--minutes", "10", "--data", "x.npy", "--device", "cpu", "--results", str(tmp_path)])
    parts = json.loads(path.read_text())["results"]["parts"]
    assert list(parts) == ["tests", "waits", "images", "particles", "cifar10"]
    *shares, generators, matching = (seconds for _, seconds in done)
    assert sum(shares) == pytest.approx(0.73 * 600)
    assert 500 < generators < matching < 600, "nothing took time here"
    assert done[0][0][1:5] == ["-m", "pytest", "-q", "-m"]
    assert [call[1].rpartition("/")[2] for call, _ in done[-2:]] == ["cifar10.py", "flow_matching.py"]
    budgets = {call[call.index("--seconds") + 1] for call, _ in done[-2:]}
    assert len(budgets) == 1, "all train for the same time"


def test_parts_can_be_chosen_and_share_the_time(gpu, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(gpu, "limited", lambda call, seconds: {"ended": done.append(seconds) or 0})
    path = gpu.main(["--minutes", "5", "--parts", "particles", "waits", "--device", "cpu", "--results", str(tmp_path)])
    assert list(json.loads(path.read_text())["results"]["parts"]) == ["waits", "particles"]
    assert done == [pytest.approx(300 * 0.08 / 0.23), pytest.approx(290, abs=5)]


def test_without_images_there_is_no_cifar_part(gpu, tmp_path: Path):
    args = Namespace(data=None, dry=False)
    assert gpu.cifar10(args, 100.0)["ended"].startswith("left out")


def test_flow_matching_is_trained_and_scored(script, tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8))
    call = ["--data", str(tmp_path / "images.npy"), "--quick", "--device", "cpu", "--results", str(tmp_path)]
    found = json.loads(script("flow_matching").main(call).read_text())["results"]
    assert found["updates"] == 2
    assert found["frechet"] > 0


def test_a_prediction_of_the_truth_is_carried_to_it(script):
    """With D(x, t) = m whatever x, all paths are straight lines that end at m."""
    carried = script("flow_matching").Transported(lambda x, t: torch.full_like(x, 0.25), steps=7)
    torch.testing.assert_close(carried(torch.randn(5, 3, 8, 8)), torch.full((5, 3, 8, 8), 0.25))
