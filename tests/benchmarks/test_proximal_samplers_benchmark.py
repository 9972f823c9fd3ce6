"""The benchmark of proximal samplers: its distances are right, and a quick run has every part of the record."""

import json
import math

import numpy as np
import pytest
import torch


@pytest.fixture
def targets(script):
    return script("_targets").cases()


def test_record(script, tmp_path):
    path = script("samplers").main(["--quick", "--device", "cpu", "--results", str(tmp_path)])
    found = json.loads(path.read_text())
    assert {"benchmark", "date", "machine", "versions", "commit", "settings", "results"} <= found.keys()
    assert str(tmp_path) not in json.dumps(found)
    assert (tmp_path / "proximal_samplers.png").stat().st_size > 10_000
    rows = found["results"]["targets"]
    assert len(rows) == 5
    for name, target in rows.items():
        assert target["w2_of_as_many_draws"] > 0
        assert target["methods"].keys() - {"PRWP"} == {"BRWP", "ARWP", "ULA", "MALA", "SVGD"}
        assert ("PRWP" in target["methods"]) == name.startswith("condition")
        for row in target["methods"].values():
            assert row["diverged"] == 0
            assert len(row["steps"]) == len(row["w2"])
            assert row["w2"][-1] < row["w2"][0]
            assert ("kl" in row) == ("kl_of_as_many_draws" in target) == (not name.startswith(("mixture", "double")))
            if "kl" in row:
                assert len(row["kl"]) == len(row["steps"])
                assert all(value >= 0 for value in row["kl"])
    assert {row["theory"] for row in found["results"]["bias_law"]} == {
        1 - T**2 for T in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
    }


def test_distances_and_normalisers_of_the_targets(targets):
    line = targets["condition 100, d = 2"]
    x = line.exact(20_000, 0).x
    w2, kl = line.distances(1).values()
    assert w2(x) < 0.15  # of a standard deviation of 10
    assert w2(torch.zeros(2, 2).double()) == pytest.approx(math.sqrt(101))
    half = torch.tensor([[1.0, 10.0], [-1.0, -10.0], [1.0, -10.0], [-1.0, 10.0]]).double() / 2**0.5
    assert kl(half) == pytest.approx(math.log(2) - 0.5)  # half of the covariance in both directions
    for metric in (None, torch.tensor([[1.0, 0.0], [0.0, 100.0]]).double()):
        z = 0.3 * torch.eye(2).double()
        M = torch.eye(2).double() if metric is None else metric
        H = torch.diag(torch.tensor([1.0, 0.01])).double()
        # log Z(y) = -y' (M^{-1} - M^{-1} (M^{-1} + T H)^{-1} M^{-1}) y / 4T, by completing the square.
        inverse = torch.linalg.inv(M)
        A = (inverse - inverse @ torch.linalg.inv(inverse + 0.25 * H) @ inverse) / 0.25
        torch.testing.assert_close(line.log_z(0.25, metric)(z), -0.25 * ((z @ A) * z).sum(1))
    banana = targets["double banana"]
    assert float(banana.exact(200, 0).x.mean(0).abs().max()) < 1e-12
    assert banana.distances(200)["w2"](banana.exact(200, 1).x) < 1.0


def test_a_prior_with_kinks(script, tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 3)).astype(np.float32)
    y = np.where(x[:, 0] + generator.normal(size=80) > 0, 1, -1).astype(np.int8)
    np.savez(tmp_path / "titanic.npz", x=x, y=y)
    path = script("laplace_prior").main(
        ["--quick", "--device", "cpu", "--results", str(tmp_path), "--data", str(tmp_path)]
    )
    found = json.loads(path.read_text())
    assert str(tmp_path) not in json.dumps(found)
    methods = found["results"]["sets"]["titanic"]["methods"]
    assert methods.keys() == {"BRWP splitting", "BRWP", "MYULA", "ULA", "SVGD"}
    for row in methods.values():
        assert row["runs"] == 1
        assert 0 <= row["accuracy"] <= 1
        assert row["ratio_of_std"] > 0


def test_rows_that_the_record_has_are_kept(script, tmp_path):
    def run(*more):
        options = ["--quick", "--device", "cpu", "--results", str(tmp_path), "--targets", "mixture", *more]
        return json.loads(script("samplers").main(options).read_text())["results"]["targets"]["mixture"]["methods"]

    first = run()
    second = run("--methods", "ULA")
    assert second.keys() == first.keys()
    assert second["SVGD"]["ms_per_step"] == first["SVGD"]["ms_per_step"]  # a time is never measured twice alike
    assert second["ULA"]["w2"] == first["ULA"]["w2"]
    assert second["ULA"]["ms_per_step"] != first["ULA"]["ms_per_step"]
