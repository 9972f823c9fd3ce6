"""The benchmark of the kernel score model runs, and keeps the rows that it has."""

import json

import pytest
import torch


def test_rows_that_are_there_are_kept(script, tmp_path):
    def record(*options):
        path = script("kernel_score").main(["--quick", "--results", str(tmp_path), *options])
        return json.loads(path.read_text())["results"]

    first = record("--seeds", "0")
    both = record("--seeds", "0", "1")
    for question in ("swiss_roll", "two_spirals", "sweep"):
        for name, done in both[question].items():
            rows = done["seeds"]
            assert rows[0] == first[question][name]["seeds"][0]
            assert [row["seed"] for row in rows] == [0, 1]
            assert {"sliced_w2", "memorized", "memorized_chance"} <= rows[0].keys()
    memorized = {name: done["seeds"][0]["memorized"] for name, done in both["two_spirals"].items()}
    assert memorized["empirical kernel"] > memorized["fresh data"]


def test_the_exact_local_deviations_are_those_of_the_covariance(script, tmp_path):
    """Given the place on the roll, the noise across it: smallest standard deviations of z = A(x, y) + 0.1 e over small (x, y)."""
    module = script("kernel_score")
    B = torch.cat([-module.NORMALS.double(), torch.eye(3).double()], 1)
    # The precision of (x, y, z) with a flat (x, y): |z - A(x, y)|² / 0.1².
    precision = B.T @ B / 0.01
    exact = 1 / torch.linalg.eigvalsh(precision)[2:].flip(0).sqrt()
    found = 0.1 / torch.linalg.eigvalsh(module.NORMALS @ module.NORMALS.T + torch.eye(3)).flip(0).sqrt()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    assert found.tolist() == pytest.approx([0.0362, 0.0431, 0.1], abs=1e-4)
