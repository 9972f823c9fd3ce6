"""Exact and sliced transport do not depend on units, on the origin, on one far point or on the precision of their sums."""

import math

import numpy as np
import pytest
import torch
from _exact import double, rng
from scipy.optimize import linear_sum_assignment

from wgflow import Autograd, BadInput, NotConverged, Particles, SlicedWasserstein
from wgflow.functionals.wasserstein import W1, ExactTransport, SquaredW2
from wgflow.numerics import exact_transport
from wgflow.numerics.exact_transport import assignment, distances, weighted
from wgflow.numerics.quantiles import Line, projected_cost

BOTH = pytest.mark.parametrize("kind", [SquaredW2, W1])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def clouds(n: int = 60, m: int = 60, d: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, d, generator=rng()).double(), torch.randn(m, d, generator=rng(1)).double() + 1


def partners(x: torch.Tensor, y: torch.Tensor, p: int) -> np.ndarray:
    return linear_sum_assignment(torch.cdist(x, y).numpy() ** p)[1]


@BOTH
@DTYPES
@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("scale", [1e-15, 1e-8, 1e-3, 1e4, 1e12])
def test_values_and_velocities_scale_with_the_unit(
    scale: float, d: int, dtype: torch.dtype, kind: type[ExactTransport]
) -> None:
    """An optimal plan stays one: distances are the unit, velocities its power less one."""
    x, y = clouds(d=d)
    x, y = (scale * x).to(dtype), (scale * y).to(dtype)
    F, p, z = kind(Particles(y)), kind.power, (x.double() / scale, y.double() / scale)
    j = partners(*z, p)
    gap = z[0] - z[1][j]
    assert float(F.value(Particles(x))) / scale**p == pytest.approx(float((gap.norm(dim=1) ** p).mean()), rel=1e-5)
    v = Autograd().velocity(F, Particles(x), None).double() / scale ** (p - 1)
    exact = -2 * gap if p == 2 else -gap / gap.norm(dim=1, keepdim=True)
    if d > 1:  # on a line other plans are optimal for p = 1
        torch.testing.assert_close(v, exact, rtol=1e-4, atol=1e-4)


@BOTH
@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_squares_that_are_no_numbers_are_not_needed(scale: float, kind: type[ExactTransport]) -> None:
    """The plan is right, and a distance; only its square, the value of W2, under- or overflows."""
    x, y = clouds(20, 20)
    one, other = (Autograd().velocity(kind(Particles(s * y)), Particles(s * x), None) for s in (1.0, scale))
    torch.testing.assert_close(other / scale ** (kind.power - 1), one)


@pytest.mark.parametrize(
    "far", [{0: 1e6}, {0: 1e8}, {0: 1e8, 63: 1e8 + 5}, {0: 1e6, 63: -1e6}], ids=["one", "very", "one each", "opposite"]
)
@pytest.mark.parametrize(("n", "d"), [(60, 2), (300, 2), (60, 16), (200, 16)])
def test_a_far_point_leaves_the_optimum_of_the_others(n: int, d: int, far: dict[int, float]) -> None:
    """An exchange of any two partners makes no plan cheaper, by more than rounding of these four costs."""
    x, y = clouds(n, n, d)
    for i, at in far.items():
        (x if i == 0 else y)[i % 60, 0] = at
    cost = distances(x, y) ** 2
    j = assignment(cost, d).columns
    own = cost[np.arange(n), j]
    exchanged, kept = cost[:, j] + cost[:, j].T, own[:, None] + own
    assert (exchanged - kept >= -1e-14 * np.maximum(exchanged, kept)).all()
    # Those of near points are the optimum among themselves: no cycle of any length is cheaper either.
    near = (own < 100) & (x[:, 0].abs().numpy() < 100)
    rows, columns = np.arange(n)[near], j[near]
    inner = cost[np.ix_(rows, columns)]
    assert own[near].sum() == pytest.approx(inner[linear_sum_assignment(inner)].sum(), rel=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_both_ways_to_an_assignment_cost_the_same(p: int) -> None:
    """With points on one another, and on those of the other side: many plans are optimal, one value is."""
    pytest.importorskip("ot")
    x, y = clouds(80, 80, 12)
    x[40:], y[60:] = x[:40], x[:20]
    cost = distances(x, y) ** p
    few, many = (cost[np.arange(80), assignment(cost, d).columns].mean() for d in (2, 12))
    assert sorted(assignment(cost, 12).columns) == list(range(80))
    assert many == pytest.approx(few, rel=1e-12)


@pytest.mark.parametrize("d", [2, 6, 64])
def test_distances_have_their_own_digits(d: int) -> None:
    """Of points near each other and far from all others as well; 0 is 0."""
    x, y = clouds(600, 500, d)
    y[0], y[1], y[2] = x[0], x[1] + 1e-9, 1e6
    x[2] = 1e6 + 1.0
    exact = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    found = torch.from_numpy(distances(x, y))
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=0)
    assert found[0, 0] == 0


def test_weighted_plans_with_a_far_point_are_optimal_among_the_others() -> None:
    """A pair of far points of equal mass is a problem apart: the rest is the plan without it."""
    ot = pytest.importorskip("ot")
    x, y = clouds(80, 50)
    a, b = (torch.rand(n, generator=rng(n)).double() for n in (80, 50))
    a, b = a / a.sum(), b / b.sum()
    alone = ot.emd2(a.numpy(), b.numpy(), distances(x, y) ** 2)
    x, y = torch.cat([x, double([[1e8, 0.0]])]), torch.cat([y, double([[1e8, 1.0]])])
    a, b = (torch.cat([w / 2, double([0.5])]) for w in (a, b))
    cost = distances(x, y) ** 2
    plan = weighted(cost, a, b)
    near = (plan.rows < 80) & (plan.columns < 50)
    assert float((plan.mass * cost[plan.rows, plan.columns])[near].sum()) == pytest.approx(alone / 2, rel=1e-9)
    assert set(plan.columns[plan.rows == 80]) == {50}


@BOTH
def test_weights_have_potentials_at_any_scale(kind: type[ExactTransport]) -> None:
    """They scale with the value."""
    x, y = clouds(30, 40)
    log_w = torch.randn(30, generator=rng(3)).double()
    one, other = (
        Autograd().gradient(kind(Particles(s * y)), Particles(s * x, log_w), None)[0] / s**kind.power
        for s in (1.0, 1e-9)
    )
    torch.testing.assert_close(other, one)


def test_a_plan_that_misses_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver that stops at a plan which is not optimal is caught by the duality gap."""
    cost = distances(*clouds(20, 20)) ** 2
    cost[0, :] += 1e9
    n = len(cost)
    lazy = np.eye(n) / n
    monkeypatch.setattr(exact_transport, "_simplex", lambda *_: (lazy, np.zeros(n), np.zeros(n)))
    monkeypatch.setattr(exact_transport, "GAP", 1e-12)
    with pytest.warns(NotConverged, match="exact transport has not converged"):
        weighted(cost, None, None)


@BOTH
def test_points_that_are_not_finite_are_refused(kind: type[ExactTransport]) -> None:
    x, y = clouds(5, 5)
    x[2, 1] = math.inf
    with pytest.raises(BadInput, match="needs finite points"):
        kind(Particles(y)).value(Particles(x))


@BOTH
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(kind: type[ExactTransport], wrong: float) -> None:
    x, y = map(Particles, clouds(5, 5))
    heavy = Particles(x.x, torch.tensor([0.0, 0.0, wrong, 0.0, 0.0]).double())
    for rho, nu in ((heavy, y), (y, heavy)):
        with pytest.raises(BadInput, match="needs finite weights"):
            kind(nu).value(rho)


# --- lines -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_sliced_transport_does_not_depend_on_the_origin(offset: float, p: int) -> None:
    """In float32, against float64 on the same float32 points."""
    x, y = (torch.randn(n, 3, generator=rng(n)) + offset for n in (300, 200))
    theta = torch.nn.functional.normalize(torch.randn(5, 3, generator=rng(2)), dim=1)
    F, G = (SlicedWasserstein(Particles(y.to(t)), p=p, directions=theta.to(t)) for t in (torch.float32, torch.float64))
    v, w = (
        Autograd().velocity(H, Particles(x.to(t)), None).double() for H, t in ((F, torch.float32), (G, torch.float64))
    )
    assert float(F.value(Particles(x))) == pytest.approx(float(G.value(Particles(x.double()))), rel=1e-5)
    assert float((v - w).norm() / w.norm()) < 1e-5


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("m", [200_000, 199_999])
def test_sums_over_many_points_keep_the_digits_of_single_precision(m: int, weights: bool, p: int) -> None:
    x, y = torch.randn(200_000, 1, generator=rng()), 1.2 * torch.randn(m, 1, generator=rng(1)) + 0.3
    a = (3 * torch.randn(len(x), generator=rng(2))).softmax(0) if weights else None
    theta = torch.ones(1, 1)
    single = projected_cost(x, a, Line(y, None, theta), p, len(theta))
    exact = projected_cost(
        x.double(), None if a is None else a.double(), Line(y.double(), None, theta.double()), p, len(theta)
    )
    assert float(single) == pytest.approx(float(exact), rel=1e-6)
