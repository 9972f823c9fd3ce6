"""The damped Hamiltonian flow: oscillators in closed form, rates, limits, restarts."""

import cmath
import itertools
import math

import pytest
import torch
from _exact import double
from _gaussians import quadratic
from scipy.special import j1

from wgflow import BadInput, ForwardEuler, InteractionEnergy, Particles, PotentialEnergy, PowerLaw, solve
from wgflow.solvers.accelerated import Accelerated, AcceleratedState

START = Particles(double([[1.0, 2.0], [-0.5, 1.0], [0.3, -1.0]]), double([0.2, 0.3, 0.5]).log())


def oscillator(x, omega, gamma, t):
    """Solution of x'' + γ x' + ω² x = 0 from rest."""
    delta = complex(gamma**2 / 4 - omega**2) ** 0.5
    if delta == 0:
        return x * math.exp(-gamma * t / 2) * (1 + gamma * t / 2)
    a, b = -gamma / 2 + delta, -gamma / 2 - delta
    factor = (a * cmath.exp(b * t) - b * cmath.exp(a * t)) / (a - b)
    return x * factor.real


def slopes(solver, F, exact, T):
    errors = []
    for n in (20, 40, 80):
        flow = solve(F, solver, START, step_size=T / n, num_steps=n)
        errors.append(float((flow.measure.x - exact).norm()))
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


@pytest.mark.parametrize(("omega", "gamma"), [(2.0, 0.0), (2.0, 1.0), (1.5, 3.0), (1.0, 5.0)])
def test_order_on_a_damped_oscillator(omega, gamma):
    """No, weak, critical and strong friction."""
    F, T = quadratic(omega**2 * torch.eye(2), [0.0, 0.0]), 2.0
    assert slopes(Accelerated(friction=gamma), F, oscillator(START.x, omega, gamma, T), T) == pytest.approx(
        [2] * 2, abs=0.15
    )


def test_order_with_nesterovs_friction():
    """x'' + 3/t x' + ω² x = 0 from rest: x(t) = 2 J₁(ωt)/(ωt) x(0)."""
    omega, T = 2.0, 2.0
    F = quadratic(omega**2 * torch.eye(2), [0.0, 0.0])
    exact = START.x * 2 * j1(omega * T) / (omega * T)
    assert slopes(Accelerated(friction=None), F, exact, T) == pytest.approx([2] * 2, abs=0.15)


def test_order_on_an_attraction_between_the_particles():
    """W = c|z|²/2: every particle oscillates about the mean with ω² = c."""
    c, T = 1.5, 2.0
    mean = (START.w[:, None] * START.x).sum(0)
    exact = mean + oscillator(START.x - mean, math.sqrt(c), 0.7, T)
    assert slopes(Accelerated(friction=0.7), c * InteractionEnergy(PowerLaw(2)), exact, T) == pytest.approx(
        [2] * 2, abs=0.15
    )


def test_without_friction_the_energy_error_stays_bounded():
    """The splitting is symplectic: over many periods the energy of x'' = -x³ oscillates by O(h²) and does not drift."""
    F = PotentialEnergy(lambda x: x.pow(4).sum(1) / 4)
    spread = []
    for h in (0.1, 0.05):
        flow = solve(F, Accelerated(friction=0.0), Particles(double([[1.0]])), step_size=h, num_steps=500)
        total = [
            float(F.value(p)) + row["accelerated/kinetic"] for p, row in zip(flow.saved[1:], flow.history, strict=True)
        ]
        early, late = torch.tensor(total[: len(total) // 2]), torch.tensor(total[len(total) // 2 :])
        spread.append(max(float((part - 0.25).abs().max()) for part in (early, late)))
        assert float(late.max()) < float(early.max()) * 1.01
    assert math.log2(spread[0] / spread[1]) > 1.7


def test_friction_makes_ill_conditioned_problems_faster():
    """κ = 100, 150 gradients each: e^{-√α t} at steps 1/√L, against (1 - α/L)^k at steps 1/L."""
    F, x = quadratic(torch.diag(double([1.0, 0.01])), [0.0, 0.0]), Particles(double([[1.0, 1.0]]))
    slow = float(solve(F, ForwardEuler(), x, step_size=1.0, num_steps=150).measure.x.norm())
    fast = float(solve(F, Accelerated(friction=0.2), x, step_size=1.0, num_steps=150).measure.x.norm())
    assert slow == pytest.approx(0.99**150)
    assert fast < 2 * 16 * math.exp(-15)  # (1 + √α t) e^{-√α t} for critical damping, and twice that for the step size
    assert fast < 1e-3 * slow


def test_strong_friction_is_the_gradient_flow_slowed_down():
    """Steps of γh at friction γ are as good for the gradient flow as forward Euler at steps h, whatever γ."""
    V, h, gaps = PotentialEnergy(lambda x: x.pow(4).sum(1) / 4), 0.05, []
    exact = START.x / (1 + 2 * START.x.square() * 0.5).sqrt()
    euler = solve(V, ForwardEuler(), START, step_size=h, num_steps=10).measure.x
    for gamma in (1e3, 1e4):
        end = solve(V, Accelerated(friction=gamma), START, step_size=h * gamma, num_steps=10).measure.x
        gaps.append(float((end - exact).norm()))
    assert gaps[0] == pytest.approx(gaps[1], rel=1e-4)  # what is left is the error of the step size
    assert gaps[1] < 2 * float((euler - exact).norm())


def test_a_restart_resets_the_momentum_when_it_points_uphill():
    F, options = quadratic([[1.0]], [0.0]), {"step_size": 0.2, "num_steps": 30}
    x = Particles(double([[1.0], [0.5]]))
    plain = solve(F, Accelerated(friction=None), x, **options)
    reset = solve(F, Accelerated(friction=None, restart=True), x, **options)
    flags = [row["accelerated/restart"] for row in reset.history]
    first = flags.index(1.0)
    # until then the two are the same, and that is where the particles have crossed the minimum
    assert all(torch.equal(a.x, b.x) for a, b in zip(plain.saved[: first + 1], reset.saved[: first + 1], strict=True))
    crossed = [bool(p.x[0] < 0) for p in plain.saved]
    assert abs(crossed.index(True) - first) <= 1
    assert float(reset.state.age) < reset.state.t
    assert float(F.value(reset.measure)) < 1e-2 * float(F.value(plain.measure))


def test_restarts_keep_what_nesterovs_friction_wins():
    """κ = 1000, where 3/t alone oscillates for ever: gradient restarts converge linearly."""
    F = quadratic(torch.diag(double([1.0, 1e-3])), [0.0, 0.0])
    x, options = Particles(double([[1.0, 1.0]])), {"step_size": 1.0, "num_steps": 600}
    plain, reset = (
        float(F.value(solve(F, Accelerated(friction=None, restart=r), x, **options).measure)) for r in (False, True)
    )
    assert reset < 1e-3 * plain


def test_momentum_follows_its_particle():
    state = AcceleratedState(START, 0, 0.0, torch.Generator(), None, START.x.clone(), torch.zeros(()))
    index = torch.tensor([2, 0, 0])
    assert torch.equal(state.take(index).velocity, START.x[index])


def test_bad_friction():
    for friction in (-1.0, math.inf, math.nan):
        with pytest.raises(BadInput, match="friction="):
            Accelerated(friction=friction)
