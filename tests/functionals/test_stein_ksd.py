"""Stein variational flows and kernel Stein discrepancies: identities, Gaussians, and what they are known to get wrong."""

import math
from dataclasses import dataclass

import pytest
import torch
from _exact import double, rng, trapezoid
from _velocities import assert_twins_move_as_one, asymmetry, velocity

from wgflow import (
    JKO,
    KL,
    BadInput,
    Gaussian,
    GaussianMixture,
    Particles,
    PotentialEnergy,
    Unnormalised,
    Unsupported,
    solve,
)
from wgflow.estimators import Autograd
from wgflow.estimators.stein import Stein
from wgflow.functionals.energies import Entropy, InteractionEnergy
from wgflow.functionals.stein import SquaredKSD, score
from wgflow.kernels import RBF, InverseMultiquadric, Kernel, Laplace, MedianRBF, PowerLaw, Riesz
from wgflow.measures import Dataset
from wgflow.optim import LBFGS
from wgflow.solvers import ForwardEuler


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def eye(d):
    return torch.eye(d, dtype=torch.float64)


def normal(d):
    return Gaussian(torch.zeros(d, dtype=torch.float64), eye(d))


BANANA = Unnormalised(lambda x: -0.5 * x[:, 0].square() - (x[:, 1] - x[:, 0].square()).square(), 2)


@dataclass(frozen=True)
class Constant(Kernel):
    """k = 1."""

    def profile(self, s):
        return torch.ones_like(s)

    def slope(self, s):
        return torch.zeros_like(s)


# --- Stein variational flows ---------------------------------------------------------------------------------------


def test_one_particle_ascends_the_log_density():
    x = randn(1, 2)
    torch.testing.assert_close(velocity(KL(BANANA), Particles(x), Stein(RBF(0.7))), score(BANANA, x))


def test_a_constant_kernel_moves_all_particles_by_the_mean_score():
    rho = Particles(randn(7, 2), randn(7, seed=1))
    mean = (rho.w[:, None] * score(BANANA, rho.x)).sum(0)
    torch.testing.assert_close(velocity(KL(BANANA), rho, Stein(Constant())), mean.expand(7, 2))


@pytest.mark.parametrize("kernel", [RBF(0.9), InverseMultiquadric(1.2), RBF(0.5) + 2.0 * RBF(1.5)])
def test_velocity_is_the_definition(kernel):
    rho = Particles(randn(9, 2), randn(9, seed=1))
    K, s = kernel(rho.x, rho.x), score(BANANA, rho.x)
    z = rho.x[:, None] - rho.x
    slope = -2 * kernel.slope(z.square().sum(2))[:, :, None] * z  # in the second argument
    expected = K @ (rho.w[:, None] * s) + (rho.w[:, None] * slope).sum(1)
    torch.testing.assert_close(velocity(KL(BANANA), rho, Stein(kernel)), expected)


def test_temperature_and_energies_without_entropy():
    """With F = E + T entropy the velocity is linear in both parts; without an entropy the kernel averages the gradient."""
    rho, stein = Particles(randn(9, 2), randn(9, seed=1)), Stein(RBF(0.9))
    V = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    W = InteractionEnergy(PowerLaw(4))
    parts = [velocity(F, rho, stein) for F in (V, W, Entropy())]
    both = velocity(V + 2.0 * W + 0.3 * Entropy(), rho, stein)
    torch.testing.assert_close(both, parts[0] + 2 * parts[1] + 0.3 * parts[2])
    torch.testing.assert_close(parts[1], RBF(0.9)(rho.x, rho.x) @ (rho.w[:, None] * velocity(W, rho)))


@pytest.mark.parametrize("d", [1, 2])
def test_direction_vanishes_at_the_target(d):
    rho = trapezoid([0.0] * d, eye(d), step=0.2 if d == 1 else 0.5, half=8)
    v = velocity(KL(normal(d)), rho, Stein(RBF(0.9)))
    assert float(v.abs().max()) < 1e-9


@pytest.mark.parametrize(("m", "v"), [(0.0, 0.5), (0.7, 1.4)])
def test_velocity_of_a_gaussian_towards_a_gaussian(m, v):
    r"""With ρ = N(m, v), π = N(0, 1): :math:`E[k(x,y)]\,\{x/\sigma^2-(1+1/\sigma^2)\bar y\},\ \bar y=(m\sigma^2+vx)/(\sigma^2+v)`."""
    sigma = 0.8
    rho = trapezoid(m, math.sqrt(v), step=0.15)
    x, q = rho.x, sigma**2 + v
    mean_k = sigma / math.sqrt(q) * torch.exp(-(x - m).square() / (2 * q))
    expected = mean_k * (x / sigma**2 - (1 + 1 / sigma**2) * (m * sigma**2 + v * x) / q)
    torch.testing.assert_close(velocity(KL(normal(1)), rho, Stein(RBF(sigma))), expected, rtol=0, atol=1e-10)


def test_a_quadratic_kernel_moves_the_covariance_by_its_own_equation():
    """k = 5 - r²/2 on a symmetric cloud: v = (I - C)x, so that every fixed point has the covariance of the target."""
    half = randn(6, 2)
    x = torch.cat([half, -half])
    kernel = 5 * Constant() + (-1.0) * PowerLaw(2)  # the 5 holds the mean
    C = x.T @ x / len(x)
    torch.testing.assert_close(velocity(KL(normal(2)), Particles(x), Stein(kernel)), x - x @ C)
    flow = solve(KL(normal(2)), ForwardEuler(Stein(kernel)), Particles(x), step_size=0.2, num_steps=80)
    end = flow.measure.x
    torch.testing.assert_close(end.T @ end / len(x), eye(2), rtol=0, atol=1e-10)


def test_wide_kernels_settle_at_the_moments_of_the_target():
    """A wide kernel is 1 - r²/2σ² up to a relative r²/4σ², and fixed points of the former have them exactly."""
    target, sigma, n = Gaussian(double([1.0, -1.0]), double([[1.0, 0.4], [0.4, 0.7]])), 4.0, 12
    solver = ForwardEuler(Stein(RBF(sigma)))
    end = solve(KL(target), solver, Particles(randn(n, 2)), step_size=0.6, num_steps=600).measure.x
    small = 2 * float(target.cov.trace()) / (4 * sigma**2)  # E r² = 2 tr C
    cov = (end - end.mean(0)).T @ (end - end.mean(0)) / n
    assert float((cov - target.cov).norm() / target.cov.norm()) < small
    assert float((end.mean(0) - target.mean).abs().max()) < small / 10


@pytest.mark.parametrize("d", [15, 100])
def test_variance_collapses_in_many_dimensions(d):
    r"""Median rule, N(0, I): n < d particles end as a simplex with :math:`k=1/(n+1)`, far too close together.

    On a regular simplex of side r the force vanishes where :math:`1-k=2nk/h`, so :math:`h=2`, :math:`r^2=2\log(n+1)`
    and the variances add up to :math:`\frac{n-1}n\log(n+1)` instead of d.
    """
    n = 10
    flow = solve(KL(normal(d)), ForwardEuler(Stein(MedianRBF())), Particles(randn(n, d)), step_size=1.0, num_steps=150)
    x = flow.measure.x
    assert float(x.var(0, correction=0).sum()) == pytest.approx((n - 1) / n * math.log(n + 1), rel=1e-4)
    torch.testing.assert_close(torch.pdist(x).square(), double([2 * math.log(n + 1)] * 45), rtol=1e-3, atol=0)


def test_stein_velocity_is_not_a_wasserstein_gradient():
    field = lambda x: velocity(KL(BANANA), Particles(x), Stein(RBF(0.8)))  # noqa: E731
    assert asymmetry(field, randn(8, 2)) > 0.01


@pytest.mark.parametrize("kernel", [RBF(0.8), InverseMultiquadric(1.0)])
def test_a_particle_of_twice_the_weight_is_two_particles(kernel):
    assert_twins_move_as_one(KL(BANANA), 0.5 * randn(8, 2), Stein(kernel))
    assert_twins_move_as_one(0.5 * SquaredKSD(normal(2), kernel), randn(8, 2))


def test_images():
    flat = Particles(randn(6, 4))
    image = Particles(flat.x.view(6, 1, 2, 2))
    F = PotentialEnergy(lambda x: 0.5 * x.flatten(1).square().sum(1)) + Entropy()
    v = velocity(F, image, Stein(MedianRBF()))
    torch.testing.assert_close(v.flatten(1), velocity(F, flat, Stein(MedianRBF())))


# --- kernel Stein discrepancy --------------------------------------------------------------------------------------


def stein_matrix(target, kernel, x):
    """All k_pi(x_i, x_j), from values at measures of one and two atoms."""
    n, F = len(x), SquaredKSD(target, kernel)
    K = torch.zeros(n, n, dtype=x.dtype)
    for i in range(n):
        K[i, i] = F.value(Particles(x[i : i + 1]))
    for i in range(n):
        for j in range(i):
            K[i, j] = K[j, i] = 2 * F.value(Particles(x[[i, j]])) - (K[i, i] + K[j, j]) / 2
    return K


def stein_kernel_by_definition(target, kernel, x, y):
    """s_x·s_y k + s_x·grad_y k + s_y·grad_x k + the trace of the mixed second derivative, of two points."""
    x, y = (p.clone().requires_grad_(True) for p in (x, y))
    k = kernel.profile((x - y).square().sum())
    k_x, k_y = torch.autograd.grad(k, (x, y), create_graph=True)
    trace = sum(torch.autograd.grad(k_x[a], y, retain_graph=True)[0][a] for a in range(len(x)))
    s_x, s_y = (score(target, p.detach()[None])[0] for p in (x, y))
    return (s_x @ s_y * k + s_x @ k_y + s_y @ k_x + trace).detach()


@pytest.mark.parametrize(
    "kernel", [RBF(0.9), InverseMultiquadric(1.1, 0.5), RBF(0.5) + 2.0 * InverseMultiquadric(2.0, 0.7)]
)
@pytest.mark.parametrize(
    "target", [normal(3), Gaussian(double([0.5, 0, 1]), double([[1, 0.3, 0], [0.3, 0.5, 0], [0, 0, 2]]))]
)
def test_stein_kernel_is_its_definition_and_positive(target, kernel):
    x = randn(6, 3)
    expected = torch.stack([torch.stack([stein_kernel_by_definition(target, kernel, p, q) for q in x]) for p in x])
    K = stein_matrix(target, kernel, x)
    torch.testing.assert_close(K, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(expected, expected.T)
    assert float(torch.linalg.eigvalsh(K).min()) > -1e-10


def test_value_is_the_weighted_double_sum():
    rho = Particles(randn(6, 3), randn(6, seed=1))
    K = stein_matrix(normal(3), RBF(0.9), rho.x)
    torch.testing.assert_close(SquaredKSD(normal(3), RBF(0.9)).value(rho), rho.w @ K @ rho.w)


def test_diagonal_and_u_statistic_under_the_target():
    """N(0, I) in the plane, bandwidth 1: the diagonal is |s|² + d, of mean 4, and the off-diagonal mean is 0."""
    n, d = 1500, 2
    x = randn(n, d)
    value = float(SquaredKSD(normal(d), RBF(1.0)).value(Particles(x)))
    diagonal = float(x.square().sum(1).mean()) + d
    assert diagonal == pytest.approx(4, abs=4 * 2 / math.sqrt(n))  # |x|² has the variance 4
    u = (n * value - diagonal) / (n - 1)
    # A degenerate U-statistic: standard deviation sqrt(2 E k²)/n. E k² <= E k(x,x)k(y,y) = 16.
    assert abs(u) < 4 * math.sqrt(2 * 16) / n
    assert value == pytest.approx(diagonal / n, abs=4 * math.sqrt(2 * 16) / n)


@pytest.mark.parametrize(("m", "v"), [(0.0, 1.0), (0.6, 0.5), (-0.3, 1.7)])
def test_discrepancy_between_gaussians(m, v):
    """KSD² = E[D(x) k(x, y) D(y)] with D the difference of the scores, both known for Gaussians."""
    rho, kernel = trapezoid(m, math.sqrt(v), step=0.15), RBF(0.8)
    D = -rho.x[:, 0] + (rho.x[:, 0] - m) / v
    expected = (rho.w * D) @ kernel(rho.x, rho.x) @ (rho.w * D)
    assert float(SquaredKSD(normal(1), kernel).value(rho)) == pytest.approx(float(expected), abs=1e-10)


def test_velocities_are_gradients_of_the_particles():
    F = 0.5 * SquaredKSD(BANANA, RBF(0.9))
    assert asymmetry(lambda x: velocity(F, Particles(x)), 0.5 * randn(8, 2)) < 1e-7


def test_gradient_and_first_variation_are_those_of_the_double_sum():
    rho = Particles(randn(5, 2), randn(5, seed=1))
    F, kernel = 0.5 * SquaredKSD(normal(2), RBF(0.9)), RBF(0.9)
    phi, slope = Autograd().gradient(F, rho, None)
    K = stein_matrix(normal(2), kernel, rho.x)
    torch.testing.assert_close(phi, K @ rho.w - rho.w @ K @ rho.w)
    h = 1e-5  # central differences of the first variation at a moved particle, others held: an error of h²
    for i, a in ((0, 0), (3, 1)):
        e = torch.zeros_like(rho.x[i])
        e[a] = h
        up, down = (
            sum(
                rho.w[j] * stein_kernel_by_definition(normal(2), kernel, rho.x[i] + sign * e, rho.x[j])
                for j in range(5)
            )
            for sign in (1, -1)
        )
        assert float(slope[i, a]) == pytest.approx(float(up - down) / (2 * h), abs=1e-8)


def test_particles_on_a_plane_of_symmetry_stay_there():
    """Two modes at (±2, 0): halfway between them nothing pulls to a side. Off the plane it does."""
    target = GaussianMixture(double([[-2.0, 0.0], [2.0, 0.0]]), 0.6)
    F = 0.5 * SquaredKSD(target, RBF(1.0))
    between = torch.stack([torch.zeros(10, dtype=torch.float64), randn(10)], 1)
    flow = solve(F, ForwardEuler(), Particles(between), step_size=0.05, num_steps=20)
    assert float(flow.measure.x[:, 0].abs().max()) < 1e-12
    aside = Particles(between + double([0.1, 0.0]))
    assert float(velocity(F, aside)[:, 0].abs().max()) > 1e-2


def test_a_quasi_newton_minimisation_finds_good_quadrature_points():
    """JKO without the proximal term: 10 points for N(0, I) far better than 10 draws, with its mean and covariance."""
    start = Particles(0.5 * randn(10, 2) + 0.5)
    F = 0.5 * SquaredKSD(normal(2), RBF(1.0))
    end = solve(F, JKO(optim=LBFGS(max_iter=200), iters=1), start, step_size=math.inf, num_steps=1).measure
    drawn = [float(F.value(Particles(randn(10, 2, seed=s)))) for s in range(20)]
    assert float(F.value(end)) < 0.1 * min(drawn)
    assert float(velocity(F, end).abs().max()) < 1e-4
    assert float(end.x.mean(0).abs().max()) < 0.05


def test_what_it_needs_is_asked_for():
    with pytest.raises(BadInput, match="log_prob"):
        SquaredKSD(Dataset(randn(5, 2)), RBF(1.0))
    with pytest.raises(Unsupported, match="second derivative"):
        SquaredKSD(normal(2), Laplace(1.0)).value(Particles(randn(3, 2)))
    with pytest.raises(BadInput, match="positive definite"):
        SquaredKSD(normal(2), Riesz())


def test_single_precision_far_from_the_origin():
    """A cloud at 300: distances come from a common centre."""
    x = torch.randn(30, 5, generator=rng()) + 300
    target = Gaussian(torch.full((5,), 300.0), torch.eye(5))
    exact = Gaussian(target.mean.double(), target.cov.double())
    single = SquaredKSD(target, RBF(2.0)).value(Particles(x))
    # positions are known to eps 300, 2e-5, relative to a scale of 1
    assert float(single) == pytest.approx(float(SquaredKSD(exact, RBF(2.0)).value(Particles(x.double()))), rel=2e-4)
