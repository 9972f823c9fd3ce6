"""BRWP and its variants: sentences of parts that say what the papers' formulas say, and rest where the theory has them rest."""

import math

import pytest
import torch
from _exact import double, rng
from scipy.integrate import quad

from wgflow import (
    KL,
    Accelerated,
    BadInput,
    Entropy,
    ForwardBackward,
    ForwardEuler,
    LaplaceNormalizer,
    Particles,
    PotentialEnergy,
    Proximal,
    ProximalScore,
    QuadraticPotential,
    Unnormalised,
    Unsupported,
    presets,
    rwpo,
    solve,
    why_not,
)

H, TAU = 0.1, 1.0
X = 2 * torch.randn(40, 2, generator=rng(3), dtype=torch.float64) + double([0.5, -1.0])


def smooth(x):
    return 0.5 * x[:, 0].square() + 0.25 * (x[:, 1] - 0.5 * x[:, 0]).square()


def lasso(scale):
    return PotentialEnergy(lambda x: scale * x.abs().sum(1), lambda x, h: x.sign() * (x.abs() - scale * h).clamp(min=0))


def log_z_of_lasso(scale, time, tau=TAU):
    """Log of the mean of exp(-scale |z| / 2 tau) under N(y, 2 tau time), summed over coordinates."""
    s, k = math.sqrt(2 * tau * time), scale / (2 * tau)

    def log_z(y):
        near = torch.logaddexp(
            -k * y + torch.special.log_ndtr((y - k * s**2) / s), k * y + torch.special.log_ndtr((-y - k * s**2) / s)
        )
        return near.sum(1)

    return log_z


@pytest.mark.parametrize("scale", [0.7, 0.0])
def test_a_step_of_the_splitting_is_the_formula_of_its_paper(scale):
    """y = x - h grad f(x), then y + (S(y) - W y) / 2; without the penalty a step of pure diffusion."""
    log_z = log_z_of_lasso(scale, H)
    flow = presets.brwp_splitting(
        Unnormalised(lambda x: -smooth(x), 2),
        Particles(X),
        penalty=lasso(scale),
        normalizer=log_z,
        step_size=H,
        num_steps=1,
    )
    x = X.clone().requires_grad_(True)
    y = X - H * torch.autograd.grad(smooth(x).sum(), x)[0]
    W = (-torch.cdist(y, y).square() / (4 * TAU * H) - log_z(y)).softmax(1)
    S = y.sign() * (y.abs() - scale * H).clamp(min=0)
    torch.testing.assert_close(flow.solve().measure.x, y + (S - W @ y) / 2, rtol=0, atol=1e-12)


def test_the_splitting_samples_a_law_with_a_kink():
    """x²/2 + 2|x| in one dimension; the variance by quadrature. The error falls as the square of the step, which is T as well."""
    density = lambda x: math.exp(-0.5 * x * x - 2 * abs(x))  # noqa: E731
    exact = quad(lambda x: x * x * density(x), -12, 12, points=[0])[0] / quad(density, -12, 12, points=[0])[0]
    start = Particles(torch.linspace(-2, 2, 300, dtype=torch.float64)[:, None])
    error = []
    for h in (0.1, 0.05):
        flow = presets.brwp_splitting(
            Unnormalised(lambda x: -0.5 * x[:, 0].square(), 1),
            start,
            penalty=lasso(2.0),
            normalizer=log_z_of_lasso(2.0, h),
            step_size=h,
            num_steps=round(3 / h),
        )
        error.append(float(flow.solve().measure.x.square().mean()) - exact)
    assert math.log2(error[0] / error[1]) == pytest.approx(2, abs=0.2)
    assert abs(error[1]) < 0.1 * exact


def test_an_envelope_is_smooth_and_knows_its_own_proximal_map():
    g, T, h = lasso(1.5), 0.4, 0.3
    huber = g.envelope(T)
    x = X.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(huber.at_points(x).sum(), x)
    exact = torch.where(X.abs() < 1.5 * T, X.square() / (2 * T), 1.5 * X.abs() - 1.5**2 * T / 2).sum(1)
    torch.testing.assert_close(huber.at_points(X), exact)
    torch.testing.assert_close(slope, (X / T).clamp(-1.5, 1.5))
    y = huber.prox(Particles(X), h)
    torch.testing.assert_close(
        y + h * (y / T).clamp(-1.5, 1.5), X
    )  # the condition of the minimum, exact for a smooth V
    with pytest.raises(Unsupported, match="proximal map"):
        PotentialEnergy(smooth).envelope(0.1)
    with pytest.raises(BadInput, match="positive"):
        g.envelope(0.0)
    with pytest.raises(Unsupported, match="once only"):  # Laplace's method would take I/T for its Hessian everywhere
        rwpo(huber.at_points, 0.1, temperature=1.0, normalizer=LaplaceNormalizer()).log_mean(X)
    # Half of an envelope is the envelope of half of the potential over twice the time.
    torch.testing.assert_close(lasso(0.75).envelope(2 * T).at_points(X), 0.5 * exact)


def test_terms_inside_of_a_multiple_of_a_sum_are_told_apart():
    """The flow of (F + G)/2 at twice the step is that of F + G; it was refused, and so was one under Proximal."""
    F, g = PotentialEnergy(smooth), lasso(1.5)
    solver = Proximal()
    whole, half = (solve(c * (F + g), solver, Particles(X), step_size=0.1 / c, num_steps=3) for c in (1.0, 0.5))
    torch.testing.assert_close(half.measure.x, whole.measure.x)
    closed = ForwardBackward(backward=ForwardEuler(ProximalScore(0.1)), closed_terms=True)
    start = Particles(X)
    assert why_not(0.5 * (F + Entropy() + g.envelope(0.1)), closed, start) is None
    assert "no term has one" in str(why_not(F + Entropy(), closed, start))


def quadratic_sample(d, n, time, num_steps=200, step=0.2):
    start = Particles(1 + 2 * torch.randn(n, d, generator=rng(n + d), dtype=torch.float64))
    target = Unnormalised(lambda x: -0.5 * x.square().sum(1), d)
    solver = ForwardEuler(ProximalScore(time, lambda y: -y.square().sum(1) / (4 * (1 + time))))
    return solve(KL(target), solver, start, step_size=step, num_steps=num_steps).measure.x


TABLE = {  # variance after 200 steps of 0.2 for 50, 200 and 1000 particles, by dimension and T
    (1, 0.05): (0.960, 0.988, 0.996),
    (1, 0.1): (0.969, 0.986, 0.989),
    (1, 0.5): (0.745, 0.749, 0.750),
    (2, 0.05): (0.783, 0.929, 0.981),
    (2, 0.1): (0.875, 0.958, 0.984),
    (2, 0.5): (0.735, 0.747, 0.749),
}
ROWS = [
    pytest.param(d, time, n, value, marks=pytest.mark.slow if n == 1000 else ())
    for (d, time), row in TABLE.items()
    for n, value in zip((50, 200, 1000), row, strict=True)
]


@pytest.mark.parametrize(("d", "time", "n", "value"), ROWS)
def test_finite_particles_collapse_as_measured(d, time, n, value):
    x = quadratic_sample(d, n, time)
    assert float(x.mean(0).abs().max()) < 2e-3
    assert float(x.var(0, correction=0).mean()) == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize(("d", "time", "n", "value"), [(5, 0.1, 50, 0.337), (5, 0.5, 200, 0.706)])
def test_the_collapse_is_worse_in_more_dimensions(d, time, n, value):
    assert float(quadratic_sample(d, n, time).var(0, correction=0).mean()) == pytest.approx(value, abs=0.03)


def test_the_bias_is_the_square_of_the_time_and_none_of_the_step():
    # 1 - T² (infinitely many particles) is 0.75; 200 on a line have 0.749 at every step.
    found = [float(quadratic_sample(1, 200, 0.5, round(20 / h), h).var(correction=0)) for h in (0.1, 0.2, 0.5)]
    assert found == pytest.approx([0.75] * 3, abs=2e-3)


def test_particles_with_momentum_rest_where_those_without_do():
    start = Particles(1 + 2 * torch.randn(100, 1, generator=rng(0), dtype=torch.float64))
    target = Unnormalised(lambda x: -0.5 * x[:, 0].square(), 1)
    solver = Accelerated(ProximalScore(0.5, lambda y: -y.square().sum(1) / 6), friction=2.0)
    end = solve(KL(target), solver, start, step_size=0.3, num_steps=150).measure.x
    assert float(end.mean().abs()) < 2e-3
    assert float(end.var(correction=0)) == pytest.approx(0.749, abs=1e-3)  # as without momentum


def test_preconditioning_is_brwp_in_other_coordinates():
    """With M = L L' a step of x is L times a step of L^{-1} x; a metric that is the identity changes nothing."""
    M = double([[1.0, 0.4], [0.4, 2.0]])
    L = torch.linalg.cholesky(M)
    log_z = lambda x: 0.1 * x.sin().sum(1) - smooth(x) / 4  # noqa: E731 - any function will do

    def step(V, x, known, metric=None):
        F, solver = KL(Unnormalised(lambda x: -V(x), 2)), ForwardEuler(ProximalScore(0.3, known, metric=metric))
        return solve(F, solver, Particles(x), step_size=0.2, num_steps=1).measure.x

    u = torch.linalg.solve_triangular(L, X.T, upper=False).T
    inside = step(lambda u: smooth(u @ L.T), u, lambda u: log_z(u @ L.T))
    torch.testing.assert_close(step(smooth, X, log_z, M), inside @ L.T, rtol=0, atol=1e-12)
    plain = step(smooth, X, log_z)
    for identity in (torch.eye(2).double(), torch.ones(2).double()):
        torch.testing.assert_close(step(smooth, X, log_z, identity), plain, rtol=0, atol=1e-13)


@pytest.mark.parametrize("given", ["quadratic", "draws"])
def test_the_inverse_hessian_removes_the_condition_number(given):
    """Curvatures 1 and 1/100: both coordinates, each in its own unit, rest at the variance 1 - T² after 60 steps."""
    a, T = double([1.0, 0.01]), 0.5
    start = Particles(1 / a.sqrt() * (1 + 2 * torch.randn(200, 2, generator=rng(5), dtype=torch.float64)))
    V = QuadraticPotential(a.diag())
    estimator = ProximalScore(T, V if given == "quadratic" else None, metric=1 / a)
    end = solve(KL(Unnormalised(lambda x: -V(x), 2)), ForwardEuler(estimator), start, step_size=0.3, num_steps=60)
    scaled = end.measure.x * a.sqrt()
    assert float(scaled.mean(0).abs().max()) < (0.01 if given == "quadratic" else 0.3)  # draws make the mean wander
    assert scaled.var(0, correction=0).tolist() == pytest.approx(
        [0.747] * 2, abs=0.01 if given == "quadratic" else 0.15
    )
    # T = 0.5 is too long for a Hessian with the eigenvalue 4, and the metric decides what that is.
    steep = KL(Unnormalised(lambda x: -4 * V(x), 2))
    refused = why_not(steep, ForwardEuler(ProximalScore(T, QuadraticPotential(4 * a.diag()))), start)
    assert "eigenvalue 4" in refused
    solver = ForwardEuler(ProximalScore(T, QuadraticPotential(4 * a.diag()), metric=0.25 / a))
    assert why_not(steep, solver, start) is None


def test_one_proximal_from_the_end_undoes_the_bias():
    """At T = 0.5 particles rest at the variance 0.749; their proximal has the variance 1 of the target."""
    x = quadratic_sample(1, 200, 0.5)
    law = rwpo(QuadraticPotential(double([[1.0]])), 0.5, temperature=1.0)(Particles(x))
    z = torch.linspace(-8, 8, 801, dtype=torch.float64)[:, None]
    p = law.log_prob(z).exp() * 0.02
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    assert float(p @ z[:, 0].square()) == pytest.approx(1, abs=2e-3)


def test_moved_and_raised_potentials_move_the_particles_alike():
    """Translations go through, a constant in V does nothing, and the order of the particles does not matter."""
    shift, order = double([3.0, -5.0]), torch.randperm(len(X), generator=rng(1))

    def step(V, x):
        flow = presets.brwp(Unnormalised(lambda x: -V(x), 2), Particles(x), time=0.2, step_size=0.2, num_steps=3)
        return flow.solve(seed=4).measure.x

    plain = step(smooth, X)
    torch.testing.assert_close(step(lambda x: smooth(x - shift), X + shift), plain + shift, rtol=0, atol=1e-10)
    torch.testing.assert_close(step(lambda x: smooth(x) + 1e3, X), plain, rtol=0, atol=1e-9)
    torch.testing.assert_close(step(smooth, X[order]), plain[order], rtol=0, atol=1e-10)


def test_a_metric_is_checked():
    with pytest.raises(BadInput, match="positive definite"):
        ProximalScore(0.1, metric=double([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(BadInput, match="one of 3 coordinates"):
        presets.prwp(
            Unnormalised(lambda x: -smooth(x), 2), Particles(X), time=0.1, metric=torch.ones(3).double()
        ).solve()
