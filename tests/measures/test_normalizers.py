"""Normalizers of the proximal kernel against quadrature, formulas and each other; draws against densities."""

import math

import pytest
import torch
from _exact import double, rng

from wgflow import (
    BadInput,
    Gaussian,
    L1Potential,
    LaplaceNormalizer,
    MonteCarloNormalizer,
    NotConverged,
    QuadraticPotential,
    QuadratureNormalizer,
    SeparablePotential,
    rwpo,
)

COARSE = QuadratureNormalizer(-5.0, 5.0, 401)
FINE = QuadratureNormalizer(-12.0, 12.0, 40001)
PLANE = QuadraticPotential(double([[2.0, 0.5], [0.5, 1.0]]), double([1.0, -1.0]))


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def well(x):
    return 0.5 * (x[:, 0] ** 2 - 1) ** 2


def on_nodes(V, y, time, temperature, half=12.0, n=200001):
    """log m(y) by the trapezoidal rule, written out."""
    z = torch.linspace(-half, half, n, dtype=torch.float64)
    var = 2 * temperature * time
    e = -V(z[:, None]) / (2 * temperature) - (z - y[:, None]).square() / (2 * var)
    return torch.logsumexp(e, 1) + math.log(2 * half / (n - 1)) - 0.5 * math.log(2 * math.pi * var)


@pytest.mark.parametrize(
    ("scale", "temperature", "time", "y", "log_z", "laplace"),
    [(2, 1, 0.1, 0.05, -0.211, 0.108), (2, 1, 0.1, 1.5, -1.2862, -1.2858), (5, 0.3, 0.4, -0.7, -2.401, -0.815)],
)
def test_l1_norm_has_the_values_of_the_literature(scale, temperature, time, y, log_z, laplace):
    V, at = L1Potential(scale), double([[y]])
    exact = rwpo(V, time, temperature=temperature)
    soft = rwpo(V, time, temperature=temperature, normalizer=LaplaceNormalizer(V.prox))
    for step, value in ((exact, log_z), (soft, laplace)):
        assert float(step.log_mean(at)) + step.log_constant(1) == pytest.approx(value, abs=6e-4)
    torch.testing.assert_close(exact.log_mean(at), on_nodes(V, at[:, 0], time, temperature), rtol=0, atol=1e-6)


def test_l1_norm_in_single_precision_far_in_the_tail():
    """ks from 0.01 to 3000 and points to a thousand kernel widths from 0: the error is that of the numbers, and no term underflows."""
    y = torch.tensor([0.0, 1e-4, 0.3, 2.0, 40.0, -900.0])
    for scale in (0.02, 1.0, 80.0, 6000.0):
        V, wide = L1Potential(scale), y.double()[:, None].requires_grad_(True)
        step = rwpo(V, 0.5, temperature=1.0)
        narrow = y[:, None].clone().requires_grad_(True)
        ours, theirs = step.log_mean(narrow), step.log_mean(wide)
        torch.testing.assert_close(ours.double(), theirs, rtol=3e-6, atol=1e-6)
        slopes = [torch.autograd.grad(m.sum(), z)[0] for m, z in ((ours, narrow), (theirs, wide))]
        torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=1e-3, atol=1e-4)
        central = (step.log_mean(wide.detach() + 1e-4) - step.log_mean(wide.detach() - 1e-4)) / 2e-4
        torch.testing.assert_close(slopes[1][:, 0], central, rtol=1e-5, atol=1e-5 * max(1, scale))


def test_separable_sums_are_sums_of_their_parts():
    V = SeparablePotential(((L1Potential(2.0), 2, None), (well, 1, FINE), (PLANE, 2, None)))
    y, z = randn(4, 5), randn(4, 5, seed=1)
    parts = [(L1Potential(2.0), slice(0, 2)), (well, slice(2, 3)), (PLANE, slice(3, 5))]
    torch.testing.assert_close(V(z), sum(part(z[:, at]) for part, at in parts))
    steps = [rwpo(part, 0.3, temperature=0.4, normalizer=FINE if part is well else None) for part, _ in parts]
    whole = rwpo(V, 0.3, temperature=0.4)
    expected = sum(step.log_mean(y[:, at]) for step, (_, at) in zip(steps, parts, strict=True))
    torch.testing.assert_close(whole.log_mean(y), expected)
    scaled = rwpo(V, 0.3, temperature=0.4, metric=double([4.0, 1, 0.25, 1, 9]))
    samples = torch.randn(200_000, 5, generator=rng(2), dtype=torch.float64)
    spread = math.sqrt(2 * 0.3 * 0.4) * samples * double([2.0, 1, 0.5, 1, 3])
    for one, found in zip(y, scaled.log_mean(y), strict=True):
        w = (-V(one + spread) / 0.8).exp()
        assert abs(float(found.exp() - w.mean())) < 5 * float(w.std()) / math.sqrt(len(w))


@pytest.mark.parametrize("metric", [None, [[1.0, 0.4], [0.4, 2.0]], [0.5, 3.0]])
def test_quadratic_against_laplace_and_many_draws(metric):
    """Laplace's method is exact for quadratic potentials, with its determinant; draws are right within their error."""
    M = None if metric is None else double(metric)
    y, options = randn(6, 2), {"temperature": 0.7, "metric": M}
    exact = rwpo(PLANE, 0.4, **options)
    torch.testing.assert_close(
        rwpo(PLANE, 0.4, normalizer=LaplaceNormalizer(), **options).log_mean(y), exact.log_mean(y)
    )
    drawn = rwpo(PLANE, 0.4, normalizer=MonteCarloNormalizer(2000), **options)
    noise = drawn.noise(y, rng(1))
    w = torch.stack([drawn.log_mean(y, xi[None]) for xi in noise]).exp()
    torch.testing.assert_close(drawn.log_mean(y, noise).exp(), w.mean(0))
    assert bool(((w.mean(0) - exact.log_mean(y).exp()).abs() < 4 * w.std(0) / math.sqrt(2000)).all())


@pytest.mark.parametrize(
    ("V", "rule", "tolerance"),
    [
        (PLANE, None, 1e-9),
        (L1Potential(double([2.0, 0.5])), None, 1e-9),
        (lambda x: x.square().square().sum(1) / 4 + x[:, 0], LaplaceNormalizer(), 1e-7),
        (lambda x: x.square().square().sum(1) / 4 + x[:, 0], MonteCarloNormalizer(5), 1e-9),
    ],
)
def test_slopes_are_those_of_the_values(V, rule, tolerance):
    step = rwpo(V, 0.3, temperature=0.4, normalizer=rule)
    y = randn(3, 2).requires_grad_(True)
    noise = step.noise(y, rng(1))
    (slope,) = torch.autograd.grad(step.log_mean(y, noise).sum(), y)
    for k in range(2):
        e = 1e-5 * torch.eye(2, dtype=torch.float64)[k]
        central = (step.log_mean(y.detach() + e, noise) - step.log_mean(y.detach() - e, noise)) / 2e-5
        torch.testing.assert_close(slope[:, k], central, rtol=1e-6, atol=tolerance + 1e-9)


def test_laplace_errs_by_the_order_of_the_temperature():
    y, V, errors = double([[-1.0], [0.2], [1.5]]), lambda x: x[:, 0].cosh() + x[:, 0], []
    for temperature in (0.02, 0.01):
        step = rwpo(V, 0.5, temperature=temperature, normalizer=LaplaceNormalizer())
        errors.append(float((step.log_mean(y) - on_nodes(V, y[:, 0], 0.5, temperature)).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(
    ("V", "rule"),
    [
        (L1Potential(3.0), None),
        (L1Potential(60.0), None),
        (QuadraticPotential(double([[1.3]]), double([-0.6])), None),
        (well, COARSE),
        (well, LaplaceNormalizer(samples=200)),
        (well, MonteCarloNormalizer(200)),
    ],
)
def test_draws_of_the_conditional_law_have_its_moments(V, rule):
    """Against quadrature of the law itself; without an exact sampler, up to the error of one over the number of proposals."""
    time, tau, n, y = 0.25, 0.4, 20_000, 0.7
    step = rwpo(V, time, temperature=tau, normalizer=rule)
    x = step.draw_from(double([[y]]).expand(n, 1), rng(3))[:, 0]
    z = torch.linspace(-8, 8, 100001, dtype=torch.float64)
    p = (-(V(z[:, None]) + (z - y).square() / (2 * time)) / (2 * tau)).softmax(0)
    bias = 0.0 if rule in (None, COARSE) else 4 / 200
    for f in (lambda t: t, torch.square, torch.sin, lambda t: (t > 0.1).double()):
        expected, found = (p * f(z)).sum(), f(x)
        error = 5 * float(found.std()) / math.sqrt(n)
        assert abs(float(found.mean() - expected)) < error + bias * float(f(z)[p > 1e-9].abs().max())


def test_draws_are_exact_where_both_sides_are_tails():
    """ks = 300: the law is nearly a two-sided exponential of rate (k s ± y/s)/s, in single precision too."""
    V, y = L1Potential(600.0), torch.full((20_000, 1), 0.01)
    x = rwpo(V, 0.5, temperature=1.0).draw_from(y, rng(1))
    assert bool(x.isfinite().all())
    assert float(x.abs().mean()) == pytest.approx(1 / 300, rel=0.03)
    assert float((x > 0).double().mean()) == pytest.approx(0.5, abs=0.02)


def test_a_constant_of_the_potential_changes_no_kernel():
    y, x = randn(4, 1), randn(3, 1, seed=1)
    for V, rule in (
        (well, FINE),
        (well, LaplaceNormalizer()),
        (lambda x: 0.5 * x.square().sum(1), LaplaceNormalizer()),
    ):
        one, two = (rwpo(W, 0.2, temperature=0.4, normalizer=rule) for W in (V, lambda x, V=V: V(x) + 7))
        for step in (one, two):
            assert step.log_mean(y).shape == (4,)
        shift = one.log_mean(y) - two.log_mean(y)
        torch.testing.assert_close(shift, torch.full_like(shift, 7 / 0.8), msg="log m moves by c / 2 tau")
        torch.testing.assert_close(
            -V(x) / 0.8 - one.log_mean(y)[:3], -(V(x) + 7) / 0.8 - two.log_mean(y)[:3], rtol=1e-12, atol=1e-12
        )


def test_the_potential_of_a_gaussian_target():
    target = Gaussian(double([1.0, 0.5]), double([[1.0, 0.3], [0.3, 0.5]]))
    V, x = QuadraticPotential.towards(target, 0.3), randn(5, 2)
    found = -V(x) / 0.3 - target.log_prob(x)
    torch.testing.assert_close(found, found[:1].expand(5))


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: QuadraticPotential(torch.tensor([[1.0, 2.0], [0.0, 1.0]])), "not symmetric"),
        (lambda: QuadraticPotential(torch.eye(2), torch.zeros(3)), r"hessian \(d, d\) and center \(d,\)"),
        (
            lambda: rwpo(QuadraticPotential(-torch.eye(1)), 1.0, temperature=1.0).log_mean(torch.zeros(1, 1)),
            "eigenvalue -1",
        ),
        (lambda: rwpo(PLANE, 1.0, temperature=1.0).log_mean(randn(2, 3)), "one of 2 coordinates, and points have 3"),
        (lambda: L1Potential(-1.0), "positive"),
        (lambda: L1Potential(torch.tensor([1.0, 0.0])), "positive numbers"),
        (lambda: QuadratureNormalizer(1.0, 0.0), "low < high"),
        (
            lambda: rwpo(well, 1e-4, temperature=1.0, normalizer=QuadratureNormalizer(-9.0, 9.0, 100)).log_mean(
                randn(2, 1)
            ),
            r"nodes are 0\.18\d* apart.*Give it 2547 nodes",
        ),
        (
            lambda: rwpo(well, 0.1, temperature=1.0, normalizer=FINE).log_mean(13 + 0 * randn(2, 1)),
            r"at 13, outside of",
        ),
        (lambda: rwpo(well, 0.1, temperature=1.0, normalizer=FINE).log_mean(randn(2, 2)), "points of one coordinate"),
        (
            lambda: rwpo(well, 4.0, temperature=1.0, normalizer=LaplaceNormalizer()).log_mean(double([[0.0]])),
            "I \\+ T Hess V has the eigenvalue -7",
        ),
        (lambda: SeparablePotential(((well, 1, None),)), "needs a normalizer"),
        (lambda: SeparablePotential(((well, 1, MonteCarloNormalizer()),)), "no exact normalizer"),
        (lambda: SeparablePotential(((L1Potential(1.0), 2, None),))(randn(3, 3)), "have 2 coordinates, and points 3"),
        (
            lambda: rwpo(L1Potential(1.0), 1.0, temperature=1.0, metric=torch.eye(2)).log_mean(randn(2, 2)),
            "the metric mixes them",
        ),
    ],
)
def test_bad_input(act, says):
    with pytest.raises(BadInput, match=says):
        act()


def test_newton_says_when_it_has_not_arrived():
    step = rwpo(lambda x: x.square().square().sum(1), 5.0, temperature=0.1, normalizer=LaplaceNormalizer(iters=1))
    with pytest.warns(NotConverged, match="laplace has not converged"):
        step.log_mean(5 + randn(3, 1))
