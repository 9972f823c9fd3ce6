"""Noisy discretizations: exact moments, the bias of the unadjusted algorithm and its absence in the adjusted one."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from _exact import double, rng
from _gaussians import cloud, kl_to, moments, quadratic

from wgflow import (
    KL,
    RBF,
    BadInput,
    Diverged,
    Entropy,
    ForwardEuler,
    InteractionEnergy,
    Particles,
    PotentialEnergy,
    PowerLaw,
    Pushforward,
    StandardNormal,
    Stein,
    Unnormalised,
    solve,
    why_not,
)
from wgflow.solvers.langevin import Langevin, MetropolisLangevin

A, CENTRE = double([[2.0, 0.5], [0.5, 1.0]]), double([1.0, -1.0])
MEAN, COV = double([-1.0, 2.0]), double([[1.0, -0.3], [-0.3, 2.0]])
N = 20_000


def normal(mean, cov, n=N):
    z = torch.randn(n, len(mean), generator=rng(71), dtype=torch.float64)  # not the stream of the noise
    return Particles(mean + z @ torch.linalg.cholesky(cov).T)


def assert_moments(rho, mean, cov):
    """Within five standard errors of n Gaussian draws: C_ii/n for a mean, (C_ii C_jj + C_ij²)/n for a covariance."""
    m, C = moments(rho)
    d = cov.diagonal()
    assert bool(((m - mean).abs() < 5 * (d / len(rho)).sqrt()).all())
    assert bool(((C - cov).abs() < 5 * ((d[:, None] * d + cov.square()) / len(rho)).sqrt()).all())


def test_without_an_entropy_it_is_forward_euler_to_the_last_bit():
    F, x = quadratic(A, CENTRE) + InteractionEnergy(PowerLaw(4)), cloud(MEAN, COV)
    one, two = (solve(F, s, x, step_size=0.1, num_steps=3) for s in (Langevin(), ForwardEuler()))
    assert torch.equal(one.measure.x, two.measure.x)
    assert torch.equal(one.state.rng.get_state(), two.state.rng.get_state())


@pytest.mark.parametrize("T", [1.0, 0.4])
def test_moments_are_those_of_the_recursion(T):
    """C <- (I - hA) C (I - hA) + 2hT I exactly, so only sampling errors remain; far from the Ornstein-Uhlenbeck value."""
    h, steps, F = 0.2, 5, T * kl_to(A / T, CENTRE)
    m, C, G = MEAN, COV, torch.eye(2) - h * A
    for _ in range(steps):
        m, C = CENTRE + G @ (m - CENTRE), G @ C @ G + 2 * h * T * torch.eye(2)
    assert_moments(solve(F, Langevin(), normal(MEAN, COV), step_size=h, num_steps=steps).measure, m, C)


def test_stationary_bias_of_the_unadjusted_algorithm():
    """[A (I - hA/2)]⁻¹ instead of A⁻¹."""
    h = 0.5
    biased = torch.linalg.inv(A @ (torch.eye(2) - h * A / 2))
    flow = solve(kl_to(A, CENTRE), Langevin(), normal(CENTRE, biased), step_size=h, num_steps=15)
    assert_moments(flow.measure, CENTRE, biased)
    with pytest.raises(AssertionError):
        assert_moments(flow.measure, CENTRE, torch.linalg.inv(A))


@pytest.mark.parametrize(("ha", "stable"), [(1.9, True), (2.1, False)])
def test_stability_limit(ha, stable):
    """E x² ends at 1/(1 - ha/2) = 20 or grows by (1 - ha)² = 1.21 a step."""
    flow = solve(kl_to([[1.0]], [0.0]), Langevin(), cloud(0.0, 1.0, 400), step_size=ha, num_steps=60)
    assert (float(moments(flow.measure)[1]) < 40) == stable


def test_an_entropy_alone_is_the_heat_flow():
    """C(t) = C + 2Tt I, with no time error; weights stay with their particles."""
    start = Particles(normal(MEAN, COV).x, torch.zeros(N, dtype=torch.float64))
    flow = solve(0.3 * Entropy(), Langevin(), start, step_size=0.25, num_steps=4)
    assert_moments(flow.measure, MEAN, COV + 0.6 * torch.eye(2))


def test_interacting_particles_follow_the_mean_field():
    """E log ρ + a/2 E|x|² + c/4 E|x - x'|²: variance by C <- (1 - h(a+c))² C + 2h, the mean by m <- (1 - ha) m."""
    a, c, h, steps = 0.5, 1.0, 0.1, 10
    F = PotentialEnergy(lambda x: a / 2 * x.square().sum(1)) + c * InteractionEnergy(PowerLaw(2)) + Entropy()
    m, C = double([1.0]), double([[3.0]])
    flow = solve(F, Langevin(), normal(m, C, 1500), step_size=h, num_steps=steps)
    for _ in range(steps):
        m, C = (1 - h * a) * m, (1 - h * (a + c)) ** 2 * C + 2 * h
    assert_moments(flow.measure, m, C)


# --- adjusted -----------------------------------------------------------------------------------------------------


def test_the_adjusted_algorithm_has_no_bias_where_the_unadjusted_one_has():
    """Started in equilibrium, every step size leaves the law there."""
    exact = torch.linalg.inv(A)
    for h in (0.2, 0.8):
        flow = solve(kl_to(A, CENTRE), MetropolisLangevin(), normal(CENTRE, exact), step_size=h, num_steps=15)
        assert_moments(flow.measure, CENTRE, exact)
        assert 0.3 < flow.history[-1]["mala/acceptance"] < 1


def double_well(x):
    return (x.square() - 1).square().sum(1)


def test_the_adjusted_algorithm_finds_a_double_well_where_the_unadjusted_one_diverges():
    """E x² and E x⁴ against quadrature; 5 standard errors of independent chains that have forgotten their start.

    The start is narrow: where the force outgrows the step, in the tails, hardly a proposal is taken.
    """
    T, n = 0.8, 4000
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    weight = (-double_well(grid[:, None]) / T).exp()
    F = PotentialEnergy(double_well) + T * Entropy()
    start = normal(double([0.0]), double([[0.1]]), n)
    with pytest.raises(Diverged):
        solve(F, Langevin(), start, step_size=0.12, num_steps=80)
    x = solve(F, MetropolisLangevin(), start, step_size=0.12, num_steps=150).measure.x[:, 0]
    for power in (2, 4):
        f = grid.abs() ** power
        exact = float((weight * f).sum() / weight.sum())
        error = math.sqrt(float((weight * (f - exact) ** 2).sum() / weight.sum()) / n)
        assert abs(float((x**power).mean()) - exact) < 5 * error


def test_small_steps_are_always_accepted_and_wild_ones_never():
    start = normal(CENTRE, torch.linalg.inv(A), 2000)
    for h, rate in ((1e-6, 1.0), (1e6, 0.0)):
        flow = solve(kl_to(A, CENTRE), MetropolisLangevin(), start, step_size=h, num_steps=1)
        assert flow.history[-1]["mala/acceptance"] == pytest.approx(rate, abs=2e-3)


def test_a_proposal_outside_the_support_is_refused():
    def log_prob(x):  # uniform on the unit square, and not a number outside
        inside = ((x > 0) & (x < 1)).all(1)
        return torch.where(inside, 0 * x.sum(1), torch.nan)

    x = torch.rand(500, 2, generator=rng(), dtype=torch.float64)
    flow = solve(KL(Unnormalised(log_prob, 2)), MetropolisLangevin(), Particles(x), step_size=0.05, num_steps=20)
    assert bool(((flow.measure.x > 0) & (flow.measure.x < 1)).all())
    assert 0.1 < flow.history[-1]["mala/acceptance"] < 0.9
    # uniform is invariant: 5 standard errors of the mean square of a uniform variable
    assert abs(float(flow.measure.x.square().mean()) - 1 / 3) < 5 * math.sqrt(4 / 45 / 1000)


@dataclass(frozen=True)
class Subsampled(PotentialEnergy):
    """A potential of which one realisation sees a random half."""

    def freeze(self, rng):
        shift = torch.randn((), generator=rng, dtype=torch.float64)
        return replace(self, potential=lambda x: (x - shift).square().sum(1) / 2)


def test_a_proposal_of_infinite_density_is_refused():
    """A logarithm that is +inf by mistake would hold every particle that comes there."""
    half = Unnormalised(lambda x: torch.where(x[:, 0] > 0.5, math.inf, -x.square().sum(1) / 2), 1)
    start = Particles(torch.zeros(200, 1, dtype=torch.float64))
    flow = solve(KL(half), MetropolisLangevin(), start, step_size=0.5, num_steps=50)
    assert float(flow.measure.x.max()) <= 0.5
    assert float(flow.measure.x.std()) > 0.3


def test_a_random_potential_is_realised_once_a_step():
    F = Subsampled(lambda x: x[:, 0]) + Entropy()
    for solver in (Langevin(), MetropolisLangevin()):
        one, two = (solve(F, solver, cloud(0.0, 1.0), step_size=0.1, num_steps=2, seed=3) for _ in range(2))
        assert torch.equal(one.measure.x, two.measure.x)


def test_refusals():
    kl, rho = KL(StandardNormal(2)), Particles(torch.zeros(3, 2))
    assert "Use Langevin" in why_not(kl + InteractionEnergy(PowerLaw(2)), MetropolisLangevin(), rho)
    assert "Use Langevin" in why_not(PotentialEnergy(double_well), MetropolisLangevin(), rho)
    assert "MetropolisLangevin(Autograd())" in why_not(kl, MetropolisLangevin(Stein(RBF(1.0))), rho)
    assert why_not(kl, MetropolisLangevin(), rho) is None
    net = torch.nn.Linear(2, 2)
    for solver in (Langevin(), MetropolisLangevin()):
        assert "Use Particles" in why_not(kl, solver, Pushforward(StandardNormal(2), net))
    with pytest.raises(BadInput, match=r"Langevin\(batch=0\)"):
        Langevin(batch=0)
