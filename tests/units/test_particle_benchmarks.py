"""The particle benchmarks: their records are complete, their peers compute what the library does, their posterior is right."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from wgflow._ops import kernel_sums
from wgflow.kernels import RBF, Riesz

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CASES = ("mmd_rbf", "energy", "stein", "blob", "sliced")


@pytest.fixture
def module(monkeypatch):
    """Return a function that imports a module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def record(module, tmp_path):
    """Return a function that runs a benchmark quickly and returns its record."""
    threads = torch.get_num_threads()

    def run(script, *options):
        path = module(script).main(["--quick", "--device", "cpu", "--results", str(tmp_path), *options])
        return json.loads(path.read_text())

    yield run
    torch.set_num_threads(threads)


def assert_says_where_it_comes_from(found):
    assert {"benchmark", "date", "machine", "versions", "commit", "note", "settings", "results"} <= found.keys()
    assert {"id", "dirty"} == found["commit"].keys()
    assert found["settings"]["quick"] is True
    assert str(BENCHMARKS.parent) not in json.dumps(found)


@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("case", CASES)
def test_all_methods_take_the_same_step(module, case, d):
    cases, peers = module("_particle_cases"), module("_peers")
    p = cases.Problem.make(case, 70, d, dtype=torch.float64)
    rows = torch.arange(0, 70, 3)
    velocity, value = cases.reference_velocity(p, rows), cases.reference_value(p)
    found = {"wgflow": (cases.value(p), cases.library(p)()[1])}
    for name, make in peers.METHODS[case].items():
        if name != "keops" and peers.absent(name) is None:  # KeOps would compile
            found[name] = make(p)()
    assert {"wgflow", "torch"} <= found.keys()
    for name, (v, moved) in found.items():
        # Products of matrices leave 1e-16 |x|^2 in squared distances, that is 1e-8 |x| in those of coincident points; and
        # geomloss cuts distances off at 1e-4 (of 1/n of the pairs).
        torch.testing.assert_close(moved[rows], velocity, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
        if value is not None:
            assert float(v) == pytest.approx(value, rel=1e-4 if name == "geomloss" else 1e-7), name


def test_a_share_of_the_rows_is_that_share_of_the_step(module):
    cases, peers = module("_particle_cases"), module("_peers")
    for case in ("mmd_rbf", "stein"):
        p = cases.Problem.make(case, 60, 2, dtype=torch.float64)
        whole, part = peers.blocks(p)()[1], peers.blocks(p, rows=20)()[1]
        torch.testing.assert_close(part, whole[:20], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [RBF(0.7), Riesz(1.0)])
def test_sums_of_a_cloud_with_itself_are_those_with_its_copy(kernel):
    """The library halves the pairs of one cloud; a copy is another cloud."""
    rng = torch.Generator().manual_seed(0)
    x, g = (torch.randn(600, 3, generator=rng, dtype=torch.float64) for _ in range(2))  # more than one block
    b = torch.rand(600, generator=rng, dtype=torch.float64)
    x.requires_grad_(True), b.requires_grad_(True)
    found = [torch.autograd.grad(kernel_sums(kernel, x, y, b) @ g[:, 0], (x, b)) for y in (x, x.clone())]
    for one, two in zip(*found, strict=True):
        # 600 terms of order 1 in another order.
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.slow  # starts four processes
def test_record_of_the_particle_steps(record, tmp_path):
    figure = tmp_path / "figure.png"
    found = record("particles", "--figure", str(figure))
    assert_says_where_it_comes_from(found)
    results = found["results"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert [s["case"] for s in results["steps"]] == list(CASES)
    for step in results["steps"]:
        # Every method is accounted for: it ran, or a reason is given.
        peers = {"mmd_rbf": 5, "energy": 5, "stein": 4, "blob": 4, "sliced": 3}[step["case"]]
        assert len(step["methods"]) + len(step["not_run"]) == peers
        assert step["ratio"].keys() == step["methods"].keys() - {"wgflow"}
        for method in step["methods"].values():
            # float32 keeps 7 digits; distances from products lose some where particles nearly coincide.
            assert method["velocity_error"] < 1e-3
    assert {"wgflow", "torch_blocks"} == results["large"][0]["methods"].keys()
    assert results["large"][0]["methods"]["wgflow"]["velocity_error"] < 1e-4
    assert {m["method"] for m in results["memory"]} == {"wgflow", "torch"}
    for run in results["sinkhorn"]:
        assert run["reference_converged"]
        errors = [r["gradient_error"] for r in run["runs"]["wgflow"]]
        assert errors[-1] < 1e-3  # at a tolerance of 1e-5, in float32
        assert len(run["at_equal_error"]) == 5
    for run in results["exact_w2"]:
        assert all(m["value_error"] < 1e-5 for m in run["methods"].values())  # float32
        assert {"wgflow", "scipy"} <= run["methods"].keys()


def _files(folder, name="banana", n=120):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3)).astype(np.float32)
    x[:, 2] = 4.0  # a constant feature
    np.savez(folder / f"{name}.npz", x=x, y=np.where(x[:, 0] + rng.normal(size=n) > 0, 1, -1).astype(np.int8))


def test_record_of_logistic_regression(record, tmp_path):
    _files(tmp_path)
    found = record("bayesian_logistic", "--data", str(tmp_path), "--sets", "banana", "german")
    assert_says_where_it_comes_from(found)
    banana = found["results"]["sets"]["banana"]
    assert (banana["train"], banana["test"], banana["features"]) == (96, 24, 3)
    assert banana["methods"].keys() == {"svgd", "langevin", "mala", "blob"}
    for method in banana["methods"].values():
        assert method["diverged"] == 0
        assert 0 <= method["accuracy"]["mean"] <= 1
        assert method["log_likelihood"]["mean"] < 0
        # The step is the one with the best log posterior of those tried.
        grid = {float(k): v for k, v in method["log_posterior_of_steps"].items()}
        assert grid[method["step"]] == max(grid.values())


def test_missing_sets_are_said(module, record, tmp_path):
    _files(tmp_path)
    script = module("bayesian_logistic")
    with pytest.raises(SystemExit):
        script.main(["--quick"])  # the folder is not optional
    found = record("bayesian_logistic", "--data", str(tmp_path), "--sets", "splice")
    assert found["results"]["missing"] == ["splice"]
    assert found["results"]["sets"] == {}


def test_posterior_is_the_written_formula_and_its_gradient_is_right(module):
    logistic = module("_logistic")
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


def test_prior_draws_have_the_moments_of_the_prior(module):
    logistic = module("_logistic")
    draws = logistic.Posterior(torch.ones(2, 3), torch.ones(2)).prior(20_000, 0)
    alpha, n = draws[:, 3].exp(), len(draws)
    # Exponential of mean and deviation 100; 5 standard errors.
    assert float(alpha.mean()) == pytest.approx(100, abs=5 * 100 / n**0.5)
    assert float((alpha * draws[:, 0].square()).mean()) == pytest.approx(1, abs=5 * (2 / n) ** 0.5)


def test_scores_average_the_prediction_over_particles(module):
    logistic = module("_logistic")
    x, y = torch.tensor([[1.0], [1.0]]), torch.tensor([1.0, -1.0])
    theta = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
    found = logistic.scores(theta, x, y)
    p = (1 / (1 + math.exp(-2)) + 0.5) / 2
    assert found["accuracy"] == 0.5
    assert found["log_likelihood"] == pytest.approx((math.log(p) + math.log(1 - p)) / 2, rel=1e-6)


def test_real_sets_are_read_and_standardised_by_the_training_data_alone(module, shared_data):
    logistic = module("_logistic")
    for name, (n, d) in {"diabetis": (768, 8), "splice": (3188, 60), "covertype15k": (15120, 54)}.items():
        x, y = logistic.load(shared_data("blr"), name)
        data = logistic.split(x, y, 0)
        assert x.shape == (n, d)
        assert set(y.unique().tolist()) == {-1.0, 1.0}
        assert len(data.x) == int(0.8 * n)
        assert len(data.x) + len(data.test_x) == n
        # Means of n numbers of order 1, in float32.
        torch.testing.assert_close(data.x.mean(0), torch.zeros(d), rtol=0, atol=1e-4)
        moving = data.x.std(0) > 0
        torch.testing.assert_close(data.x.std(0)[moving], torch.ones(int(moving.sum())), rtol=1e-3, atol=0)
        # Standardised by the others, the test data are not exactly so.
        assert float(data.test_x.mean(0).abs().max()) > 1e-3
