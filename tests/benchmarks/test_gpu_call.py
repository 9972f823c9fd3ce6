"""The prepared call for a GPU runs whole on a CPU, part by part, and keeps what was done when a part is cut off."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest


@pytest.fixture
def gpu(script):
    return script("gpu")


def rows(path):
    record = json.loads(path.read_text())
    assert {"id", "dirty"} == record["commit"].keys()
    return record["results"]["rows"]


@pytest.mark.parametrize(("part", "names"), [("particles", {"mmd_rbf", "energy", "stein", "blob", "sliced"})])
def test_a_part_records_every_case(gpu, tmp_path, part, names):
    found = rows(gpu.main(["--dry", "--part", part, "--results", str(tmp_path)]))
    assert {row["case"] for row in found} == names
    assert all(row["velocity_error"] < 1e-4 for row in found)


def test_updates_of_the_small_pair_do_not_wait(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PAIRS", {"small": "cifar10-small"})
    monkeypatch.setattr(gpu, "toys", lambda device: {})
    (row,) = rows(gpu.main(["--dry", "--part", "waits", "--results", str(tmp_path)]))
    assert row["host_reads"]["per_update"] == 0


def test_both_precisions_of_a_pair_are_timed(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PAIRS", {"small": "cifar10-small"})
    found = rows(gpu.main(["--dry", "--part", "images", "--results", str(tmp_path)]))
    assert [row["precision"] for row in found] == ["fp32", "bf16"]
    assert all(row["images_per_second"] > 0 and row["peak_memory_mb"] > 0 for row in found)


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
    *shares, left = (seconds for _, seconds in done)
    assert sum(shares) == pytest.approx(360)
    assert 550 < left < 600, "nothing took time here"
    assert done[0][0][1:5] == ["-m", "pytest", "-q", "-m"]
    assert done[-1][0][1].endswith("cifar10.py")


def test_without_images_there_is_no_cifar_part(gpu, tmp_path: Path):
    args = Namespace(data=None)
    assert gpu.cifar10(args, 100.0)["ended"].startswith("left out")
