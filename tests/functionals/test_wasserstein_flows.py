"""Exact transport and its flows: the line, geodesics, Gaussians, POT."""

import itertools
import math
import sys

import pytest
import torch
from _exact import double, rng

from wgflow import (
    JKO,
    SGD,
    Autograd,
    BadInput,
    ForwardEuler,
    MissingDependency,
    Particles,
    Unsupported,
    reference,
    solve,
)
from wgflow.functionals.wasserstein import W1, SquaredW2

ALL = 10**9
BOTH = pytest.mark.parametrize("kind", [SquaredW2, W1])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def normal_quantiles(n):
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return math.sqrt(2) * torch.erfinv(2 * u - 1)


# --- values and derivatives ----------------------------------------------------------------------------------------

SIZES = [
    (8, 8, 2, (False, False)),
    (8, 16, 2, (False, False)),
    (8, 11, 3, (True, False)),
    (8, 8, 3, (True, True)),
    (9, 9, 1, (False, False)),
    (9, 12, 1, (False, False)),
    (9, 12, 1, (True, True)),
]


def clouds(n, m, d, weighted):
    log_w = [normal(k, seed=k + 2) if w else None for k, w in zip((n, m), weighted, strict=True)]
    return Particles(normal(n, d), log_w[0]), Particles(normal(m, d, seed=1) + 1, log_w[1])


@BOTH
@pytest.mark.parametrize(("n", "m", "d", "weighted"), SIZES)
def test_value_is_pots(n, m, d, weighted, kind):
    ot = pytest.importorskip("ot")
    rho, nu = clouds(n, m, d, weighted)
    cost = torch.cdist(rho.x, nu.x).pow(kind.power)
    assert float(kind(nu).value(rho)) == pytest.approx(ot.emd2(rho.w.numpy(), nu.w.numpy(), cost.numpy()), rel=1e-12)


@BOTH
@pytest.mark.parametrize(("n", "m", "d", "weighted"), SIZES)
def test_derivatives_are_central_differences(n, m, d, weighted, kind):
    """In the weights where potentials are unique: in one dimension, or for weights that match nowhere."""
    if d > 1 and n != m:
        pytest.importorskip("ot")
    rho, nu = clouds(n, m, d, weighted)
    F, log_w = kind(nu), normal(n, seed=7)
    assert torch.autograd.gradcheck(lambda x: F.value(Particles(x, rho.log_w)), (rho.x.requires_grad_(),), atol=1e-7)
    of = lambda x, log_w: F.value(Particles(x, log_w))  # noqa: E731
    if d == 1 or any(weighted):
        assert torch.autograd.gradcheck(of, (rho.x, log_w.requires_grad_()), atol=1e-7)
    if d == 1:
        assert torch.autograd.gradcheck(of, (rho.x, torch.zeros(n, dtype=torch.float64, requires_grad=True)), atol=1e-7)


@BOTH
def test_potential_of_an_assignment_is_a_subgradient(kind):
    """F is convex in the weights: it lies above its tangent, at every other set of weights."""
    pytest.importorskip("ot")
    rho, nu = clouds(12, 12, 2, (False, False))
    F = kind(nu)
    potential, _ = Autograd().gradient(F, rho, None)
    at = float(F.value(rho))
    for seed in range(20):
        other = Particles(rho.x, normal(12, seed=seed))
        assert float(F.value(other)) >= at + float(((other.w - rho.w) * potential).sum()) - 1e-12
    assert float(potential.abs().max()) > 0.1


@BOTH
def test_one_dimension_is_a_special_case(kind):
    pytest.importorskip("ot")
    rho, nu = clouds(9, 12, 1, (True, True))
    flat = lambda p: Particles(torch.cat([p.x, torch.zeros_like(p.x)], 1), p.log_w)  # noqa: E731
    line, plane = ((kind(t), p) for t, p in ((nu, rho), (flat(nu), flat(rho))))
    torch.testing.assert_close(line[0].value(line[1]), plane[0].value(plane[1]), rtol=1e-12, atol=0)
    one, two = (Autograd().gradient(F, p, None) for F, p in (line, plane))
    torch.testing.assert_close(one[0], two[0], rtol=0, atol=1e-11)
    torch.testing.assert_close(one[1][:, 0], two[1][:, 0], rtol=0, atol=1e-11)


def test_gaussians_on_the_line():
    """W2² = dm² + ds²; W1 = E|dm + ds Z|. Midpoint quantiles of 4000: the tails cost an order of 1/n."""
    z, dm, ds = normal_quantiles(4000), 0.7, 0.6
    rho, nu = Particles(z[:, None]), Particles((1 + ds) * z[:, None] + dm)
    fold = ds * math.sqrt(2 / math.pi) * math.exp(-(dm**2) / (2 * ds**2)) + dm * math.erf(dm / ds / math.sqrt(2))
    assert float(SquaredW2(nu).value(rho)) == pytest.approx(dm**2 + ds**2, abs=1e-3)
    assert float(W1(nu).value(rho)) == pytest.approx(fold, abs=1e-3)


# --- W1: no error in time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("step", [1 / 8, 1 / 4])
def test_w1_flow_has_no_error_in_time(step, weighted):
    """Distances are multiples of the step and numbers dyadic, so particles land on their partners and stay: extinction."""
    n = 60
    y = torch.arange(n, dtype=torch.float64).mul(2)
    x = y + torch.randint(-3, 4, (n,), generator=rng()).double() / 4
    log_w = normal(n, seed=3) if weighted else None
    F = W1(Particles(y[:, None], log_w))
    flow = solve(F, ForwardEuler(), Particles(x[:, None], log_w), step_size=step, num_steps=round(1 / step))
    for t, p in zip(flow.times, flow.saved, strict=True):
        exact = reference.w1_flow(x, y, t)
        torch.testing.assert_close(p.x[:, 0], exact, rtol=0, atol=1e-13)
        assert float(F.value(p)) == pytest.approx(float(p.mean((exact - y).abs())), abs=1e-13)
    assert torch.equal(flow.measure.x[:, 0], y)


def test_w1_flow_stops_within_a_step_of_its_partner():
    x, y, h = normal(50).sort()[0], normal(50, seed=1).sort()[0] + 0.5, 0.01
    flow = solve(W1(Particles(y[:, None])), ForwardEuler(), Particles(x[:, None]), step_size=h, num_steps=30)
    assert float((flow.measure.x[:, 0].sort()[0] - reference.w1_flow(x, y, 0.3)).abs().max()) <= h * (1 + 1e-9)


def test_a_jko_step_of_w1_is_its_flow():
    """The same formula with t = h. Inner steps of h/100 of plain descent end within two of them of the kink."""
    n, h = 30, 0.5
    x, y = normal(n).sort()[0], normal(n, seed=1).sort()[0] + 0.5
    solver = JKO(Autograd(), SGD(n * h / 100), iters=500)
    flow = solve(W1(Particles(y[:, None])), solver, Particles(x[:, None]), step_size=h, num_steps=1)
    assert float((flow.measure.x[:, 0] - reference.w1_flow(x, y, h)).abs().max()) <= 2 * h / 100


def test_w1_has_no_force_between_coincident_points():
    x = double([[0.0, 0.0], [3.0, 4.0]])
    v = Autograd().velocity(W1(Particles(torch.zeros(2, 2, dtype=torch.float64))), Particles(x), None)
    torch.testing.assert_close(v, double([[0.0, 0.0], [-0.6, -0.8]]))


# --- squared W2: geodesics -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_euler_goes_a_fraction_of_the_geodesic(weighted):
    """Moved by a gradient of a convex function, points are paired with their images: W2 falls by 1 - h a step, exactly."""
    if weighted:
        pytest.importorskip("ot")
    log_w = normal(80, seed=4) if weighted else None
    x, T = normal(80, 2), double([[1.5, 0.4], [0.4, 0.6]])
    F = 0.5 * SquaredW2(Particles(x @ T + 2, log_w))
    flow = solve(F, ForwardEuler(), Particles(x, log_w), step_size=0.05, num_steps=20)
    ratio = (F.value(flow.measure) / F.value(flow.saved[0])).sqrt()
    assert float(ratio) == pytest.approx(0.95**20, rel=1e-12)
    torch.testing.assert_close(flow.measure.x, 0.95**20 * x + (1 - 0.95**20) * (x @ T + 2), rtol=0, atol=1e-12)


def test_euler_on_gaussians_follows_their_geodesic():
    """Moments of clouds with exact Gaussian moments, moved by the exact map of those moments."""
    z = normal(200, 2)
    z = z - z.mean(0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / 200)).T
    ends = [
        reference.Moments(double([0.0, 1.0]), double([[1.0, -0.3], [-0.3, 2.0]])),
        reference.Moments(double([1.0, -1.0]), double([[2.0, 0.5], [0.5, 1.0]])),
    ]
    root = reference.symmetric_root(ends[0].cov)
    inverse = torch.linalg.inv(root)
    T = inverse @ reference.symmetric_root(root @ ends[1].cov @ root) @ inverse
    x = z @ root + ends[0].mean
    F = 0.5 * SquaredW2(Particles((x - ends[0].mean) @ T + ends[1].mean))
    assert float(F.value(Particles(x))) == pytest.approx(float(reference.squared_w2(*ends)) / 2, rel=1e-12)
    flow = solve(F, ForwardEuler(), Particles(x), step_size=0.25, num_steps=3)
    there = reference.geodesic(*ends, 1 - 0.75**3)
    now = reference.Moments.of(flow.measure)
    torch.testing.assert_close(now.mean, there.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(now.cov, there.cov, rtol=0, atol=1e-12)


def test_jko_goes_the_implicit_fraction():
    """h/(1+h) of the way; the inner problem is quadratic, so that many steps of half its curvature solve it to rounding."""
    x = normal(20, 2)
    F, h = 0.5 * SquaredW2(Particles(2 * x + 1)), 0.5
    flow = solve(F, JKO(Autograd(), SGD(20 / (1 + 1 / h) / 1.5), iters=60), Particles(x), step_size=h, num_steps=2)
    left = (1 / (1 + h)) ** 2
    torch.testing.assert_close(flow.measure.x, left * x + (1 - left) * (2 * x + 1), rtol=0, atol=1e-9)


def test_energy_falls_along_the_flow_between_unequal_clouds():
    pytest.importorskip("ot")
    F = 0.5 * SquaredW2(Particles(normal(30, 2, seed=1) + 2))
    flow = solve(F, ForwardEuler(), Particles(normal(20, 2)), step_size=0.2, num_steps=8)
    values = [float(F.value(p)) for p in flow.saved]
    assert all(b < 0.9 * a for a, b in itertools.pairwise(values[:3]))
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(values))


# --- borders -----------------------------------------------------------------------------------------------------------


@BOTH
def test_without_pot_an_assignment_works_and_the_rest_says_what_is_missing(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    rho, nu = clouds(8, 8, 2, (False, False))
    Autograd().gradient(kind(nu), rho, None)
    with pytest.raises(MissingDependency, match=r"wgflow\[ot\]"):
        kind(nu).value(Particles(rho.x, normal(8)))


@BOTH
def test_sizes_out_of_reach(kind):
    x = torch.zeros(5000, 2)
    with pytest.raises(Unsupported, match="SlicedWasserstein"):
        kind(Particles(x), ALL).value(Particles(x))
    kind(Particles(x[:, :1]), ALL).value(Particles(x[:, :1]))  # no such limit on the line


@BOTH
def test_bad_input(kind):
    with pytest.raises(BadInput, match="batch=0"):
        kind(Particles(torch.zeros(2, 2)), batch=0)
    with pytest.raises(BadInput, match="dtype"):
        kind(Particles(torch.zeros(2, 2))).value(Particles(torch.zeros(2, 2).double()))
    with pytest.raises(BadInput, match="finite"):
        kind(Particles(torch.zeros(2, 2))).value(Particles(torch.full((2, 2), torch.nan)))
