"""The benchmark of Bayesian networks: its posterior is the written formula, its data are the published splits, a quick run is whole."""

import json
import lzma
import math

import numpy as np
import pytest
import torch


def _files(folder, n=40):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[:, 2] = 4.0  # a constant input
    y = (5 * x[:, 0] + rng.normal(size=n)).astype(np.float32)
    test = np.stack([rng.permutation(n)[:8] for _ in range(3)]).astype(np.uint16)
    with lzma.open(folder / "energy.npz.xz", "wb") as file:
        np.savez(file, x=x, y=y, test=test)
    return x, y, test


def test_record(script, tmp_path):
    _files(tmp_path)
    path = script("bayesian_network").main(
        ["--quick", "--device", "cpu", "--results", str(tmp_path), "--data", str(tmp_path)]
    )
    found = json.loads(path.read_text())
    assert {"benchmark", "date", "machine", "versions", "commit", "settings", "results"} <= found.keys()
    assert str(tmp_path) not in json.dumps(found)
    assert (tmp_path / "bayesian_network.png").stat().st_size > 10_000
    energy = found["results"]["sets"]["energy"]
    assert (energy["train"], energy["test"], energy["inputs"]) == (32, 8, 3)
    assert energy["published"]["dropout"]["rmse"][0] == 0.54
    assert len(energy["methods"]) == 7
    for row in energy["methods"].values():
        assert row["diverged"] == 0
        assert len(row["rmse_curve"]) == 6  # the start and five steps
        assert row["rmse_curve"][-1] == pytest.approx(row["rmse"]["mean"], rel=1e-4)
        tried = {float(h): v for h, v in row["validation"].items()}
        assert tried[row["step_size"]] == max(tried.values())


def test_splits_are_standardised_by_the_training_data_and_validation_is_part_of_it(script, tmp_path):
    x, y, test = _files(tmp_path)
    data = script("_uci").split(tmp_path, "energy", 1)
    train = np.setdiff1d(np.arange(len(x)), test[1])
    assert data.unit == pytest.approx(y[train].std(ddof=1), rel=1e-5)
    np.testing.assert_allclose(data.test_y * data.unit + y[train].mean(), y[np.sort(test[1])], rtol=1e-4, atol=1e-4)
    assert float(data.x[:, 2].abs().max()) == 0
    torch.testing.assert_close(data.x[:, :2].std(0), torch.ones(2))
    held = data.validation()
    assert (len(held.x), len(held.test_x)) == (29, 3)
    together = torch.cat([held.y, held.test_y]).sort().values
    assert together.tolist() == data.y.sort().values.tolist()


def test_the_likelihood_is_that_of_the_network_and_its_gradient_is_right(script):
    module = script("_network")
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 2, generator=rng).double(), torch.randn(6, generator=rng).double()
    net = module.Network(x, y, hidden=3)
    assert net.dim == net.start(1, 0).shape[1] == 3 * 3 + 3 + 1 + 1
    theta = torch.randn(2, net.dim, generator=rng).double()
    for particle, found in zip(theta, net(theta), strict=True):
        layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).double()
        a = particle[:9].view(3, 3)
        with torch.no_grad():
            layers[0].weight.copy_(a[:2].T)
            layers[0].bias.copy_(a[2])
            layers[2].weight.copy_(particle[9:12])
            layers[2].bias.copy_(particle[12])
            gamma = particle[13].exp()
            noise = torch.distributions.Normal(layers(x)[:, 0], gamma**-0.5)
            prior = (
                torch.distributions.Gamma(gamma.new_ones(()), 0.1 * gamma.new_ones(())).log_prob(gamma) + particle[13]
            )
            expected = noise.log_prob(y).sum() + prior
        constant = -0.5 * len(y) * math.log(2 * math.pi) + math.log(0.1)
        torch.testing.assert_close(found + constant, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(net, (theta.requires_grad_(True),))


def test_scores_are_those_of_the_mixture_over_particles(script):
    net = script("_network").Network(torch.ones(2, 1), torch.zeros(2), hidden=1)
    # Networks that are constants, 0 and 2, with noise of variance 1 and 1/4.
    theta = torch.tensor([[0.0, 0, 0, 0.0, 0.0], [0.0, 0, 0, 2.0, math.log(4.0)]])
    data = script("_uci").Regression(torch.ones(2, 1), torch.zeros(2), torch.ones(1, 1), torch.tensor([2.0]), 10.0)
    found = net.scores(theta, data)
    assert found["rmse"] == pytest.approx(10.0)
    p = (math.exp(-2) + 2) / 2 / math.sqrt(2 * math.pi) / 10
    assert found["log_likelihood"] == pytest.approx(math.log(p), rel=1e-6)


def test_the_real_files_have_the_splits_of_the_published_results(script, shared_data):
    data = script("_uci").split(shared_data("uci"), "energy", 19)
    assert (len(data.x), len(data.test_x), data.x.shape[1]) == (691, 77, 8)
