"""Exact answers of the solvers on potential energies: proximal maps, gradient steps, geodesics."""

import itertools

import pytest
import torch
from _exact import double

from wgflow import JKO, SGD, SOLVERS, Autograd, ForwardEuler, Particles, PotentialEnergy, solve

# Inner minimisation to rounding: two equally weighted particles, so the Hessian is half of 1/h + V''.
EXACT = {"jko": {"optim": SGD(0.04), "iters": 60}}


def quartic(x):
    return x.pow(4).sum(1) / 4


def exact_solver(name):
    return SOLVERS[name](estimator=Autograd(), **EXACT.get(name, {}))


def test_implicit_steps_lag_and_explicit_steps_lead():
    x = double([[1.0], [0.5]])
    ends = [
        solve(PotentialEnergy(quartic), exact_solver(name), Particles(x), step_size=0.1, num_steps=5).measure.x
        for name in ("forward_euler", "jko")
    ]
    exact = x / (1 + x * x).sqrt()
    assert bool((ends[0] < exact).all())
    assert bool((ends[1] > exact).all())


@pytest.mark.parametrize("name", ["forward_euler", "heun", "jko", "rk4"])
def test_a_convex_energy_decreases(name):
    V = PotentialEnergy(quartic)
    flow = solve(V, exact_solver(name), Particles(double([[1.0], [-0.7]])), step_size=0.1, num_steps=6)
    values = [float(V.value(p)) for p in flow.saved]
    assert len(values) == 7
    assert all(b < a for a, b in itertools.pairwise(values))


A, CENTRE = double([[2.0, 0.5], [0.5, 1.0]]), double([1.0, -1.0])
QUADRATIC = PotentialEnergy(lambda x: (((x - CENTRE) @ A) * (x - CENTRE)).sum(1) / 2)
START = Particles(double([[0.0, 0.0], [2.0, 1.0], [-1.0, 3.0]]), double([0.2, 0.3, 0.5]).log())


@pytest.mark.parametrize(("cost", "h_true"), [("sum", 0.25), ("mean", 0.5)])
def test_jko_of_a_quadratic_potential_is_its_proximal_map(cost, h_true):
    """(I + hA)^{-1}(x + hAc), for every particle whatever its weight; averaging over 2 coordinates doubles h."""
    solver = JKO(Autograd(), SGD(0.3), iters=250, cost=cost)
    flow = solve(QUADRATIC, solver, START, step_size=0.25, num_steps=2)
    x, prox = START.x, torch.linalg.inv(torch.eye(2) + h_true * A)
    for _ in range(2):
        x = (x + h_true * CENTRE @ A) @ prox
    torch.testing.assert_close(flow.measure.x, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.measure.w, START.w)


def test_forward_euler_of_a_quadratic_potential_is_its_gradient_step():
    flow = solve(QUADRATIC, ForwardEuler(), START, step_size=0.25, num_steps=1)
    torch.testing.assert_close(flow.measure.x, START.x - 0.25 * (START.x - CENTRE) @ A, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("solver", "fraction"), [(JKO(Autograd(), SGD(0.3), iters=20), 0.25 / 1.25), (ForwardEuler(), 0.25)]
)
def test_half_the_squared_distance_to_a_point_is_followed_along_geodesics(solver, fraction):
    """F = W2²(ρ, δ_y)/2: one JKO step goes the fraction h/(1+h) of the way, one Euler step the fraction h."""
    V, x = PotentialEnergy(lambda x: (x - 3.0).square().sum(1) / 2), double([[1.0], [0.5]])
    flow = solve(V, solver, Particles(x), step_size=0.25, num_steps=1)
    torch.testing.assert_close(flow.measure.x, x + fraction * (3.0 - x), rtol=0, atol=1e-9)


def test_one_inner_update_weighs_every_particle():
    """From y = x the transport cost has no gradient: y <- x - lr w ∇V(x), before any inner convergence hides w."""
    flow = solve(QUADRATIC, JKO(Autograd(), SGD(0.1), iters=1), START, step_size=0.25, num_steps=1)
    expected = START.x - 0.1 * START.w[:, None] * ((START.x - CENTRE) @ A)
    torch.testing.assert_close(flow.measure.x, expected, rtol=0, atol=1e-14)
