"""The Sinkhorn divergence and its flow: closed forms for Gaussians, limits, geomloss, and what its solver promises."""

import itertools
import math
from decimal import Decimal, localcontext
from functools import partial

import pytest
import torch
from _exact import double, rng

from wgflow import Autograd, BadInput, ForwardEuler, GaussianMixture, NotConverged, Particles, reference, solve
from wgflow.functionals.sinkhorn import SinkhornDivergence
from wgflow.functionals.wasserstein import SquaredW2
from wgflow.numerics.sinkhorn_problem import Regularisation
from wgflow.numerics.sinkhorn_solver import solve as sinkhorn
from wgflow.numerics.softmin import displacement, softmin

Tight = partial(SinkhornDivergence, tol=1e-12)
KINDS = [{}, {"reach": 1.5}, {"debias": False}, {"reach": 0.7, "debias": False}]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def weighted(n, d, seed, shift=0.0):
    return Particles(normal(n, d, seed=seed) + shift, normal(n, seed=seed + 100))


def velocity(F, p):
    return Autograd().velocity(F, p, None)


def normal_quantiles(n):
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return math.sqrt(2) * torch.erfinv(2 * u - 1)


def normal_plane(radii, angles):
    """A polar grid of N(0, I), whitened."""
    u = (torch.arange(radii, dtype=torch.float64) + 0.5) / radii
    turn = 2 * math.pi * (torch.arange(angles) + 0.618 * torch.arange(radii)[:, None]).double() / angles
    z = (-2 * torch.log1p(-u)).sqrt()[:, None, None] * torch.stack([turn.cos(), turn.sin()], 2)
    z = z.reshape(-1, 2)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(z.T @ z / len(z)), z.T, upper=False).T


# --- derivatives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_central_differences(kind):
    rho, nu = weighted(12, 2, 0), weighted(15, 2, 1, 1.0)
    F = Tight(nu, blur=0.7, **kind)
    of = lambda x, log_w: F.value(Particles(x, log_w))  # noqa: E731
    # Differences of 1e-6 of a value good to 1e-15: 1e-9.
    assert torch.autograd.gradcheck(of, (rho.x.requires_grad_(), rho.log_w.requires_grad_()), atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_holds_the_first_variation_and_its_gradient(kind):
    rho, F = weighted(12, 2, 0), Tight(weighted(15, 2, 1, 1.0), blur=0.7, **kind)
    report, (potential, gradient) = F.report(rho), Autograd().gradient(F, rho, None)
    assert report.converged
    torch.testing.assert_close(report.value, F.value(rho))
    torch.testing.assert_close(report.potential - rho.mean(report.potential), potential, rtol=0, atol=1e-12)
    torch.testing.assert_close(report.gradient, gradient, rtol=0, atol=1e-12)


def asymmetry(field, x):
    """|J - Jᵀ|/|J| of a velocity field by central differences: a gradient flow of particles has a symmetric Jacobian."""
    columns = []
    for i in range(x.numel()):
        e = torch.zeros(x.numel(), dtype=x.dtype)
        e[i] = 1e-5
        columns.append((field(x + e.view_as(x)) - field(x - e.view_as(x))).flatten() / 2e-5)
    J = torch.stack(columns)
    return float((J - J.T).norm() / J.norm())


def test_the_velocity_is_a_gradient_flow_and_one_sided_softmax_is_not():
    """Published: 1.6e-15 for converged plans, 0.14 for the mean shift that one row softmax is. Differences: 1e-10."""
    x, y, eps = normal(8, 2), normal(9, 2, seed=1), 0.5
    F = Tight(Particles(y), blur=eps**0.5)
    assert asymmetry(lambda x: velocity(F, Particles(x)), x) < 1e-8

    def mean_shift(x):
        parts = [displacement(eps, x[None], z[None], z.new_zeros(1, len(z)))[0] for z in (x, y)]
        return parts[0] - parts[1]

    assert asymmetry(mean_shift, x) > 1e-2


# --- Gaussians -----------------------------------------------------------------------------------------------------------


def slope(s1, s2, eps):
    """Coefficient of the velocity between centred Gaussians of standard deviations s1 (moving) and s2."""
    return (math.sqrt(4 * s1**2 * s2**2 + eps**2) - math.sqrt(4 * s1**4 + eps**2)) / (2 * s1**2)


def entropic_cost(m, s1, s2, eps):
    D = math.sqrt(4 * s1**2 * s2**2 + eps**2)
    return m**2 / 2 + (s1**2 + s2**2 - D + eps * (1 - math.log(2 * eps)) + eps * math.log(D + eps)) / 2


@pytest.mark.parametrize("eps", [0.1, 0.5, 2.0])
def test_gaussians_on_the_line(eps):
    """800 midpoint quantiles; the law of the tails is off by 1/n, which moves the velocity of the central 90 % by some 1e-3."""
    m, s1, s2, z = 0.7, 1.0, 1.6, normal_quantiles(800)[:, None]
    rho, nu = Particles(s1 * z), Particles(s2 * z + m)
    F = SinkhornDivergence(nu, blur=math.sqrt(eps))
    central = slice(40, 760)
    expected = m + slope(s1, s2, eps) * rho.x
    assert float((velocity(F, rho) - expected)[central].abs().max()) < 1e-3
    divergence = entropic_cost(m, s1, s2, eps) - (entropic_cost(0, s1, s1, eps) + entropic_cost(0, s2, s2, eps)) / 2
    assert float(F.value(rho)) == pytest.approx(divergence, abs=1e-3)
    raw = SinkhornDivergence(nu, blur=math.sqrt(eps), debias=False)
    assert float(raw.value(rho)) == pytest.approx(entropic_cost(m, s1, s2, eps), abs=2e-3)


def test_gaussians_in_the_plane():
    """The plan's cross-covariance gives the slope of the barycentric map; a grid of 1200 points, 1e-2."""
    A, B, eps, eye = double([[1.0, 0.4], [0.4, 0.7]]), double([[0.6, -0.3], [-0.3, 1.8]]), 0.5, torch.eye(2).double()
    root = reference.symmetric_root(A)
    inverse = torch.linalg.inv(root)

    def cross(C):
        return root @ reference.symmetric_root(4 * root @ C @ root + eps**2 * eye) @ inverse / 2 - eps / 2 * eye

    z, shift = normal_plane(30, 40), double([0.5, -1.0])
    x = z @ root
    F = SinkhornDivergence(Particles(z @ reference.symmetric_root(B) + shift), blur=math.sqrt(eps))
    v = velocity(F, Particles(x))
    torch.testing.assert_close(v.mean(0), shift, rtol=0, atol=1e-6)
    fitted = torch.linalg.lstsq(x, v - v.mean(0)).solution.T
    torch.testing.assert_close(fitted, (cross(B) - cross(A)).T @ torch.linalg.inv(A), rtol=0, atol=1e-2)


def test_gaussian_flow_follows_its_equations():
    """Mean and deviation against Euler's method, with the same step, on m' = m* - m and s' = s slope(s)."""
    z, eps, h, s_end = normal_quantiles(200), 0.5, 0.05, 2.0
    z = z / z.square().mean().sqrt()
    m, s = 0.0, 0.5
    F = SinkhornDivergence(Particles(s_end * z[:, None] + 1), blur=math.sqrt(eps))
    flow = solve(F, ForwardEuler(), Particles(s * z[:, None]), step_size=h, num_steps=60)
    for k, p in enumerate(flow.saved):
        if k in (10, 30, 60):
            assert float(p.x.mean()) == pytest.approx(m, abs=1e-5)
            assert float(p.x.std(correction=0)) == pytest.approx(s, abs=2e-3)
        m, s = m + h * (1 - m), s + h * s * slope(s, s_end, eps)
    assert s > 1.8


# --- exact relations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blur", [0.05, 0.5, 5.0, 50.0])
def test_a_translation_costs_half_its_square_at_every_blur(blur):
    """To the tolerance in the velocity, better in the value."""
    x, t = normal(30, 3), double([1.0, -2.0, 0.5])
    F = SinkhornDivergence(Particles(x + t), blur=blur, tol=1e-6)
    assert float(F.value(Particles(x))) == pytest.approx(float(t.square().sum()) / 2, rel=1e-7)
    assert float((velocity(F, Particles(x)) - t).norm(dim=1).mean()) < 1e-6 * 4  # the size of the cloud


@pytest.mark.parametrize("kind", [{}, {"reach": 0.8}])
def test_zero_at_the_target_and_positive_elsewhere(kind):
    rho = weighted(40, 2, 0)
    F = Tight(rho, blur=0.3, **kind)
    assert float(F.value(rho)) == pytest.approx(0, abs=1e-13)
    assert float(velocity(F, rho).abs().max()) < 1e-9
    assert float(F.value(weighted(40, 2, 1))) > 0.01


def test_two_diracs():
    F = Tight(Particles(double([[3.0, 4.0]])), blur=0.1)
    assert float(F.value(Particles(double([[0.0, 0.0]])))) == pytest.approx(12.5, rel=1e-14)


def test_two_diracs_with_soft_marginals():
    """One pair of points at cost c: f = g = c ρ/(2ρ+ε), so S = (2ρ+ε)(1 - e^{-c/(2ρ+ε)}); far away 2ρ+ε, without force."""
    blur, reach = 0.5, 1.2
    scale = 2 * reach**2 + blur**2
    for r in (0.3, 2.0, 30.0):
        F = Tight(Particles(double([[r]])), blur=blur, reach=reach)
        value = scale * (1 - math.exp(-(r**2) / 2 / scale))
        assert float(F.value(Particles(double([[0.0]])))) == pytest.approx(value, rel=1e-12)
        v = float(velocity(F, Particles(double([[0.0]]))))
        assert v == pytest.approx(r * math.exp(-(r**2) / 2 / scale), rel=1e-10, abs=1e-15)


def test_a_wide_blur_moves_the_mean_alone():
    """The error is of order 1/eps; published: 4.9e-3, 4.9e-4, 4.9e-5 at 1e2, 1e3, 1e4 for clouds of this kind."""
    x, y = normal(8, 2), normal(9, 2, seed=1)
    errors = []
    for eps in (1e2, 1e3, 1e4):
        F = Tight(Particles(y), blur=math.sqrt(eps))
        errors.append(float((velocity(F, Particles(x)) - (y.mean(0) - x.mean(0))).norm(dim=1).max()))
    slopes = [math.log10(a / b) for a, b in itertools.pairwise(errors)]
    assert slopes == pytest.approx([1, 1], abs=0.05)
    assert errors[0] < 0.05


def test_a_fine_blur_is_exact_transport():
    """Half the squared W2, from which the divergence differs by less and less; the velocity becomes the displacement."""
    x, y = normal(8, 2), normal(8, 2, seed=1) + 1
    exact = 0.5 * SquaredW2(Particles(y))
    errors, drifts = [], []
    for blur in (0.4, 0.2, 0.1, 0.02):
        F = SinkhornDivergence(Particles(y), blur=blur, tol=1e-5)
        errors.append(abs(float(F.value(Particles(x)) - exact.value(Particles(x)))))
        drifts.append(float((velocity(F, Particles(x)) - velocity(exact, Particles(x))).norm()))
    assert errors == sorted(errors, reverse=True)
    assert drifts == sorted(drifts, reverse=True)
    assert drifts[-1] < 1e-3
    assert errors[-1] < 8 * math.log(8) * 0.02**2  # entropies of plans of 8 points: at most eps log 8 a term


def test_the_raw_cost_shrinks_the_law_and_the_divergence_does_not():
    """From the target: variance (1 - eps²...) falls for the raw cost, to a fixed point below; it stays for the divergence."""
    z = normal_quantiles(200)[:, None]
    raw, debiased = (SinkhornDivergence(Particles(z), blur=0.7, debias=b) for b in (False, True))
    ends = [solve(F, ForwardEuler(), Particles(z), step_size=0.2, num_steps=10).measure.x for F in (raw, debiased)]
    # The fixed point of s' = s (c_ab/s² - 1), c_ab = (sqrt(4 s² s*² + eps²) - eps)/2, is s² = s*² - eps for eps < s*².
    assert float(ends[1].var() / z.var()) == pytest.approx(1, abs=1e-6)
    assert float(ends[0].var() / z.var()) < 0.7
    long = solve(raw, ForwardEuler(), Particles(z), step_size=1.0, num_steps=30).measure.x
    assert float(long.square().mean()) == pytest.approx(float(z.square().mean()) - 0.49, abs=0.01)


# --- two modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("half", "eps", "steps"), [(2.0, 1.0, 150), (4.0, 0.1, 60)])
def test_mass_moves_between_modes(half, eps, steps):
    """Target masses .3 and .7, start .7 and .3. At half distance 4 and eps .1 a cold solver of 100 sweeps stays at .70."""
    modes, n = double([[-half, 0.0], [half, 0.0]]), 100
    target = GaussianMixture(modes, 0.3, double([0.3, 0.7])).draw(n, rng(1))
    start = GaussianMixture(modes, 0.3, double([0.7, 0.3])).draw(n, rng(2))
    F = SinkhornDivergence(target, blur=math.sqrt(eps), tol=1e-3)
    flow = solve(F, ForwardEuler(), start, step_size=0.3, num_steps=steps)
    wanted = float((target.x[:, 0] < 0).double().mean())
    assert float((flow.measure.x[:, 0] < 0).double().mean()) == pytest.approx(wanted, abs=0.03)


# --- geomloss ------------------------------------------------------------------------------------------------------------


def geomloss_of(rho, nu, blur, **kind):
    from geomloss import SamplesLoss

    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=0.99, backend="tensorized", **kind)
    x, w = rho.x.clone().requires_grad_(), rho.w.clone().requires_grad_()
    value = loss(w, x, nu.w, nu.x)
    return value.detach(), *torch.autograd.grad(value, (x, w))


@pytest.mark.parametrize("eps", [0.3, 1.0])
def test_geomloss_agrees(eps):
    """Its gradient is 1.7 % and 0.6 % off at these eps, by its annealing; measured for clouds of this size."""
    rho, nu = weighted(60, 3, 0), weighted(80, 3, 1, 1.0)
    F = Tight(nu, blur=math.sqrt(eps))
    value, dx, dw = geomloss_of(rho, nu, math.sqrt(eps))
    potential, gradient = Autograd().gradient(F, rho, None)
    assert float(F.value(rho)) == pytest.approx(float(value), rel=1e-3)
    assert float((gradient * rho.w[:, None] - dx).norm() / dx.norm()) < 0.02
    assert float((potential - (dw - rho.mean(dw))).norm() / potential.norm()) < 0.02
    backend = SinkhornDivergence(nu, blur=math.sqrt(eps), backend="geomloss")
    assert float(backend.value(rho)) == pytest.approx(float(F.value(rho)), rel=1e-3)
    v = velocity(F, rho)
    assert float((velocity(backend, rho) - v).norm() / v.norm()) < 0.02


@pytest.mark.parametrize("debias", [True, False])
def test_geomloss_agrees_with_soft_marginals(debias):
    """In the value. Its gradient is that of (ρ + ε/2) where the value's is that of (ρ + ε): short by their ratio."""
    blur, reach = 0.7, 1.5
    rho, nu = weighted(60, 3, 0), weighted(80, 3, 1, 1.0)
    F = Tight(nu, blur=blur, reach=reach, debias=debias)
    value, dx, _ = geomloss_of(rho, nu, blur, reach=reach, debias=debias)
    assert float(F.value(rho)) == pytest.approx(float(value), rel=2e-3)
    short = (reach**2 + blur**2 / 2) / (reach**2 + blur**2)
    gradient = -velocity(F, rho) * rho.w[:, None]
    assert float((gradient * short - dx).norm() / dx.norm()) < 0.02


# --- the solver ----------------------------------------------------------------------------------------------------------


def problem(n, m, d=2, seed=0):
    x, y = normal(1, n, d, seed=seed), normal(1, m, d, seed=seed + 1) + 1
    return x, normal(1, n, seed=seed + 2).log_softmax(1), y, normal(1, m, seed=seed + 3).log_softmax(1)


def plan(dual, x, log_a, y, log_b, eps):
    cost = (x[:, :, None] - y[:, None]).square().sum(3) / 2
    return torch.exp(log_a[:, :, None] + log_b[:, None] + (dual.f[:, :, None] + dual.g[:, None] - cost) / eps)


def row_sums_in_decimals(dual, x, log_a, y, log_b, eps):
    """Of the plan, to 30 digits: what the potentials are worth, without the rounding of exponents of size 1/eps in the test."""
    exact = lambda t: [Decimal(c) for c in t.flatten().tolist()]  # noqa: E731
    with localcontext(prec=30):
        rows = list(zip(map(exact, x[0]), exact(log_a), exact(dual.f), strict=True))
        columns = list(zip(map(exact, y[0]), exact(log_b), exact(dual.g), strict=True))

        def entry(p, log_p, f, q, log_q, g):
            cost = sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / 2
            return (log_p + log_q + (f + g - cost) / Decimal(eps)).exp()

        return double([[float(sum(entry(*row, *column) for column in columns)) for row in rows]])


@pytest.mark.parametrize("eps", [1.0, 0.1, 0.01, 1e-3, 1e-4])
def test_plans_have_the_right_marginals(eps):
    """Also for eps far below the squared spacing of the points (0.01), where sweeps alone would take thousands."""
    inputs = problem(60, 50)
    dual = sinkhorn(*inputs, Regularisation(eps, tol=1e-8))
    assert dual.converged
    assert dual.iterations < 500
    torch.testing.assert_close(row_sums_in_decimals(dual, *inputs, eps), inputs[1].exp(), rtol=0, atol=1e-12)
    assert float((plan(dual, *inputs, eps).sum(1) - inputs[3].exp()).abs().sum()) < 1e-7


def test_problems_of_a_batch_do_not_touch_each_other():
    one, two = problem(20, 30), problem(20, 30, seed=9)
    both = sinkhorn(*(torch.cat(pair) for pair in zip(one, two, strict=True)), Regularisation(0.3, tol=1e-12))
    for k, inputs in enumerate((one, two)):
        alone = sinkhorn(*inputs, Regularisation(0.3, tol=1e-12))
        torch.testing.assert_close(both.f[k] - both.f[k].mean(), (alone.f - alone.f.mean())[0], rtol=0, atol=1e-9)


def test_blocks_and_stored_kernels_change_nothing(monkeypatch):
    inputs, reg = problem(50, 40), Regularisation(0.05, tol=1e-10)
    whole = sinkhorn(*inputs, reg)
    monkeypatch.setattr("wgflow.numerics.sinkhorn_problem.STORED_CPU", 0)
    monkeypatch.setattr("wgflow.numerics.softmin.BLOCK_CPU", 640)
    pieces = sinkhorn(*inputs, reg)
    torch.testing.assert_close(whole.f + whole.g.mean(), pieces.f + pieces.g.mean(), rtol=0, atol=1e-8)
    x, _, y, log_b = inputs
    cost = (x[:, :, None] - y[:, None]).square().sum(3) / 2
    direct = -0.05 * torch.logsumexp(log_b[:, None] - cost / 0.05, 2)
    torch.testing.assert_close(softmin(0.05, x, y, log_b), direct, rtol=0, atol=1e-12)


def test_points_far_from_the_origin_and_points_without_mass():
    rho, nu = weighted(20, 2, 0), weighted(25, 2, 1, 1.0)
    F, shift = Tight(nu, blur=0.5), double([1e4, -1e4])
    far = Tight(Particles(nu.x + shift, nu.log_w), blur=0.5)
    assert float(far.value(Particles(rho.x + shift, rho.log_w))) == pytest.approx(float(F.value(rho)), rel=1e-9)
    more = Particles(torch.cat([rho.x, 9 + rho.x[:1]]), torch.cat([rho.log_w, double([-math.inf])]))
    assert float(F.value(more)) == pytest.approx(float(F.value(rho)), rel=1e-12)
    v = velocity(F, more)
    torch.testing.assert_close(v[:-1], velocity(F, rho), rtol=0, atol=1e-9)


def test_single_precision_agrees_with_double():
    rho, nu = weighted(200, 3, 0), weighted(150, 3, 1, 1.0)
    F = [SinkhornDivergence(Particles(nu.x.to(t), nu.log_w.to(t)), blur=0.5) for t in (torch.float32, torch.float64)]
    p = [Particles(rho.x.to(t), rho.log_w.to(t)) for t in (torch.float32, torch.float64)]
    assert float(F[0].value(p[0])) == pytest.approx(float(F[1].value(p[1])), rel=1e-4)
    v = [velocity(f, q).double() for f, q in zip(F, p, strict=True)]
    assert float((v[0] - v[1]).norm() / v[1].norm()) < 1e-3


def test_what_has_not_converged_says_so():
    rho, F = weighted(30, 2, 0), SinkhornDivergence(weighted(30, 2, 1, 1.0), blur=0.05, max_iters=1)
    with pytest.warns(NotConverged, match=r"sinkhorn has not converged: residual .*, asked for 1e-06. Increase blur"):
        F.value(rho)
    assert not F.report(rho).converged


@pytest.mark.parametrize("blur", [1e-6, 1e-4])
def test_where_no_plan_is_found_a_point_still_moves_to_a_mean_of_the_others(blur):
    """A blur far below all distances: the velocity was NaN, and the flow ended with advice on learning rates."""
    x, y = (torch.randn(150, 2, generator=rng(seed)) + shift for seed, shift in ((0, 0), (1, 3)))
    F = SinkhornDivergence(Particles(y), blur=blur, tol=1e-2, debias=False, max_iters=200)
    with pytest.warns(NotConverged, match="Increase blur"):
        ends = x + velocity(F, Particles(x))
    assert bool(((ends >= y.amin(0) - 1e-4) & (ends <= y.amax(0) + 1e-4)).all())


def test_the_target_term_is_remembered(monkeypatch):
    calls = []
    from wgflow.functionals import sinkhorn as module

    real = module.solve_self
    monkeypatch.setattr(module, "solve_self", lambda x, *rest: calls.append(len(x[0])) or real(x, *rest))
    F = SinkhornDivergence(Particles(normal(25, 2)), blur=0.5)
    for k in range(3):
        F.at(k, 0.0).freeze(rng()).value(Particles(normal(20, 2, seed=k)))
    assert calls.count(25) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blur": 0.0}, "blur=0.0"),
        ({"blur": math.nan}, "blur=nan"),
        ({"blur": 1.0, "reach": -1.0}, "reach=-1.0"),
        ({"blur": 1.0, "tol": 0.0}, "tol=0.0"),
        ({"blur": 1.0, "max_iters": 0}, "max_iters=0"),
        ({"blur": 1.0, "backend": "keops"}, "backend='keops'"),
        ({"blur": 1.0, "backend": "geomloss", "reach": 1.0}, "leave reach and debias out"),
        ({"blur": 1.0, "backend": "geomloss", "debias": False}, "leave reach and debias out"),
        ({"blur": 1.0, "batch": 0}, "batch=0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(BadInput, match=message):
        SinkhornDivergence(Particles(torch.zeros(2, 2)), **options)


def test_clouds_that_cannot_be_compared():
    F = SinkhornDivergence(Particles(torch.zeros(2, 3)), blur=1.0)
    for x in (torch.zeros(2, 2), torch.zeros(2, 3).double()):
        with pytest.raises(BadInput, match="cannot be compared"):
            F.value(Particles(x))


def test_points_that_are_not_finite_stop_the_solver():
    F = SinkhornDivergence(Particles(torch.zeros(2, 2)), blur=1.0)
    with pytest.warns(NotConverged, match="residual nan"):
        assert not math.isfinite(float(F.value(Particles(torch.full((2, 2), torch.nan)))))
