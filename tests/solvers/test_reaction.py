"""Wasserstein-Fisher-Rao flows: geodesics of weights, Gaussian moments, births and deaths, lost modes."""

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from _exact import double, rng, trapezoid
from _gaussians import ExactScore, cloud, kl_to, moments, quadratic

from wgflow import (
    JKO,
    KL,
    RBF,
    BadInput,
    Blob,
    Diverged,
    ForwardEuler,
    Functional,
    GaussianMixture,
    KernelDensity,
    Particles,
    PotentialEnergy,
    Stein,
    solve,
    why_not,
)
from wgflow.optim import LBFGS
from wgflow.solvers.accelerated import Accelerated
from wgflow.solvers.explicit import Heun
from wgflow.solvers.langevin import Langevin
from wgflow.solvers.reaction import BirthDeath, Reweight
from wgflow.solvers.splitting import WithReaction

# --- weights alone ------------------------------------------------------------------------------------------------

PI, W0 = double([0.1, 0.2, 0.3, 0.4]), double([0.4, 0.1, 0.45, 0.05])
POINTS = double([[0.0], [1.0], [2.0], [5.0]])


@dataclass(frozen=True)
class OnAtoms(Functional):
    """KL between weights on fixed atoms: no force on the positions."""

    def value(self, rho):
        return (rho.w * (rho.w.log() - PI.log())).sum() + 0 * rho.x.sum()


def test_reweighting_follows_the_fisher_rao_geodesic():
    """w_k ∝ w_0^{(1-h)^k} π^{1-(1-h)^k} exactly, for a relative rate of one."""
    h, k = 0.2, 7
    flow = solve(OnAtoms(), WithReaction(), Particles(POINTS, W0.log()), step_size=h, num_steps=k)
    a = (1 - h) ** k
    torch.testing.assert_close(
        flow.measure.w, (W0**a * PI ** (1 - a)) / (W0**a * PI ** (1 - a)).sum(), rtol=1e-13, atol=0
    )
    assert torch.equal(flow.measure.x, POINTS)


@pytest.mark.parametrize("order", [1, 2])
def test_order_of_reweighting(order):
    """Against w_0^{e^{-rt}} π^{1-e^{-rt}}."""
    rate, T, errors = 0.7, 1.0, []
    a = math.exp(-rate * T)
    exact = (W0**a * PI ** (1 - a)) / (W0**a * PI ** (1 - a)).sum()
    solver = WithReaction(reaction=Reweight(rate, order=order))
    for n in (8, 16, 32):
        flow = solve(OnAtoms(), solver, Particles(POINTS, W0.log()), step_size=T / n, num_steps=n)
        errors.append(float((flow.measure.w - exact).norm()))
    assert [math.log2(a / b) for a, b in itertools.pairwise(errors)] == pytest.approx([order] * 2, abs=0.15)


def test_the_reported_dissipation_is_what_reweighting_loses():
    """dF/dt = -r Var(φ)."""
    rho, h = Particles(POINTS, W0.log()), 1e-6
    flow = solve(OnAtoms(), WithReaction(reaction=Reweight(0.7)), rho, step_size=h, num_steps=1)
    lost = float(OnAtoms().value(rho) - OnAtoms().value(flow.measure)) / h
    phi = W0.log() - PI.log()
    variance = float((W0 * phi.square()).sum() - (W0 * phi).sum() ** 2)
    assert flow.history[0]["reaction/dissipation"] == pytest.approx(0.7 * variance, rel=1e-12)
    assert lost == pytest.approx(0.7 * variance, rel=1e-4)


def test_a_particle_without_mass_stays_so():
    rho = Particles(POINTS, double([0.5, 0.0, 0.25, 0.25]).log())
    F = PotentialEnergy(lambda x: x[:, 0])
    w = solve(F, WithReaction(), rho, step_size=0.5, num_steps=2).measure.w
    assert float(w[1]) == 0
    assert bool(w.isfinite().all())


# --- with transport: Gaussians stay Gaussian ----------------------------------------------------------------------


def fisher_rao_ode(m, C, A, centre, T, w, f, n=4000):
    """m' = -(wI + fC) A (m - c), C' = w (2I - AC - CA) + f (C - CAC), by the classical Runge-Kutta scheme."""
    eye = torch.eye(len(m), dtype=m.dtype)

    def rhs(y):
        m, C = y
        return (
            -(w * eye + f * C) @ A @ (m - centre),
            w * (2 * eye - A @ C - C @ A) + f * (C - C @ A @ C),
        )

    add = lambda y, s, k: tuple(a + s * b for a, b in zip(y, k, strict=True))  # noqa: E731
    y, h = (m, C), T / n
    for _ in range(n):
        a = rhs(y)
        b = rhs(add(y, h / 2, a))
        c = rhs(add(y, h / 2, b))
        d = rhs(add(y, h, c))
        y = tuple(v + h / 6 * (p + 2 * q + 2 * r + s) for v, p, q, r, s in zip(y, a, b, c, d, strict=True))
    return y


LIE, STRANG = WithReaction(ForwardEuler(ExactScore())), WithReaction(Heun(ExactScore()), Reweight(order=2), strang=True)


@pytest.mark.parametrize(("solver", "order"), [(LIE, 1), (STRANG, 2)], ids=["lie", "strang"])
def test_order_of_a_gaussian_wasserstein_fisher_rao_flow(solver, order):
    """On a fine grid of weighted nodes, exact for Gaussians; N(2, 4) -> N(0, 1) in one dimension, closed form."""
    a, m0, s0, T = 1.0, 2.0, 4.0, 0.5
    r = lambda t: (1 - a * s0) / (2 + s0) * math.exp(-(1 + 2 * a) * t)  # noqa: E731
    variance = (1 - 2 * r(T)) / (a + r(T))
    mean = m0 * math.exp(-a * (T + T / a + math.log((a + r(T)) / (a + r(0))) / a))
    errors = []
    for n in (8, 16, 32):
        flow = solve(kl_to([[a]], [0.0]), solver, trapezoid(m0, 2.0), step_size=T / n, num_steps=n)
        (m,), ((C,),) = moments(flow.measure)
        errors.append(math.hypot(float(m) - mean, float(C) - variance))
    assert solver.order == order
    assert [math.log2(a / b) for a, b in itertools.pairwise(errors)] == pytest.approx([order] * 2, abs=0.15)


def test_a_wasserstein_fisher_rao_flow_in_two_dimensions():
    """Matrices that do not commute: digits of the moment equations at t = 1/2, Strang's error at 16 and 32 steps."""
    A, centre = double([[2.0, 0.5], [0.5, 1.0]]), double([1.0, -1.0])
    m, C = double([-1.0, 2.0]), double([[1.0, -0.3], [-0.3, 2.0]])
    exact = fisher_rao_ode(m, C, A, centre, 0.5, 1.0, 1.0)
    torch.testing.assert_close(exact[0], double([0.4018694692, 0.0907246327]), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        exact[1].flatten()[[0, 1, 3]], double([0.6119701868, -0.3322345980, 1.3152972114]), rtol=0, atol=1e-9
    )
    start, errors = trapezoid(m, torch.linalg.cholesky(C), step=0.4, half=7.0), []
    for n in (8, 16):
        mean, cov = moments(solve(kl_to(A, centre), STRANG, start, step_size=0.5 / n, num_steps=n).measure)
        errors.append(float((mean - exact[0]).norm() + (cov - exact[1]).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.25)
    assert errors[1] < 4e-3


# --- births and deaths --------------------------------------------------------------------------------------------


def test_births_and_deaths_are_reweighting_in_expectation():
    """Mean number of copies of each particle against n times its new weight: O(h²) apart, so within 5 standard errors."""
    n, h, trials = 60, 0.05, 1500
    x = torch.randn(n, 1, generator=rng(5), dtype=torch.float64)
    rho = Particles(x)
    phi = x[:, 0].square() - x[:, 0].square().mean()
    generator, counts = rng(6), torch.zeros(n, dtype=torch.float64)
    for _ in range(trials):
        _, index, _ = BirthDeath().react(rho, lambda p: phi, h, generator)
        assert len(index) == n
        counts += torch.bincount(index, minlength=n)
    weights = Reweight().react(rho, lambda p: phi, h, generator)[0].w * n
    variance = -torch.expm1(-h * phi.abs()) + 2 / n  # of one event, and of what restores the number
    assert bool(((counts / trials - weights).abs() < 5 * (variance / trials).sqrt() + (h * phi).square()).all())


def test_births_and_deaths_keep_the_number_when_nearly_all_die():
    phi = double([-50.0, *[1.0] * 50])
    rho = Particles(torch.arange(51.0, dtype=torch.float64)[:, None])
    after, index, info = BirthDeath(rate=1e3).react(rho, lambda p: phi, 1.0, rng())
    assert torch.equal(index, torch.zeros(51, dtype=torch.long))
    assert torch.equal(after.x, torch.zeros(51, 1, dtype=torch.float64))
    assert float(info["reaction/events"]) == 1


def test_without_events_nothing_moves_and_only_copies_are_jittered():
    rho = Particles(torch.arange(8.0)[:, None])
    after, index, _ = BirthDeath(jitter=0.1).react(rho, lambda p: torch.zeros(8), 1.0, rng())
    assert torch.equal(index, torch.arange(8))
    assert torch.equal(after.x, rho.x)
    phi = torch.tensor([-3.0] * 4 + [3.0] * 4)
    after, index, _ = BirthDeath(rate=100.0, jitter=0.1).react(rho, lambda p: phi, 1.0, rng())
    assert torch.equal(index, torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]))
    moved = (after.x - rho.x[index])[:, 0]
    assert torch.equal(moved[::2], torch.zeros(4))
    assert bool((moved[1::2] != 0).all())
    assert bool((moved.abs() < 0.6).all())


@dataclass(frozen=True)
class Reverse(Reweight):
    """Renumbers the particles, to see what follows them."""

    def react(self, rho, phi, h, rng):
        index = torch.arange(len(rho)).flip(0)
        return replace(rho, x=rho.x[index]), index, {}


@pytest.mark.parametrize("strang", [False, True])
def test_momentum_follows_its_particle(strang):
    """Renumbering after every step changes nothing but the numbers."""
    V, x = quadratic([[1.0]], [0.0]), Particles(double([[1.0], [2.0], [-3.0]]))
    plain = solve(V, Accelerated(), x, step_size=0.1, num_steps=4)
    turned = solve(V, WithReaction(Accelerated(), Reverse(), strang=strang), x, step_size=0.1, num_steps=4)
    assert torch.equal(turned.measure.x, plain.measure.x)  # an even number of times
    assert torch.equal(turned.state.inner.velocity, plain.state.velocity)


# --- resampling ---------------------------------------------------------------------------------------------------


def test_resampling_keeps_expectations_and_happens_only_below_the_threshold():
    n = 50
    rho = Particles(torch.arange(n, dtype=torch.float64)[:, None], 0.1 * torch.arange(n, dtype=torch.float64))
    zero = lambda p: torch.zeros(n, dtype=torch.float64)  # noqa: E731
    ess = float(1 / (n * rho.w.square().sum()))
    kept, index, _ = Reweight(resample_below=0.9 * ess).react(rho, zero, 1.0, rng())
    assert torch.equal(index, torch.arange(n))
    torch.testing.assert_close(kept.w, rho.w)
    generator, total = rng(1), torch.zeros(n, dtype=torch.float64)
    for _ in range(1000):
        after, index, info = Reweight(resample_below=1.1 * ess).react(rho, zero, 1.0, generator)
        copies = torch.bincount(index, minlength=n)
        assert bool(((copies - n * rho.w).abs() < 1).all())  # systematic: rounded up or down
        total += copies
    torch.testing.assert_close(after.w, torch.full_like(rho.w, 1 / n))
    assert float(info["reaction/ess"]) == pytest.approx(ess)
    assert bool(((total / 1000 - n * rho.w).abs() < 5 * 0.5 / math.sqrt(1000)).all())


# --- what reactions are for ---------------------------------------------------------------------------------------


def two_modes():
    target = GaussianMixture(double([[-4.0], [4.0]]), 0.7, double([2 / 3, 1 / 3]))
    left = -4 + 0.7 * torch.randn(20, 1, generator=rng(1), dtype=torch.float64)
    right = 4 + 0.7 * torch.randn(180, 1, generator=rng(2), dtype=torch.float64)
    return KL(target), Particles(torch.cat([left, right]))


def mass_on_the_left(rho):
    return float(rho.w[rho.x[:, 0] < 0].sum())


BLOB = Blob(KernelDensity(RBF(0.4)))


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (ForwardEuler(BLOB), 0.1),
        (WithReaction(ForwardEuler(BLOB)), 2 / 3),
        (WithReaction(ForwardEuler(BLOB), BirthDeath(jitter=0.1)), 2 / 3),
        (WithReaction(Langevin(), BirthDeath(), BLOB), 2 / 3),
    ],
    ids=["transport", "weights", "births and deaths", "langevin"],
)
def test_only_a_reaction_moves_mass_between_modes(solver, expected):
    """A tenth of the particles in the mode of mass 2/3: transport alone leaves them there."""
    F, start = two_modes()
    flow = solve(F, solver, start, step_size=0.1, num_steps=80)
    # binomial noise of 200 particles that are born and die
    assert mass_on_the_left(flow.measure) == pytest.approx(expected, abs=3 * math.sqrt(2 / 9 / 200))


# --- limits, resume, refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transport",
    [ForwardEuler(ExactScore()), Langevin(), Accelerated(ExactScore()), JKO(ExactScore(), LBFGS(), iters=1)],
)
@pytest.mark.parametrize("reaction", [Reweight(0.0), BirthDeath(0.0)])
def test_rate_zero_is_the_transport_alone(transport, reaction):
    F, x = kl_to([[2.0]], [1.0]), cloud(0.0, 1.0)
    one = solve(F, transport, x, step_size=0.1, num_steps=3)
    two = solve(F, WithReaction(transport, reaction, ExactScore()), x, step_size=0.1, num_steps=3)
    assert torch.equal(one.measure.x, two.measure.x)
    assert two.measure.log_w is None


def test_defaults_are_derived():
    solver = WithReaction(estimator=BLOB)
    assert solver.transport == ForwardEuler(BLOB)
    assert WithReaction(Heun(BLOB)).estimator is BLOB
    assert WithReaction().order == 1
    assert WithReaction(JKO(BLOB, iters=3, first_iters=5)).updates(0) == 5


def test_refusals():
    F, x = two_modes()
    assert "Blob(density)" in why_not(F, WithReaction(ForwardEuler(Stein(RBF(1.0)))), x)
    with pytest.raises(BadInput, match="BirthDeath keeps particles of equal weight"):
        solve(
            F,
            WithReaction(ForwardEuler(BLOB), BirthDeath()),
            replace(x, log_w=torch.zeros(200).double()),
            step_size=0.1,
            num_steps=1,
        )
    for make in (
        lambda: Reweight(-1.0),
        lambda: Reweight(order=3),
        lambda: Reweight(resample_below=1.5),
        lambda: BirthDeath(rate=math.inf),
        lambda: BirthDeath(jitter=-0.1),
        lambda: WithReaction(batch=0),
    ):
        with pytest.raises(BadInput, match="expected"):
            make()
    V = PotentialEnergy(lambda x: torch.where(x[:, 0] > 50, torch.nan, -1000 * x[:, 0]))
    with pytest.raises(Diverged):
        solve(V, WithReaction(), x, step_size=0.1, num_steps=1)
