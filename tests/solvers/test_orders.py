"""Order of convergence of every deterministic scheme by log-log slope, and the Gaussian flow of KL under each of them."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from _exact import double
from _gaussians import (
    ExactScore,
    cloud,
    jko_step,
    kl_divergence,
    kl_to,
    moments,
    ornstein_uhlenbeck,
    quadratic,
)

from wgflow import JKO, ForwardEuler, InteractionEnergy, Particles, PotentialEnergy, PowerLaw, solve
from wgflow.optim import LBFGS
from wgflow.solvers.explicit import RK4, Heun
from wgflow.solvers.langevin import Langevin
from wgflow.solvers.ode import ODE
from wgflow.solvers.splitting import ForwardBackward

INNER = LBFGS(tolerance=2e-7)
SCHEMES = {
    "forward_euler": (ForwardEuler(), 1),
    "langevin at T = 0": (Langevin(), 1),
    "heun": (Heun(), 2),
    "rk4": (RK4(), 4),
    "jko": (JKO(optim=INNER, iters=1), 1),
    "ode midpoint": (ODE(method="midpoint"), 2),
    "ode heun3": (ODE(method="heun3"), 3),
    "ode rk4": (ODE(method="rk4"), 4),
}
EXPLICIT = [name for name, (solver, _) in SCHEMES.items() if not solver.implicit]


def slopes(F, solver, start, exact, T):
    """Observed orders between successive halvings of the step size."""
    errors, coarsest = [], 5 if solver.implicit else 16
    for n in (coarsest, 2 * coarsest, 4 * coarsest):
        flow = solve(F, solver, start, step_size=T / n, num_steps=n)
        errors.append(float((exact(flow.measure) if callable(exact) else flow.measure.x - exact).norm()))
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@pytest.mark.parametrize("name", SCHEMES)
def test_claimed_orders(name):
    solver, order = SCHEMES[name]
    assert solver.order == order


@pytest.mark.parametrize("name", [n for n in SCHEMES if n != "ode rk4"])
def test_order_on_a_quartic_potential(name):
    """x' = -x³, whose solution is x / sqrt(1 + 2 x² T). (The leading error of the 3/8 rule all but vanishes here.)"""
    solver, order = SCHEMES[name]
    x, T = double([[0.8], [0.6]]), 0.5
    V = PotentialEnergy(lambda x: x.pow(4).sum(1) / 4)
    exact = x / (1 + 2 * x * x * T).sqrt()
    assert slopes(V, solver, Particles(x), exact, T) == pytest.approx([order] * 2, abs=0.15)


@pytest.mark.parametrize("name", SCHEMES)
def test_order_on_a_double_well(name):
    """V = (x² - 1)²/4: x(T) = x e^T / sqrt(1 + x² (e^{2T} - 1)); particles leave the unstable point for both wells."""
    solver, order = SCHEMES[name]
    x, T = double([[0.1], [-0.6]]), 1.0
    V = PotentialEnergy(lambda x: (x.square() - 1).square().sum(1) / 4)
    exact = x * math.exp(T) / (1 + x * x * math.expm1(2 * T)).sqrt()
    assert slopes(V, solver, Particles(x), exact, T) == pytest.approx([order] * 2, abs=0.15)


@pytest.mark.parametrize("name", SCHEMES)
def test_order_on_a_quadratic_attraction(name):
    """Stages must move all particles together: x_i(T) = x̄ + e^{-cT}(x_i - x̄), with unequal weights."""
    solver, order = SCHEMES[name]
    rho, c, T = Particles(double([[0.0, 1.0], [2.0, 0.5], [-1.0, 3.0]]), double([0.2, 0.3, 0.5]).log()), 1.5, 1.0
    mean = (rho.w[:, None] * rho.x).sum(0)
    exact = mean + math.exp(-c * T) * (rho.x - mean)
    F = InteractionEnergy(c * PowerLaw(2))
    assert slopes(F, solver, rho, exact, T) == pytest.approx([order] * 2, abs=0.15)


@dataclass(frozen=True)
class Moving(PotentialEnergy):
    """V(x, t) = ½ (x - sin t)²."""

    def at(self, k, t):
        return replace(self, potential=lambda x: (x - math.sin(t)).square().sum(1) / 2)


@pytest.mark.parametrize("name", EXPLICIT)
def test_order_on_a_potential_that_moves(name):
    """x' = sin t - x: stages are evaluated at their own times."""
    solver, order = SCHEMES[name]
    x, T = double([[1.0], [-0.5]]), 1.0
    exact = (math.sin(T) - math.cos(T)) / 2 + (x + 0.5) * math.exp(-T)
    F = Moving(lambda x: x[:, 0])
    assert slopes(F, solver, Particles(x), exact, T) == pytest.approx([order] * 2, abs=0.15)


# --- KL of a Gaussian cloud ---------------------------------------------------------------------------------------

A, CENTRE = double([[2.0, 0.5], [0.5, 1.0]]), double([1.0, -1.0])
MEAN, COV = double([-1.0, 2.0]), double([[1.0, -0.3], [-0.3, 2.0]])
F = kl_to(A, CENTRE)
SPLIT = ForwardBackward(backward=JKO(ExactScore(), INNER, iters=1))


def with_score(solver):
    return solver if isinstance(solver, ForwardBackward) else replace(solver, estimator=ExactScore())


@pytest.mark.parametrize("name", [n for n in SCHEMES if "langevin" not in n])
def test_order_of_the_moments_under_kl(name):
    """Against the Ornstein-Uhlenbeck process, matrices that do not commute, in two dimensions."""
    solver, order = SCHEMES[name]
    m, C = ornstein_uhlenbeck(MEAN, COV, 1.0, A, CENTRE)

    def error(rho):
        mean, cov = moments(rho)
        return torch.cat([mean - m, (cov - C).flatten()])

    assert slopes(F, with_score(solver), cloud(MEAN, COV, 12), error, 1.0) == pytest.approx([order] * 2, abs=0.15)


# Errors of mean and standard deviation at h = .1, .05 and .025 for N(2, 4) -> N(0, 1), T = 1.
TABLE = {
    "jko": (JKO(optim=INNER, iters=1), [(0.035328, 0.024276), (0.018020, 0.012386), (0.009102, 0.006257)]),
    "forward_euler": (ForwardEuler(), [(-0.038402, -0.026404), (-0.018787, -0.012917), (-0.009294, -0.006390)]),
    "forward_backward": (SPLIT, [(-0.038402, -0.009398), (-0.018787, -0.004584), (-0.009294, -0.002264)]),
}


def errors_in_one_dimension(solver, steps):
    flow = solve(kl_to([[1.0]], [0.0]), with_score(solver), cloud(2.0, 4.0, 12), step_size=1 / steps, num_steps=steps)
    (m,), ((C,),) = moments(flow.measure)
    exact = math.sqrt(1 + 3 * math.exp(-2))
    return float(m) - 2 * math.exp(-1), float(C.sqrt()) - exact


@pytest.mark.parametrize("name", TABLE)
def test_errors_of_the_gaussian_flow(name):
    """Signs included: implicit steps lag behind the flow, explicit steps lead. The last digit printed is rounded."""
    solver, expected = TABLE[name]
    for steps, row in zip((10, 20, 40), expected, strict=True):
        assert errors_in_one_dimension(solver, steps) == pytest.approx(row, abs=6e-7)


def test_the_mean_of_an_implicit_and_an_explicit_flow_is_of_second_order():
    joint = []
    for steps in (10, 20, 40):
        ends = [errors_in_one_dimension(TABLE[name][0], steps) for name in ("jko", "forward_euler")]
        joint.append(math.hypot(*(0.5 * (a + b) for a, b in zip(*ends, strict=True))))
    assert joint == pytest.approx([1.87e-3, 4.67e-4, 1.17e-4], rel=5e-3)


def test_runge_kutta_errors_of_the_gaussian_flow():
    assert max(map(abs, errors_in_one_dimension(RK4(), 10))) < 3e-6
    assert max(map(abs, errors_in_one_dimension(RK4(), 40))) < 1e-8


def test_a_jko_step_of_kl_is_that_of_the_bures_objective():
    """Matrices that do not commute; digits from an independent minimisation over covariances."""
    flow = solve(F, JKO(ExactScore(), INNER, iters=1), cloud(MEAN, COV), step_size=0.25, num_steps=1)
    m, C = moments(flow.measure)
    expected = jko_step(MEAN, COV, 0.25, A, CENTRE)
    torch.testing.assert_close(m, expected[0], rtol=0, atol=3e-7)
    torch.testing.assert_close(C, expected[1], rtol=0, atol=3e-7)
    torch.testing.assert_close(m, double([-0.5462184874, 1.5546218487]), rtol=0, atol=3e-7)
    torch.testing.assert_close(
        C.flatten()[[0, 1, 3]], double([0.7860563512, -0.3551069119, 1.7174711963]), rtol=0, atol=3e-7
    )
    assert kl_divergence(m, C, A, CENTRE) == pytest.approx(3.765234069305, abs=1e-6)


def test_an_euler_step_of_kl_with_the_exact_score():
    m, C = moments(solve(F, ForwardEuler(ExactScore()), cloud(MEAN, COV), step_size=0.25, num_steps=1).measure)
    torch.testing.assert_close(m, double([-0.375, 1.5]), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        C.flatten()[[0, 1, 3]], double([0.6341950262, -0.4198707461, 1.6045975131]), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize(("ha", "settles"), [(0.98, True), (1.02, False)])
def test_stability_limit_of_euler_with_the_exact_score(ha, settles):
    """Near equilibrium the entropy doubles the rate of the spread: a factor 1 - 2ha a step."""
    flow = solve(kl_to([[1.0]], [0.0]), ForwardEuler(ExactScore()), cloud(0.0, 1.01), step_size=ha, num_steps=400)
    assert (abs(float(moments(flow.measure)[1]) - 1) < 1e-6) == settles


# --- identities of an implicit step -------------------------------------------------------------------------------


def jko_flow(h, steps, start=None, F=F):
    start = cloud(MEAN, COV) if start is None else start
    return solve(F, JKO(ExactScore(), INNER, iters=1), start, step_size=h, num_steps=steps)


def test_an_implicit_step_solves_its_optimality_condition():
    """x⁺ + h ∇φ(x⁺) = x for every particle, whatever its weight, to the tolerance asked for; hence I(ρ⁺) = W2²/h²."""
    start, h, tolerance = Particles(cloud(MEAN, COV).x, torch.linspace(-1, 1, 40, dtype=torch.float64)), 0.25, 1e-5
    flow = solve(F, JKO(ExactScore(), LBFGS(tolerance=tolerance), iters=1), start, step_size=h, num_steps=1)
    end, w = flow.measure, start.w[:, None]
    before, after = (ExactScore().velocity(F, p, None) for p in (start, end))
    gap = w * (end.x - h * after - start.x)
    assert float(gap.abs().max()) <= tolerance * h * float((w * before).abs().max())
    assert flow.history[0]["jko/residual"] <= tolerance
    fisher = float(end.mean(after.square().sum(1)))
    assert fisher == pytest.approx(float(end.mean((end.x - start.x).square().sum(1))) / h**2, rel=1e-4)


def test_implicit_steps_descend_by_more_than_the_transport_cost():
    """F_k - F_{k+1} >= (1/h + α/2) W2², and the costs add up to less than F_0 - inf F; KL falls by 1/(1 + αh)²."""
    h, alpha = 0.3, float(torch.linalg.eigvalsh(A)[0])
    flow = jko_flow(h, 6)
    laws = flow.saved
    kl = [kl_divergence(*moments(p), A, CENTRE) for p in laws]
    squares = [float(b.mean((b.x - a.x).square().sum(1))) for a, b in itertools.pairwise(laws)]
    for (a, b), w2 in zip(itertools.pairwise(kl), squares, strict=True):
        assert a - b >= (1 / h + alpha / 2) * w2 * (1 - 1e-9)
        assert b <= a / (1 + alpha * h) ** 2 * (1 + 1e-9)
    assert sum(squares) / (2 * h) <= kl[0]
    first = next(row for row in flow.history if row["k"] == 1)
    assert first["jko/transport"] == pytest.approx(squares[0] / 2, rel=1e-6)


def test_a_pure_shift_falls_at_exactly_the_implicit_rate():
    F = kl_to([[2.0]], [0.0])
    kl = [
        kl_divergence(*moments(p), double([[2.0]]), double([0.0])) for p in jko_flow(0.2, 4, cloud(3.0, 0.5), F).saved
    ]
    assert [b / a for a, b in itertools.pairwise(kl)] == pytest.approx([1 / 1.4**2] * 4, rel=1e-7)


def test_energy_falls_by_the_reported_dissipation():
    """dF/dt = -E|v|²: the trapezoidal sum of what each step reports is what F loses, to second order in h."""
    gaps = []
    for n in (20, 40, 80):
        flow = solve(F, RK4(ExactScore()), cloud(MEAN, COV), step_size=1 / n, num_steps=n)
        kl = [kl_divergence(*moments(p), A, CENTRE) for p in flow.saved]
        assert all(b < a for a, b in itertools.pairwise(kl))
        rates = [row["flow/dissipation"] for row in flow.history]
        last = float(flow.measure.mean(ExactScore().velocity(F, flow.measure, None).square().sum(1)))
        rates.append(last)
        lost = sum((a + b) / 2 for a, b in itertools.pairwise(rates)) / n
        gaps.append(abs(lost - (kl[0] - kl[-1])))
    assert [math.log2(a / b) for a, b in itertools.pairwise(gaps)] == pytest.approx([2, 2], abs=0.15)


def test_continuous_rates_hold_along_an_accurate_flow():
    """KL(t) <= e^{-2αt} KL(0), I(t) <= e^{-2αt} I(0), KL <= I/2α."""
    alpha = float(torch.linalg.eigvalsh(A)[0])
    flow = solve(F, RK4(ExactScore()), cloud(MEAN, COV), step_size=0.02, num_steps=50)
    kl = [kl_divergence(*moments(p), A, CENTRE) for p in flow.saved]
    fisher = [row["flow/dissipation"] for row in flow.history]
    for k, (d, i) in enumerate(zip(kl[:-1], fisher, strict=True)):
        decay = math.exp(-2 * alpha * 0.02 * k)
        assert d <= decay * kl[0] * (1 + 1e-6)
        assert i <= decay * fisher[0] * (1 + 1e-6)
        assert d <= i / (2 * alpha)


def test_small_implicit_steps_are_explicit_steps():
    """(x⁺ - x)/h tends to the velocity, linearly in h."""
    V, x = quadratic(A, CENTRE), double([[0.0, 0.0], [2.0, 1.0]])
    v = -(x - CENTRE) @ A
    gaps = [
        float(
            ((solve(V, JKO(optim=INNER, iters=1), Particles(x), step_size=h, num_steps=1).measure.x - x) / h - v).norm()
        )
        for h in (0.02, 0.01, 0.005)
    ]
    assert [math.log2(a / b) for a, b in itertools.pairwise(gaps)] == pytest.approx([1, 1], abs=0.05)
