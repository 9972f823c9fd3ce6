"""Potential and interaction energies whose flows are known: characteristics, attraction, log gases, the line, rings."""

import itertools
import math

import numpy as np
import pytest
import torch
from _exact import double, rng
from _velocities import assert_twins_move_as_one, asymmetry, velocity

from wgflow import JKO, SGD, BadInput, Particles, PotentialEnergy, solve
from wgflow.functionals.energies import InteractionEnergy
from wgflow.kernels import Logarithmic, Morse, PowerLaw, Riesz
from wgflow.solvers import ForwardEuler

EULER = ForwardEuler()


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def confinement(a):
    return PotentialEnergy(lambda x: a / 2 * x.flatten(1).square().sum(1))


def second_moment(rho):
    return float(rho.mean(rho.x.flatten(1).square().sum(1)))


# --- potentials: every particle follows its characteristic ---------------------------------------------------------


@pytest.mark.parametrize(
    ("V", "flow"),
    [
        (lambda x: x[:, 0] ** 4 / 4, lambda x, t: x / (1 + 2 * x.square() * t).sqrt()),
        (
            lambda x: (x[:, 0].square() - 1).square() / 4,
            lambda x, t: x * math.exp(t) / (1 + x.square() * math.expm1(2 * t)).sqrt(),
        ),
    ],
    ids=["quartic", "double well"],
)
def test_advection_along_characteristics(V, flow):
    """Order 1 in the step, and what extrapolation leaves is of order h²."""
    x, t = torch.linspace(-1.5, 1.5, 12, dtype=torch.float64)[:, None], 0.8
    ends = [solve(PotentialEnergy(V), EULER, Particles(x), step_size=t / k, num_steps=k).measure.x for k in (50, 100)]
    errors = [float((end - flow(x, t)).abs().max()) for end in ends]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    torch.testing.assert_close(2 * ends[1] - ends[0], flow(x, t), rtol=0, atol=10 * (t / 50) ** 2)


# --- quadratic attraction ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [(1,), (3,), (1, 2, 2)])
def test_quadratic_attraction_contracts_towards_the_mean(event):
    """Velocity -c (x - mean); a step of Euler multiplies by 1 - hc, one of JKO by 1/(1 + hc)."""
    c, h, n = 0.7, 0.3, 12
    rho = Particles(randn(n, *event), randn(n, seed=1))
    mean = (rho.w.view(-1, *[1] * len(event)) * rho.x).sum(0)
    F = InteractionEnergy(c * PowerLaw(2))
    euler = solve(F, EULER, rho, step_size=h, num_steps=5).measure
    torch.testing.assert_close(euler.x, mean + (1 - h * c) ** 5 * (rho.x - mean), rtol=1e-12, atol=1e-13)
    # Of equal particles the inner problem has the Hessian (1/h + c)/n off the mean: one step of descent solves it.
    rho = Particles(rho.x)
    jko = solve(F, JKO(optim=SGD(n * h / (1 + h * c)), iters=1), rho, step_size=h, num_steps=5).measure
    mean = rho.x.mean(0)
    torch.testing.assert_close(jko.x, mean + (rho.x - mean) / (1 + h * c) ** 5, rtol=1e-12, atol=1e-13)


def test_value_is_half_the_double_sum():
    rho = Particles(randn(6, 2), randn(6, seed=1))
    r = (rho.x[:, None] - rho.x).norm(dim=2)
    W = r**4 / 4 - r**2 / 2
    expected = 0.5 * rho.w @ W @ rho.w
    torch.testing.assert_close(InteractionEnergy(PowerLaw(4) + (-1.0) * PowerLaw(2)).value(rho), expected)


@pytest.mark.parametrize(
    ("kernel", "function"),
    [
        (PowerLaw(4) + (-1.0) * PowerLaw(2), lambda z: z.square().sum(2).square() / 4 - z.square().sum(2) / 2),
        (Morse(2.0, 0.5, 1.0, 1.5), lambda z: 2 * torch.exp(-length(z) / 0.5) - torch.exp(-length(z) / 1.5)),
    ],
)
def test_a_kernel_and_a_function_of_differences_are_the_same_energy(kernel, function):
    rho = Particles(randn(15, 2), randn(15, seed=1))
    radial, general = InteractionEnergy(kernel), InteractionEnergy(function)
    torch.testing.assert_close(radial.value(rho), general.value(rho))
    torch.testing.assert_close(velocity(radial, rho), velocity(general, rho))


def length(z):
    """The length of differences, without a gradient at 0."""
    s = z.square().sum(2)
    return torch.where(s == 0, 0.0, torch.where(s == 0, 1.0, s).sqrt())


def test_an_anisotropic_interaction():
    """W = (z₁² + 4 z₂²)/2 contracts the coordinates at the rates 1 and 4."""
    rho = Particles(randn(8, 2))
    F = InteractionEnergy(lambda z: (z[..., 0].square() + 4 * z[..., 1].square()) / 2)
    expected = (rho.x.mean(0) - rho.x) * double([1.0, 4.0])
    torch.testing.assert_close(velocity(F, rho), expected)


def test_a_function_must_return_one_number_a_pair():
    with pytest.raises(BadInput, match=r"\(5, 5, 2\) to \(5, 5\)"):
        InteractionEnergy(lambda z: z.sum(0)).value(Particles(randn(5, 2)))


# --- logarithmic repulsion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "a"), [(2, 1.5), (1, 0.5), (5, 1.0)])
def test_second_moment_of_a_log_gas_obeys_its_equation(d, a):
    """In any dimension M' = (N-1)/N - 2aM. A step of Euler adds h² E|v|²."""
    n, h = 40, 0.01
    F = InteractionEnergy(Logarithmic()) + confinement(a)
    flow = solve(F, EULER, Particles(randn(n, d)), step_size=h, num_steps=20)
    for old, new in itertools.pairwise(flow.saved):
        moved = second_moment(Particles(new.x - old.x))
        rate = (n - 1) / n - 2 * a * second_moment(old)
        assert second_moment(new) == pytest.approx(second_moment(old) + h * rate + moved, rel=1e-12)


def disc(n, radius=1.0):
    """A uniform disc by the sunflower spiral."""
    k = torch.arange(n, dtype=torch.float64)
    r, angle = radius * ((k + 0.5) / n).sqrt(), math.pi * (3 - math.sqrt(5)) * k
    return torch.stack([r * angle.cos(), r * angle.sin()], 1)


def test_a_disc_of_charges_stays_a_disc():
    """R² = 1/a + (R0² - 1/a) e^{-2at}; the second moment of N particles is known exactly, for small steps."""
    a, n, t, start = 2.0, 300, 0.6, 1.4
    F = InteractionEnergy(Logarithmic()) + confinement(a)
    x = disc(n, start)
    x -= x.mean(0)
    coarse, fine = (solve(F, EULER, Particles(x), step_size=t / k, num_steps=k).measure for k in (40, 80))
    rest = (n - 1) / (2 * a * n)
    exact = rest + (second_moment(Particles(x)) - rest) * math.exp(-2 * a * t)
    errors = [second_moment(p) - exact for p in (coarse, fine)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.05), "order 1"
    assert 2 * errors[1] - errors[0] == pytest.approx(0, abs=1e-4), "what extrapolation leaves is of order h²"
    radius = math.sqrt(1 / a + (start**2 - 1 / a) * math.exp(-2 * a * t))
    r = fine.x.norm(dim=1).sort()[0]
    # W∞ of the radii to those of a disc: half a ring of particles, R/sqrt(n), and h.
    assert float((r - disc(n, radius).norm(dim=1)).abs().max()) < radius / math.sqrt(n) + t / 80


def test_attraction_instead_of_confinement_acts_about_the_centre_of_mass():
    """W = |z|²/2 - log|z| is confinement with a = 1 about the mean, which does not move."""
    rho = Particles(randn(20, 2) + 3)
    together = velocity(InteractionEnergy(PowerLaw(2) + Logarithmic()), rho)
    centred = Particles(rho.x - rho.x.mean(0))
    apart = velocity(InteractionEnergy(Logarithmic()) + confinement(1.0), centred)
    torch.testing.assert_close(together, apart, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(together.mean(0), torch.zeros_like(together[0]), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("n", "a"), [(10, 1.0), (20, 2.5)])
def test_zeros_of_hermite_polynomials_are_in_equilibrium(n, a):
    x = double(np.polynomial.hermite.hermgauss(n)[0] / math.sqrt(n * a))[:, None]
    F = InteractionEnergy(Logarithmic()) + confinement(a)
    assert float(velocity(F, Particles(x)).abs().max()) < 1e-12
    # ... and attract: the slowest mode decays like e^{-at}, the fastest like e^{-nat}
    start = 1.2 * x + 0.1
    end = solve(F, EULER, Particles(start), step_size=1 / (n * a), num_steps=20 * n).measure.x
    assert float((end - x).abs().max()) < 2 * math.exp(-20) + 1e-12


def test_a_semicircle_stays_a_semicircle():
    """R² = 2/a + (R0² - 2/a) e^{-2at}, for infinitely many particles."""
    a, n, t, start = 1.0, 200, 0.8, 2.0
    u = (np.arange(n) + 0.5) / n
    grid = np.linspace(-1, 1, 200_001)
    cdf = 0.5 + (grid * np.sqrt(1 - grid**2) + np.arcsin(grid)) / math.pi
    q = double(np.interp(u, cdf, grid))
    F = InteractionEnergy(Logarithmic()) + confinement(a)
    end = solve(F, EULER, Particles(start * q[:, None]), step_size=t / 320, num_steps=320).measure.x[:, 0].sort()[0]
    radius = math.sqrt(2 / a + (start**2 - 2 / a) * math.exp(-2 * a * t))
    # second moment: 1/(2an) off by the diagonal; the square root of a W2 error of order 1/n, and h = t/320
    assert float((end - radius * q).square().mean().sqrt()) < 1 / n + t / 320


# --- the Newtonian potential on the line ---------------------------------------------------------------------------


@pytest.mark.parametrize("repulsion", [Riesz(), (-1.0) * PowerLaw(1)], ids=["sorted", "all pairs"])
def test_repulsion_on_a_line_is_free_expansion(repulsion):
    """Particle i of N moves at (2i - 1 - N)/N: no error in time."""
    n, t = 30, 2.0
    x = randn(n, 1).sort(0)[0]
    end = solve(InteractionEnergy(repulsion), EULER, Particles(x), step_size=t / 8, num_steps=8).measure
    ranks = torch.arange(1, n + 1, dtype=torch.float64)[:, None]
    torch.testing.assert_close(end.x, x + t * (2 * ranks - 1 - n) / n, rtol=1e-12, atol=1e-12)


def test_attraction_on_a_line_collapses_a_uniform_law_at_the_time_of_its_radius():
    n, radius = 50, 1.5
    x = double([radius * (2 * i - 1 - n) / n for i in range(1, n + 1)])[:, None]
    F = InteractionEnergy(PowerLaw(1))
    half = solve(F, EULER, Particles(x), step_size=radius / 20, num_steps=10).measure
    torch.testing.assert_close(half.x, x / 2, rtol=1e-11, atol=1e-12)
    end = solve(F, EULER, Particles(x), step_size=radius / 20, num_steps=20).measure
    assert float(end.x.abs().max()) < 1e-12


def test_weights_are_mass_on_the_line():
    """Velocity of a particle: mass to its left less mass to its right."""
    rho = Particles.weighted(double([[0.0], [1.0], [3.0]]), double([0.5, 0.2, 0.3]))
    v = velocity(InteractionEnergy(Riesz()), rho)
    torch.testing.assert_close(v[:, 0], double([-0.5, 0.2, 0.7]))


# --- aggregation, swarms -------------------------------------------------------------------------------------------


def test_attraction_and_repulsion_end_on_a_ring():
    r"""W = |z|⁴/4 - |z|²/2: on a ring of radius R the force is R(3R² - 1), so R = 1/√3."""
    F = InteractionEnergy(PowerLaw(4) + (-1.0) * PowerLaw(2))
    start = Particles(0.25 * randn(60, 2))
    end = solve(F, EULER, start, step_size=0.2, num_steps=400).measure.x
    radii = (end - start.x.mean(0)).norm(dim=1)
    assert float((radii - 1 / math.sqrt(3)).abs().max()) < 1e-7
    assert float((radii - 0.5).abs().min()) > 0.07, "not one half, as a public notebook has it"


def test_energy_of_a_morse_swarm_falls_by_its_dissipation():
    """(F(0) - F(h))/h = E|v|² + O(h): halving h halves the defect."""
    F = InteractionEnergy(Morse(2.0, 0.5, 1.0, 1.5))
    rho = Particles(randn(30, 2), randn(30, seed=1))
    defects = []
    for h in (2e-3, 1e-3):
        end = solve(F, EULER, rho, step_size=h, num_steps=1).measure
        fall = float(F.value(rho) - F.value(end)) / h
        defects.append(fall - second_moment(Particles(velocity(F, rho), rho.log_w)))
        assert fall > 0
    assert defects[0] / defects[1] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(
    "F",
    [
        InteractionEnergy(PowerLaw(4) + (-1.0) * PowerLaw(2)),
        InteractionEnergy(Logarithmic()),
        InteractionEnergy(Morse(2.0, 0.5, 1.0, 1.5)),
        InteractionEnergy(lambda z: z.square().sum(2).square()),
    ],
    ids=["powers", "log", "morse", "function"],
)
def test_a_particle_of_twice_the_weight_is_two_particles_and_velocities_are_gradients(F):
    assert_twins_move_as_one(F, randn(8, 2))
    assert asymmetry(lambda x: velocity(F, Particles(x)), randn(8, 2)) < 1e-7
