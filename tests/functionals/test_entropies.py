"""C1: every row of the entropy catalogue against its formula, a numerical conjugate and quadrature between Gaussians."""

import math

import pytest
import torch
from _exact import ENTROPIES, Table, double, gaussian_kl, trapezoid
from scipy.integrate import quad
from torch.nn import functional as nnf

from wgflow import FUNCTIONALS, Gaussian, Particles, StandardNormal, entropy

LOG2 = math.log(2)
TARGET = StandardNormal(1)
# Conjugate and slope, written from the catalogue in plain floating-point arithmetic.
CATALOGUE = {
    "identity": (lambda u: u, lambda u: 1.0),
    "kl": (lambda u: math.exp(u) - 1, math.exp),
    "kl_uncentred": (lambda u: math.exp(u - 1), lambda u: math.exp(u - 1)),
    "kl_dv": (lambda u: math.exp(u) - 1, math.exp),
    "chi2": (lambda u: u + u * u / 4 if u >= -2 else -1.0, lambda u: max(1 + u / 2, 0.0)),
    "chi2_signed": (lambda u: u + u * u / 4, lambda u: 1 + u / 2),
    "chi2_tight": (lambda u: u + u * u / 4 if u >= -2 else -1.0, lambda u: max(1 + u / 2, 0.0)),
    "softplus": (lambda u: 2 * math.log1p(math.exp(u)) - 2 * LOG2, lambda u: 2 / (1 + math.exp(-u))),
    "js_exact": (lambda u: -math.log(2 - math.exp(u)), lambda u: math.exp(u) / (2 - math.exp(u))),
    "js_nonsat": (
        lambda u: 2 * math.exp(u) - u - 2 if u >= -LOG2 else LOG2 - 1,
        lambda u: max(2 * math.exp(u) - 1, 0.0),
    ),
}


END = {"js_exact": LOG2}  # where a conjugate becomes infinite


def points(name):
    """Arguments of the conjugate inside its domain and off its kinks."""
    return double([u for u in (-3.0, -1.0, -0.3, 0.0, 0.3, 0.5, 2.0) if u < END.get(name, math.inf)])


def test_every_registered_entropy_has_its_row():
    assert set(CATALOGUE) == set(ENTROPIES)


@pytest.mark.parametrize("name", ENTROPIES)
def test_conjugate_and_ratio_are_those_of_the_catalogue(name):
    F, u = entropy(name, TARGET), points(name)
    f_star, ratio = CATALOGUE[name]
    torch.testing.assert_close(F.f_star(u), double([f_star(x) for x in u.tolist()]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(F.ratio(u), double([ratio(x) for x in u.tolist()]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "u", "value"),
    [
        ("kl", 2.0, 6.3891),
        ("chi2", -3.0, -1.0),
        ("softplus", 1.0, 1.2402),
        ("js_exact", 0.3, 0.4306),
        ("js_nonsat", 0.5, 0.79744),
        ("js_nonsat", -2.0, -0.30685),
    ],
)
def test_conjugates_at_the_values_of_the_specification(name, u, value):
    assert float(entropy(name, TARGET).f_star(double(u))) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize("name", ENTROPIES)
def test_conjugate_is_the_supremum_over_a_grid_of_ratios(name):
    F = entropy(name, TARGET)
    low = -20 if name == "chi2_signed" else 0
    p = torch.arange(low * 4096, 20 * 4096, dtype=torch.float64) / 4096  # holds 1 exactly, for the hard constraint
    sup = torch.stack([(p * u - F.f(p)).max() for u in points(name)])
    # Off the grid by at most 1/8192 where f'' is below 60.
    torch.testing.assert_close(F.f_star(points(name)), sup, rtol=0, atol=60 / 2 / 8192**2)


@pytest.mark.parametrize("name", ENTROPIES)
def test_entropies_are_centred(name):
    F = entropy(name, TARGET)
    u = double(1.0 if name == "kl_uncentred" else 0.0)  # the uncentred row is the others' shifted by one
    assert float(F.f(double(1.0))) == 0
    assert float(F.f_star(u)) == pytest.approx(float(u), abs=1e-15)
    assert float(F.ratio(u)) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("name", ENTROPIES)
def test_ratio_is_the_slope_of_a_convex_nondecreasing_conjugate(name):
    F = entropy(name, TARGET)
    u = torch.linspace(-6, END.get(name, 6.0) - 0.003, 997, dtype=torch.float64).requires_grad_(True)
    (slope,) = torch.autograd.grad(F.f_star(u).sum(), u)
    torch.testing.assert_close(slope, F.ratio(u).detach(), rtol=1e-9, atol=1e-12)
    assert bool((slope.diff() >= -1e-12).all())
    assert name == "chi2_signed" or bool((slope >= 0).all())


@pytest.mark.parametrize("name", [n for n in ENTROPIES if n != "identity"])
def test_fenchel_young_for_the_integrands_with_equality_at_the_slope(name):
    F = entropy(name, TARGET)
    p = torch.linspace(0.02, 1.98, 50, dtype=torch.float64).requires_grad_(True)
    (slope,) = torch.autograd.grad(F.f(p).sum(), p)
    torch.testing.assert_close(F.f(p) + F.f_star(slope), p * slope, rtol=1e-9, atol=1e-12)
    u = points(name)[:, None]
    assert bool((F.f(p) + F.f_star(u) - p * u >= -1e-12).all())
    torch.testing.assert_close(F.ratio(slope), p, rtol=1e-9, atol=1e-12)


def gaussian_pair(name, m, s):
    """D(N(m, s²) | N(0, 1)) by the library, on an even grid that holds the mass of both."""
    x = torch.linspace(-11, 11, 1101, dtype=torch.float64)[:, None]
    rho = Gaussian(double([m]), double([[s * s]]))
    nodes = Particles(x, log_w=rho.log_prob(x), log_rho=rho.log_prob(x))
    return float(entropy(name, Gaussian(double([0.0]), double([[1.0]]))).value(nodes))


@pytest.mark.parametrize("name", [n for n in ENTROPIES if n != "identity"])
def test_the_estimator_of_the_value_has_no_term_in_one_over_the_ratio(name):
    F = entropy(name, StandardNormal(1))
    r = torch.linspace(0.02, 1.98, 50, dtype=torch.float64)
    at_0 = F.f(torch.zeros_like(r))
    torch.testing.assert_close(F.perspective(r.log()), (F.f(r) - at_0) / r + at_0, rtol=1e-9, atol=1e-12)
    # Its slope in log r is f'(r) - (f(r) - f(0)) / r, about r f''(r) / 2: rounding must not show where r is nearly 0.
    small = torch.tensor([-30.0, -12.0, -3.0]).requires_grad_(True)
    (slope,) = torch.autograd.grad(F.perspective(small).sum(), small)
    exact = small.detach().double().requires_grad_(True)
    (right,) = torch.autograd.grad(F.perspective(exact).sum(), exact)
    torch.testing.assert_close(slope.double(), right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("m", "s"), [(0.5, 0.8), (0.1, 0.9), (-0.3, 0.7)])
@pytest.mark.parametrize("name", [n for n in ENTROPIES if n != "identity"])
def test_value_between_gaussians(name, m, s):
    def p(x):
        return math.exp(-((x - m) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi))

    def q(x):
        return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def kl(a, b):
        return quad(lambda x: a(x) * math.log(a(x) / b(x)), m - 9, m + 9, epsabs=1e-12, limit=200)[0]

    def middle(x):
        return (p(x) + q(x)) / 2

    expected = {
        "kl": lambda: gaussian_kl(m, s, 0, 1),
        # Needs 2 > s².
        "chi2": lambda: math.exp(m * m / (2 - s * s)) / (s * math.sqrt(2 - s * s)) - 1,
        # Finite: the ratio of these pairs stays below 2.
        "softplus": lambda: kl(p, q) + kl(lambda x: 2 * q(x) - p(x), q),
        "js_exact": lambda: kl(p, middle) + kl(q, middle),
        "js_nonsat": lambda: 2 * kl(middle, q),
    }
    same = {"kl_uncentred": "kl", "kl_dv": "kl", "chi2_signed": "chi2", "chi2_tight": "chi2"}
    assert gaussian_pair(name, m, s) == pytest.approx(expected[same.get(name, name)](), abs=1e-9)


def test_the_softplus_entropy_forbids_ratios_above_two():
    assert gaussian_pair("softplus", 0.1, 0.9) < math.inf
    assert gaussian_pair("softplus", 1.5, 0.5) == math.inf


def test_jensen_shannon_is_symmetric_and_bounded():
    a, b = Gaussian(double([0.0]), double([[1.0]])), Gaussian(double([0.7]), double([[0.4]]))
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]

    def js(p, q):
        return float(entropy("js_exact", q).value(Particles(x, log_w=p.log_prob(x), log_rho=p.log_prob(x))))

    assert js(a, b) == pytest.approx(js(b, a), abs=1e-9)
    # Lin's bounds by the common mass t of N(6, 1) and N(0, 1): 2 log 2 - 2 h(t/2) <= 2 JS <= 2 (1 - t) log 2.
    t = math.erfc(3 / math.sqrt(2))
    h = -t / 2 * math.log(t / 2) - (1 - t / 2) * math.log(1 - t / 2)
    assert 2 * LOG2 - 2 * h <= gaussian_pair("js_exact", 6.0, 1.0) <= 2 * (1 - t) * LOG2


def test_the_hard_constraint_is_zero_on_the_target_and_infinite_elsewhere():
    F = entropy("identity", TARGET)
    assert F.f(double([1.0, 0.999, 0.0])).tolist() == [0.0, math.inf, math.inf]


# The logit of the two GAN forms, seen as a first variation; -v for the others.
WITNESS = {"js_exact": lambda v: LOG2 - nnf.softplus(v), "js_nonsat": lambda v: nnf.softplus(-v) - LOG2}


@pytest.mark.parametrize("name", ENTROPIES)
def test_witness_maps_any_critic_into_the_domain_of_the_conjugate(name):
    F = entropy(name, TARGET)
    v = torch.linspace(-12, 12, 401, dtype=torch.float64)
    u = F.witness(v)
    assert torch.equal(u, WITNESS.get(name, torch.neg)(v))
    assert bool(torch.isfinite(F.f_star(u)).all())
    assert bool((u.diff() < 0).all()), "a critic is high on data, its witness low"


def test_the_two_gan_forms_at_their_witnesses():
    v = torch.linspace(-12, 12, 401, dtype=torch.float64)
    exact, nonsat = entropy("js_exact", TARGET), entropy("js_nonsat", TARGET)
    # The conjugate of the first is the data term of the GAN objective; both slopes are the ratio e^{-v} of the logit.
    torch.testing.assert_close(exact.f_star(exact.witness(v)), nnf.softplus(-v) - LOG2, rtol=1e-7, atol=1e-9)
    for F in (exact, nonsat):
        torch.testing.assert_close(F.ratio(F.witness(v)), (-v).exp(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "cap"), [("kl", 20.0), ("kl_uncentred", 21.0), ("js_nonsat", 20.0)])
def test_exponential_conjugates_go_on_along_their_tangent(name, cap, dtype):
    F = entropy(name, TARGET)
    at, above = torch.tensor(cap, dtype=dtype), torch.tensor([cap + 5, 1e3, 1e6], dtype=dtype)
    exact = CATALOGUE[name][0](cap - 0.01)
    assert float(F.f_star(at - 0.01)) == pytest.approx(exact, rel=1e-5)
    tangent = F.f_star(at) + (above - at) * F.ratio(at)
    torch.testing.assert_close(F.f_star(above), tangent, rtol=1e-6, atol=0)
    u = torch.cat([torch.linspace(cap - 3, cap + 3, 601, dtype=dtype), above]).requires_grad_(True)
    (slope,) = torch.autograd.grad(F.f_star(u).sum(), u)
    torch.testing.assert_close(slope, F.ratio(u).detach(), rtol=1e-5, atol=0)
    assert bool((slope.diff() >= 0).all())
    assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("name", ENTROPIES)
def test_one_badly_misranked_data_point_keeps_objective_gradient_and_mass_finite_in_float32(name):
    atoms = torch.tensor([[0.0], [1.0]])
    net = Table(atoms)
    net.v.data = torch.tensor([0.0, -60.0])
    F = FUNCTIONALS[name](Particles(atoms))
    objective = F.variational(net, Particles(atoms[:1]))
    (grad,) = torch.autograd.grad(objective, net.v)
    assert bool(torch.isfinite(objective))
    assert bool(torch.isfinite(grad).all())
    assert all(bool(torch.isfinite(value)) for value in F.diagnostics(net).values())


def test_donsker_varadhan_is_the_tighter_bound_and_agrees_at_the_optimum():
    nu = trapezoid()
    rho = trapezoid(0.4, 0.8)
    classical, dv = (FUNCTIONALS[name](nu) for name in ("kl", "kl_dv"))
    for a, b, c in [(0.3, -0.2, 0.1), (0.0, 1.0, -2.0), (-0.2, 0.4, 3.0)]:
        net = lambda y, a=a, b=b, c=c: a * y[:, 0].square() + b * y[:, 0] + c  # noqa: E731
        assert float(dv.variational(net, rho)) > float(classical.variational(net, rho))

    def best(y):  # -log(rho/nu)
        return 0.5 * ((y[:, 0] - 0.4) / 0.8).square() - 0.5 * y[:, 0].square() + math.log(0.8)

    for F in (classical, dv):
        assert float(F.variational(best, rho)) == pytest.approx(gaussian_kl(0.4, 0.8, 0, 1), abs=1e-12)


def test_chi2_tight_reaches_chi2_at_any_multiple_of_the_ratio_and_nowhere_more():
    atoms, nu, rho = double([[0.0], [1.0], [2.0]]), double([0.2, 0.3, 0.5]), double([0.5, 0.3, 0.2])
    F, net = FUNCTIONALS["chi2_tight"](Particles(atoms, nu.log())), Table(atoms)
    exact = float(((rho - nu).square() / nu).sum())
    for scale in (0.3, 1.0, 40.0):
        net.v.data = -torch.log(torch.expm1(scale * rho / nu))  # softplus(-v) = scale * ratio
        assert F.variational(net, Particles(atoms, rho.log())).item() == pytest.approx(exact, abs=1e-12)
    for seed in range(20):
        net.v.data = 3 * torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert F.variational(net, Particles(atoms, rho.log())).item() < exact
