"""The sliced Wasserstein distance and its flow against exact answers, POT and facts of the literature."""

import itertools
import math

import numpy as np
import pytest
import torch
from _exact import double, rng

from wgflow import (
    RK4,
    Autograd,
    BadInput,
    ForwardEuler,
    GaussianMixture,
    Particles,
    SlicedWasserstein,
    Unsupported,
    solve,
)
from wgflow.numerics.quantiles import groups

ALL = 10**9


def circle(count, offset=0.0):
    """Directions at even angles of a half turn: for smooth integrands the trapezoid rule, exact beyond rounding."""
    angle = math.pi * (torch.arange(count, dtype=torch.float64) + offset) / count
    return torch.stack([angle.cos(), angle.sin()], 1)


def rotation_invariant(radius_of, radii, angles):
    """An even polar grid of a law of the plane; neighbouring rings are turned against each other."""
    r = radius_of((torch.arange(radii, dtype=torch.float64) + 0.5) / radii)
    turn = 2 * math.pi * (torch.arange(angles) + 0.618 * torch.arange(radii)[:, None]) / angles
    return torch.stack([r[:, None] * turn.cos(), r[:, None] * turn.sin()], 2).reshape(-1, 2).double()


def standard_normal_plane(radii, angles):
    z = rotation_invariant(lambda u: (-2 * torch.log1p(-u)).sqrt(), radii, angles)
    chol = torch.linalg.cholesky(z.T @ z / len(z))
    return torch.linalg.solve_triangular(chol, z.T, upper=False).T


def orthonormal(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=rng(seed), dtype=torch.float64))[0]


def clouds(n, m, d=3, weighted=(False, False)):
    g = rng(n + m)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    x, y = normal(n, d), normal(m, d) + 1
    log_w = [normal(k) if w else None for k, w in zip((n, m), weighted, strict=True)]
    theta = normal(12, d)
    return Particles(x, log_w[0]), Particles(y, log_w[1]), theta / theta.norm(dim=1, keepdim=True)


SIZES = [
    (12, 12, (False, False)),
    (8, 24, (False, False)),
    (24, 8, (False, False)),
    (12, 18, (False, False)),
    (12, 18, (True, False)),
    (12, 18, (False, True)),
    (13, 17, (True, True)),
]


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("n", "m", "weighted"), SIZES)
def test_value_is_pots(n, m, weighted, p):
    ot = pytest.importorskip("ot")
    rho, nu, theta = clouds(n, m, weighted=weighted)
    theirs = ot.sliced_wasserstein_distance(
        rho.x.numpy(), nu.x.numpy(), rho.w.numpy(), nu.w.numpy(), projections=theta.T.numpy(), p=p
    )
    assert float(SlicedWasserstein(nu, p, theta, ALL).value(rho)) == pytest.approx(theirs**p, rel=1e-12)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("n", "m", "weighted"), SIZES)
def test_derivatives_are_central_differences(n, m, weighted, p):
    """In the weights also where levels coincide (equal weights): there the mean of the one-sided derivatives is due."""
    rho, nu, theta = clouds(n, m, weighted=weighted)
    F = SlicedWasserstein(nu, p, theta, ALL)
    log_w = torch.zeros(n, dtype=torch.float64) if rho.log_w is None else rho.log_w
    of = lambda x, log_w: F.value(Particles(x, log_w))  # noqa: E731
    assert torch.autograd.gradcheck(of, (rho.x.requires_grad_(), log_w.requires_grad_()), atol=1e-7)
    assert torch.autograd.gradcheck(lambda x: F.value(Particles(x)), (rho.x,), atol=1e-7)


def test_equal_weights_take_a_short_cut_to_the_same_numbers():
    for n, m in ((30, 30), (30, 60), (60, 30), (30, 45)):
        rho, nu, theta = clouds(n, m)
        F = 0.5 * SlicedWasserstein(nu, 2, theta, ALL)
        explicit = Particles(rho.x, torch.zeros(n, dtype=torch.float64))
        torch.testing.assert_close(F.value(rho), F.value(explicit), rtol=1e-12, atol=0)
        ours, theirs = (Autograd().velocity(F, p, None) for p in (rho, explicit))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("weighted", [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize(("projected", "kept"), [(2**23, 0), (100, 0), (200, 2**23)])
def test_chunks_change_nothing(monkeypatch, projected, kept, weighted, p):
    """Groups of 3, 4 or all 12 directions; blocks of these; targets sorted again. Far from the origin."""
    rho, nu, theta = clouds(33, 47, weighted=weighted)
    rho, nu = (Particles(p.x + 100.0, p.log_w) for p in (rho, nu))

    def found() -> list[torch.Tensor]:
        F = SlicedWasserstein(nu, p, theta.clone(), ALL)
        v, weight = F.value(rho), torch.zeros(len(rho), dtype=rho.x.dtype).requires_grad_()
        by_weight = torch.autograd.grad(F.value(Particles(rho.x, weight)), weight)[0]
        return [v, Autograd().velocity(F, rho, None), Autograd().gradient(F, rho, None)[0], by_weight]

    whole = found()
    monkeypatch.setattr("wgflow.numerics.quantiles.BLOCK_CPU", 100)
    monkeypatch.setattr("wgflow.numerics.quantiles.PROJECTED", projected)
    monkeypatch.setattr("wgflow.numerics.quantiles.KEPT", kept)
    for ours, theirs in zip(found(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-11)


def test_chunks_share_out_the_same_among_points_on_one_another(monkeypatch):
    """Which of two is taken first is left open; what both get is not."""
    rho, nu, theta = clouds(16, 33)
    rho, nu = Particles(rho.x.repeat(2, 1)), Particles(torch.cat([nu.x[:16], nu.x[:16]]))
    both = lambda: Autograd().velocity(SlicedWasserstein(nu, 2, theta.clone(), ALL), rho, None).view(2, 16, 3).sum(0)  # noqa: E731
    whole = both()
    for name in ("BLOCK_CPU", "PROJECTED"):
        monkeypatch.setattr(f"wgflow.numerics.quantiles.{name}", 32)
    torch.testing.assert_close(both(), whole, rtol=0, atol=1e-13)


def test_inner_products_take_no_more_room_than_is_said():
    """All directions at once up to 2²³ numbers, or as many as the points are."""
    place = torch.device("cpu")
    for n, d in ((100_000, 64), (1_000_000, 2), (1_000_000, 64), (20_000_000, 3)):
        parts = groups(50, n, d, place)
        assert [k for part in parts for k in range(part.start, part.stop)] == list(range(50))
        assert max(part.stop - part.start for part in parts) * n <= max(2**23, n * d)
    assert len(groups(50, 100_000, 64, place)) == len(groups(50, 1_000_000, 64, place)) == 1


def test_a_second_backward_pass_finds_the_same_slope():
    rho, nu, theta = clouds(9, 9)
    x = rho.x.requires_grad_()
    value = SlicedWasserstein(nu, 2, theta, ALL).value(Particles(x))
    (once,) = torch.autograd.grad(value, x, retain_graph=True)
    (again,) = torch.autograd.grad(3 * value, x)
    torch.testing.assert_close(again, 3 * once)


def test_single_precision_agrees_with_double():
    """Rounding of a projection, 1e-7 of its size, can also exchange neighbours: of 500 points, at distances of 1e-2."""
    rho, nu, theta = clouds(500, 500)
    F = [SlicedWasserstein(Particles(nu.x.to(t)), 2, theta.to(t), ALL) for t in (torch.float32, torch.float64)]
    torch.testing.assert_close(F[0].value(Particles(rho.x.float())).double(), F[1].value(rho), rtol=2e-6, atol=0)
    v = [Autograd().velocity(f, Particles(rho.x.to(f.target.x)), None).double() for f in F]
    assert float((v[0] - v[1]).norm() / v[1].norm()) < 1e-3


# --- the flow on similar clouds: exact for any cloud when the directions are an orthonormal basis ------------------


@pytest.mark.parametrize("event", [(2,), (5,), (3, 2)])
def test_similar_clouds_approach_at_the_rate_one_over_d(event):
    """The target is c + 2x: every projection keeps its order, so Euler multiplies the difference by 1 - h/d."""
    d, h, steps = math.prod(event), 0.4, 6
    x = torch.randn(40, *event, generator=rng(), dtype=torch.float64)
    y = 0.7 + 2.0 * x
    F = 0.5 * SlicedWasserstein(Particles(y), directions=orthonormal(d))
    assert float(F.value(Particles(x))) == pytest.approx(float((y - x).square().flatten(1).sum(1).mean()) / (2 * d))
    flow = solve(F, ForwardEuler(), Particles(x), step_size=h, num_steps=steps)
    torch.testing.assert_close(flow.measure.x, y + (1 - h / d) ** steps * (x - y), rtol=0, atol=1e-13)


def test_the_step_d_arrives_at_once():
    x = torch.randn(40, 3, generator=rng(), dtype=torch.float64)
    F = 0.5 * SlicedWasserstein(Particles(2 * x + 1), directions=orthonormal(3))
    flow = solve(F, ForwardEuler(), Particles(x), step_size=3.0, num_steps=1)
    torch.testing.assert_close(flow.measure.x, 2 * x + 1, rtol=0, atol=1e-13)


# --- Gaussians ---------------------------------------------------------------------------------------------------


def matrix(c11, c12, c22):
    return double([[c11, c12], [c12, c22]])


def test_gaussian_flow_meets_its_test_vector():
    """Covariance at t = 1, known to 10 digits; a polar grid of n points stands for a Gaussian with an error of order 1/n."""
    start, target, end = matrix(2, 0.6, 0.5), matrix(0.4, -0.1, 1.5), matrix(1.4799622180, 0.4341418530, 0.6119014273)
    errors = []
    for radii, angles in ((20, 40), (40, 80)):
        z = standard_normal_plane(radii, angles)
        x, y = (z @ torch.linalg.cholesky(c).T for c in (start, target))
        F = 0.5 * SlicedWasserstein(Particles(y), 2, circle(24), ALL)
        flow = solve(F, RK4(), Particles(x), step_size=0.1, num_steps=10)
        errors.append(float((flow.measure.x.T @ flow.measure.x / len(x) - end).abs().max()))
    assert errors[1] < errors[0] / 3
    assert errors[1] < 1e-4


def test_distance_between_gaussians():
    """|dm|²/d + E(sqrt(θCθ) - sqrt(θC*θ))², at every order of the grid's error."""
    z, theta = standard_normal_plane(60, 100), circle(24)
    c, target, shift = matrix(2, 0.6, 0.5), matrix(0.4, -0.1, 1.5), double([1.0, -0.5])
    x, y = z @ torch.linalg.cholesky(c).T, z @ torch.linalg.cholesky(target).T + shift
    spread = [((theta @ m) * theta).sum(1).sqrt() for m in (c, target)]
    exact = float(shift.square().sum() / 2 + (spread[0] - spread[1]).square().mean())
    assert float(SlicedWasserstein(Particles(y), 2, theta, ALL).value(Particles(x))) == pytest.approx(exact, abs=1e-3)


def test_energy_falls_at_the_rate_of_the_squared_speed():
    rho, nu, theta = clouds(60, 60, 2)
    F = 0.5 * SlicedWasserstein(nu, 2, theta, ALL)
    v = Autograd().velocity(F, rho, None)
    rate = (F.value(Particles(rho.x + 1e-6 * v)) - F.value(Particles(rho.x - 1e-6 * v))) / 2e-6
    assert float(rate) == pytest.approx(-float(rho.mean(v.square().sum(1))), rel=1e-7)


def test_steps_below_2d_decrease():
    """F - |x|²/(2dN) is concave, so s < 2d = 4 decreases F, step after step."""
    x, y = (torch.randn(100, 2, generator=rng(seed), dtype=torch.float64) for seed in (0, 1))
    F = 0.5 * SlicedWasserstein(Particles(y), 2, circle(100), ALL)
    values = [float(F.value(p)) for p in solve(F, ForwardEuler(), Particles(x), step_size=3.9, num_steps=100).saved]
    assert all(b < a for a, b in itertools.pairwise(values))


def test_steps_above_2d_blow_up():
    """The mean obeys m' = (m* - m)/d whatever the clouds: at s = 4.1 it overshoots by 1.05 a step, and F >= |m - m*|²/2d."""
    x, y = (torch.randn(100, 2, generator=rng(seed), dtype=torch.float64) for seed in (0, 1))
    F = 0.5 * SlicedWasserstein(Particles(y), 2, circle(100), ALL)
    flow = solve(F, ForwardEuler(), Particles(x), step_size=4.1, num_steps=100)
    ahead = (x.mean(0) - y.mean(0)) * (1 - 4.1 / 2) ** 100
    torch.testing.assert_close(flow.measure.x.mean(0) - y.mean(0), ahead, rtol=1e-9, atol=0)
    assert float(F.value(flow.measure)) > float(ahead.square().sum()) / 4 > 10 * float(F.value(Particles(x)))


# --- the critical line -------------------------------------------------------------------------------------------


def sliced_uniform():
    """The law of the disc whose every projection is uniform on [-1, 1]."""
    return Particles(rotation_invariant(lambda u: (1 - (1 - u) ** 2).sqrt(), 200, 100))


def line(t, n=100):
    """Even points of [-4/π, 4/π], moved by t up and down in turn."""
    x = (2 * (torch.arange(n, dtype=torch.float64) + 0.5) / n - 1) * 4 / math.pi
    return Particles(torch.stack([x, t * (-1.0) ** torch.arange(n)], 1))


@pytest.mark.parametrize(
    ("t", "published"),
    [(0, 0.06317), (0.05, 0.06013), (0.1, 0.05425), (0.2, 0.04028), (0.5, 0.01688), (1.0, 0.1209)],
)
def test_the_critical_line_is_a_saddle(t, published):
    """Values to the digits given, four or five; the target's grid is finer than they show."""
    F = SlicedWasserstein(sliced_uniform(), 2, circle(400), ALL)
    assert float(F.value(line(t))) == pytest.approx(published, abs=5e-5)


def test_the_line_is_critical():
    """The force on a point of the line is that of the discretisation, of the order of a spacing; elsewhere it is not."""
    F = 0.5 * SlicedWasserstein(sliced_uniform(), 2, circle(400), ALL)
    force = [Autograd().velocity(F, p, None).norm(dim=1).max() for p in (line(0), line(0.5))]
    assert float(force[0]) < 0.01
    assert float(force[1]) > 0.1


def test_few_fixed_directions_make_the_line_look_stable():
    """Without a direction across the line every small move costs; with one it pays."""
    nu = sliced_uniform()
    for offset, pays in ((0.5, False), (0.0, True)):
        F = SlicedWasserstein(nu, 2, circle(10, offset), ALL)
        assert (float(F.value(line(1e-3)) - F.value(line(0))) < 0) == pays


# --- what it is used for -----------------------------------------------------------------------------------------


def test_mass_moves_between_modes():
    """Modes at (∓2, 0), target masses .3 and .7, start .7 and .3: local kernels freeze here. Tolerance: sqrt(.21/200)."""
    modes, n = double([[-2.0, 0.0], [2.0, 0.0]]), 200
    target = GaussianMixture(modes, 0.3, double([0.3, 0.7])).draw(n, rng(1))
    start = GaussianMixture(modes, 0.3, double([0.7, 0.3])).draw(n, rng(2))
    flow = solve(0.5 * SlicedWasserstein(target), ForwardEuler(), start, step_size=1.0, num_steps=60)
    assert float((flow.measure.x[:, 0] < 0).double().mean()) == pytest.approx(0.3, abs=0.033)


def test_freezing_draws_directions_or_keeps_them():
    rho, nu, theta = clouds(20, 20)
    kept = SlicedWasserstein(nu, 2, theta)
    assert kept.freeze(rng()).directions is theta
    drawn = [SlicedWasserstein(nu, directions=30).freeze(rng(s)).directions for s in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].shape == (30, 3)
    torch.testing.assert_close(drawn[0].norm(dim=1), torch.ones(30, dtype=torch.float64))
    with pytest.raises(Unsupported, match="draw the directions first"):
        SlicedWasserstein(nu).value(rho)


def test_directions_are_uniform_on_the_sphere():
    """E θθᵀ = I/d and E θ_1⁴ = 3/(d(d+2)); 5 standard errors of 20,000 draws, each below sqrt(E θ⁴ / 20,000)."""
    nu = Particles(torch.zeros(1, 3, dtype=torch.float64))
    theta = SlicedWasserstein(nu, directions=20_000).freeze(rng()).directions
    assert float((theta.T @ theta / len(theta) - torch.eye(3) / 3).abs().max()) < 5 * math.sqrt(0.2 / 20_000)
    assert float(theta[:, 0].pow(4).mean()) == pytest.approx(0.2, abs=5 * math.sqrt(1 / 9 / 20_000))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p": 3}, "p=3"),
        ({"directions": 0}, "directions=0"),
        ({"directions": torch.ones(4, 2)}, r"float tensor \(L, 3\)"),
        ({"directions": torch.ones(4, 3)}, "unit vectors"),
        ({"directions": torch.ones(4, 3, dtype=torch.int64)}, "float tensor"),
        ({"batch": 0}, "batch=0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(BadInput, match=message):
        SlicedWasserstein(Particles(torch.zeros(2, 3)), **options)


def test_clouds_that_cannot_be_compared():
    F = SlicedWasserstein(Particles(torch.zeros(2, 3)), directions=torch.eye(3))
    for x, message in (
        (torch.zeros(2, 2), "shape"),
        (torch.zeros(2, 3).double(), "dtype"),
        (torch.zeros(2, 3).half(), "dtype"),
    ):
        with pytest.raises(BadInput, match=message):
            F.value(Particles(x))


def test_points_that_are_not_finite_give_a_value_that_is_not():
    F = SlicedWasserstein(Particles(torch.zeros(2, 3)), directions=torch.eye(3))
    assert not np.isfinite(float(F.value(Particles(torch.full((2, 3), torch.nan)))))
