"""The benchmark of proximal steps: both methods compute the same, and the record is complete."""

import json

import pytest
import torch


@pytest.mark.parametrize("what", ["velocity", "density"])
@pytest.mark.parametrize("d", [2, 20])
def test_both_methods_compute_the_same(script, what, d):
    steps = script("proximal_steps")
    x, step = steps.problem(60, d, torch.device("cpu"), torch.float64)
    ours, theirs = (make(what, x, step)() for make in steps.METHODS.values())
    # cdist takes roots and may take a product: half of the digits of near pairs
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_quick_record_is_complete(script, tmp_path):
    path = script("proximal_steps").main(["--quick", "--device", "cpu", "--results", str(tmp_path)])
    found = json.loads(path.read_text())
    assert {"benchmark", "date", "machine", "versions", "commit", "note", "settings", "results"} <= found.keys()
    assert [e["what"] for e in found["results"]] == ["velocity", "density"]
    for entry in found["results"]:
        assert entry["time_ratio"] > 0
        for run in entry["methods"].values():
            assert run["error"] < 1e-3
            assert "memory_mb" in run
