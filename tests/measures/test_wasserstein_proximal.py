"""The regularized Wasserstein proximal operator: its closed forms, its kernel, its limits, and the laws that it makes."""

import math

import pytest
import torch
from _exact import double, rng, trapezoid

import wgflow as wg
from wgflow import (
    BadInput,
    Gaussian,
    GaussianMixture,
    L1Potential,
    LaplaceNormalizer,
    MonteCarloNormalizer,
    Particles,
    QuadraticPotential,
    QuadratureNormalizer,
    WassersteinProximal,
    rwpo,
)
from wgflow.numerics.soft_sums import log_sums
from wgflow.reference import Moments

FINE = QuadratureNormalizer(-12.0, 12.0, 2401)
LINE = QuadraticPotential(double([[1.3]]), double([-0.6]))
SPACE = QuadraticPotential(double([[2.0, 0.5, 0.1], [0.5, 1.0, -0.2], [0.1, -0.2, 3.0]]), double([1.0, -1.0, 0.5]))
EYE = torch.eye(3, dtype=torch.float64)


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def double_well(x):
    return 0.5 * (x.square().sum(1) - 1).square()


def covariance(d=3, seed=4):
    root = randn(d, d, seed=seed)
    return root @ root.T + 0.2 * torch.eye(d, dtype=torch.float64)


# --- closed forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("center", "mean"), [(0.0, 0.526316), (-0.6, 0.321053)])
def test_a_gaussian_on_the_line_has_the_numbers_of_the_literature(center, mean):
    V = QuadraticPotential(double([[1.3]]), double([center]))
    for options in ({"temperature": 0.7}, {"inv_temperature": 1 / 0.7}):
        law = rwpo(V, 0.4, **options)(Gaussian(double([0.8]), double([[2.5]])))
        assert float(law.mean) == pytest.approx(mean, abs=5e-7)
        assert float(law.cov) == pytest.approx(1.450485, abs=5e-7)


def test_a_gaussian_by_quadrature():
    """The mixture of kernels over an even grid of N(m, v) is the Gaussian of the formula, in density and moments, to 1e-8."""
    rho, step = trapezoid([0.8], [[math.sqrt(2.5)]], 0.05, 9), rwpo(LINE, 0.4, temperature=0.7)
    exact, x = step(Gaussian(double([0.8]), double([[2.5]]))), torch.linspace(-9, 9, 3001, dtype=torch.float64)[:, None]
    density = step(rho).log_prob(x).exp()
    torch.testing.assert_close(density, exact.log_prob(x).exp(), rtol=0, atol=1e-10)
    for f, value in (
        (1 + 0 * x[:, 0], 1.0),
        (x[:, 0], float(exact.mean)),
        ((x[:, 0] - exact.mean) ** 2, float(exact.cov)),
    ):
        assert float((density * f).sum() * 18 / 3000) == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize("metric", [None, "whole", "diagonal"])
def test_a_gaussian_in_three_dimensions(metric):
    """By matrix algebra, with and without a metric: Q = (I + T M H)^{-1}, x|y ~ N(c + Q(y - c), 2 tau T Q M)."""
    M = {None: EYE, "whole": covariance(seed=5), "diagonal": double([0.5, 1.0, 4.0]).diag()}[metric]
    given = {None: None, "whole": M, "diagonal": M.diagonal()}[metric]
    T, tau, m, S = 0.06, 0.6, double([0.5, 2.0, -1.0]), covariance()
    step = rwpo(SPACE, T, temperature=tau, metric=given)
    Q, c = (EYE + T * M @ SPACE.hessian).inverse(), SPACE.center
    law = step(Gaussian(m, S))
    torch.testing.assert_close(law.mean, c + Q @ (m - c))
    torch.testing.assert_close(law.cov, Q @ S @ Q.T + 2 * tau * T * Q @ M)
    # the kernel of one particle is the conditional law, and its normalizer the formula
    y = randn(4, 3)
    for one in y:
        kernel = Gaussian(c + Q @ (one - c), (2 * tau * T * Q @ M + (2 * tau * T * Q @ M).T) / 2)
        torch.testing.assert_close(step(Particles(one[None])).log_prob(y), kernel.log_prob(y))
    r = y - c
    log_z = (
        1.5 * math.log(4 * math.pi * tau * T)
        + 0.5 * torch.logdet(Q @ M)
        - ((r @ SPACE.hessian @ Q) * r).sum(1) / (4 * tau)
    )
    torch.testing.assert_close(step.log_mean(y) + step.log_constant(3), log_z)
    # where BRWP rests, and that its proximal has the covariance of the target
    S_star, H = step.stationary().cov, SPACE.hessian
    torch.testing.assert_close(S_star, tau * (H.inverse() - T**2 * M @ H @ M))
    if metric is None:
        torch.testing.assert_close(step(step.stationary()).cov, tau * H.inverse())


def test_the_hessian_as_the_metric_removes_the_conditioning():
    H = double([[100.0, 0], [0, 1.0]])
    step = rwpo(QuadraticPotential(H), 0.5, temperature=0.7, metric=H.inverse())
    torch.testing.assert_close(step.stationary().cov, 0.7 * (1 - 0.5**2) * H.inverse())


def test_the_optimal_cost():
    """a = 1, rho_0 = N(0, 2 tau (1 + T) I): cost tau d (1 + log(1 + T)), from an even grid in two dimensions."""
    T, tau = 0.8, 0.35
    rho = trapezoid([0.0, 0.0], (2 * tau * (1 + T)) ** 0.5 * torch.eye(2, dtype=torch.float64), 0.25, 7)
    step = rwpo(QuadraticPotential(torch.eye(2, dtype=torch.float64)), T, temperature=tau)
    assert float(step.cost(rho)) == pytest.approx(tau * 2 * (1 + math.log(1 + T)), abs=1e-9)


def test_the_covariance_of_the_target_is_found_again():
    """RWPO of N(0, S*) has the covariance tau / a exactly, in particles as well."""
    a, tau, T = 1.0, 1.0, 0.5
    step = rwpo(QuadraticPotential(double([[a]])), T, temperature=tau)
    assert float(step.stationary().cov) == pytest.approx(tau / a * (1 - a**2 * T**2))
    rho = trapezoid([0.0], step.stationary().cov.sqrt(), 0.1, 8)
    x = torch.linspace(-9, 9, 1801, dtype=torch.float64)[:, None]
    density = step(rho).log_prob(x).exp()
    assert float((density * x[:, 0] ** 2).sum() * 0.01) == pytest.approx(tau / a, abs=1e-9)


# --- kernels and limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("V", "rule"),
    [(LINE, None), (double_well, FINE), (L1Potential(2.0), None)],
)
def test_kernels_are_probability_densities_on_the_line(V, rule):
    y = double([[-2.0], [0.1], [1.4]])
    step, x = rwpo(V, 0.3, temperature=0.5, normalizer=rule), torch.linspace(-9, 9, 18001, dtype=torch.float64)[:, None]
    for one in y:
        mass = float(step(Particles(one[None])).log_prob(x).exp().sum() * 1e-3)
        assert mass == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("V", "rule", "tolerance"),
    [
        (QuadraticPotential(double([[2.0, 0.5], [0.5, 1.0]]), double([1.0, -1.0])), None, 1e-9),
        (double_well, MonteCarloNormalizer(4000), 0.06),
    ],
)
def test_kernels_are_probability_densities_in_the_plane(V, rule, tolerance):
    rho, axis = (
        Particles(double([[0.4, -0.3], [1.0, 1.0]]), double([0.3, -0.2])),
        torch.linspace(-6, 6, 241, dtype=torch.float64),
    )
    law = rwpo(V, 0.3, temperature=0.5, normalizer=rule)(rho, rng(2))
    mass = law.log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (12 / 240) ** 2
    assert float(mass) == pytest.approx(1, abs=tolerance)


def test_a_point_goes_to_its_proximal_point_at_small_temperatures():
    """The mean of K(., y) is y + 2 tau T grad log m(y); P y for quadratic potentials at every temperature."""

    def mean(step, y):
        at = y.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(step.log_mean(at).sum(), at)
        return y + 2 * step.temperature * step.time * slope

    y = double([[-1.7], [0.3], [2.0]])
    for temperature in (3.0, 0.01):
        torch.testing.assert_close(mean(rwpo(LINE, 0.4, temperature=temperature), y), LINE.prox(y, 0.4))
    for V, rule in ((L1Potential(2.0), None), (lambda x: x[:, 0].cosh(), LaplaceNormalizer())):
        exact = L1Potential(2.0).prox(y, 0.4) if rule is None else double([[-1.0], [0.0], [0.0]])
        if rule is not None:  # the root of p - y + T sinh p
            exact = y.clone()
            for _ in range(50):
                exact = exact - (exact - y + 0.4 * exact.sinh()) / (1 + 0.4 * exact.cosh())
        errors = [
            float((mean(rwpo(V, 0.4, temperature=t, normalizer=rule), y) - exact).abs().max()) for t in (1e-2, 1e-3)
        ]
        assert errors[1] < 0.2 * errors[0] < 0.05


def test_small_times_are_steps_of_the_fokker_planck_equation():
    """RWPO(N(m, v)) = N(m, v) + T (drift and diffusion of it) + O(T²)."""
    a, tau, m, v, errors = 1.3, 0.7, 0.8, 2.5, []
    for T in (2e-3, 1e-3):
        law = rwpo(QuadraticPotential(double([[a]])), T, temperature=tau)(Gaussian(double([m]), double([[v]])))
        errors.append(abs(float(law.mean) - m + T * a * m) + abs(float(law.cov) - v - T * (2 * tau - 2 * a * v)))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(("V", "rule"), [(double_well, FINE), (LINE, None), (L1Potential(2.0), None)])
def test_the_rest_of_the_way_is_a_proximal_too(V, rule):
    """rho_t = eta_t sum_j w_j N(y_j, 2 tau t) / m_T(y_j), eta_t = m_{T-t}: of mass 1, and its proximal over T - t is rho_T."""
    T, tau, rho = 0.5, 0.4, Particles(double([[-1.2], [0.3], [1.5]]), double([0.2, 0.0, -0.5]))
    x = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    whole = rwpo(V, T, temperature=tau, normalizer=rule)
    for t in (0.05, 0.25, 0.45):
        rest = rwpo(V, T - t, temperature=tau, normalizer=rule)
        heat = -0.5 * math.log(4 * math.pi * tau * t) + log_sums(
            x, rho.x, rho.log_weights - whole.log_mean(rho.x), 4 * tau * t
        )
        log_rho = rest.log_mean(x) + heat
        assert float(log_rho.exp().sum() * 0.01) == pytest.approx(1, abs=1e-6)
        arrived = rest(Particles(x, log_rho)).log_prob(x)
        torch.testing.assert_close(arrived.exp(), whole(rho).log_prob(x).exp(), rtol=0, atol=1e-6)


def test_permutations_and_translations():
    x, y, shift = randn(5, 2), randn(7, 2, seed=1), double([3.0, -2.0])
    options = {"temperature": 0.4, "normalizer": MonteCarloNormalizer(8)}
    rho, order = Particles(y, randn(7, seed=2)), torch.randperm(7, generator=rng(3))
    law = rwpo(double_well, 0.2, **options)(rho, rng(4))
    mixed = rwpo(double_well, 0.2, **options)(Particles(y[order], rho.log_w[order]), rng(4))
    torch.testing.assert_close(mixed.log_prob(x), law.log_prob(x))
    moved = rwpo(lambda x: double_well(x - shift) + 5, 0.2, **options)(Particles(y + shift, rho.log_w), rng(4))
    torch.testing.assert_close(moved.log_prob(x + shift), law.log_prob(x))


@pytest.mark.parametrize("metric", [None, [0.5, 2.0], [[1.0, 0.4], [0.4, 2.0]]])
def test_the_score_is_that_of_the_formula(metric):
    """tau grad log rho_T = -grad V / 2 - M^{-1}(x - sum p y) / 2T, and pulls() is the second term without its factor."""
    M = None if metric is None else double(metric)
    whole = torch.eye(2, dtype=torch.float64) if M is None else M.diag() if M.dim() == 1 else M
    rho, x, T, tau = Particles(randn(6, 2), randn(6, seed=1)), randn(4, 2, seed=2), 0.3, 0.5
    step = rwpo(double_well, T, temperature=tau, normalizer=MonteCarloNormalizer(16), metric=M)
    law = step(rho, rng(3))
    r = x[:, None] - rho.x
    p = (rho.w.log() - law.log_mean - ((r @ whole.inverse()) * r).sum(2) / (4 * tau * T)).softmax(1)
    pull = x - p @ rho.x
    grad = 2 * (x.square().sum(1, keepdim=True) - 1) * x
    torch.testing.assert_close(tau * law.score(x), -grad / 2 - pull @ whole.inverse() / (2 * T))
    torch.testing.assert_close(step.pulls(x, rho, law.log_mean), pull)


def test_it_inverts_the_heat_flow():
    """V = -2 tau log pi and rho_0 = pi * G_T give pi; for another start KL and the largest ratio do not grow."""
    tau, T, grid = 0.5, 0.8, torch.linspace(-12, 12, 2401, dtype=torch.float64)[:, None]

    def pi(x, widen=0.0):
        parts = [
            math.log(w) + Gaussian(double([m]), double([[v + widen]])).log_prob(x)
            for w, m, v in ((0.3, -2, 0.1), (0.7, 1.5, 0.3))
        ]
        return torch.logsumexp(torch.stack(parts), 0)

    start = pi(grid, 2 * tau * T)
    step = rwpo(lambda x: -2 * tau * pi(x), T, temperature=tau, normalizer=FINE)
    torch.testing.assert_close(step.log_mean(grid[200:-200]), start[200:-200], rtol=1e-9, atol=1e-9)
    found = step(Particles(grid[200:-200], start[200:-200])).log_prob(grid)
    assert float((found.exp() - pi(grid).exp()).abs().max()) < 1e-6

    mean = 0.3 * -2 + 0.7 * 1.5
    var = 0.3 * (0.1 + (-2 - mean) ** 2) + 0.7 * (0.3 + (1.5 - mean) ** 2) + 2 * tau * T
    wrong = Gaussian(double([mean]), double([[var]])).log_prob(grid)
    found = step(Particles(grid[200:-200], wrong[200:-200])).log_prob(grid)
    kl = lambda p, q: float((p.exp() * (p - q)).sum() * 0.01)  # noqa: E731
    assert kl(wrong, start) == pytest.approx(0.1410, abs=1e-4)
    assert kl(found, pi(grid)) == pytest.approx(0.0112, abs=1e-4)
    assert float(torch.expm1(found - pi(grid)).abs().max()) <= float(torch.expm1(wrong - start).abs().max()) + 1e-9


# --- laws ----------------------------------------------------------------------------------------------------------


def test_draws_have_the_moments_of_the_closed_form():
    m, S, n = double([0.5, 2.0, -1.0]), covariance(), 40_000
    step, start = rwpo(SPACE, 0.3, temperature=0.6, metric=double([0.5, 1.0, 4.0])), Gaussian(m, S)
    exact, found = step(start), Moments.of(step(start.draw(n, rng(1))).draw(n, rng(2)))
    spread = exact.cov.diagonal().max() * 6 / math.sqrt(n)
    torch.testing.assert_close(found.mean, exact.mean, rtol=0, atol=float(spread))
    torch.testing.assert_close(found.cov, exact.cov, rtol=0, atol=2 * float(spread))


def test_images_are_points():
    flat, V = randn(5, 4), L1Potential(1.0)
    step = rwpo(V, 0.2, temperature=0.3)
    law, images = step(Particles(flat)), step(Particles(flat.view(5, 1, 2, 2)))
    torch.testing.assert_close(images.log_prob(flat.view(5, 1, 2, 2)), law.log_prob(flat))
    torch.testing.assert_close(images.score(flat.view(5, 1, 2, 2)).flatten(1), law.score(flat))
    assert images.draw(3, rng()).x.shape == (3, 1, 2, 2)


def test_the_law_is_a_target_and_a_start():
    law = rwpo(LINE, 0.4, temperature=0.7)(Particles(randn(30, 1)))
    start = law.draw(40, rng(1))
    flow = wg.solve(
        wg.KL(law), wg.ForwardEuler(wg.Stein(wg.RBF(1.0))), Particles(start.x + 3), step_size=0.1, num_steps=200
    )
    assert float(flow.measure.x.mean() - law.draw(10_000, rng(2)).x.mean()) == pytest.approx(0, abs=0.15)


def test_single_precision_follows_double():
    y = 100 + randn(50, 8)
    V = QuadraticPotential(torch.eye(8, dtype=torch.float64), 100 + torch.zeros(8, dtype=torch.float64))
    narrow = rwpo(QuadraticPotential(V.hessian.float(), V.center.float()), 0.05, temperature=0.3)
    wide = rwpo(V, 0.05, temperature=0.3)
    x = y.float()
    ours, theirs = narrow(Particles(x)), wide(Particles(x.double()))
    torch.testing.assert_close(ours.log_prob(x).double(), theirs.log_prob(x.double()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.score(x).double(), theirs.score(x.double()), rtol=1e-3, atol=1e-3)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: rwpo(LINE, 0.1), "exactly one of temperature"),
        (lambda: rwpo(LINE, 0.1, temperature=1.0, inv_temperature=1.0), "got temperature=1.0 and inv_temperature=1.0"),
        (lambda: rwpo(LINE, 0.0, temperature=1.0), "time=0.0"),
        (lambda: rwpo(LINE, 0.1, temperature=-1.0), "temperature=-1.0"),
        (lambda: rwpo(LINE, 0.1, inv_temperature=math.nan), "inv_temperature=nan"),
        (lambda: WassersteinProximal(LINE, math.inf, temperature=1.0), "time=inf"),
        (lambda: rwpo(double_well, 0.1, temperature=1.0, normalizer=LINE), "that of another potential"),
        (lambda: rwpo(LINE, 0.1, temperature=1.0, metric=torch.eye(1).double() * -1), "least eigenvalue is -1"),
        (lambda: rwpo(double_well, 0.1, temperature=1.0)(Particles(randn(3, 1))), "give the generator as well"),
        (lambda: rwpo(double_well, 0.1, temperature=1.0)(Gaussian(double([0.0]), double([[1.0]]))), "give Particles"),
        (
            lambda: rwpo(LINE, 0.1, temperature=1.0)(GaussianMixture(torch.zeros(2, 1), 1.0)),
            "of a GaussianMixture under",
        ),
        (
            lambda: rwpo(SPACE, 0.4, temperature=1.0).stationary(),
            r"has the eigenvalue 3\.0\d*, .*below 1: particles collapse",
        ),
        (
            lambda: rwpo(QuadraticPotential(-LINE.hessian), 0.4, temperature=1.0).stationary(),
            r"eigenvalue -1\.3: .*no probability",
        ),
        (lambda: rwpo(double_well, 0.1, temperature=1.0).stationary(), "known for a QuadraticPotential"),
        (
            lambda: rwpo(lambda x: x.detach().square().sum(1), 0.1, temperature=1.0)(
                Particles(randn(3, 1)), rng()
            ).score(randn(2, 1)),
            "does not depend on the points differentiably",
        ),
        (lambda: rwpo(lambda x: x, 0.1, temperature=1.0)(Particles(randn(3, 1)), rng()), "one number a point"),
        (
            lambda: rwpo(lambda x: torch.where(x[:, 0] > 5, 0.0, torch.inf), 0.1, temperature=1.0)(
                Particles(double([[9.0], [-9.0]])), rng()
            ),
            r"normalizer at particle 1, at \[-9.0\], has the logarithm -inf",
        ),
        (
            lambda: rwpo(QuadraticPotential(EYE), 0.1, temperature=1.0)(Particles(torch.zeros(2, 3))),
            r"cannot take \(2, 3\)",
        ),
        (lambda: rwpo(LINE, 0.1, temperature=1.0)(Gaussian(torch.zeros(1), torch.eye(1))), "of 1 in torch.float32"),
        (lambda: rwpo(LINE, 0.1, temperature=1.0)(Gaussian(randn(3), EYE)), "one of 1 coordinates .* of 3 in"),
        (lambda: rwpo(LINE, 0.1, temperature=1.0, metric=torch.ones(3).double()), "in a metric cannot take"),
        (
            lambda: rwpo(double_well, 0.1, temperature=1.0, metric=torch.ones(1)).log_mean(randn(2, 1), randn(4, 1)),
            "convert",
        ),
        (
            lambda: rwpo(L1Potential(double([1.0, 2.0])), 0.1, temperature=1.0)(Particles(randn(4, 3))),
            "L1Potential cannot",
        ),
        (lambda: rwpo(double_well, 0.1, temperature=1.0).log_mean(randn(2, 1)), "give what noise"),
        (lambda: rwpo(LINE, 0.1, temperature=1.0).cost(randn(2)), "expected a Particles"),
        (lambda: rwpo(LINE, 0.1, temperature=1.0)(randn(2)), "expected a Measure"),
        (lambda: rwpo(LINE, 0.1, temperature=1.0).expect(torch.sum, randn(2, 1), randn(4, 1)), "one number a point"),
    ],
)
def test_bad_input(act, says):
    with pytest.raises(BadInput, match=says):
        act()


def test_no_points_have_no_densities():
    law = rwpo(LINE, 0.4, temperature=0.7)(Particles(randn(5, 1)))
    assert law.log_prob(randn(0, 1)).shape == (0,)
    assert law.score(randn(0, 1)).shape == (0, 1)


def test_closed_forms_are_the_potential_s_whatever_finds_the_normalizer():
    plain, laplace = (rwpo(SPACE, 0.3, temperature=0.6, normalizer=rule) for rule in (None, LaplaceNormalizer()))
    start = Gaussian(randn(3), covariance())
    torch.testing.assert_close(laplace(start).cov, plain(start).cov, rtol=0, atol=0)
    torch.testing.assert_close(laplace.stationary().cov, plain.stationary().cov, rtol=0, atol=0)
