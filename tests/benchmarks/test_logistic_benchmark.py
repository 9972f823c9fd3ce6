"""The benchmark of Bayesian logistic regression: its posterior is right, its features are those of the papers, its flows arrive."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def record(script, tmp_path):
    """Return a function that runs the benchmark quickly and returns its record."""

    def run(*options):
        always = ["--quick", "--device", "cpu", "--results", str(tmp_path), "--data", str(tmp_path)]
        return json.loads(script("bayesian_logistic").main([*always, *options]).read_text())

    return run


def _files(folder, name="banana", n=120):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[:, 2] = 4.0  # a constant feature
    np.savez(folder / f"{name}.npz", x=x, y=np.where(x[:, 0] + rng.normal(size=n) > 0, 1, -1).astype(np.int8))


def test_record(record, tmp_path):
    _files(tmp_path)
    found = record("--sets", "banana", "german")
    assert {"benchmark", "date", "machine", "versions", "commit", "note", "settings", "results"} <= found.keys()
    assert found["settings"]["quick"] is True
    assert str(BENCHMARKS.parent) not in json.dumps(found)
    assert str(tmp_path) not in json.dumps(found)
    banana = found["results"]["sets"]["banana"]
    assert (banana["train"], banana["test"], banana["features"]) == (96, 24, 3)
    explicit, implicit = {"svgd", "langevin", "mala", "blob"}, {"jko_particles", "jko_affine", "jko_icnn"}
    assert banana["methods"].keys() == explicit | implicit
    for name, method in banana["methods"].items():
        assert method["diverged"] == 0
        assert 0 <= method["accuracy"]["mean"] <= 1
        assert method["log_likelihood"]["mean"] < 0
        assert method["published_seconds_over_ours"] == pytest.approx(1102 / method["seconds"], rel=1e-3)  # five digits
        if name in explicit:
            # The step is the one with the best log posterior of those tried.
            grid = {float(k): v for k, v in method["log_posterior_of_steps"].items()}
            assert grid[method["step"]] == max(grid.values())
        else:
            assert method["step_sizes_on_first_split"][-1] == pytest.approx(10)


def test_missing_sets_are_said(script, record, tmp_path):
    _files(tmp_path)
    with pytest.raises(SystemExit):
        script("bayesian_logistic").main(["--quick"])  # the folder is not optional
    found = record("--sets", "splice")
    assert found["results"]["missing"] == ["splice"]
    assert found["results"]["sets"] == {}


def test_posterior_is_the_written_formula_and_its_gradient_is_right(script):
    logistic = script("_logistic")
    rng = torch.Generator().manual_seed(0)
    x, theta = (torch.randn(k, d, generator=rng, dtype=torch.float64) for k, d in ((7, 3), (5, 4)))
    y = torch.tensor([1, -1, 1, 1, -1, -1, 1], dtype=torch.float64)
    log_p = logistic.Posterior(x, y)
    assert log_p.dim == 4
    for particle, found in zip(theta, log_p(theta), strict=True):
        w, alpha = particle[:3], particle[3].exp()
        # Normal, gamma and the change of variables, by their densities.
        prior = torch.distributions.Normal(0.0, alpha.rsqrt()).log_prob(w).sum() + 0.01 * -alpha + math.log(0.01)
        expected = torch.sigmoid(y * (x @ w)).log().sum() + prior + alpha.log()
        constant = -1.5 * math.log(2 * math.pi) + math.log(0.01)
        torch.testing.assert_close(found + constant, expected, rtol=1e-12, atol=1e-12)
    theta.requires_grad_(True)
    assert torch.autograd.gradcheck(log_p, (theta,))


def test_prior_draws_have_the_moments_of_the_prior_and_the_normal_law_its_scale(script):
    posterior = script("_logistic").Posterior(torch.ones(2, 3), torch.ones(2))
    draws = posterior.prior(20_000, 0)
    log_alpha, alpha, n = draws[:, 3], draws[:, 3].exp(), len(draws)
    # Exponential of mean and deviation 100; 5 standard errors.
    assert float(alpha.mean()) == pytest.approx(100, abs=5 * 100 / n**0.5)
    assert float((alpha * draws[:, 0].square()).mean()) == pytest.approx(1, abs=5 * (2 / n) ** 0.5)
    mean, cov = posterior.normal()
    assert float(log_alpha.mean()) == pytest.approx(float(mean[3]), abs=5 * (float(cov[3, 3]) / n) ** 0.5)
    # The fourth central moment of the logarithm of an exponential is 5.4 times its squared variance.
    assert float(log_alpha.var()) == pytest.approx(float(cov[3, 3]), abs=5 * float(cov[3, 3]) * (4.4 / n) ** 0.5)


def test_scores_average_the_prediction_over_particles(script):
    logistic = script("_logistic")
    x, y = torch.tensor([[1.0], [1.0]]), torch.tensor([1.0, -1.0])
    theta = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    found = logistic.scores(theta, x, y)
    p = (1 / (1 + math.exp(-2)) + 0.5) / 2
    assert found["accuracy"] == 0.5
    assert found["log_likelihood"] == pytest.approx((math.log(p) + math.log(1 - p)) / 2, rel=1e-6)


@pytest.mark.parametrize("method", ["jko_particles", "jko_affine", "jko_icnn"])
def test_implicit_flows_arrive_at_the_predictions_of_quadrature(script, method):
    bench, data = script("bayesian_logistic"), script("_logistic_data")
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(300, 1, generator=rng)
    y = 2 * (torch.rand(300, generator=rng) < torch.sigmoid(2 * x[:, 0])).float() - 1
    args = argparse.Namespace(particles=100, jko_steps=6, inner=50, cached=256, width=16, draws=1000)
    found = bench.flow(method, data.Split(x, y, x, y), None, 0, args)

    w, log_alpha = torch.meshgrid(
        torch.linspace(0.5, 4, 201).double(), torch.linspace(-8, 4, 201).double(), indexing="ij"
    )
    grid = torch.stack([w.flatten(), log_alpha.flatten()], 1)
    mass = bench.Posterior(x.double(), y.double())(grid).softmax(0)
    p = torch.sigmoid(y[:, None].double() * x.double() * grid[:, 0])
    exact = float((p @ mass).log().mean())
    # What independent draws, as many as there are, would leave: their p averages to the law's up to this, in all rows together.
    points = args.particles if method == "jko_particles" else args.cached
    average = (p / (p @ mass)[:, None]).mean(0)
    error = float(((average - 1).square() @ mass / points).sqrt())
    assert found["log_likelihood"] == pytest.approx(exact, abs=5 * error)
    # Not so the start, whose weights are of size 0.1.
    assert abs(math.log(0.5) - exact) > 50 * error


def test_ranges_are_mapped_to_minus_one_and_one(script):
    data = script("_logistic_data")
    found = data.by_range(data.Table(torch.tensor([[0.0, 3.0], [1.0, 4.0], [4.0, 5.0]]), torch.ones(3)))
    assert found.x.tolist() == [[-1.0, -1.0], [-0.5, 0.0], [1.0, 1.0]]
    assert not found.standardise


def test_letters_are_numbered_a_g_c_t_and_rows_are_distinct(script):
    data = script("_logistic_data")
    text = ["ACGT", "AGCT", "TTTA", "CAAC", "GNAG", "GCAG", "ACGT", "GCAG"]
    signs = torch.tensor([1.0, 1, -1, 1, 1, 1, 1, -1])
    # As in the file: every column numbers what occurs in it, in alphabetical order. N makes a column have five letters.
    columns = [sorted({row[j] for row in text}) for j in range(4)]
    x = torch.tensor([[columns[j].index(row[j]) for j in range(4)] for row in text]).float()
    # Frequent letters are told from rare ones by their number.
    x, signs = torch.cat([x, x[[0, 1, 2, 3, 5]]]), torch.cat([signs, signs[[0, 1, 2, 3, 5]]])
    found = data.letters(data.Table(x, signs))
    number = {"A": 1, "G": 2, "C": 3, "T": 4}
    kept = [0, 1, 2, 3, 5, 7]  # neither the ambiguous row nor the second ACGT; GCAG has both labels
    assert found.x.tolist() == [[number[c] for c in text[i]] for i in kept]
    assert found.y.tolist() == signs[kept].tolist()


def test_splits_are_standardised_by_the_training_data_alone(script, shared_data):
    data = script("_logistic_data")
    for name, (n, d) in {"german": (1000, 20), "covertype15k": (15120, 54)}.items():
        table = data.as_published(shared_data("blr"), name)
        found = data.split(table, 0)
        assert table.x.shape == (n, d)
        assert set(table.y.unique().tolist()) == {-1.0, 1.0}
        assert len(found.x) == int(0.8 * n)
        assert len(found.x) + len(found.test_x) == n
        # Means of n numbers of order 1, in float32.
        torch.testing.assert_close(found.x.mean(0), torch.zeros(d), rtol=0, atol=1e-4)
        moving = found.x.std(0) > 0
        torch.testing.assert_close(found.x.std(0)[moving], torch.ones(int(moving.sum())), rtol=1e-3, atol=0)
        # Standardised by the others, the test data are not exactly so.
        assert float(found.test_x.mean(0).abs().max()) > 1e-3


def test_ringnorm_is_breimans_and_splice_has_its_sites(script, shared_data):
    data = script("_logistic_data")
    ring = data.as_published(shared_data("blr"), "ringnorm")
    wide, narrow = ring.x[ring.y > 0], ring.x[ring.y < 0]
    a, n = 2 / 20**0.5, len(wide)
    # 20 features in 3664 rows or more; 5 standard errors.
    assert float(wide.mean()) == pytest.approx(0, abs=5 * 2 / (20 * n) ** 0.5)
    assert float(narrow.mean()) == pytest.approx(a, abs=5 / (20 * n) ** 0.5)
    assert float(wide.var()) == pytest.approx(4, abs=5 * 4 * (2 / (20 * n)) ** 0.5)
    assert float(narrow.var()) == pytest.approx(1, abs=5 * (2 / (20 * n)) ** 0.5)

    splice = data.as_published(shared_data("blr"), "splice")
    assert set(splice.x.unique().tolist()) == {1.0, 2.0, 3.0, 4.0}
    assert len(torch.cat([splice.x, splice.y[:, None]], 1).unique(dim=0)) == len(splice.x)
    # Introns begin with GT and end with AG: at the junctions, in the middle of the 60 letters, one or the other occurs.
    sites = splice.x[splice.y < 0]
    begins = (sites[:, 30] == 2) & (sites[:, 31] == 4)
    ends = (sites[:, 28] == 1) & (sites[:, 29] == 2)
    assert float((begins | ends).float().mean()) > 0.98
