"""C3, C4, C12: JKO steps of KL between Gaussians, in closed form, by exact expectations, and by networks on samples."""

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from _exact import ALL, Affine, Quadratic, double, gaussian_kl, hermite, rng, trapezoid
from scipy.optimize import minimize

from wgflow import (
    FUNCTIONALS,
    JKO,
    KL,
    SGD,
    Adam,
    Callback,
    Critic,
    Gaussian,
    Particles,
    Pushforward,
    Save,
    StandardNormal,
    solve,
    transport_cost,
)
from wgflow.generative.nets import ToyCritic, ToyGenerator

# From N(2, 0.5²) to N(0, 1): mean and standard deviation after so many steps of size h.
TABLE = {
    0.1: {1: (1.8182, 0.6048), 2: (1.6529, 0.6830), 3: (1.5026, 0.7432), 5: (1.2418, 0.8285), 10: (0.7711, 0.9342)},
    0.5: {1: (1.3333, 0.7676), 2: (0.8889, 0.8874), 3: (0.5926, 0.9445), 5: (0.2634, 0.9863), 10: (0.0347, 0.9996)},
    1.0: {1: (1.0000, 0.8431), 2: (0.5000, 0.9486), 3: (0.2500, 0.9830), 5: (0.0625, 0.9981), 10: (0.0020, 1.0000)},
    2.0: {1: (0.6667, 0.9041), 2: (0.2222, 0.9810), 3: (0.0741, 0.9962), 5: (0.0082, 0.9998), 10: (3e-5, 1.0000)},
}


def jko_gaussian(m, s, h, b=0.0, sigma=1.0):
    """Mean and standard deviation after one step from N(m, s²) towards N(b, sigma²)."""
    curvature = 1 / h + 1 / sigma**2
    return (sigma**2 * m + h * b) / (sigma**2 + h), (s / h + math.sqrt((s / h) ** 2 + 4 * curvature)) / (2 * curvature)


def root(M):
    values, vectors = torch.linalg.eigh(M)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


# --- (a) the closed form -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", TABLE)
def test_closed_form_reproduces_the_table(h):
    m, s = 2.0, 0.5
    for k in range(1, 11):
        m, s = jko_gaussian(m, s, h)
        if k in TABLE[h]:
            assert (m, s) == pytest.approx(TABLE[h][k], abs=5.1e-5)


@pytest.mark.parametrize(
    ("h", "start", "target", "expected"),
    [
        (0.1, (2.0, 0.5), (0.0, 1.0), (1.8182, 0.6048)),
        (0.5, (2.0, 0.5), (0.0, 1.0), (1.3333, 0.7676)),
        (1.0, (0.0, 1.0), (3.0, 2.0), (0.6, 1.379796)),
        (0.25, (0.0, 1.0), (3.0, 0.5), (1.5, 0.683013)),
    ],
)
def test_closed_form_minimises_the_objective(h, start, target, expected):
    def objective(p):
        m, s = p[0], math.exp(p[1])
        return ((m - start[0]) ** 2 + (s - start[1]) ** 2) / (2 * h) + gaussian_kl(m, s, *target)

    options = {"xatol": 1e-10, "fatol": 1e-16, "maxiter": 2000}
    best = minimize(objective, (1.0, 0.0), method="Nelder-Mead", options=options).x
    assert (best[0], math.exp(best[1])) == pytest.approx(jko_gaussian(*start, h, *target), abs=1e-7)
    assert jko_gaussian(*start, h, *target) == pytest.approx(expected, abs=5.1e-5)


# --- (b) exact expectations ----------------------------------------------------------------------------------------


@dataclass
class Phase:
    """What a phase ends with: T(x) = m + s x on N(0, 1), the critic, and v(y) = a y²/2 + b y + c."""

    m: float
    s: float
    net: Quadratic
    v: tuple[float, float, float]


def quadratic_flow(divergence, h, num_steps, iters, *, start=(2.0, 0.5), target=(0.0, 1.0), lr=(0.05, 0.2)):
    """S-JKO with an affine generator and a quadratic critic, where every expectation is a quadrature."""

    def phase(state):
        g, net = state.measure.net, copy.deepcopy(state.estimator.net)
        return Phase(g.b.item(), g.A.item(), net, (net.Q.item(), net.q.item(), net.c.item()))

    solver = JKO(Critic(Quadratic(), SGD(lr[1])), optim=SGD(lr[0]), iters=iters, batch=ALL)
    F = FUNCTIONALS[divergence](trapezoid(*target), ALL)
    rho = Pushforward(hermite(), Affine(start[1], start[0]))
    return solve(F, solver, rho, step_size=h, num_steps=num_steps, save=Save(fn=phase), log_every=100)


H = 0.5


@pytest.fixture(scope="module")
def flow():
    return quadratic_flow("kl", H, 3, 1000)


def test_affine_map_and_quadratic_critic_follow_the_closed_form(flow):
    m, s = 2.0, 0.5
    for phase in flow.saved[1:]:
        m, s = jko_gaussian(m, s, H)
        assert (phase.m, phase.s) == pytest.approx((m, s), abs=1e-5)
        # v = -log(rho_{k+1} / nu), high on data
        best = (1 / s**2 - 1, -m / s**2, math.log(s) + m * m / (2 * s * s))
        assert phase.v == pytest.approx(best, abs=1e-5)


def test_first_potential_is_that_of_the_specification(flow):
    assert flow.saved[1].v == pytest.approx((0.6972, -2.2630, 1.2441), abs=5.1e-5)


def test_primal_value_equals_dual_value(flow):
    old, new = flow.saved[:2]
    rho, nu = trapezoid(new.m, new.s), trapezoid()
    density = Gaussian(double([new.m]), double([[new.s**2]]))
    known = Particles(rho.x, rho.log_w, log_rho=density.log_prob(rho.x))
    x = old.m + old.s * (rho.x - new.m) / new.s
    transport = float(rho.mean(transport_cost(x, rho.x))) / H
    primal = transport + float(KL(Gaussian(double([0.0]), double([[1.0]]))).value(known))
    # The c-transform of a quadratic v, which the map attains: v^c(x) = inf_y |x - y|²/(2h) - v(y).
    a, b, c = new.v
    x0 = trapezoid(old.m, old.s)
    v_c = x0.x[:, 0].square() / (2 * H) - c - (x0.x[:, 0] / H + b).square() / (2 * (1 / H - a))
    with torch.no_grad():
        dual = float(x0.mean(v_c)) - float(KL(nu).conjugate(lambda y: -new.net(y)))
        saddle = transport + float(KL(nu).variational(new.net, rho))
    assert (primal, dual, saddle) == pytest.approx((1.464034,) * 3, abs=2e-6)


def test_each_step_descends_contracts_and_dissipates(flow):
    alpha = 1.0  # convexity of the target's potential
    for old, new in zip(flow.saved, flow.saved[1:], strict=False):
        w2 = (old.m - new.m) ** 2 + (old.s - new.s) ** 2
        kl = [gaussian_kl(p.m, p.s, 0, 1) for p in (old, new)]
        to_target = [math.hypot(p.m, p.s - 1) for p in (old, new)]
        fisher = new.m**2 + (new.s - 1 / new.s) ** 2
        assert kl[0] - kl[1] >= (1 / H + alpha / 2) * w2
        assert kl[1] <= kl[0] / (1 + alpha * H) ** 2
        assert to_target[1] <= to_target[0] / (1 + alpha * H)
        assert fisher == pytest.approx(w2 / H**2, abs=1e-4)


def test_mass_of_the_critic_is_one_within_each_phase(flow):
    rows = [quadratic_mass(phase) for phase in flow.saved[1:]]
    assert rows == pytest.approx([1.0] * 3, abs=1e-6)


def quadratic_mass(phase):
    with torch.no_grad():
        return float(KL(trapezoid()).diagnostics(phase.net)["mass"])


@pytest.mark.parametrize(
    ("divergence", "h", "start", "target", "lr", "constant"),
    [
        ("kl", 2.0, (2.0, 0.5), (0.0, 1.0), (0.05, 0.2), 0.0),
        ("kl_uncentred", 1.0, (2.0, 0.5), (0.0, 1.0), (0.05, 0.2), -1.0),
        ("kl_dv", 1.0, (2.0, 0.5), (0.0, 1.0), (0.05, 0.2), None),
        ("kl_dv", 1.0, (0.0, 1.0), (3.0, 2.0), (0.02, 0.02), None),
    ],
)
def test_other_steps_and_forms_of_kl(divergence, h, start, target, lr, constant):
    phase = quadratic_flow(divergence, h, 1, 1200, start=start, target=target, lr=lr).saved[1]
    m, s = jko_gaussian(*start, h, *target)
    assert (phase.m, phase.s) == pytest.approx((m, s), abs=1e-5)
    b, sigma = target
    assert phase.v[:2] == pytest.approx((1 / s**2 - 1 / sigma**2, b / sigma**2 - m / s**2), abs=1e-5)
    if constant is not None:  # Donsker–Varadhan leaves it free
        best = math.log(s / sigma) + m**2 / (2 * s * s) - b**2 / (2 * sigma**2)
        assert phase.v[2] == pytest.approx(best + constant, abs=1e-5)


def test_two_dimensional_step_with_covariances_that_do_not_commute():
    """Test vector V1 of the catalogue of closed forms, h = 1/4; ten digits are given."""
    A, C = double([[2, 0.5], [0.5, 1]]), double([[1, -0.3], [-0.3, 2]])
    nu = trapezoid([1.0, -1.0], torch.linalg.cholesky(A.inverse()), step=0.5, half=10)
    solver = JKO(Critic(Quadratic(2), SGD(0.1)), optim=SGD(0.1), iters=900, batch=ALL)
    rho = Pushforward(hermite([0.0, 0.0], torch.eye(2)), Affine(root(C), [-1.0, 2.0]))
    flow = solve(FUNCTIONALS["kl_dv"](nu, ALL), solver, rho, step_size=0.25, num_steps=1, log_every=100)
    g, v = flow.measure.net, flow.state.estimator.net
    cov = (g.A @ g.A.T).detach()
    assert g.b.tolist() == pytest.approx([-0.5462184874, 1.5546218487], abs=1e-7)
    assert cov.flatten().tolist() == pytest.approx([0.7860563512, *[-0.3551069119] * 2, 1.7174711963], abs=1e-7)
    displacement = g.A.detach() @ root(C).inverse()  # of the old law onto the new one: optimal, so a gradient
    torch.testing.assert_close(displacement, displacement.T, rtol=0, atol=1e-7)
    torch.testing.assert_close(displacement.inverse(), torch.eye(2) + 0.25 * (A - cov.inverse()), rtol=0, atol=1e-6)
    torch.testing.assert_close(v.Q.detach(), cov.inverse() - A, rtol=0, atol=1e-6)


# --- (c) networks on samples ---------------------------------------------------------------------------------------


class LastMass(Callback):
    """The critic's mass over the last window."""

    def on_log(self, run, window):
        self.mass = window["critic/mass"]


def network_flow(iters, width, batch, lr, num_steps):
    """S-JKO in two dimensions, h = 1/4 in the averaged convention of the paper: a step of 1/2."""
    source = Gaussian(torch.full((2,), 2.0), 0.25 * torch.eye(2))
    solver = JKO(
        Critic(lambda: ToyCritic(width=width), Adam(lr[1])), optim=Adam(lr[0]), iters=iters, batch=batch, cost="mean"
    )
    rho = Pushforward(
        source, lambda: ToyGenerator(width=width), StandardNormal(2), reference=torch.nn.Identity(), ema=0.99
    )

    def moments(state):
        x = state.measure.inference().draw(20_000, rng(1)).x
        return [*x.mean(0).tolist(), *x.std(0).tolist()]

    last = LastMass()
    kl = KL(StandardNormal(2), batch)
    flow = solve(
        kl, solver, rho, step_size=0.25, num_steps=num_steps, save=Save(fn=moments), callbacks=[last], log_every=200
    )
    return flow.saved[1:], last.mass


def check_moments(found, m, s):
    assert found[:2] == pytest.approx([m, m], abs=0.15)
    assert found[2:] == pytest.approx([s, s], abs=0.05)


def test_networks_make_the_first_step_on_samples():
    """Also the test of the two step-size conventions: a factor d in h gives the mean 1.6."""
    phases, mass = network_flow(800, 32, 256, (1e-3, 2e-3), 1)
    check_moments(phases[0], *jko_gaussian(2.0, 0.5, 0.5))
    assert mass == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_networks_follow_four_steps_on_samples():
    phases, _ = network_flow(1000, 128, 400, (5e-4, 1e-3), 4)
    m, s = 2.0, 0.5
    for found in phases:
        m, s = jko_gaussian(m, s, 0.5)
        check_moments(found, m, s)
