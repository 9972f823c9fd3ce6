"""The game on grids against Gaussians in closed form, quadrature, both equations, and the particles' kernel formula."""

import math

import numpy as np
import pytest
import torch
from _exact import double
from scipy.integrate import quad

from wgflow import BadInput, Entropy, Grid, PotentialEnergy, ProximalScore
from wgflow.reference import MeanFieldGame, Moments, OrnsteinUhlenbeck

A1, TAU, T = 1.3, 0.7, 0.4


def gaussian_grid(mean, cov, half, n):
    mean, precision = double(mean), torch.linalg.inv(double(cov))
    d = len(mean)
    return Grid.of(
        lambda x: -0.5 * torch.einsum("ni,ij,nj->n", x - mean, precision, x - mean), [-half] * d, [half] * d, [n] * d
    )


def quadratic(A, center):
    A, center = double(A), double(center)
    return lambda x: 0.5 * torch.einsum("ni,ij,nj->n", x - center, A, x - center)


def double_well(x):
    return (x[:, 0].square() - 1).square() + (0 if x.shape[1] == 1 else (x[:, 1] - 0.5 * x[:, 0]).square())


def between(flow, p, t, time):
    """Law at time t: a Brownian bridge from a point of the start to where the kernel sends it."""
    d, s = len(p.mean), t / time
    P = torch.linalg.inv(torch.eye(d).double() + time * flow.A)
    end, S = flow.wasserstein_proximal(p, time), (1 - s) * torch.eye(d).double() + s * P
    noise = 2 * flow.temperature * (s**2 * time * P + t * (1 - s) * torch.eye(d).double())
    return Moments(p.mean + s * (end.mean - p.mean), S @ p.cov @ S.mT + noise)


@pytest.mark.parametrize(("center", "mean"), [(0.0, 0.526316), (-0.6, 0.321053)])
def test_on_the_line_it_has_the_published_moments(center, mean):
    flow = OrnsteinUhlenbeck(double([[A1]]), double([center]), TAU)
    start = Moments(double([0.8]), double([[2.5]]))
    game = MeanFieldGame(quadratic(flow.A, flow.center), gaussian_grid([0.8], [[2.5]], 14.0, 300), T, TAU)
    closed = flow.wasserstein_proximal(start, T)
    assert [float(closed.mean), float(closed.cov)] == pytest.approx([mean, 1.450485], abs=1e-6)
    for t in (0.1, 0.2, T):
        for found, exact in zip(Moments.of(game.law(t).nodes()), between(flow, start, t, T), strict=True):
            torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


def test_in_the_plane_with_a_hessian_and_a_covariance_that_do_not_commute():
    flow = OrnsteinUhlenbeck(double([[2, 0.5], [0.5, 1]]), double([0.3, -0.2]), TAU)
    start = Moments(double([0.4, -0.5]), double([[1, -0.3], [-0.3, 0.6]]))
    game = MeanFieldGame(quadratic(flow.A, flow.center), gaussian_grid(start.mean, start.cov, 8.0, 48), T, TAU)
    for t in (0.15, T):
        for found, exact in zip(Moments.of(game.law(t).nodes()), between(flow, start, t, T), strict=True):
            torch.testing.assert_close(found, exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize("d", [1, 2])
def test_cost_and_laws_of_the_benchmark_with_a_closed_form(d):
    # V = |x|²/2 from N(0, 2 tau (1 + T) I): rho_t = N(0, 2 tau (1 + T - t) I) and the cost is tau d (1 + log(1 + T)).
    time, tau = 1.0, 0.5
    eye, zero = torch.eye(d).double(), [0.0] * d
    game = MeanFieldGame(quadratic(eye, zero), gaussian_grid(zero, 2 * tau * (1 + time) * eye, 11.0, 40), time, tau)
    assert game.cost == pytest.approx(tau * d * (1 + math.log(1 + time)), rel=1e-8)
    x = game.start.points
    for t in (0.0, 0.5, 1.0):
        v = 2 * tau * (1 + time - t)
        exact = (-0.5 * x.square().sum(1) / v).exp() / (2 * math.pi * v) ** (d / 2)
        torch.testing.assert_close(game.density(t).flatten(), exact, rtol=0, atol=1e-8)
        torch.testing.assert_close(game.velocity(x, t), -x / (1 + time - t), rtol=0, atol=1e-6)
    # The cost to come is quadratic: Phi_t = -|x|² / 2(1 + T - t) - tau d log(1 + T - t). Far out the box cuts e^{-V/2 tau}.
    inner = x.abs().amax(1) < 5
    phi = -0.5 * x.square().sum(1) / 1.5 - tau * d * math.log(1.5)
    torch.testing.assert_close(game.value_function(0.5).flatten()[inner], phi[inner], rtol=0, atol=1e-8)


def test_gaussian_forms_of_the_operator_and_its_sampler():
    A, M = double([[2, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 0.7]]), double([[1, 0.2, 0], [0.2, 2, -0.3], [0, -0.3, 0.5]])
    flow, tau, time = OrnsteinUhlenbeck(A, double([1, 0, -1]), 0.6), 0.6, 0.2
    for metric, m in ((None, torch.eye(3).double()), (M, M), (torch.linalg.inv(A), torch.linalg.inv(A))):
        fixed = tau * (torch.linalg.inv(A) - time**2 * m @ A @ m)
        found = flow.brwp(Moments(flow.center, fixed), 0.17, time, metric)
        torch.testing.assert_close(found.cov, fixed, rtol=0, atol=1e-12)
        unbiased = flow.wasserstein_proximal(found, time, metric)  # the bias of the particles is undone by one proximal
        torch.testing.assert_close(unbiased.cov, tau * torch.linalg.inv(A), rtol=0, atol=1e-12)
    # First order: the operator follows the Fokker-Planck equation of temperature tau up to O(T²).
    p = Moments(double([2, 1, 0]), torch.eye(3).double())
    gap = [float((flow.wasserstein_proximal(p, t).cov - flow.exact(p, t).cov).norm()) for t in (1e-3, 5e-4)]
    assert math.log2(gap[0] / gap[1]) == pytest.approx(2, abs=0.02)


def test_factors_of_the_recursion_on_the_line():
    flow = OrnsteinUhlenbeck(double([[1]]), double([0]), 1.0)
    eps = 1e-6
    step = lambda m, v: flow.brwp(Moments(double([m]), double([[v]])), 0.2, 0.1)  # noqa: E731
    assert float(step(eps, 0.99).mean) / eps == pytest.approx(0.81818, abs=1e-5)
    assert (float(step(0.0, 0.99 + eps).cov) - 0.99) / eps == pytest.approx(0.67273, abs=1e-5)


@pytest.mark.parametrize("V", [double_well, quadratic([[A1]], [0.3])])
def test_the_law_from_one_cell_is_the_kernel(V):
    start = gaussian_grid([0.0], [[1.0]], 6.0, 240)
    mass = torch.zeros_like(start.mass)
    mass[97] = 1.0
    game, y = MeanFieldGame(V, Grid(mass, start.low, start.high), T, TAU), float(start.points[97])

    def unnormalised(z):
        return math.exp(-(float(V(double([[z]]))) + (z - y) ** 2 / (2 * T)) / (2 * TAU))

    Z = quad(unnormalised, -6, 6, epsabs=1e-13, limit=200)[0]
    exact = double([unnormalised(z) / Z for z in start.points[:, 0].tolist()])
    torch.testing.assert_close(game.density(T), exact, rtol=1e-9, atol=1e-300)  # the tails too
    assert game.mass(T) == pytest.approx(1, abs=1e-13)
    Z_of_game = math.sqrt(4 * math.pi * TAU * T) * math.exp(float(game.value_function(0.0)[97]) / (2 * TAU))
    assert pytest.approx(Z, rel=1e-9) == Z_of_game


@pytest.mark.parametrize("d", [1, 2])
def test_it_starts_at_the_start_and_keeps_the_mass(d):
    start = gaussian_grid([0.5] * d, 0.5 * torch.eye(d).double(), 5.0, 60)
    game = MeanFieldGame(double_well, start, 0.5, 0.4)
    torch.testing.assert_close(game.density(0.0), start.mass / start.volume, rtol=1e-10, atol=1e-300)
    for t in (0.0, 0.1, 0.25, 0.4, 0.5):
        assert game.mass(t) == pytest.approx(1, abs=1e-8)


def residuals(n, d):
    """Largest residuals of Fokker-Planck and Hamilton-Jacobi-Bellman by central differences, cells and time step halved together."""
    tau, t, half, dt = 0.5, 0.3, 5.0, 1.6 / n
    start = gaussian_grid([0.5] * d, torch.eye(d).double(), half, n)
    game = MeanFieldGame(double_well, start, 0.6, tau)
    rho, phi = game.density(t), game.value_function(t)
    axes, (dx, *_) = range(d), start.spacing
    slope = lambda f, i: (f.roll(-1, i) - f.roll(1, i)) / (2 * dx)  # noqa: E731
    laplacian = lambda f: sum(f.roll(-1, i) + f.roll(1, i) - 2 * f for i in axes) / dx**2  # noqa: E731
    d_rho, d_phi = ((f(t + dt) - f(t - dt)) / (2 * dt) for f in (game.density, game.value_function))
    v = [slope(phi, i) for i in axes]
    planck = d_rho + sum(slope(rho * v[i], i) for i in axes) - tau * laplacian(rho)
    bellman = d_phi + 0.5 * sum(u.square() for u in v) + tau * laplacian(phi)
    inside = start.points.abs().amax(1).view(rho.shape) < 2
    return torch.stack([planck[inside].abs().max(), bellman[inside].abs().max()])


@pytest.mark.parametrize(("d", "cells"), [(1, (80, 160, 320)), (2, (40, 80))])
def test_residuals_of_both_equations_fall_as_the_square_of_the_spacing(d, cells):
    found = [residuals(n, d) for n in cells]
    order = (found[-2] / found[-1]).log2()
    torch.testing.assert_close(order, torch.full_like(order, 2.0), rtol=0, atol=0.1 if d == 1 else 0.25)


def test_the_cost_is_that_of_the_control():
    start = gaussian_grid([1.0], [[0.5]], 6.0, 400)
    game = MeanFieldGame(double_well, start, 0.5, 0.5)
    nodes, weights = np.polynomial.legendre.leggauss(16)
    x, action = start.points, 0.0
    for s, w in zip(nodes, weights, strict=True):
        t = 0.25 * (1 + float(s))
        action += 0.25 * float(w) * float((game.law(t).mass * game.velocity(x, t)[:, 0].square()).sum()) / 2
    end = float((game.law(0.5).mass * double_well(x)).sum())
    assert action + end == pytest.approx(game.cost, rel=1e-7)


def mixture(x, extra=0.0):
    """.3 N(-2, .1) + .7 N(1.5, .3), with an extra variance."""
    parts = [
        math.log(p) - (x[:, 0] - m).square() / (2 * (v + extra)) - 0.5 * math.log(2 * math.pi * (v + extra))
        for p, m, v in ((0.3, -2.0, 0.1), (0.7, 1.5, 0.3))
    ]
    return torch.logsumexp(torch.stack(parts), 0)


def test_the_smoothed_data_lead_back_to_the_data_and_a_wrong_start_comes_nearer():
    tau, time = 0.5, 0.8
    V = lambda x: -2 * tau * mixture(x)  # noqa: E731
    smoothed = lambda x: mixture(x, 2 * tau * time)  # noqa: E731
    game = MeanFieldGame(V, Grid.of(smoothed, [-12.0], [12.0], [400]), time, tau)
    x = game.start.points
    assert float((game.density(time) - mixture(x).exp()).abs().max()) < 1e-6
    # In between it is the data smoothed by the time that is left, and the control is the drift of the reverse SDE.
    assert float((game.density(0.3) - mixture(x, 2 * tau * 0.5).exp()).abs().max()) < 1e-12
    points = double([[-2.5], [0.1], [2.0]]).requires_grad_(True)
    (score,) = torch.autograd.grad(mixture(points, 2 * tau * 0.5).sum(), points)
    torch.testing.assert_close(game.velocity(points.detach(), 0.3), 2 * tau * score, rtol=0, atol=1e-9)

    wrong = MeanFieldGame(V, Grid.of(lambda x: -(x[:, 0] - 0.45).square() / 6, [-12.0], [12.0], [400]), time, tau)
    p, q, dx = wrong.density(0.0), wrong.density(time), wrong.start.volume
    kl_in = float((p * (p.log() - smoothed(x))).sum() * dx)
    kl_out = float((q * (q.clamp(min=1e-300).log() - mixture(x))).sum() * dx)
    assert kl_out < 0.2 * kl_in
    ratio = lambda log_f, f: float((f / log_f.exp() - 1).abs().max())  # noqa: E731
    assert ratio(mixture(x), q) <= ratio(smoothed(x), p)


def test_weighted_particles_at_the_nodes_have_the_score_of_the_end():
    start = gaussian_grid([0.5], [[0.8]], 5.0, 500)
    game = MeanFieldGame(double_well, start, T, TAU)
    log_z = game.value_function(0.0) / (2 * TAU)
    F = PotentialEnergy(double_well) + TAU * Entropy()
    v = ProximalScore(T, lambda y: log_z).velocity(F, start.nodes(), None)[:, 0]
    log_end, dx = game.density(T).log(), start.volume
    score = (8 * (log_end[3:-1] - log_end[1:-3]) - (log_end[4:] - log_end[:-4])) / (12 * dx)  # of order 4
    x = start.points[2:-2]
    exact = game.velocity(x, T)[:, 0] - TAU * score
    inside = x[:, 0].abs() < 2.5
    torch.testing.assert_close(v[2:-2][inside], exact[inside], rtol=0, atol=1e-6)


def test_what_is_refused():
    start = gaussian_grid([0.0], [[1.0]], 6.0, 60)
    V = quadratic([[1.0]], [0.0])
    with pytest.raises(BadInput, match="cells of at most"):
        MeanFieldGame(V, start, 0.01, 0.5)
    with pytest.raises(BadInput, match="wider box"):
        MeanFieldGame(V, gaussian_grid([0.0], [[1.0]], 2.0, 60), 1.0, 0.5)
    with pytest.raises(BadInput, match="from both ends"):
        MeanFieldGame(V, start, 1.0, 0.5).density(1e-4)
    with pytest.raises(BadInput, match="between 0 and the time"):
        MeanFieldGame(V, start, 1.0, 0.5).velocity(start.points, 1.5)
    with pytest.raises(BadInput, match="points of shape"):
        MeanFieldGame(V, start, 1.0, 0.5).velocity(torch.zeros(3, 2), 0.5)
    with pytest.raises(BadInput, match="must return a number"):
        MeanFieldGame(V, start, 1.0, 0.5).density("half")
    with pytest.raises(BadInput, match="a number at one node"):
        MeanFieldGame(lambda x: torch.full_like(x[:, 0], torch.inf), start, 1.0, 0.5)
    for bad in ({"time": 0.0}, {"temperature": -1.0}):
        with pytest.raises(BadInput, match="positive"):
            MeanFieldGame(**{"potential": V, "start": start, "time": 1.0, "temperature": 0.5} | bad)
    with pytest.raises(BadInput, match="shorter time"):
        OrnsteinUhlenbeck(double([[-1.0]]), double([0.0])).wasserstein_proximal(
            Moments(double([0.0]), double([[1.0]])), 2.0
        )
