"""Scores one proximal step ahead, and learned scores, against what they are for Gaussians."""

import math

import pytest
import torch
from _exact import double, rng, trapezoid
from _velocities import assert_twins_move_as_one, asymmetry, velocity
from torch import nn

from wgflow import (
    KL,
    BadInput,
    Gaussian,
    Incompatible,
    KernelDensity,
    LaplaceNormalizer,
    MonteCarloNormalizer,
    Particles,
    PotentialEnergy,
    QuadraticPotential,
    QuadratureNormalizer,
    Unnormalised,
    solve,
)
from wgflow.estimators import Estimator, Stein
from wgflow.estimators.entropic import Blob, KDEScore, LearnedScore
from wgflow.estimators.proximal_score import ProximalScore
from wgflow.functionals.energies import Entropy, InteractionEnergy
from wgflow.kernels import RBF, InverseMultiquadric, PowerLaw
from wgflow.optim import Adam, Cosine
from wgflow.solvers import ForwardEuler
from wgflow.storage.describe import describe


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def eye(d):
    return torch.eye(d, dtype=torch.float64)


class Quadratic:
    """V = (x - c)·H(x - c)/2 at a temperature: what the proximal of a Gaussian is, and the normaliser of its kernel."""

    def __init__(self, H, c, temperature, time):
        self.H, self.c, self.tau, self.time = double(H), double(c), temperature, time
        self.P = (eye(len(self.c)) + time * self.H).inverse()
        self.F = (
            PotentialEnergy(lambda x: 0.5 * ((x - self.c) @ self.H * (x - self.c)).sum(1)) + temperature * Entropy()
        )

    def log_normaliser(self, y):
        z = y - self.c
        return -(z @ (self.H @ self.P) * z).sum(1) / (4 * self.tau)

    @property
    def estimator(self):
        return ProximalScore(self.time, self.log_normaliser)

    def proximal(self, m, S):
        return self.c + self.P @ (m - self.c), self.P @ S @ self.P + 2 * self.tau * self.time * self.P

    def step(self, m, S, eta):
        """One Euler step of N(m, S): linear in x."""
        mean, cov = self.proximal(m, S)
        G = eye(len(m)) - eta * (self.H - self.tau * cov.inverse())
        return m - eta * (self.H @ (m - self.c) - self.tau * cov.inverse() @ (m - mean)), G @ S @ G.T


LINE = Quadratic([[1.3]], [-0.6], 0.7, 0.4)
PLANE = Quadratic([[2.0, 0.5], [0.5, 1.0]], [1.0, -1.0], 1.0, 0.2)


def moments(rho):
    m = (rho.w[:, None] * rho.x).sum(0)
    return m, ((rho.x - m) * rho.w[:, None]).T @ (rho.x - m)


def test_the_closed_form_has_the_numbers_of_the_literature():
    mean, cov = LINE.proximal(double([0.8]), double([[2.5]]))
    assert float(mean) == pytest.approx(0.321053, abs=5e-7)
    assert float(cov) == pytest.approx(1.450485, abs=5e-7)
    mean, cov = PLANE.proximal(double([-1.0, 2.0]), double([[1, -0.3], [-0.3, 2]]))
    assert mean.tolist() == pytest.approx([-0.6167664671, 1.6347305389], abs=1e-10)
    assert cov.flatten().tolist() == pytest.approx([0.8367456703, *[-0.3491699236] * 2, 1.7746064757], abs=1e-10)


@pytest.mark.parametrize(
    ("case", "m", "root", "step", "half"),
    [(LINE, [0.8], [[math.sqrt(2.5)]], 0.1, 10), (PLANE, [-1.0, 2.0], [[1.0, 0.0], [-0.3, 1.38]], 0.25, 6.5)],
)
def test_gaussians_follow_the_recursion(case, m, root, step, half):
    """On an even grid the softmax is a ratio of Gaussian integrals, exact to rounding, and a step moves the grid linearly."""
    rho = trapezoid(m, root, step, half)
    flow = solve(case.F, ForwardEuler(case.estimator), rho, step_size=0.2, num_steps=5)
    mean, cov = double(m), double(root) @ double(root).T
    for p in flow.saved[1:]:
        mean, cov = case.step(mean, cov, 0.2)
        found = moments(p)
        torch.testing.assert_close(found[0], mean, rtol=0, atol=1e-7)
        torch.testing.assert_close(found[1], cov, rtol=0, atol=1e-7)


@pytest.mark.parametrize("case", [LINE, PLANE])
def test_the_fixed_point_is_biased_as_it_should_be(case):
    """tau (H^{-1} - T² H), whatever the step; the proximal of it has the covariance of the target."""
    S = case.tau * (case.H.inverse() - case.time**2 * case.H)
    torch.testing.assert_close(case.proximal(case.c, S)[1], case.tau * case.H.inverse())
    torch.testing.assert_close(case.step(case.c, S, 0.3)[1], S)
    rho = trapezoid(case.c, torch.linalg.cholesky(S), 0.1 if len(case.c) == 1 else 0.25, 6.5)
    v = velocity(case.F, rho, case.estimator)
    near = (torch.linalg.solve(torch.linalg.cholesky(S), (rho.x - case.c).T)).square().sum(0) < 9
    assert float(v[near].abs().max()) < 1e-6


def test_velocity_is_the_score_of_the_mixture():
    """-grad V - tau grad log sum_j w_j K(x, x_j), by autograd, for a potential that is not quadratic."""
    tau, time = 0.6, 0.3
    V = lambda x: x.square().square().sum(1) / 4 + x[:, 0]  # noqa: E731
    log_z = lambda y: -y.abs().sum(1)  # noqa: E731  # any function stands for it
    rho = Particles(randn(9, 2), randn(9, seed=1))
    x = rho.x.clone().requires_grad_(True)
    pairs = -(V(x)[:, None] + (x[:, None] - rho.x).square().sum(2) / (2 * time)) / (2 * tau)
    log_rho = torch.logsumexp(pairs + (rho.w.log() - log_z(rho.x)), 1)
    (expected,) = torch.autograd.grad(-V(x).sum() - tau * log_rho.sum(), x)
    F = PotentialEnergy(V) + tau * Entropy()
    torch.testing.assert_close(velocity(F, rho, ProximalScore(time, log_z)), expected)
    # KL to exp(-V / tau), times tau, is the same functional
    kl = tau * KL(Unnormalised(lambda x: -V(x) / tau, 2))
    torch.testing.assert_close(velocity(kl, rho, ProximalScore(time, log_z)), expected)


def test_normaliser_by_draws_is_the_exact_one_up_to_their_error():
    """Errors fall like the root of the number of draws; the draws are renewed in every step."""
    rho, errors = Particles(0.8 * randn(20, 1)), []
    exact = velocity(LINE.F, rho, LINE.estimator)
    for samples in (100, 5000):
        estimator, found = ProximalScore(LINE.time, samples=samples), []
        for seed in range(8 if samples == 100 else 2):
            es, draws = estimator.init(LINE.F, rng()), rng(seed)
            estimator.refine(LINE.F, lambda _: rho, es, draws)
            first = es.noise
            found.append((estimator.velocity(LINE.F, rho, es) - exact).square().mean())
            estimator.refine(LINE.F, lambda _: rho, es, draws)
            assert not torch.equal(first, es.noise)
        errors.append(math.sqrt(torch.stack(found).mean()))
    assert 3 < errors[0] / errors[1] < 17, "7, within the error of few repetitions"
    assert errors[1] < 0.03 * float(exact.square().mean().sqrt())


# a = tau = 1, exact normaliser, step .2, 200 steps from N(1, 4 I): the mean variance that the particles end with, from
# independent runs, where the mean-field value is 1 - T². Below the spacing of the particles the width sqrt(2T) no
# longer sees them: in 5 dimensions they collapse.
TABLE = [
    (1, 50, 0.05, 0.960),
    (1, 200, 0.05, 0.988),
    (1, 50, 0.5, 0.745),
    (2, 50, 0.05, 0.783),
    (2, 200, 0.05, 0.929),
    (5, 50, 0.05, 0.203),
    (5, 200, 0.05, 0.335),
    (5, 50, 0.5, 0.631),
]


@pytest.mark.parametrize(("d", "n", "time", "published"), TABLE)
def test_finite_particles_reach_the_published_variances(d, n, time, published):
    case = Quadratic(eye(d).tolist(), [0.0] * d, 1.0, time)
    flow = solve(
        case.F, ForwardEuler(case.estimator), Particles(1 + 2 * randn(n, d, seed=3)), step_size=0.2, num_steps=200
    )
    x = flow.measure.x
    assert float(x.var(0, correction=0).mean()) == pytest.approx(published, abs=0.005)
    assert float(x.mean(0).abs().max()) < 5e-3


def test_what_the_proximal_score_serves():
    estimator = ProximalScore(0.1)
    assert estimator.refuses(LINE.F) is None
    for F in (Entropy(), InteractionEnergy(PowerLaw(2)) + Entropy(), PotentialEnergy(lambda x: x.sum(1))):
        assert "potential energy plus an entropy" in estimator.refuses(F)
    with pytest.raises(Incompatible, match="potential energy plus an entropy"):
        solve(Entropy(), ForwardEuler(estimator), Particles(randn(3, 1)), step_size=0.1, num_steps=1)
    for bad in ({"time": 0.0}, {"time": math.inf}, {"time": 0.1, "samples": 0}):
        with pytest.raises(BadInput, match=r"expected a (positive, finite|whole) number"):
            ProximalScore(**bad)


def test_every_normalizer_serves():
    """A potential that knows its own, up to a constant, Laplace's method and quadrature give what a function gives."""
    rho = Particles(randn(12, 2), randn(12, seed=1))
    expected = velocity(PLANE.F, rho, PLANE.estimator)
    for normalizer in (QuadraticPotential(PLANE.H, PLANE.c), LaplaceNormalizer()):
        torch.testing.assert_close(velocity(PLANE.F, rho, ProximalScore(PLANE.time, normalizer)), expected)
    shifted = KL(Gaussian(PLANE.c, PLANE.tau * PLANE.H.inverse()))  # the same potential and its constant
    torch.testing.assert_close(
        velocity(shifted, rho, ProximalScore(PLANE.time, QuadraticPotential(PLANE.H, PLANE.c))), expected
    )
    line = Particles(randn(12, 1))
    rule = QuadratureNormalizer(-9.0, 9.0, 2001)
    torch.testing.assert_close(
        velocity(LINE.F, line, ProximalScore(LINE.time, rule)), velocity(LINE.F, line, LINE.estimator)
    )
    drawn, es, given = ProximalScore(0.3, MonteCarloNormalizer(7)), [], ProximalScore(0.3, samples=7)
    for estimator in (drawn, given):
        es.append(estimator.init(PLANE.F, rng()))
        estimator.refine(PLANE.F, lambda _: rho, es[-1], rng(5))
    torch.testing.assert_close(drawn.velocity(PLANE.F, rho, es[0]), given.velocity(PLANE.F, rho, es[1]), rtol=0, atol=0)


def test_an_estimator_is_described_as_before_it_took_normalizers():
    told = {name: value for name, value in describe(ProximalScore(0.1, samples=3)).items() if value is not None}
    assert told == {"class": "ProximalScore", "time": 0.1, "samples": 3}


def test_images():
    flat = Particles(randn(6, 4))
    F = PotentialEnergy(lambda x: 0.5 * x.flatten(1).square().sum(1)) + Entropy()
    estimator = ProximalScore(0.3, lambda y: -y.flatten(1).square().sum(1) / 5)
    v = velocity(F, Particles(flat.x.view(6, 1, 2, 2)), estimator)
    torch.testing.assert_close(v.flatten(1), velocity(F, flat, estimator))


# --- learned scores ------------------------------------------------------------------------------------------------


def linear(d, **options):
    net = lambda: nn.Linear(d, d, dtype=torch.float64)  # noqa: E731
    return LearnedScore(net, **options)


def test_a_linear_network_learns_the_score_of_the_smoothed_gaussian():
    r"""Of all linear functions -(C + σ²)^{-1}(x - m) is the best, for the moments of these very particles."""
    n, sigma, iters = 300, 0.5, 700
    rho = Particles(randn(n, 2) @ double([[1.0, 0.0], [0.3, 0.8]]) + double([0.5, -1.0]))
    estimator = linear(2, noise=sigma, iters=iters, optim=Adam(0.05, (0.9, 0.999), schedule=Cosine(iters, 1e-5)))
    es = estimator.init(Entropy(), rng(1))
    info = estimator.refine(Entropy(), lambda _: rho, es, rng(2))
    m, C = moments(rho)
    precision = (C + sigma**2 * eye(2)).inverse()
    # the last quarter of the noise draws, say, averaged: 1/(σ sqrt(n iters/4)) times the root of the condition number
    tolerance = 2 / (sigma * math.sqrt(n * iters / 4)) * math.sqrt(float(torch.linalg.cond(C)))
    torch.testing.assert_close(es.net.weight.detach(), -precision, rtol=0, atol=tolerance)
    torch.testing.assert_close(es.net.bias.detach(), precision @ m, rtol=0, atol=2 * tolerance)
    assert tolerance < 0.03
    best = 2 - sigma**2 * float(precision.trace())  # E|σ s + ξ|² at the optimum: d - σ² tr (C + σ²)^{-1}
    assert float(info["score/loss"]) == pytest.approx(best, rel=4 * math.sqrt(2 / n))
    field = estimator.velocity(Entropy(), rho, es)
    torch.testing.assert_close(field, -es.net(rho.x).detach())


def test_a_learned_score_keeps_the_variance_of_the_smoothed_law():
    """As for a kernel density: towards N(0, 1) it settles at 1 - σ². The network goes on from step to step."""
    sigma, V = 0.5, PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    estimator = linear(1, noise=sigma, iters=10, optim=Adam(0.02, (0.9, 0.999)))
    start = Particles(1.5 * randn(250, 1) + 1)
    flow = solve(V + Entropy(), ForwardEuler(estimator), start, step_size=0.1, num_steps=120)
    # the network's slope fluctuates by some lr; the variance relaxes at the rate 2 with it
    assert float(flow.measure.x.var()) == pytest.approx(1 - sigma**2, abs=0.03)
    assert float(flow.measure.x.mean()) == pytest.approx(0, abs=0.05)


def test_a_network_of_the_wrong_shape():
    estimator = LearnedScore(lambda: nn.Linear(2, 1, dtype=torch.float64))
    es = estimator.init(Entropy(), rng())
    with pytest.raises(BadInput, match="score network"):
        estimator.velocity(Entropy(), Particles(randn(3, 2)), es)
    for bad in ({"noise": 0.0}, {"iters": 0}):
        with pytest.raises(BadInput, match="LearnedScore"):
            linear(1, **bad)


# --- all of them ---------------------------------------------------------------------------------------------------

HARMONIC = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
DETERMINISTIC = {
    "blob": Blob(KernelDensity(RBF(0.6))),
    "kde": KDEScore(RBF(0.6)),
    "proximal": ProximalScore(0.3, lambda y: -y.square().sum(1) / 5),
}


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_particle_of_twice_the_weight_is_two_particles(name):
    assert_twins_move_as_one(HARMONIC + Entropy(), randn(8, 2), DETERMINISTIC[name])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_particle_without_mass_moves_nobody(name):
    x, F = randn(8, 2), HARMONIC + Entropy()
    rho = Particles.weighted(x, double([*[1 / 7] * 7, 0.0]))
    v = velocity(F, rho, DETERMINISTIC[name])
    torch.testing.assert_close(v[:7], velocity(F, Particles(x[:7]), DETERMINISTIC[name]))
    assert bool(torch.isfinite(v).all())


@pytest.mark.parametrize(("name", "is_gradient"), [("blob", True), ("kde", False), ("proximal", False)])
def test_which_are_gradients_of_the_particles(name, is_gradient):
    defect = asymmetry(lambda x: velocity(HARMONIC + Entropy(), Particles(x), DETERMINISTIC[name]), randn(8, 2))
    assert defect < 1e-7 if is_gradient else defect > 1e-3


def test_gaussian_target_by_its_density():
    """KL to a target with a density is its potential and an entropy, for every one of them."""
    target, rho = Gaussian(double([0.5, 0.0]), double([[1, 0.3], [0.3, 0.5]])), Particles(randn(6, 2))
    V = PotentialEnergy(lambda x: -target.log_prob(x))
    for estimator in DETERMINISTIC.values():
        torch.testing.assert_close(velocity(KL(target), rho, estimator), velocity(V + Entropy(), rho, estimator))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [41, 49])  # n times 1/n is not 1: in float32, in float64
@pytest.mark.parametrize(
    "estimator", [Stein(RBF(1.0)), Stein(InverseMultiquadric(1.0)), ProximalScore(0.1, lambda y: y[:, 0])]
)
def test_a_known_slope_gives_the_velocity_of_its_surrogate_to_the_last_bit(estimator, n, dtype):
    """Runs that were saved when velocities were differentiated go on with the same numbers."""
    log_w = randn(n, seed=1).to(dtype)
    log_w[0], log_w[1] = -math.inf, -200.0
    F = KL(Unnormalised(lambda x: -0.5 * x.square().sum(1), 2))
    for weights in (None, log_w):
        rho = Particles(randn(n, 2).to(dtype), weights)
        assert torch.equal(estimator.velocity(F, rho, None), Estimator.velocity(estimator, F, rho, None))
