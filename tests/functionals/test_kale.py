"""KALE: optimality, duality, its two limits, and its flow."""

import math
import warnings

import pytest
import torch
from _exact import double, gaussian_kl, rng, trapezoid
from _velocities import assert_twins_move_as_one, asymmetry, velocity
from scipy.optimize import brentq, minimize

from wgflow import BadInput, NotConverged, Particles, StandardNormal, solve
from wgflow.estimators import Autograd
from wgflow.functionals.kale import KALE
from wgflow.functionals.mmd import SquaredMMD
from wgflow.kernels import RBF, Laplace, Logarithmic, Matern, MedianRBF, RandomFourierFeatures, Riesz
from wgflow.solvers import ForwardEuler


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def weighted(n, d, seed, shift=0.0):
    return Particles(randn(n, d, seed=seed) + shift, randn(n, seed=seed + 50))


RHO, NU = weighted(12, 2, 0, 0.3), weighted(9, 2, 1)
PENALTIES = [1e-3, 0.1, 10.0, 1e4]


def h_at(F, found, rho, x):
    """h* = (mean embedding of rho - sum of alpha_j k(y_j, .)) / lambda, from the ratios that were found."""
    K = lambda y: F.kernel.profile((x[:, None] - y).square().sum(2))  # noqa: E731
    return (K(rho.x) @ rho.w - K(F.target.x) @ (F.target.w * found.ratio)) / F.penalty


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kernel", [RBF(0.8), Laplace(1.0), Matern(1.0, 2.5)])
def test_the_ratio_is_the_exponential_of_the_witness(kernel, penalty):
    F = KALE(NU, kernel, penalty)
    found = F.solve(RHO)
    h = h_at(F, found, RHO, NU.x)
    torch.testing.assert_close(found.ratio, h.exp(), rtol=1e-8, atol=0)
    at_rho = h_at(F, found, RHO, RHO.x)
    square = (RHO.w @ at_rho - (NU.w * found.ratio) @ h) / penalty
    value = (1 + penalty) * (1 + RHO.w @ at_rho - NU.w @ h.exp() - penalty / 2 * square)
    torch.testing.assert_close(found.value, value, rtol=1e-9, atol=1e-12)
    assert abs(float(found.gap)) < 1e-10 * (1 + penalty)
    torch.testing.assert_close(F.value(RHO), found.value)


def test_value_is_the_supremum_by_another_optimiser():
    """h as a combination of kernels at all points, by BFGS."""
    lam, kernel = 0.2, RBF(0.8)
    z = torch.cat([RHO.x, NU.x])
    K = kernel(z, z) + 1e-12 * torch.eye(len(z), dtype=torch.float64)
    n = len(RHO)

    def objective(c):
        c = double(c).requires_grad_(True)
        h = K @ c
        j = 1 + RHO.w @ h[:n] - NU.w @ h[n:].exp() - lam / 2 * c @ K @ c
        (-j).backward()
        return -float(j.detach()), c.grad.numpy()

    best = -minimize(objective, [0.0] * len(z), jac=True, method="BFGS", options={"gtol": 1e-9}).fun
    found = KALE(NU, kernel, lam).solve(RHO)
    assert float(found.value) == pytest.approx((1 + lam) * best, rel=1e-8)


def test_few_iterations_have_a_gap_that_bounds_the_error():
    exact = KALE(NU, RBF(0.8), 0.01).solve(RHO).value
    gaps = []
    for iterations in (1, 2, 3, 10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConverged)
            found = KALE(NU, RBF(0.8), 0.01, iterations).solve(RHO)
        gaps.append(float(found.gap))
        assert -1e-12 < float(exact - found.value) <= gaps[-1] + 1e-12
    assert gaps[0] > 1e-3 > gaps[-1]


@pytest.mark.parametrize("penalty", [1e-6, 1e-4, 2e-3, 1e-1, 1e1, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gap_closes_on_problems_of_any_shape(penalty, dtype):
    """Duplicates, weights over many orders, clouds apart and a nearly singular kernel matrix: a certificate needs no truth."""
    for seed in range(8):
        m, d, scale = (1, 5, 12, 20)[seed % 4], 1 + seed % 3, 10.0 ** (seed - 4)
        y = scale * randn(m, d, seed=seed)
        y = torch.cat([y, y[: m // 2]]) if seed % 2 else y
        x = scale * (randn(7, d, seed=seed + 30) + seed)
        weights = 5 * randn(len(y), seed=seed + 60)
        kernel = (RBF(0.1 * scale), RBF(20 * scale), Matern(25 * scale, 2.5), Laplace(scale))[seed // 2]
        F = KALE(Particles(y.to(dtype), weights.to(dtype)), kernel, penalty)
        found = F.solve(Particles(x.to(dtype)))
        assert 0 <= float(found.value) < math.inf
        assert 0 <= float(found.gap) <= 1e-9 * (1 + float(found.value))


def test_two_points_have_their_value_in_closed_form():
    """One particle and one target point: h = (k(x, .) - v k(y, .)) / penalty, with one equation for log v = h(y)."""
    penalty, apart = 2e-3, 3.0
    y = Particles(double([[0.0]]))
    assert float(KALE(y, RBF(1.0), penalty).value(y)) == pytest.approx(0, abs=1e-12)
    c = math.exp(-(apart**2) / 2)
    at_y = brentq(lambda h: penalty * h - c + math.exp(h), -1e3, 10, xtol=1e-14)
    v = math.exp(at_y)
    square = (1 - 2 * c * v + v**2) / penalty**2
    value = 1 + (1 - c * v) / penalty - v - penalty / 2 * square
    found = KALE(y, RBF(1.0), penalty).value(Particles(double([[apart]])))
    assert float(found) == pytest.approx((1 + penalty) * value, rel=1e-10)


def test_a_flow_on_an_unsolved_inner_problem_is_not_done():
    F = KALE(NU, RBF(0.8), 1e-3, iterations=2)
    with pytest.warns(NotConverged, match=r"kale missed its tolerance in 100% of the steps .*Raise iterations"):
        flow = solve(F, ForwardEuler(), RHO, step_size=1e-3, num_steps=2)
    assert flow.status == "unconverged"
    assert flow.history[-1]["kale/residual"] > 1e-6


def test_zero_at_the_target_and_positive_elsewhere():
    F = KALE(NU, RBF(0.8), 0.1)
    same = Particles(NU.x.clone(), NU.log_w)
    found = F.solve(same)
    assert float(found.value) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(found.ratio, torch.ones(9, dtype=torch.float64))
    assert float(velocity(F, same).abs().max()) < 1e-10
    assert float(F.value(RHO)) > 1e-2


def test_a_large_penalty_is_half_the_squared_mmd():
    """Value, velocity and first variation, up to order 1/lambda."""
    mmd, errors = 0.5 * SquaredMMD(NU, RBF(0.8)), []
    for penalty in (1e3, 1e4):
        F = KALE(NU, RBF(0.8), penalty)
        errors.append(abs(float(F.value(RHO) - mmd.value(RHO))))
        torch.testing.assert_close(velocity(F, RHO), velocity(mmd, RHO), rtol=0, atol=2 / penalty)
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)


def test_a_small_penalty_is_kl():
    """Between Gaussians on a grid: a lower bound that closes as lambda falls, with the density ratio as a witness."""
    (m, s), nu = (0.4, 0.8), trapezoid(0.0, 1.0, step=0.25, half=5)
    rho = trapezoid(m, s, step=0.3, half=5)
    kl, gaps = gaussian_kl(m, s, 0.0, 1.0), []
    for penalty in (1e-2, 1e-3, 1e-4):
        found = KALE(nu, RBF(1.0), penalty, iterations=60).solve(rho)
        gaps.append(kl - float(found.value) / (1 + penalty))
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.01 * kl
    log_ratio = (nu.x.square() / 2 - (nu.x - m).square() / (2 * s**2))[:, 0] - math.log(s)
    middle = nu.x[:, 0].abs() < 1
    torch.testing.assert_close(found.ratio.log()[middle], log_ratio[middle], rtol=0, atol=0.02)


def test_finite_for_disjoint_supports():
    far = Particles(NU.x + 100)
    for penalty in PENALTIES:
        value = KALE(NU, RBF(0.8), penalty).value(far)
        # h is at most the embedding of rho over lambda: J <= 1 + sup (E h - lambda/2 |h|²) = 1 + |mu|²/2 lambda
        bound = (1 + penalty) * (1 + far.w @ RBF(0.8)(far.x, far.x) @ far.w / (2 * penalty))
        assert 0 < float(value) < float(bound)


@pytest.mark.parametrize("penalty", [1e-2, 0.1, 1e4])
def test_velocities_are_gradients_of_the_particles(penalty):
    F = KALE(Particles(NU.x), RBF(0.8), penalty, iterations=40)
    assert asymmetry(lambda x: velocity(F, Particles(x)), randn(8, 2)) < 1e-7


def test_first_variation_is_the_witness():
    F = KALE(NU, RBF(0.8), 0.1)
    phi, slope = Autograd().gradient(F, RHO, None)
    x = RHO.x.clone().requires_grad_(True)
    h = 1.1 * h_at(F, F.solve(RHO), RHO, x)
    h0 = h.detach()
    torch.testing.assert_close(phi, h0 - RHO.mean(h0), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(slope, torch.autograd.grad(h.sum(), x)[0], rtol=1e-7, atol=1e-9)


def test_a_particle_of_twice_the_weight_is_two_particles():
    assert_twins_move_as_one(KALE(NU, RBF(0.8), 0.1), randn(8, 2), tolerance=1e-9)
    x = randn(8, 2)
    heavy, twins = Particles.weighted(x, double([2.0, *[1.0] * 7]) / 9), Particles(torch.cat([x, x[:1]]))
    values = [KALE(nu, RBF(0.8), 0.1).value(RHO) for nu in (heavy, twins)]
    torch.testing.assert_close(*values, rtol=1e-10, atol=0)


def test_the_flow_reaches_the_target_and_falls_by_its_dissipation():
    F, start = KALE(Particles(randn(20, 2, seed=1)), RBF(1.0), 0.1), Particles(randn(20, 2) + 1)
    end = solve(F, ForwardEuler(), start, step_size=0.1, num_steps=60).measure
    values = [float(F.value(p)) for p in (start, end)]
    assert values[1] < 0.1 * values[0]
    defects = []
    for h in (2e-3, 1e-3):
        once = solve(F, ForwardEuler(), start, step_size=h, num_steps=1).measure
        rate = float(velocity(F, start).square().sum(1).mean())
        defects.append((values[0] - float(F.value(once))) / h - rate)
    assert defects[0] / defects[1] == pytest.approx(2, rel=0.05)


def test_rules_and_single_precision():
    fitted = MedianRBF().fit(RHO.x, RHO.log_w)
    values = [KALE(NU, k, 0.1).value(RHO) for k in (MedianRBF(), fitted)]
    torch.testing.assert_close(*values)
    rho, nu = (Particles(p.x.float(), p.log_w.float()) for p in (RHO, NU))
    assert float(KALE(nu, RBF(0.8), 0.1).value(rho)) == pytest.approx(
        float(KALE(NU, RBF(0.8), 0.1).value(RHO)), rel=1e-4
    )


@pytest.mark.parametrize("options", [{"penalty": 0.0}, {"penalty": math.nan}, {"iterations": 0}, {"batch": 0}])
def test_bad_options(options):
    with pytest.raises(BadInput):
        KALE(StandardNormal(2), RBF(1.0), **options)


@pytest.mark.parametrize("kernel", [Logarithmic(), Riesz(), RBF(1.0) - RBF(2.0), MedianRBF() + Riesz()], ids=str)
def test_kernels_without_a_space_of_functions_are_refused(kernel):
    with pytest.raises(BadInput, match=r"KALE\(kernel=.*expected a positive definite kernel"):
        KALE(StandardNormal(2), kernel)


@pytest.mark.parametrize("kernel", [MedianRBF() + Laplace(1.0), RandomFourierFeatures(MedianRBF(), 400)], ids=str)
def test_rules_and_features_are_taken(kernel):
    value = KALE(NU, kernel, 10.0).value(RHO)
    torch.testing.assert_close(value, KALE(NU, kernel.fit(RHO.x, RHO.log_w), 10.0).value(RHO))
