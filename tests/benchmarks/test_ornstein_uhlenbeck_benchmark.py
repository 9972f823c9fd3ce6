"""The Ornstein–Uhlenbeck benchmark: its exact rows against published numbers, its scores, its record and its table."""

import json
import math
from pathlib import Path

import pytest
import torch

from wgflow import BadInput
from wgflow.bench.records.ornstein_uhlenbeck import table
from wgflow.reference import Moments, OrnsteinUhlenbeck

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


# Mean log10 of the symmetric KL over the 15 targets of Mokrov et al.; two digits are given. Of exact forward Euler the
# ill-conditioned targets diverge: -0.45 in six dimensions.
FLOORS = {1: (-4.80, -4.74), 2: (-3.25, -3.66), 4: (-2.73, -3.19), 6: (-2.24, -2.77), 10: (-2.16, -2.77)}


@pytest.mark.parametrize("d", FLOORS)
def test_the_floor_of_the_suite(script, d):
    suite = script("_ou_suite")
    found = suite.recursion(d, OrnsteinUhlenbeck.jko, suite.H)
    assert (found["0.5"], found["0.9"]) == pytest.approx(FLOORS[d], abs=6e-3)


def test_explicit_euler_is_as_good_until_a_target_is_stiff(script):
    suite = script("_ou_suite")
    step = OrnsteinUhlenbeck.forward_euler
    assert suite.recursion(2, step, suite.H)["0.5"] == pytest.approx(-3.22, abs=6e-3)
    stiff = suite.recursion(6, step, suite.H)
    assert stiff["0.5"] == pytest.approx(-0.45, abs=6e-3)
    assert stiff["0.9"] is None, "a covariance has collapsed by then"


def test_a_chain_is_scored_by_the_density_it_carries(script):
    """Affine maps trained on a fixed cloud that has the moments of N(0, I): the exact JKO steps, and so their score."""
    from wgflow import JKO, KL, Particles, Save, solve
    from wgflow.maps import Affine
    from wgflow.measures.chain import Chain
    from wgflow.optim import LBFGS

    suite, d, steps = script("_ou_suite"), 2, 2
    eye = torch.eye(d, dtype=torch.float64)
    few = math.sqrt(d) * torch.cat([eye, -eye])
    nu, flow = suite.target(d, 0), OrnsteinUhlenbeck.towards(suite.target(d, 0))
    chain = Chain(Particles(few, log_rho=torch.zeros(2 * d).double()), lambda: Affine(d), cached=2 * d)
    solver = JKO(optim=LBFGS(max_iter=500, tolerance=1e-9), iters=1, batch=2 * d)
    trained = solve(KL(nu), solver, chain, step_size=suite.H, num_steps=steps, save=Save(0)).measure

    law = suite.start(d)
    for _ in range(steps):
        law = flow.jko(law, suite.H)
    x = few
    with torch.no_grad():
        for T in trained.maps:
            x = T(x)
    torch.testing.assert_close(tuple(Moments.of(Particles(x))), tuple(law), rtol=0, atol=1e-6)

    # The same maps, of independent points of N(0, I) with its density.
    chain = script("_ou_methods").double(trained)
    exact, t = flow.exact(suite.start(d), steps * suite.H), steps * suite.H
    found = suite.symmetric_kl_by_density(chain, exact.gaussian(), 20000, torch.Generator().manual_seed(0))
    # The estimator's relative error is a few n^-1/2: 0.01 of a decade.
    assert math.log10(found) == pytest.approx(suite.score(law, flow, t), abs=0.03)


def test_even_points_have_the_moments_that_independent_ones_approach(script):
    normal = script("_ou_methods").EvenNormal(3, dtype=torch.float64)
    n = 4096
    mean, cov = Moments.of(normal.draw(n, torch.Generator().manual_seed(0)))
    # Independent points are off by n^-1/2 = 0.016 a moment; these by a tenth of that at most.
    assert float(mean.abs().max()) < 0.1 * n**-0.5
    assert float((cov - torch.eye(3)).abs().max()) < 0.3 * n**-0.5


def test_a_step_whose_seconds_grow_shows_as_a_slope(script):
    bench = script("ornstein_uhlenbeck")
    seconds = [9.0] + [1.0 + 0.1 * k for k in range(5)]
    runs = {str(n): {"seconds": seconds, "evaluations": [1.0] * 6} for n in range(3)}
    found = bench.cost_of_step(bench.METHODS[0], 2, runs)
    assert found["slope_percent"] == pytest.approx(100 * 0.4 / 1.2)
    assert (found["second"], found["last"]) == pytest.approx((1.0, 1.4))
    runs = {"0": {"seconds": seconds, "evaluations": seconds}}
    assert bench.cost_of_step(bench.METHODS[0], 2, runs)["slope_percent"] == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_the_whole_benchmark_runs_resumes_and_is_shown(script, tmp_path, capsys):
    bench = script("ornstein_uhlenbeck")
    options = ["--quick", "--device", "cpu", "--results", str(tmp_path)]
    path = bench.main(options)
    record = json.loads(path.read_text())
    assert {"benchmark", "date", "machine", "versions", "commit", "note", "settings", "results"} <= record.keys()
    assert str(BENCHMARKS.parent) not in json.dumps(record)
    assert (tmp_path / "ornstein_uhlenbeck.png").read_bytes().startswith(b"\x89PNG")
    assert record["settings"]["settings_chosen_on"] == "targets 100 and 101"
    rows = {r["label"]: r for r in record["results"]["dims"][0]["rows"]}
    assert rows["exact JKO, h = 0.05: the floor"]["log10_symkl"]["0.5"] == pytest.approx(FLOORS[2][0], abs=6e-3)
    for method in bench.METHODS:
        assert rows[method.label]["targets_run"] == 1
        steps = 1 if method.label.startswith("Euler") else 18
        assert len(record["results"]["runs"][method.label]["2"]["0"]["seconds"]) == steps
    assert "diverges" not in table(record)

    first, second = (m.label for m in bench.METHODS[:2])
    record["settings"]["methods"][second] = "something else"
    for label in (first, second):
        record["results"]["runs"][label]["2"]["0"]["log10_symkl"]["0.5"] = 77.0
    path.write_text(json.dumps(record))
    runs = json.loads(bench.main([*options, "--resume"]).read_text())["results"]["runs"]
    assert runs[first]["2"]["0"]["log10_symkl"]["0.5"] == 77.0
    assert runs[second]["2"]["0"]["log10_symkl"]["0.5"] != 77.0
    assert "--mokrov not given" in capsys.readouterr().out


def test_a_folder_that_is_no_copy_of_the_public_code_is_named(script, tmp_path):
    with pytest.raises(BadInput, match="expected a copy"):
        script("_mokrov").seconds_per_iteration(tmp_path, 2, maps=0, iters=1, batch=8)
