"""Kernels, their rules, and sums over pairs in blocks, against dense double precision and formulas from elsewhere."""

import itertools
import math

import pytest
import torch
from _exact import double, rng
from scipy.integrate import quad
from scipy.special import gamma, kv

from wgflow import BadInput, KernelDensity, Unsupported
from wgflow.functionals.mmd import EnergyDistance, SquaredMMD
from wgflow.kernels import (
    MOST_FOR_A_RULE,
    RBF,
    InverseMultiquadric,
    KernelSum,
    Laplace,
    Logarithmic,
    Matern,
    MedianRBF,
    Morse,
    NearestRBF,
    PowerLaw,
    Riesz,
)
from wgflow.kernels.stein_sums import stein_sums
from wgflow.kernels.sums import kernel_energy, kernel_sums
from wgflow.measures import Particles
from wgflow.numerics import cache, distances
from wgflow.numerics.cache import remember
from wgflow.numerics.distances import Distances
from wgflow.numerics.pairs import pair_energy

KERNELS = {
    "rbf": RBF(0.8),
    "rbf_tensor": RBF(double(0.8)),
    "laplace": Laplace(0.7),
    "imq": InverseMultiquadric(1.3),
    "imq_power": InverseMultiquadric(1.3, 0.7),
    "matern32": Matern(1.1),
    "matern52": Matern(1.1, 2.5),
    "riesz": Riesz(),
    "riesz_power": Riesz(1.5),
    "log": Logarithmic(),
    "linear": PowerLaw(1),
    "square": PowerLaw(2),
    "cube": PowerLaw(3),
    "quartic": PowerLaw(4),
    "coulomb": PowerLaw(-1),
    "morse": Morse(2.0, 0.5, 1.0, 1.5),
    "sum": RBF(1.0) + 0.5 * Laplace(2.0),
    "bandwidths": sum(RBF(b) for b in (0.5, 1.0, 2.0)),
}
TWICE = ["rbf", "rbf_tensor", "imq", "imq_power", "bandwidths"]
each_kernel = pytest.mark.parametrize("name", KERNELS)
SHAPES = [((1,), 49), ((2,), 1), ((2,), 2**18), ((6,), 49), ((2, 3, 2), 49)]
in_blocks = pytest.mark.parametrize(("event", "block"), SHAPES)


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def rand(*shape, seed=0):
    return torch.rand(shape, dtype=torch.float64, generator=rng(seed))


def pairs(event, seed=0):
    """13 and 9 points, some of them at the same place, with positive weights; all differentiable."""
    x, y = randn(13, *event, seed=seed), randn(9, *event, seed=seed + 1)
    x[6], y[0] = x[5], x[3]
    tensors = x, rand(13, seed=seed + 2), y, rand(9, seed=seed + 3)
    return tuple(t.requires_grad_(True) for t in tensors)


def dense(kernel, x, y):
    """All pairs from differences; those at the same place contribute the value at 0 and no force."""
    s = (x[:, None] - y[None]).flatten(2).square().sum(2)
    same = s.detach() == 0
    return torch.where(same, kernel.profile(torch.zeros_like(s)).detach(), kernel.profile(torch.where(same, 1.0, s)))


def assert_equal_with_gradients(ours, theirs, inputs, cotangent=1.0, rtol=1e-10):
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-12)
    found = torch.autograd.grad((cotangent * ours).sum(), inputs)
    expected = torch.autograd.grad((cotangent * theirs).sum(), inputs)
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape
        torch.testing.assert_close(f, e, rtol=rtol, atol=1e-10 * (1 + float(e.abs().max())))


# --- functions of the squared distance -----------------------------------------------------------------------------


@each_kernel
def test_slope_is_the_derivative_of_the_profile(name):
    k, s = KERNELS[name], rand(40).add(0.05).requires_grad_(True)
    slope = k.slope(s.detach())
    torch.testing.assert_close(torch.autograd.grad(k.profile(s).sum(), s)[0], slope, rtol=1e-12, atol=1e-13)
    h = 1e-5  # central differences: an error of some h² from the third derivative, and eps / h from rounding
    difference = (k.profile(s.detach() + h) - k.profile(s.detach() - h)) / (2 * h)
    torch.testing.assert_close(difference, slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", TWICE)
def test_curvature_is_the_derivative_of_the_slope(name):
    k, s = KERNELS[name], rand(40).requires_grad_(True)
    torch.testing.assert_close(torch.autograd.grad(k.slope(s).sum(), s)[0], k.curvature(s.detach()))


@pytest.mark.parametrize("name", [n for n in KERNELS if n not in TWICE])
def test_kernels_without_a_curvature_say_so(name):
    with pytest.raises(Unsupported, match="second derivative"):
        KERNELS[name].curvature(torch.ones(1))


@each_kernel
def test_evaluate_is_profile_and_slope(name):
    k, s = KERNELS[name], torch.cat([double([0.0, 0.0]), 5 * rand(30)])
    value, q, c = k.evaluate(s.clone())
    torch.testing.assert_close(value, k.profile(s), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(c * q, k.slope(s), rtol=1e-13, atol=1e-14)
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(q).all())
    if not k.smooth and not isinstance(k, KernelSum):
        assert (c * q)[:2].tolist() == [0.0, 0.0], "coincident particles do not act on each other"


R = double([0.1, 0.5, 1.0, 2.0, 4.0])
FORMULAS = {
    "rbf": torch.exp(-R.square() / (2 * 0.64)),
    "rbf_tensor": torch.exp(-R.square() / (2 * 0.64)),
    "laplace": torch.exp(-R / 0.7),
    "imq": 1 / torch.sqrt(1 + (R / 1.3) ** 2),
    "imq_power": (1 + (R / 1.3) ** 2) ** -0.7,
    "riesz": -R,
    "riesz_power": -(R**1.5),
    "log": -torch.log(R),
    "linear": R,
    "square": R.square() / 2,
    "cube": R**3 / 3,
    "quartic": R**4 / 4,
    "coulomb": -1 / R,
    "morse": 2 * torch.exp(-R / 0.5) - torch.exp(-R / 1.5),
    "sum": torch.exp(-R.square() / 2) + 0.5 * torch.exp(-R / 2),
    "bandwidths": torch.exp(-2 * R**2) + torch.exp(-(R**2) / 2) + torch.exp(-(R**2) / 8),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_profile_is_the_formula(name):
    torch.testing.assert_close(KERNELS[name].profile(R.square()), FORMULAS[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize("nu", [1.5, 2.5])
def test_matern_is_the_bessel_function(nu):
    a = math.sqrt(2 * nu) * R.numpy() / 1.1
    expected = 2 ** (1 - nu) / gamma(nu) * a**nu * kv(nu, a)
    torch.testing.assert_close(Matern(1.1, nu).profile(R.square()), double(expected), rtol=1e-11, atol=0)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("kernel", [RBF(0.8), RBF(double(0.8)), RBF(0.5) + 2.0 * RBF(1.5)], ids=str)
def test_the_integral_of_a_kernel(kernel, d):
    sphere = 2 * math.pi ** (d / 2) / gamma(d / 2)
    integral = quad(lambda r: sphere * r ** (d - 1) * float(kernel.profile(double(r * r))), 0, 20)[0]
    assert math.exp(kernel.log_integral(d)) == pytest.approx(integral, rel=1e-8)


def test_a_kernel_density_is_a_density():
    """Its integral over a grid is 1, with weights, and a mixed kernel counts with its factors."""
    of = Particles(double([[-1.0], [0.5], [2.0]]), torch.log(double([0.2, 0.5, 0.3])))
    grid = Particles(torch.arange(-12, 12, 0.05, dtype=torch.float64)[:, None])
    for kernel in (RBF(0.7), RBF(0.5) + 3.0 * RBF(1.0)):
        density = KernelDensity(kernel).log_density(grid, of).exp()
        assert float(density.sum()) * 0.05 == pytest.approx(1, abs=1e-12)  # trapezoidal: exact for Gaussians


@pytest.mark.parametrize("kernel", [Laplace(1.0), Riesz(), Morse(1.0, 1.0, 1.0, 2.0), RBF(1.0) + (-0.5) * RBF(0.5)])
def test_what_is_not_a_density_says_so(kernel):
    with pytest.raises(Unsupported, match="density"):
        kernel.log_integral(2)


def test_sums_and_multiples():
    k = 2 * (RBF(1.0) + 0.5 * Riesz()) + Laplace(1.0)
    assert k == KernelSum(((2, RBF(1.0)), (1.0, Riesz()), (1.0, Laplace(1.0))))
    assert not k.smooth
    assert k.characteristic
    assert not k.sorts
    assert not (RBF(1.0) + (-1.0) * RBF(2.0)).characteristic
    assert not (RBF(1.0) + PowerLaw(2.0)).characteristic  # its MMD² would be negative far from the target
    assert (RBF(1.0) + RBF(2.0)).smooth
    assert k.fit(randn(3, 2)) is k
    fitted = (RBF(1.0) + 2.0 * MedianRBF()).fit(randn(5, 2))
    assert fitted.terms[0] == (1.0, RBF(1.0))
    assert float(fitted.terms[1][1].bandwidth) == pytest.approx(float(MedianRBF().bandwidth(randn(5, 2))))


@pytest.mark.parametrize("name", ["rbf", "laplace", "imq", "imq_power", "matern32", "matern52", "sum", "bandwidths"])
def test_reproducing_kernels_are_positive_definite(name):
    x = randn(30, 2)
    assert float(torch.linalg.eigvalsh(KERNELS[name](x, x)).min()) > -1e-12


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_riesz_kernels_are_positive_definite_on_differences_of_laws(power):
    x, K = randn(30, 2), Riesz(power)
    centre = torch.eye(30, dtype=torch.float64) - 1 / 30
    assert float(torch.linalg.eigvalsh(centre @ K(x, x) @ centre).min()) > -1e-12


@pytest.mark.parametrize(
    "make",
    [
        lambda: RBF(0.0),
        lambda: RBF(math.inf),
        lambda: Laplace(-1.0),
        lambda: InverseMultiquadric(1.0, 0.0),
        lambda: Matern(0.0),
        lambda: Matern(1.0, 2.0),
        lambda: Riesz(2.0),
        lambda: Riesz(0.0),
        lambda: PowerLaw(0),
        lambda: PowerLaw(math.nan),
        lambda: MedianRBF(0.0),
    ],
)
def test_parameters_out_of_range(make):
    with pytest.raises(BadInput, match="expected"):
        make()


# --- bandwidths from the particles ---------------------------------------------------------------------------------


def test_median_rule():
    x = randn(41, 2, 2)
    squares = sorted(float((x[i] - x[j]).square().sum()) for i, j in itertools.combinations(range(41), 2))
    h = squares[(len(squares) - 1) // 2] / math.log(42)  # exp(-r²/h)
    fitted = MedianRBF(1.5).fit(x)
    assert float(fitted.bandwidth) == pytest.approx(1.5 * math.sqrt(h / 2), rel=1e-12)


def test_nearest_neighbour_rule():
    for x in (randn(150, 2), randn(150, 7), randn(150, 1)):
        r2 = (x[:, None] - x).square().sum(2).fill_diagonal_(math.inf).amin(1)
        assert float(NearestRBF().fit(x).bandwidth) == pytest.approx(math.sqrt(r2.mean()), rel=1e-6)


@pytest.mark.parametrize("rule", [MedianRBF(), NearestRBF()])
def test_rules_are_lengths_without_gradient_and_look_at_some_points_of_many(rule):
    x = randn(MOST_FOR_A_RULE + 500, 2)
    assert float(rule.bandwidth(3 * x)) == pytest.approx(3 * float(rule.bandwidth(x)), rel=1e-10)
    fitted = rule.fit(x.requires_grad_(True))
    assert not fitted.bandwidth.requires_grad
    assert float(rule.bandwidth(x[:1])) == 1.0
    assert float(rule.fit(torch.zeros(3, 2)).bandwidth) > 0, "coincident particles: no division by zero"
    with pytest.raises(Unsupported, match="call fit"):
        rule.profile(torch.ones(1))


RULES = [MedianRBF(), NearestRBF()]
each_rule = pytest.mark.parametrize("rule", RULES, ids=["median", "nearest"])


@each_rule
@pytest.mark.parametrize("n", [60, MOST_FOR_A_RULE + 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rule_does_not_depend_on_the_order_of_particles(rule, n, dtype):
    """Two clusters: any order against their blocks, in which every second particle would do, and against alternation, where not."""
    a, b = (0.3 * randn(n // 2, 2, seed=k).to(dtype) + c for k, c in ((0, 5), (1, -5)))
    blocks, w = torch.cat([a, b]), rand(n, seed=2).log()
    orders = [torch.arange(n).view(2, -1).T.flatten(), torch.randperm(n, generator=rng(3)), torch.arange(n).flip(0)]
    for order in orders:
        assert float(rule.bandwidth(blocks[order])) == pytest.approx(float(rule.bandwidth(blocks)), rel=1e-6)
        weighted = [float(rule.bandwidth(blocks[order], w[order])), float(rule.bandwidth(blocks, w))]
        assert weighted[0] == pytest.approx(weighted[1], rel=1e-6)


@pytest.mark.parametrize(("rule", "allowed"), [(MedianRBF(), 0.05), (NearestRBF(), 0.1)], ids=["median", "nearest"])
def test_some_particles_of_many_stand_for_all(rule, allowed, monkeypatch):
    """Their number is a thousand; the mean of a thousand squared distances of neighbours has an error of 3 % at least."""
    x = randn(5000, 2)
    some = float(rule.bandwidth(x))
    monkeypatch.setattr("wgflow.kernels.rules.MOST_FOR_A_RULE", 5000)
    assert some == pytest.approx(float(rule.bandwidth(x)), rel=allowed)


@each_rule
@pytest.mark.parametrize("n", [40, MOST_FOR_A_RULE])
def test_weights_of_a_rule_are_repetitions(rule, n):
    """A particle of weight 3 is three particles at its place, and one of weight 0 is none."""
    x, times = randn(n, 2), torch.arange(n) % 3
    weighted = float(rule.bandwidth(x, times.double().log()))
    many = float(rule.bandwidth(x.repeat_interleave(times, 0)))
    if isinstance(rule, MedianRBF):  # the logarithm counts particles, of those with mass
        weighted, many = weighted**2 * math.log(int((times > 0).sum()) + 1), many**2 * math.log(int(times.sum()) + 1)
    assert weighted == pytest.approx(many, rel=1e-12 if n < 1000 else 0.02)
    torch.testing.assert_close(rule.bandwidth(x, double(0.3).expand(n)), rule.bandwidth(x), rtol=1e-12, atol=0)


@each_rule
@pytest.mark.parametrize("event", [(2,), (6,)])
def test_a_rule_counts_no_distances_of_0(rule, event):
    x = randn(30, *event)
    twice = float(rule.bandwidth(x.repeat(2, *[1] * len(event))))
    if isinstance(rule, MedianRBF):
        twice *= math.sqrt(math.log(61) / math.log(31))
    assert twice == pytest.approx(float(rule.bandwidth(x)), rel=1e-12)
    most = torch.cat([torch.zeros(80, *event, dtype=torch.float64), x])
    assert float(rule.bandwidth(most)) > 0.1
    assert float(rule.bandwidth(torch.ones(5, *event))) == 1, "particles at one place have no length of their own"


@each_rule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_a_rule_takes_twins_that_rounding_has_parted_for_one_point(rule, dtype, offset):
    x = (randn(30, 2) + offset).to(dtype)
    parted = torch.nextafter(x, torch.full_like(x, torch.inf))
    twice = float(rule.bandwidth(torch.cat([x, parted])))
    if isinstance(rule, MedianRBF):
        twice *= math.sqrt(math.log(61) / math.log(31))
    assert twice == pytest.approx(float(rule.bandwidth(x)), rel=1e-4)


@each_rule
@pytest.mark.parametrize("n", [20, 4000])
def test_a_rule_counts_all_gaps_between_points_on_a_line_in_single_precision(rule, n):
    x = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    assert float(rule.bandwidth(x.float())) == pytest.approx(float(rule.bandwidth(x)), rel=1e-3)


@each_rule
@pytest.mark.parametrize("unit", [1e-30, 1e-8, 1e8, 1e20])
def test_a_rule_of_single_precision_in_any_unit(rule, unit):
    x = (unit * randn(50, 3)).float()
    assert float(rule.bandwidth(x)) == pytest.approx(unit * float(rule.bandwidth(randn(50, 3))), rel=1e-6)
    assert bool(torch.isfinite(kernel_sums(rule.fit(x), x, x, torch.ones(50))).all())


@each_rule
def test_a_bandwidth_that_is_not_a_number_names_the_rule(rule):
    x = randn(10, 2)
    x[3, 1] = math.nan
    if isinstance(rule, NearestRBF):
        with pytest.raises(BadInput, match=r"NearestRBF\(\).*particle 3"):
            rule.fit(x)
    with pytest.raises(BadInput, match=f"{type(rule).__name__}.*particle 0"):
        rule.fit(x * math.nan)
    for bad in (math.nan, 0.0, math.inf):
        with pytest.raises(BadInput, match="bandwidth"):
            RBF(torch.tensor(bad))


# --- sums over pairs -----------------------------------------------------------------------------------------------


@in_blocks
@each_kernel
def test_sums_over_pairs_equal_the_dense_ones_with_all_gradients(name, event, block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_CPU", block)
    k = KERNELS[name]
    x, a, y, b = pairs(event)
    assert_equal_with_gradients(kernel_energy(k, x, a, y, b), a @ dense(k, x, y) @ b, (x, a, y, b))
    assert_equal_with_gradients(kernel_energy(k, x, a), a @ dense(k, x, x) @ a, (x, a))
    assert_equal_with_gradients(kernel_energy(k, x, a, x, a + 1), a @ dense(k, x, x) @ (a + 1), (x, a))
    g = randn(13, seed=7)
    assert_equal_with_gradients(kernel_sums(k, x, y, b), dense(k, x, y) @ b, (x, y, b), g)
    assert_equal_with_gradients(kernel_sums(k, x, x, a), dense(k, x, x) @ a, (x, a), g)
    torch.testing.assert_close(k(x.detach(), y.detach()), dense(k, x, y).detach(), rtol=1e-10, atol=1e-12)


@in_blocks
@each_kernel
def test_stein_sums_equal_the_dense_ones(name, event, block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_CPU", block)
    k, (x, w, _, _), slope = KERNELS[name], pairs(event), randn(13, *event, seed=9)
    K = dense(k, x, x.detach())
    # grad_y k(x, y) = - grad_x k(x, y)
    pull = torch.autograd.grad((K @ w.detach()).sum(), x)[0]
    smoothed = (K.detach() @ (w.detach()[:, None] * slope.flatten(1))).view_as(x)
    for temperature in (0.0, 0.7):
        sums = stein_sums(k, x.detach(), w.detach(), slope, temperature)
        torch.testing.assert_close(sums, smoothed + temperature * pull, rtol=1e-9, atol=1e-11)
        assert not sums.requires_grad


@pytest.mark.parametrize("block", [1, 49, 2**18])
def test_energies_of_any_function_of_pairs(block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK_CPU", block)
    x, a, y, b = pairs((3,))
    s = randn(13, 2, seed=11).requires_grad_(True)

    def f(x, s, y):
        return torch.sin(x @ y.T) + s.prod(1)[:, None] * y.square().sum(1)

    ours = pair_energy(f, [x, s], a, [y], b)
    assert_equal_with_gradients(ours, a @ f(x, s, y) @ b, (x, s, a, y, b))
    symmetric = pair_energy(lambda p, q: f(p, p, q), [x], a, [x], a)
    assert_equal_with_gradients(symmetric, a @ f(x, x, x) @ a, (x, a))
    part = pair_energy(f, [x.detach(), s], a.detach(), [y], b.detach())
    assert_equal_with_gradients(part, a @ f(x, s, y) @ b, (s, y))


@pytest.mark.parametrize("wanted", range(4))
def test_only_what_requires_gradient_gets_it(wanted):
    tensors = [t.detach() for t in pairs((2,))]
    tensors[wanted].requires_grad_(True)
    x, a, y, b = tensors
    k = RBF(0.8)
    assert_equal_with_gradients(kernel_energy(k, x, a, y, b), a @ dense(k, x, y) @ b, [tensors[wanted]])
    if wanted != 1:
        assert_equal_with_gradients(kernel_sums(k, x, y, b), dense(k, x, y) @ b, [tensors[wanted]])


ONES = torch.ones(5, dtype=torch.float64)
ONCE = {
    "energy": lambda x: kernel_energy(RBF(1.0), x, ONES),
    "line": lambda x: kernel_energy(Riesz(), x[:, :1], ONES),
    "sums": lambda x: kernel_sums(RBF(1.0), x, x, ONES).sum(),
    "pairs": lambda x: pair_energy(lambda p, q: torch.sin(p @ q.T), [x], ONES, [x], ONES),
}


@pytest.mark.parametrize("name", ONCE)
def test_a_second_derivative_is_refused_not_silently_zero(name):
    """A penalty on the gradient, beside something else that depends on the points."""
    x = randn(5, 2).requires_grad_(True)
    (g,) = torch.autograd.grad(ONCE[name](x), x, create_graph=True)
    torch.testing.assert_close(g, torch.autograd.grad(ONCE[name](x), x)[0])
    penalty = g.square().sum() + x.sum()
    with pytest.raises(Unsupported, match="differentiated once"):
        torch.autograd.grad(penalty, x, retain_graph=True)
    with pytest.raises(Unsupported, match="differentiated once"):
        penalty.backward()


def test_a_dense_matrix_loses_no_gradient_silently():
    x, y = randn(3, 2).requires_grad_(True), randn(4, 2)
    for points in ((x, y), (y, x)):
        with pytest.raises(Unsupported, match="no gradient"):
            RBF(1.0)(*points)
    with torch.no_grad():
        assert RBF(1.0)(x, y).shape == (3, 4)


@pytest.mark.parametrize("kernel", [RBF(1.0), Riesz()])
@pytest.mark.parametrize("y", [torch.zeros(4, 2), torch.zeros(4, 1, dtype=torch.float64), torch.zeros(4, 1, 1)])
def test_clouds_of_different_kinds_of_points(kernel, y):
    x, a = torch.zeros(3, 1), torch.ones(3)
    for sums in (
        lambda: kernel_energy(kernel, x, a, y, torch.ones(4)),
        lambda: kernel_sums(kernel, x, y, torch.ones(4)),
    ):
        with pytest.raises(BadInput, match="two clouds must agree"):
            sums()


# --- sorting in one dimension --------------------------------------------------------------------------------------


def test_sorting_equals_all_pairs_with_ties():
    x = double([0.0, 1.0, 1.0, 1.0, -2.0, 0.5]).view(-1, 1, 1).requires_grad_(True)
    y = double([1.0, 1.0, 0.0, 3.0]).view(-1, 1, 1).requires_grad_(True)
    a, b = (rand(n, seed=n).requires_grad_(True) for n in (6, 4))
    k = Riesz()
    assert k.sorts
    assert_equal_with_gradients(kernel_energy(k, x, a, y, b), a @ dense(k, x, y) @ b, (x, a, y, b))
    assert_equal_with_gradients(kernel_energy(k, x, a), a @ dense(k, x, x) @ a, (x, a))
    assert_equal_with_gradients(kernel_sums(k, x, y, b), dense(k, x, y) @ b, (x, y, b), randn(6))


def test_sorting_visits_no_pairs_and_keeps_single_precision(monkeypatch):
    """Sums of 10⁵ terms that cancel: the error of the result, not of the sums, is that of single precision."""
    monkeypatch.setattr(Distances, "block", lambda *_: pytest.fail("a block of pairs was formed"))
    x, y = (torch.randn(100_000, 1, generator=rng(s)) + 50 for s in (0, 1))
    w = torch.full((100_000,), 1e-5)
    nu = Particles(y)
    single = EnergyDistance(nu).value(Particles(x))
    exact = EnergyDistance(Particles(y.double())).value(Particles(x.double()))
    # three terms of size 2 / sqrt(pi), each rounded to single precision
    assert abs(float(single) - float(exact)) < 4 * torch.finfo(torch.float32).eps
    sums = kernel_sums(Riesz(), x, y, w)
    torch.testing.assert_close(
        sums.double(), kernel_sums(Riesz(), x.double(), y.double(), w.double()), rtol=3e-7, atol=0
    )


def test_the_energy_distance_is_its_sliced_form():
    r""":math:`|x|=c_dE_\theta|\langle\theta,x\rangle|` with :math:`c_2=\pi/2`: all pairs in the plane against sorting on lines."""
    x, y = Particles(randn(20, 2)), Particles(randn(15, 2, seed=1) + 0.5)
    angles = (
        300  # trapezoidal rule for |cos|, whose derivative jumps: relative error pi² / (12 angles²), 1e-5, times few
    )
    lines = [double([[math.cos(math.pi * k / angles)], [math.sin(math.pi * k / angles)]]) for k in range(angles)]
    sliced = sum(float(EnergyDistance(Particles(y.x @ t)).value(Particles(x.x @ t))) for t in lines) / angles
    assert float(EnergyDistance(y).value(x)) == pytest.approx(math.pi / 2 * sliced, rel=1e-4)


# --- precision and memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [RBF(50.0), Riesz(), InverseMultiquadric(60.0), Laplace(70.0)], ids=str)
def test_single_precision_at_many_coordinates_far_from_the_origin(kernel):
    """Points at 1000 with squared distances of 6000: without a common centre an error of eps |x|² d = 400 in them."""
    x, y = (torch.randn(40, 3, 32, 32, generator=rng(s)) + 1000 for s in (0, 1))
    w = torch.full((40,), 1 / 40)
    found = []
    for t in (torch.float32, torch.float64):
        p, q = x.to(t).requires_grad_(True), w.to(t)
        v = kernel_energy(kernel, p, q) - 2 * kernel_energy(kernel, p, q, y.to(t), q)
        found.append((float(v.detach()), torch.autograd.grad(v, p)[0].double()))
    (single, slope), (exact, expected) = found
    # relative error of a squared distance: some eps |x - centre|² / s ~ eps
    assert single == pytest.approx(exact, rel=1e-5)
    assert float((slope - expected).norm() / expected.norm()) < 1e-5


def test_coincident_points_of_singular_kernels_in_many_coordinates():
    """Rounding of the product form must not become a force: -log r of rounding errors would be one of 1e3."""
    x = torch.randn(6, 20, generator=rng()).repeat(2, 1)
    for kernel in (Logarithmic(), PowerLaw(-1), Riesz(), Laplace(1.0)):
        y = x.double().requires_grad_(True)
        exact = torch.autograd.grad(kernel_energy(kernel, y, torch.ones(12).double()), y)[0]
        z = x.clone().requires_grad_(True)
        single = torch.autograd.grad(kernel_energy(kernel, z, torch.ones(12)), z)[0]
        torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4 * float(exact.abs().max()))


def test_memory_is_that_of_blocks_and_of_points(monkeypatch):
    """No tensor of the size of all pairs is formed or kept for the backward pass."""
    n, block = 1000, 2**12
    monkeypatch.setattr(distances, "BLOCK_CPU", block)
    visited, kept, form = [], [], Distances.block

    def watched(self, i, j):
        s = form(self, i, j)
        visited.append(s.numel())
        return s

    def keep(t):
        kept.append(t.numel())
        return t

    monkeypatch.setattr(Distances, "block", watched)
    x, w = randn(n, 3).requires_grad_(True), torch.full((n,), 1 / n, dtype=torch.float64)
    nu = Particles(randn(n, 3, seed=1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        value = kernel_energy(RBF(1.0), x, w)
    assert sum(visited) < 0.55 * n * n, "of one cloud half the pairs"
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        value = value + SquaredMMD(nu, RBF(1.0)).value(Particles(x)) + kernel_sums(RBF(1.0), x, nu.x, w).sum()
        value = value + pair_energy(lambda p, q: visited.append(len(p) * len(q)) or p @ q.T, [x], w, [nu.x], w)
        stein_sums(RBF(1.0), x, w, x, 1.0)
    value.backward()
    assert len(visited) > 500
    assert max(visited) <= block
    assert max(kept) <= 8 * n


# --- what is remembered --------------------------------------------------------------------------------------------


@pytest.fixture
def ask():
    """Return a function that asks for a number, which is how often it has been computed."""
    cache._entries.clear()
    calls = []
    yield lambda *tensors, tag="tag": remember(tag, tensors, lambda: calls.append(1) or len(calls))
    cache._entries.clear()


def test_the_same_unchanged_tensors_are_remembered(ask):
    x, w = torch.zeros(3), torch.ones(3)
    assert [ask(x, None), ask(x, None), ask(x.detach(), None), ask(x.clone(), None)] == [1, 1, 1, 1]
    others = [ask(x, w), ask(x[:2], None), ask(x.double(), None), ask(x, None, tag="other"), ask(x.view(3, 1), None)]
    assert others == [2, 3, 4, 5, 6]
    assert ask(x, None) == 7, "few entries are kept: the first is gone by now"
    assert len(cache._entries) <= 4


def test_tensors_written_to_or_differentiated_are_not_remembered(ask):
    x = torch.zeros(3)
    ask(x)
    x[0] = 1.0
    assert ask(x) == 2
    y = torch.zeros(3, requires_grad=True)
    assert [ask(y), ask(y)] == [3, 4]
    with torch.inference_mode():
        z = torch.zeros(3)  # keeps no count of changes
        assert [ask(z), ask(z)] == [5, 6]


def test_the_target_of_an_mmd_may_change_in_place():
    rho, nu = Particles(randn(5, 2)), Particles(randn(4, 2, seed=1))
    F = SquaredMMD(nu, RBF(1.0))
    before = [F.value(rho), F.value(rho)]
    assert torch.equal(*before)
    nu.x.add_(1.0)
    fresh = SquaredMMD(Particles(nu.x.clone()), RBF(1.0)).value(rho)
    torch.testing.assert_close(F.value(rho), fresh, rtol=1e-13, atol=0)
    other = SquaredMMD(nu, RBF(2.0)).value(rho)
    assert abs(float(other - fresh)) > 1e-3, "another kernel on the same points is another number"
