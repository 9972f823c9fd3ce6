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
    ForwardEuler,
    Particles,
    PotentialEnergy,
    ProximalScore,
    Unnormalised,
    Unsupported,
    presets,
    solve,
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
    # Half of an envelope is the envelope of half of the potential over twice the time.
    torch.testing.assert_close(lasso(0.75).envelope(2 * T).at_points(X), 0.5 * exact)


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
