"""KL after a proximal step: against its closed form on Gaussians, differences, and the law at which BRWP rests."""

import math

import pytest
import torch
from _exact import double, rng, trapezoid
from _velocities import velocity

from wgflow import (
    JKO,
    KL,
    LBFGS,
    Autograd,
    BadInput,
    Critic,
    Dataset,
    ForwardEuler,
    Gaussian,
    GaussianMixture,
    L1Potential,
    Particles,
    ProximalKL,
    ProximalScore,
    QuadraticPotential,
    QuadratureNormalizer,
    Unnormalised,
    Unsupported,
    solve,
    why_not,
)
from wgflow.reference import Moments
from wgflow.reference.gaussian import kl

T, PRECISION, CENTER = 0.3, 1.3, -0.6
TARGET = Gaussian(double([CENTER]), double([[1 / PRECISION]]))
V = QuadraticPotential.towards(TARGET)
COARSE = QuadratureNormalizer(-9.0, 9.0, 181)
LINE = QuadratureNormalizer(-9.0, 9.0, 1201)
PLANE = Gaussian(double([0.5, -1.0]), double([[1.0, 0.3], [0.3, 0.5]]))


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def frozen(F):
    return F.freeze(rng(1))


def test_value_and_velocity_on_gaussians():
    """By quadrature in both variables: KL of N(m_T, v_T), and the velocity -P grad log(rho_T / pi)(c + P(y - c))."""
    m, v = 0.8, 1.7
    P, rho = 1 / (1 + T * PRECISION), trapezoid([m], [[math.sqrt(v)]], 0.05, 6)
    mean, var = CENTER + P * (m - CENTER), P * P * v + 2 * T * P
    expected = kl(Moments(double([mean]), double([[var]])), Moments(TARGET.mean, TARGET.cov))
    F = frozen(ProximalKL(TARGET, T, LINE))
    assert float(F.value(rho)) == pytest.approx(float(expected), abs=1e-7)
    at = CENTER + P * (rho.x - CENTER)
    field = -P * (PRECISION * (at - CENTER) - (at - mean) / var)
    near = (rho.x[:, 0] - m).abs() < 3
    torch.testing.assert_close(velocity(F, rho, Autograd())[near], field[near], rtol=0, atol=1e-6)


def test_draws_of_the_kernel_give_the_same_value():
    rho, F = trapezoid([0.8], [[1.3]], 0.2, 6), frozen(ProximalKL(TARGET, T, LINE))
    for rule, tolerance in ((None, 0.02), (V, 0.02)):
        drawn = frozen(ProximalKL(TARGET, T, rule, draws=4000))
        assert float(drawn.value(rho)) == pytest.approx(float(F.value(rho)), abs=tolerance)
    unlike = frozen(ProximalKL(Unnormalised(TARGET.log_prob, 1), T, draws=4000))
    assert float(unlike.value(rho)) == pytest.approx(float(F.value(rho)), abs=0.05)


@pytest.mark.parametrize(
    "F",
    [
        ProximalKL(PLANE, T, draws=5),
        ProximalKL(Unnormalised(PLANE.log_prob, 2), T, draws=5),
        ProximalKL(Unnormalised(lambda x: -2 * x.abs().sum(1), 2), T, L1Potential(2.0), draws=5),
        ProximalKL(GaussianMixture(double([[1.0, 0.0], [-1.0, 0.5]]), 0.7), T, draws=5),
    ],
)
def test_slopes_are_those_of_the_values(F):
    F, x, log_w = frozen(F), randn(6, 2), randn(6, seed=1)
    leaves = [x.clone().requires_grad_(True), log_w.clone().requires_grad_(True)]
    slopes = torch.autograd.grad(F.value(Particles(*leaves)), leaves)
    for leaf, slope in enumerate(slopes):
        found = torch.zeros_like(slope)
        for k in range(slope.numel()):
            at = []
            for sign in (1e-5, -1e-5):
                moved = [x.clone(), log_w.clone()]
                moved[leaf].view(-1)[k] += sign
                at.append(F.value(Particles(*moved)))
            found.view(-1)[k] = (at[0] - at[1]) / 2e-5
        torch.testing.assert_close(slope, found, rtol=1e-6, atol=1e-8)


def test_it_is_convex_and_zero_where_the_proximal_is_the_target():
    F = frozen(ProximalKL(TARGET, T, LINE))
    rest = trapezoid(TARGET.mean, (1 / PRECISION - T**2 * PRECISION) ** 0.5 * torch.eye(1).double(), 0.1, 8)
    assert float(F.value(rest)) == pytest.approx(0, abs=1e-9)
    assert float(velocity(F, rest, Autograd())[40:-40].abs().max()) < 1e-6
    assert float(velocity(KL(TARGET), rest, ProximalScore(T, V))[40:-40].abs().max()) < 1e-6, "so does BRWP"
    x, (w, u) = randn(9, 1), torch.stack([randn(9, seed=1), randn(9, seed=2)]).softmax(1)
    values = [float(F.value(Particles.weighted(x, (1 - s) * w + s * u))) for s in (0.0, 0.5, 1.0)]
    assert 0 < values[1] < (values[0] + values[2]) / 2


@pytest.mark.filterwarnings("ignore::wgflow.NotConverged")  # a flat bottom: L-BFGS stalls at forces of 1e-6
@pytest.mark.parametrize(
    ("solver", "step", "count"), [(ForwardEuler(), 0.5, 60), (JKO(optim=LBFGS(), iters=1), 5.0, 8)]
)
def test_flows_of_particles_end_there(solver, step, count):
    """The mixture of few kernels is the target to many digits: its variance is that of the target, the particles' A^{-1} - T² A."""
    F, start = ProximalKL(TARGET, T, COARSE), Particles(1 + 2 * randn(12, 1))
    flow = solve(F, solver, start, step_size=step, num_steps=count)
    m, C = Moments.of(flow.measure)
    assert float(m) == pytest.approx(CENTER, abs=2e-3)
    assert float(C) == pytest.approx(1 / PRECISION - T**2 * PRECISION, abs=0.01)


def test_what_it_works_with():
    F, p = ProximalKL(PLANE, T), Particles(randn(5, 2))
    assert why_not(F, ForwardEuler(), p) is None
    assert why_not(F, JKO(optim=LBFGS(), iters=1), p) is None
    assert "conjugate or variational" in why_not(F, JKO(Critic(lambda: torch.nn.Linear(2, 1))), p)
    assert "potential energy plus an entropy" in why_not(F, ForwardEuler(ProximalScore(T)), p)
    with pytest.raises(Unsupported, match=r"F\.freeze\(rng\)"):
        F.value(p)
    with pytest.raises(BadInput, match="target=Dataset: a proximal step needs log_prob"):
        ProximalKL(Dataset(randn(4, 2)), T)
    with pytest.raises(BadInput, match=r"normal numbers \(s, 2\), .*got \(7, 3\)"):
        ProximalKL(PLANE, T, draws=randn(7, 3))
    with pytest.raises(BadInput, match=r"time=0\.0"):
        ProximalKL(PLANE, 0.0)
    collapsed = why_not(KL(TARGET), ForwardEuler(ProximalScore(1.0, V)), Particles(randn(5, 1)))
    assert "has the eigenvalue 1.3" in collapsed
    assert "collapse" in collapsed
