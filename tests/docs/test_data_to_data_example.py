"""The example that carries digits over: its readers, its score, and a few updates of a run that is kept."""

import gzip
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "usps_to_mnist.py"


@pytest.fixture
def example():
    return runpy.run_path(str(EXAMPLE))


def idx(a: np.ndarray) -> bytes:
    return bytes([0, 0, 8, a.ndim]) + np.array(a.shape, ">u4").tobytes() + a.tobytes()


@pytest.fixture
def folders(tmp_path):
    """Two small collections in the formats of the real ones."""
    rng = np.random.default_rng(0)
    usps, mnist = tmp_path / "usps", tmp_path / "mnist"
    usps.mkdir(), mnist.mkdir()
    for split, name in (("train", "train"), ("test", "t10k")):
        np.save(usps / f"x_{split}.npy", rng.integers(0, 2001, (70, 16, 16), dtype=np.uint16))
        np.save(usps / f"y_{split}.npy", (np.arange(70) % 10).astype(np.uint8))
        images, labels = rng.integers(0, 256, (80, 28, 28), dtype=np.uint8), (np.arange(80) % 10).astype(np.uint8)
        (mnist / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (mnist / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return usps, mnist


def test_the_nearest_neighbour_decides(example):
    x, y = torch.randn(30, 256), torch.arange(30)
    assert example["accuracy"](x, y, example["Digits"](x + 0.01, y)) == 1
    assert example["accuracy"](x, y, example["Digits"](x + 0.01, torch.where(y < 12, y, -1))) == pytest.approx(0.4)


def test_both_formats_are_read_to_the_same_scale(example, folders):
    for load, folder in zip((example["load_usps"], example["load_mnist"]), folders, strict=True):
        for digits in load(folder):
            assert digits.x.shape[1:] == (256,)
            assert digits.x.min() >= -1
            assert digits.x.max() <= 1
            assert digits.y.bincount().tolist() == [len(digits.y) // 10] * 10


def test_the_generator_starts_near_the_identity(example):
    torch.manual_seed(0)
    x = torch.rand(20, 256) * 2 - 1
    assert float((example["Residual"]()(x) - x).detach().abs().max()) < 1e-2


def test_a_row_is_over_the_seeds_of_a_method(example):
    def run(*accuracy, seconds):
        return [{"accuracy": a} for a in accuracy[:-1]] + [{"accuracy": accuracy[-1], "cpu_seconds": seconds}]

    runs = {"K = 1 | 0": run(0.3, 0.5, seconds=1.0), "K = 3 | 0": run(0.3, 0.6, seconds=2.0)}
    one, three = example["summary"](runs | {"K = 1 | 1": run(0.5, 0.7, seconds=2.0)})
    assert (one["method"], one["seeds"], one["cpu_seconds"]) == ("K = 1", 2, 1.5)
    assert one["path"] == pytest.approx([0.4, 0.6])
    assert (one["accuracy"], one["accuracy_std"]) == (one["path"][-1], pytest.approx(0.02**0.5))
    assert (three["method"], three["accuracy"], three["accuracy_std"]) == ("K = 3", 0.6, None)


@pytest.mark.parametrize("options", [[], ["--back", "--control", "naive"]])
def test_a_run_is_kept_and_not_repeated(folders, tmp_path, monkeypatch, capsys, options):
    path = tmp_path / "record.json"
    monkeypatch.setattr(
        sys, "argv",
        [str(EXAMPLE), "--usps", str(folders[0]), "--mnist", str(folders[1]), "--iterations", "3", "--every", "2",
         "--seeds", "1", "--persistent", "1", "2", "--record", str(path), *options],
    )  # fmt: skip
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    first = json.loads(path.read_text())
    results = first["results"]
    assert [[row["k"] for row in run] for run in results["runs"].values()] == [[0, 2, 3]] * 2
    assert all(
        run[0]["accuracy"] == pytest.approx(results["without_adaptation"], abs=0.05) for run in results["runs"].values()
    )
    assert [row["seeds"] for row in results["rows"]] == [1, 1]
    printed = capsys.readouterr().out
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert json.loads(path.read_text()) == first
    assert capsys.readouterr().out == printed


def test_the_real_collections_are_read_whole(example, shared_data):
    sets = [*example["load_usps"](shared_data("usps")), *example["load_mnist"](shared_data("mnist"))]
    assert [len(digits.y) for digits in sets] == [7291, 2007, 60000, 10000]
    assert sets[1].y.bincount().tolist() == [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
