"""Flows of W1 by exact potentials: closed forms, bounds, chatter, and steps that do not overshoot."""

import itertools
import math

import pytest
import torch
from _exact import double, rng

from wgflow import (
    KL,
    W1,
    BoundedEuler,
    EnergyDistance,
    ForwardEuler,
    Particles,
    SquaredW2,
    StandardNormal,
    solve,
    why_not,
)
from wgflow.numerics.exact_transport import assignment, distances


def values(F, solution) -> list[float]:
    return [float(F.value(state)) for state in solution.saved]


@pytest.mark.parametrize("d", [1, 3])
def test_a_point_mass_comes_within_a_step_and_then_goes_to_and_fro(d: int) -> None:
    a, b, e = double([[1.03] + [0.0] * (d - 1)]), double([[0.0] * d]), 0.1
    F = W1(Particles(b))
    found = values(F, solve(F, ForwardEuler(), Particles(a), step_size=e, num_steps=14))
    expected = [1.03 - n * e for n in range(11)] + [0.07, 0.03, 0.07, 0.03]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("d", [1, 3])
def test_a_point_mass_lands_and_stays_with_bounded_steps(d: int) -> None:
    a, b = double([[1.03] + [0.0] * (d - 1)]), double([[0.0] * d])
    F = W1(Particles(b))
    found = values(F, solve(F, BoundedEuler(), Particles(a), step_size=0.1, num_steps=14))
    assert found[:11] == pytest.approx([1.03 - 0.1 * n for n in range(11)], abs=1e-12)
    assert found[11:] == pytest.approx([0, 0, 0, 0], abs=1e-16)


LEVELS = (torch.arange(2001, dtype=torch.float64) + 0.5) / 2001
QUANTILES = torch.special.ndtri(LEVELS)[:, None]


def test_the_distance_of_a_normal_to_a_wider_one_falls_as_the_formula_says() -> None:
    """N(0, 1) to N(0, 4): W1(t) = 2 (pdf(t) - t (1 - cdf(t)))."""
    F = W1(Particles(2 * QUANTILES), batch=4000)
    found = values(F, solve(F, BoundedEuler(), Particles(QUANTILES), step_size=0.25, num_steps=8))
    cdf = lambda t: 0.5 * (1 + math.erf(t / math.sqrt(2)))  # noqa: E731
    pdf = lambda t: math.exp(-(t**2) / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    exact = [2 * (pdf(t) - t * (1 - cdf(t))) for t in [0.25 * k for k in range(9)]]
    assert exact[4] == pytest.approx(0.16663, abs=1e-5)  # of the specification
    assert found == pytest.approx(exact, abs=3e-4)


def test_forward_euler_is_of_order_one_and_ends_half_a_step_away() -> None:
    target, start = Particles(2 * QUANTILES), Particles(QUANTILES)
    F, t = W1(target, batch=4000), 1.0
    exact = torch.stack([QUANTILES - t, 2 * QUANTILES, QUANTILES + t]).median(0).values
    errors = []
    for n in (5, 10, 20, 50):
        end = solve(F, ForwardEuler(), start, step_size=t / n, num_steps=n).measure.x
        errors.append(float((end.sort(0)[0] - exact).abs().mean()))
    assert errors == pytest.approx([0.068, 0.034, 0.017, 0.0068], rel=0.04)
    long = solve(F, ForwardEuler(), start, step_size=0.1, num_steps=80).measure
    assert float(F.value(long)) == pytest.approx(0.05, rel=0.02)


def test_translated_copies_move_rigidly_at_unit_speed() -> None:
    x, b = torch.randn(40, 2, generator=rng(1)).double(), double([3.0, 4.0])
    F = W1(Particles(x + b), batch=40)
    solution = solve(F, ForwardEuler(), Particles(x), step_size=0.3, num_steps=10)
    assert values(F, solution) == pytest.approx([5 - 0.3 * n for n in range(11)], abs=1e-9)


def matched(x, y):
    return y[torch.from_numpy(assignment(distances(x, y), x.shape[1]).columns)]


def test_an_optimal_matching_stays_optimal() -> None:
    x, y = torch.randn(30, 2, generator=rng(2)).double(), 1 + 2 * torch.randn(30, 2, generator=rng(3)).double()
    F, r = W1(Particles(y), batch=30), (matched(x, y) - x).norm(dim=1)
    solution = solve(F, BoundedEuler(), Particles(x), step_size=0.2, num_steps=12)
    exact = [float((r - 0.2 * n).clamp(min=0).mean()) for n in range(13)]
    assert values(F, solution) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("solver", [ForwardEuler(), BoundedEuler()])
def test_the_distance_changes_by_a_step_at_most(solver) -> None:
    x, y = torch.randn(30, 2, generator=rng(4)).double(), torch.randn(30, 2, generator=rng(5)).double()
    F = W1(Particles(y), batch=30)
    solution = solve(F, solver, Particles(x), step_size=0.17, num_steps=20)
    speeds = [(b.x - a.x).norm(dim=1).max() / 0.17 for a, b in itertools.pairwise(solution.saved)]
    assert max(map(float, speeds)) <= 1 + 1e-12
    found = values(F, solution)
    changes = [b - a for a, b in itertools.pairwise(found)]
    assert max(map(abs, changes)) <= 0.17 + 1e-12
    if isinstance(solver, BoundedEuler):
        assert max(changes) <= 1e-12  # and never grows


def test_the_squared_w2_falls_by_the_square_of_one_minus_the_step() -> None:
    """Of Gaussians, by their quantiles; a step of 1 lands."""
    target, start = Particles(1.5 + 0.5 * QUANTILES), Particles(QUANTILES - 1)
    F = 0.5 * SquaredW2(target, batch=4000)
    found = values(F, solve(F, ForwardEuler(), start, step_size=0.25, num_steps=6))
    assert found == pytest.approx([found[0] * 0.75 ** (2 * n) for n in range(7)], rel=1e-9)
    assert float(F.value(solve(F, ForwardEuler(), start, step_size=1.0, num_steps=1).measure)) == pytest.approx(
        0, abs=1e-20
    )
    assert found[0] == pytest.approx((2.5**2 + 0.5**2) / 2, abs=2e-3)  # of N(-1, 1) and N(1.5, 1/4)


# --- distances that are known -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2])
def test_what_remains_is_the_distance_to_the_partner(d: int) -> None:
    x, y = torch.randn(20, d, generator=rng(6)).double(), torch.randn(20, d, generator=rng(7)).double()
    F = W1(Particles(y), batch=20)
    remaining = F.remaining(Particles(x))
    assert float(remaining.mean()) == pytest.approx(float(F.value(Particles(x))), rel=1e-12)
    torch.testing.assert_close((0.3 * F).remaining(Particles(x)), remaining)


@pytest.mark.parametrize("d", [1, 2])
def test_of_several_partners_the_nearest_counts(d: int) -> None:
    y = double([[1.0] + [0.0] * (d - 1), [3.0] + [0.0] * (d - 1)])
    one = Particles(torch.zeros(1, d, dtype=torch.float64))
    assert W1(Particles(y)).remaining(one).tolist() == [1.0]
    heavy = Particles(torch.zeros(2, d, dtype=torch.float64) + y[:1], double([0.75, 0.25]).log())
    assert W1(Particles(y)).remaining(heavy).min() == 0


@pytest.mark.parametrize("log_w", [-20.0, -30.0, -45.0, -300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2])
def test_light_particles_land_and_stay_too(d: int, dtype: torch.dtype, log_w: float) -> None:
    x, y = (torch.randn(n, d, generator=rng(n)).to(dtype) for n in (9, 8))
    weights = torch.zeros(9, dtype=dtype)
    weights[4] = log_w
    flow = solve(W1(Particles(y)), BoundedEuler(), Particles(x, weights), step_size=0.3, num_steps=40)
    landed = flow.measure.x[4]
    assert float((y - landed).norm(dim=1).min()) < 1e-6
    assert float((flow.saved[-2].x[4] - landed).norm()) < 1e-6


def test_a_particle_without_weight_has_no_distance_to_go() -> None:
    for d in (1, 2):
        p = Particles(torch.ones(2, d, dtype=torch.float64), double([0.0, -torch.inf]))
        remaining = W1(Particles(torch.zeros(2, d, dtype=torch.float64))).remaining(p)
        assert remaining.tolist() == pytest.approx([math.sqrt(d), math.inf])


def test_bounded_steps_are_refused_where_no_distance_is_known() -> None:
    x = Particles(torch.zeros(3, 2))
    for F in (
        EnergyDistance(StandardNormal(2)),
        KL(StandardNormal(2)),
        W1(StandardNormal(2)) + SquaredW2(StandardNormal(2)),
    ):
        why = why_not(F, BoundedEuler(), x)
        assert why is not None
        assert "Use" in why
