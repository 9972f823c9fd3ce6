"""MMD and energy-distance flows: quantiles on the line, closed forms between Gaussians, what is and is not a gradient flow."""

import math

import pytest
import torch
from _exact import ALL, double, rng, trapezoid
from _velocities import assert_twins_move_as_one, asymmetry, velocity
from scipy.special import expi
from scipy.stats import norm

from wgflow import BadInput, GaussianMixture, KernelDensity, Particles, PotentialEnergy, StandardNormal, solve
from wgflow.estimators.entropic import KDEScore
from wgflow.functionals.energies import Entropy
from wgflow.functionals.mmd import MMD, EnergyDistance, SquaredMMD
from wgflow.kernels import RBF, InverseMultiquadric, Laplace, Logarithmic, Matern, MedianRBF, PowerLaw, Riesz
from wgflow.solvers import ForwardEuler

EULER = ForwardEuler()


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def weighted(n, d, seed, shift=0.0):
    return Particles(randn(n, d, seed=seed) + shift, randn(n, seed=seed + 50))


def levels(n):
    """(i - 1/2)/n."""
    return (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n


# --- the energy distance on the line -------------------------------------------------------------------------------


def test_energy_flow_to_a_uniform_law_relaxes_every_quantile():
    """x_i(t) = u_i + (x_i(0) - u_i) e^{-2t}; a step of Euler multiplies by 1 - 2h."""
    n, m, h, k = 40, 20_000, 0.05, 12
    u, x = levels(n), torch.rand(n, 1, dtype=torch.float64, generator=rng()).sort(0)[0]
    end = solve(
        0.5 * EnergyDistance(Particles(levels(m)), ALL), EULER, Particles(x), step_size=h, num_steps=k
    ).measure.x
    # a target of m atoms is off by at most 1/m in the velocity, contracted at the rate 2
    torch.testing.assert_close(end, u + (1 - 2 * h) ** k * (x - u), rtol=0, atol=1 / (2 * m))


def test_a_point_spreads_into_the_target():
    """Ties never separate, so the start has an order: then x_s = (2s - 1)(1 - e^{-t}) towards U(-1, 1)."""
    n, m, h, k = 30, 20_000, 0.1, 10
    s, tiny = levels(n), 1e-9
    F = 0.5 * EnergyDistance(Particles(2 * levels(m) - 1), ALL)
    end = solve(F, EULER, Particles(tiny * s), step_size=h, num_steps=k).measure.x
    torch.testing.assert_close(end, (2 * s - 1) * (1 - (1 - h) ** k), rtol=0, atol=2 / m + tiny)
    tied = solve(F, EULER, Particles(torch.zeros_like(s)), step_size=h, num_steps=k).measure.x
    assert float(tied.abs().max()) < 2 / m, "coincident particles stay together"


def test_a_point_sent_to_a_point_becomes_uniform_with_an_atom():
    """Q(u, t) = min(x0 + 2ut, 0): no map of the point does that. Particles that have arrived hop by at most 2h."""
    n, x0, h, k = 100, -1.0, 0.005, 160
    u = levels(n)
    F = 0.5 * EnergyDistance(Particles(torch.zeros(1, 1, dtype=torch.float64)))
    end = solve(F, EULER, Particles(x0 + 1e-9 * u), step_size=h, num_steps=k).measure.x.sort(0)[0]
    exact = (x0 + 2 * u * h * k).clamp(max=0)
    assert float((end - exact).abs().max()) < 2 * h
    moving = exact < -2 * h
    torch.testing.assert_close(end[moving], exact[moving], rtol=0, atol=1e-8)
    assert 0.3 < float(moving.double().mean()) < 0.7


def test_half_the_energy_distance_is_the_distance_between_distribution_functions():
    """Between discrete laws of different weights the integral of (F_rho - F_nu)² is a finite sum."""
    rho, nu = weighted(9, 1, 0), weighted(7, 1, 1)
    grid = torch.cat([rho.x, nu.x])[:, 0].sort()[0]
    F_rho, F_nu = ((p.w * (p.x[:, 0] <= grid[:, None])).sum(1) for p in (rho, nu))
    integral = ((F_rho - F_nu).square()[:-1] * grid.diff()).sum()
    torch.testing.assert_close(0.5 * EnergyDistance(nu).value(rho), integral)


def test_energy_distance_of_gaussians():
    """2 E|N(m1 - m2, s1² + s2²)| - 2 s1/√π - 2 s2/√π, by quantiles."""
    (m1, s1), (m2, s2), n = (0.3, 1.2), (-0.5, 0.7), 20_000

    def fold(m, s):
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * (1 - 2 * norm.cdf(-m / s))

    q = double(norm.ppf(levels(n).numpy()))
    value = EnergyDistance(Particles(m2 + s2 * q)).value(Particles(m1 + s1 * q))
    exact = 2 * fold(m1 - m2, math.hypot(s1, s2)) - 2 * (s1 + s2) / math.sqrt(math.pi)
    # W1 between n quantiles and the law is about 1/n (times the root of a logarithm); the energy distance is 4-Lipschitz
    assert float(value) == pytest.approx(exact, abs=8 / n)


# --- closed forms and formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2])
def test_mmd_between_gaussians(d):
    """k(P, Q) = det(I + (C1 + C2)/s²)^{-1/2} exp(-dmᵀ(s² I + C1 + C2)^{-1}dm/2)."""
    s, eye = 0.8, torch.eye(d, dtype=torch.float64)
    m1, m2 = double([0.4, -0.2][:d]), double([-0.3, 0.5][:d])
    C1 = double([[1.0, 0.3], [0.3, 0.6]])[:d, :d]
    C2 = double([[0.5, -0.2], [-0.2, 0.9]])[:d, :d]

    def k(ma, Ca, mb, Cb):
        S, dm = s**2 * eye + Ca + Cb, ma - mb
        return float(torch.exp(-0.5 * dm @ torch.linalg.solve(S, dm)) / torch.linalg.det(S / s**2).sqrt())

    exact = k(m1, C1, m1, C1) + k(m2, C2, m2, C2) - 2 * k(m1, C1, m2, C2)
    rho, nu = (trapezoid(m, torch.linalg.cholesky(C), 0.3 * d**0.5, 7) for m, C in ((m1, C1), (m2, C2)))
    assert float(SquaredMMD(nu, RBF(s)).value(rho)) == pytest.approx(exact, abs=1e-9)
    assert float(MMD(nu, RBF(s)).value(rho)) == pytest.approx(math.sqrt(exact), abs=1e-8)


@pytest.mark.parametrize("kernel", [RBF(0.7), Laplace(1.1), Riesz(), Matern(0.9, 2.5)])
def test_value_and_velocity_are_those_of_the_definition(kernel):
    rho, nu = weighted(12, 2, 0), weighted(9, 2, 1, 0.5)
    F = SquaredMMD(nu, kernel)
    K = lambda p, q: p.w @ kernel(p.x, q.x) @ q.w  # noqa: E731
    torch.testing.assert_close(F.value(rho), K(rho, rho) - 2 * K(rho, nu) + K(nu, nu))
    x = rho.x.clone().requires_grad_(True)
    witness = F.witness_at(rho, x)
    torch.testing.assert_close(witness.detach(), kernel(rho.x, rho.x) @ rho.w - kernel(rho.x, nu.x) @ nu.w)
    v = velocity(0.5 * F, rho)
    torch.testing.assert_close(v, -torch.autograd.grad(witness.sum(), x)[0])
    z = lambda p: rho.x[:, None] - p.x  # noqa: E731
    push = {p: (p.w[:, None] * (2 * kernel.slope(z(p).square().sum(2)))[:, :, None] * z(p)).sum(1) for p in (rho, nu)}
    torch.testing.assert_close(v, push[nu] - push[rho])
    torch.testing.assert_close(
        velocity(MMD(nu, kernel), rho),
        v / F.value(rho).sqrt(),
        msg="the gradient of the root is 1/(2 MMD) of the square's",
    )


def test_forces_of_the_energy_distance_are_unit_vectors():
    rho, nu = Particles(randn(6, 3)), Particles(randn(5, 3, seed=1))
    unit = lambda z: torch.where(z.norm(dim=2, keepdim=True) > 0, z / z.norm(dim=2, keepdim=True), 0.0)  # noqa: E731
    expected = unit(rho.x[:, None] - rho.x).mean(1) - unit(rho.x[:, None] - nu.x).mean(1)
    torch.testing.assert_close(velocity(0.5 * EnergyDistance(nu), rho), expected)


@pytest.mark.parametrize("kernel", [RBF(0.7), Riesz(), RBF(0.5) + 0.5 * InverseMultiquadric(2.0)])
def test_zero_with_zero_gradient_at_the_target(kernel):
    nu = weighted(20, 2, 0)
    rho = Particles(nu.x.clone(), nu.log_w)
    assert float(SquaredMMD(nu, kernel).value(rho)) == pytest.approx(0, abs=1e-14)
    for F in (SquaredMMD(nu, kernel), MMD(nu, kernel)):
        v = velocity(F, rho)
        assert bool(torch.isfinite(v).all())
    assert float(velocity(SquaredMMD(nu, kernel), rho).abs().max()) < 1e-13
    assert float(SquaredMMD(weighted(20, 2, 3), kernel).value(rho)) > 1e-3


@pytest.mark.parametrize("kernel", [PowerLaw(2), Logarithmic(), RBF(1.0) + (-1.0) * RBF(2.0)])
def test_kernels_that_make_no_distance_are_refused(kernel):
    with pytest.raises(BadInput, match="not a distance"):
        SquaredMMD(StandardNormal(2), kernel)


def test_companion_kernels():
    r"""Unnormalised mean shift with k is the flow of half the MMD² of :math:`k^\#(r)=\int_r^\infty sk(s)ds`."""
    rho, nu, s, tau = Particles(randn(10, 2)), Particles(randn(8, 2, seed=1)), 0.8, 0.7

    def shift(k, p):
        return (k(rho.x, p.x)[:, :, None] * (p.x - rho.x[:, None])).mean(1)

    for k, companion in (
        (RBF(s), s**2 * RBF(s)),
        (Laplace(tau), tau**2 * Matern(math.sqrt(3) * tau)),  # tau (r + tau) e^{-r/tau}
    ):
        expected = shift(k, nu) - shift(k, rho)
        v = velocity(0.5 * SquaredMMD(nu, companion), rho)
        torch.testing.assert_close(v, expected, rtol=1e-10, atol=1e-12)


# --- Gaussian kernels: exact motion of one particle, and its stall -------------------------------------------------


def test_one_particle_towards_one_atom():
    """Ei(r²/2s²) falls by 2t/s². Euler: order 1, so extrapolation leaves an error of order h²."""
    s, r0, t = 0.9, 1.4, 1.0
    F = 0.5 * SquaredMMD(Particles(torch.zeros(1, 2, dtype=torch.float64)), RBF(s))
    start = Particles(r0 * double([[0.6, 0.8]]))
    r = [float(solve(F, EULER, start, step_size=t / k, num_steps=k).measure.x.norm()) for k in (200, 400)]
    exact = expi(r0**2 / (2 * s**2)) - 2 * t / s**2
    errors = [expi(x**2 / (2 * s**2)) - exact for x in r]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.02)
    assert 2 * errors[1] - errors[0] == pytest.approx(0, abs=1e-4)
    toward = solve(F, EULER, start, step_size=0.1, num_steps=3).measure.x
    torch.testing.assert_close(toward / toward.norm(), start.x / r0)


def test_a_gaussian_kernel_stalls_far_away_and_the_energy_kernel_does_not():
    """At 8 bandwidths Ei says that a time of e^32 is needed; unit forces need 8."""
    start, origin = Particles(double([[8.0]])), Particles(double([[0.0]]))
    stuck = solve(0.5 * SquaredMMD(origin, RBF(1.0)), EULER, start, step_size=0.5, num_steps=50).measure.x
    assert 0 < 8 - float(stuck) < 25 * 8 * math.exp(-31)
    free = solve(0.5 * EnergyDistance(origin), EULER, start, step_size=0.5, num_steps=16).measure.x
    assert float(free) == pytest.approx(0, abs=1e-12)


# --- masses of modes -----------------------------------------------------------------------------------------------

TARGET, START = double([0.3, 0.7]), double([0.7, 0.3])


def two_modes(weights, n, seed):
    """Modes at (±2, 0) of standard deviation .3, with the shares of the mixture exactly."""
    left = round(float(weights[0]) * n)
    centres = double([[-2.0, 0.0]] * left + [[2.0, 0.0]] * (n - left))
    return Particles(centres + 0.3 * randn(n, 2, seed=seed))


def left_mass(rho):
    return float((rho.x[:, 0] < 0).double().mean())


def test_the_energy_kernel_moves_mass_between_modes_and_local_scores_do_not():
    """From (.7, .3) to (.3, .7) in 200 steps. KL with both laws smoothed by a narrow kernel stays where it is."""
    nu, rho = two_modes(TARGET, 200, 1), two_modes(START, 200, 2)
    assert left_mass(rho) == 0.7
    energy = solve(0.5 * EnergyDistance(nu), EULER, rho, step_size=0.2, num_steps=200).measure
    assert left_mass(energy) == pytest.approx(0.3, abs=0.03)
    # "KL to the smoothed target by the score of the smoothed particles": a potential, an entropy, and a KDE score.
    frozen = solve(parzen_kl(nu, 0.3), ForwardEuler(KDEScore(RBF(0.3))), rho, step_size=0.09, num_steps=200).measure
    assert left_mass(frozen) > 0.65


def parzen_kl(nu, s):
    return PotentialEnergy(lambda x: -KernelDensity(RBF(s)).log_density(Particles(x), nu)) + Entropy()


# --- what is a gradient flow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel", [RBF(0.8), Laplace(0.7), Riesz(), Riesz(1.5), Matern(1.0), InverseMultiquadric(1.0), RBF(0.4) + RBF(1.6)]
)
def test_mmd_velocities_are_gradients_of_the_particles(kernel):
    F = 0.5 * SquaredMMD(Particles(randn(9, 2, seed=1)), kernel)
    assert asymmetry(lambda x: velocity(F, Particles(x)), randn(8, 2)) < 1e-7


def test_a_difference_of_kernel_density_scores_is_not_one():
    nu = Particles(randn(9, 2, seed=1))
    field = lambda x: velocity(parzen_kl(nu, 0.8), Particles(x), KDEScore(RBF(0.8)))  # noqa: E731
    assert asymmetry(field, randn(8, 2)) > 0.01


def test_parzen_velocity_is_the_normalised_mean_shift():
    """Tweedie: N_p/(k*p) - N_q/(k*q) = s² (grad log p_s - grad log q_s)."""
    s, rho, nu = 0.8, Particles(randn(10, 2)), Particles(randn(8, 2, seed=1))

    def shift(p):
        K = RBF(s)(rho.x, p.x)
        return (K / K.sum(1, keepdim=True)) @ p.x - rho.x

    v = velocity(parzen_kl(nu, s), rho, KDEScore(RBF(s)))
    torch.testing.assert_close(s**2 * v, shift(nu) - shift(rho))


@pytest.mark.parametrize("kernel", [RBF(0.8), Riesz(), Laplace(0.5), MedianRBF(), RBF(0.5) + RBF(2.0)])
def test_a_particle_of_twice_the_weight_is_two_particles(kernel):
    if isinstance(kernel, MedianRBF):  # the rule looks at positions only
        kernel = kernel.fit(randn(8, 2))
    assert_twins_move_as_one(0.5 * SquaredMMD(Particles(randn(9, 2, seed=1) + 1), kernel), randn(8, 2))


def test_a_target_particle_of_twice_the_weight_is_two_particles():
    x, rho = randn(8, 2), weighted(7, 2, 1)
    heavy = Particles.weighted(x, double([2.0, *[1.0] * 7]) / 9)
    twins = Particles(torch.cat([x, x[:1]]))
    for kernel in (RBF(0.8), Riesz()):
        a, b = (SquaredMMD(nu, kernel) for nu in (heavy, twins))
        torch.testing.assert_close(a.value(rho), b.value(rho), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(velocity(a, rho), velocity(b, rho), rtol=1e-11, atol=1e-13)


def test_half_the_squared_mmd_falls_by_its_dissipation():
    rho, F = weighted(15, 2, 0), 0.5 * SquaredMMD(weighted(9, 2, 1, 0.5), RBF(0.8))
    defects = []
    for h in (4e-3, 2e-3):
        end = solve(F, EULER, rho, step_size=h, num_steps=1).measure
        rate = float(rho.mean(velocity(F, rho).square().sum(1)))
        defects.append(float(F.value(rho) - F.value(end)) / h - rate)
    assert defects[0] / defects[1] == pytest.approx(2, rel=0.02)


def test_a_drawn_target_is_an_unbiased_view_of_its_law():
    """V-statistics of m target points exceed the distance to the law by (E k(y,y) - E k(y,y'))/m on average."""
    law, m, s = GaussianMixture(double([[-1.0], [1.0]]), 0.5), 50, 0.8
    rho = trapezoid(0.2, 0.9)
    left, right = trapezoid(-1.0, 0.5), trapezoid(1.0, 0.5)
    nu = Particles(torch.cat([left.x, right.x]), torch.cat([left.w, right.w]).log())
    exact = SquaredMMD(nu, RBF(s)).value(rho)
    F = SquaredMMD(law, RBF(s), batch=m)
    values = torch.stack([F.freeze(rng(k)).value(rho) for k in range(200)])
    excess = (1 - nu.w @ RBF(s)(nu.x, nu.x) @ nu.w) / m
    error = float(values.std()) / math.sqrt(200)
    assert abs(float(values.mean() - exact - excess)) < 4 * error
    assert float(excess) > 5 * error, "the excess is seen"
