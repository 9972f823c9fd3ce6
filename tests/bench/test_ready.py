"""Ready problems: their references against formulas, and schemes on them against their exact iterates."""

import math

import pytest
import torch
from _exact import double

import wgflow as wg
from wgflow import bench
from wgflow.bench.forms import gaussian_pair
from wgflow.reference import OrnsteinUhlenbeck, squared_w2

SMALL = {
    "ou": lambda: bench.ornstein_uhlenbeck(2, 50),
    "mixture": lambda: bench.mixture(100),
    "porous_medium": lambda: bench.porous_medium(1, 100),
    "attraction": lambda: bench.attraction(3, 10),
    "w1": lambda: bench.w1(40),
    "sliced_gaussians": lambda: bench.sliced_gaussians(2, 30, 20),
}


def compare(problem, methods, **options):
    return bench.compare(problem, methods, progress=False, **options)


def test_every_ready_problem_is_tried_here():
    assert set(SMALL) == set(bench.PROBLEMS)


@pytest.mark.parametrize("name", SMALL)
def test_a_start_is_the_reference_at_time_0_and_far_from_the_end(name):
    problem = SMALL[name]()
    error = problem.error or bench.scores.error_for(problem.reference(problem.horizon))
    begun, far = (error(problem.initial, problem.reference(t)) for t in (0.0, problem.horizon))
    assert begun < 0.03 * far


@pytest.mark.parametrize("name", SMALL)
def test_every_method_of_a_ready_problem_runs(name):
    problem = SMALL[name]()
    result = compare(problem, None, step_sizes=problem.step_sizes[:1])
    assert set(result.methods) == set(problem.methods)
    assert {row.status for row in result.rows} <= {"done", "unconverged", "diverged"}
    assert all("," not in label for label in result.methods)  # they are listed on the command line


@pytest.mark.parametrize("name", SMALL)
def test_the_plain_solvers_run_on_every_ready_problem(name):
    """The ones of the README: an Euler step and a JKO step, with no estimator chosen."""
    problem = SMALL[name]()
    methods = {"Euler": wg.ForwardEuler(), "JKO": wg.JKO(optim=wg.LBFGS(max_iter=20), iters=1)}
    rows = compare(problem, methods, step_sizes=problem.step_sizes[:1]).rows
    assert "refused" not in {row.status for row in rows}


@pytest.mark.parametrize("d", [1, 2, 5])
def test_schemes_on_the_ornstein_uhlenbeck_flow_are_their_exact_iterates(d):
    start, target = gaussian_pair(d)
    flow, problem = OrnsteinUhlenbeck.towards(target), bench.ornstein_uhlenbeck(d, 40)
    methods = {name: problem.methods[name] for name in ("forward Euler", "forward-backward", "JKO")}
    steps = dict(zip(methods, (flow.forward_euler, flow.forward_backward, flow.jko), strict=True))
    for row in compare(problem, methods, step_sizes=[0.2]).rows:
        p = start
        for _ in range(5):
            p = steps[row.method](p, 0.2)
        assert row.error() == pytest.approx(float(squared_w2(p, flow.exact(start, 1.0)).sqrt()), rel=1e-5)


@pytest.mark.parametrize(("method", "order"), [("forward Euler", 1), ("Adams–Bashforth", 2), ("Heun", 2), ("RK4", 4)])
def test_orders_on_the_ornstein_uhlenbeck_flow(method, order):
    problem = bench.ornstein_uhlenbeck(2, 40)
    found = compare(problem, {method: problem.methods[method]}, step_sizes=[0.1, 0.05, 0.025])
    assert found.order(method).value == pytest.approx(order, abs=0.2)


def test_noise_has_a_floor_and_an_order_only_above_it():
    problem = bench.ornstein_uhlenbeck(1, 300)
    result = compare(problem, {"Langevin": wg.Langevin()}, step_sizes=[0.2, 0.1, 0.05], seeds=3)
    row = result.rows[0]
    # E W2² of a fit to n draws of N(m, s²) is about (1 + 1/2) s² / n.
    s2 = 1 + 3 * math.exp(-2)
    assert row.floor == pytest.approx(math.sqrt(1.5 * s2 / 300), rel=0.5)
    used = result.order("Langevin").step_sizes
    assert all(r.error() > 3 * r.floor for r in result.rows if r.step_size in used)
    assert "sampling floor" in result.order("Langevin").reason


def test_jko_steps_of_w1_are_exact():
    result = compare(bench.w1(100), {"closed form": wg.Proximal()})
    assert max(row.error() for row in result.rows) < 1e-12
    assert result.order("closed form").reason == "rounding"


def test_jko_of_the_porous_medium_on_the_line_is_of_first_order():
    problem = bench.porous_medium(1, 1000)
    result = compare(problem, {"JKO": problem.methods["JKO"]}, step_sizes=[0.02, 0.01])
    assert result.order("JKO").value == pytest.approx(1, abs=0.1)


def test_jko_of_quantiles_towards_a_mixture_is_of_first_order():
    problem = bench.mixture(400)
    result = compare(problem, {"JKO": problem.methods["JKO of quantiles"]}, step_sizes=[0.2, 0.1])
    assert result.order("JKO").value == pytest.approx(1, abs=0.1)


def test_the_sliced_flow_moves_every_particle_to_its_partner():
    """With both axes as the directions, the mean over them is exact and there is no noise."""
    problem = bench.sliced_gaussians(2, 20)
    target = problem.functional.term.target
    F = 0.5 * wg.SlicedWasserstein(target, directions=torch.eye(2, dtype=torch.float64), batch=10**9)
    result = compare(problem, {"Euler": bench.Method(wg.ForwardEuler(), F)})
    y = problem.reference(1e9)
    far = float((problem.initial.x - y).square().sum(1).mean().sqrt())
    for row in result.rows:
        expected = far * abs((1 - row.step_size / 2) ** row.steps - math.exp(-0.5))
        assert row.error() == pytest.approx(expected, rel=1e-9)


def test_a_porous_medium_of_three_dimensions_is_refused():
    with pytest.raises(wg.BadInput, match="d=3: expected 1 or 2"):
        bench.porous_medium(3)


def test_moments_of_a_start_are_those_of_its_law():
    start, _ = gaussian_pair(3)
    found = wg.reference.Moments.of(bench.ornstein_uhlenbeck(3, 30).initial)
    torch.testing.assert_close(found.mean, start.mean)
    torch.testing.assert_close(found.cov, start.cov)
    assert found.mean.dtype == double([0.0]).dtype


def test_the_error_of_a_mixture_sees_weights():
    """A point without weight is none, and the distance of many is that of exact transport."""
    exact = wg.Particles(torch.linspace(-2, 3, 600, dtype=torch.float64)[:, None])
    x, w = double([[0.5], [-1.0], [7.0], [2.0]]), double([1.0, 1.0, 0.0, 1.0])
    few = bench.ready.quantile_error(wg.Particles(x, w.log()), exact)
    assert few == pytest.approx(bench.ready.quantile_error(wg.Particles(x[[0, 1, 3]]), exact))
    many = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weighted = wg.Particles(many, -many[:, 0].square())
    assert bench.ready.quantile_error(weighted, exact) == pytest.approx(bench.w2_error(weighted, exact), rel=0.01)
