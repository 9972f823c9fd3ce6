"""The closed forms against test vectors computed elsewhere, against each other, and against minimisation over samples."""

import math

import numpy as np
import pytest
import torch
from _exact import double, rng
from scipy.stats import kstest

from wgflow import JKO, KL, RK4, BadInput, Blob, ForwardEuler, Gaussian, Heun, Particles, Save, solve
from wgflow.optim import LBFGS
from wgflow.reference import (
    Barenblatt,
    GaussianFit,
    Moments,
    OrnsteinUhlenbeck,
    geodesic,
    kl,
    squared_w2,
    symmetric_kl,
    symmetric_kl_floor,
    w1_flow,
)

# Test vector V1 of the catalogue of closed forms; ten digits are given.
A = double([[2, 0.5], [0.5, 1]])
TARGET = Moments(double([1, -1]), torch.linalg.inv(A))
START = Moments(double([-1, 2]), double([[1, -0.3], [-0.3, 2]]))
FLOW = OrnsteinUhlenbeck(A, TARGET.mean)
H = 0.25


def close(p: Moments, mean, cov):
    if mean is not None:
        assert p.mean.tolist() == pytest.approx(mean, abs=6e-11)
    assert [p.cov[0, 0], p.cov[0, 1], p.cov[1, 1]] == pytest.approx(cov, abs=6e-11)


def test_distances_of_the_test_vector():
    assert float(kl(START, TARGET)) == pytest.approx(5.746640485003, abs=1e-11)
    assert float(squared_w2(START, TARGET)) == pytest.approx(13.189686016821, abs=1e-11)
    assert float(symmetric_kl(START, TARGET)) == pytest.approx(float(kl(START, TARGET) + kl(TARGET, START)))


def test_steps_of_the_test_vector():
    step = FLOW.jko(START, H)
    close(step, [-0.5462184874, 1.5546218487], [0.7860563512, -0.3551069119, 1.7174711963])
    assert float(kl(step, TARGET)) == pytest.approx(3.765234069305, abs=1e-11)
    assert float(squared_w2(step, START)) == pytest.approx(0.433513317908, abs=1e-11)
    close(FLOW.exact(START, H), [-0.4824716511, 1.5259650737], [0.7396902655, -0.3733792712, 1.6753954289])
    close(FLOW.forward_euler(START, H), [-0.375, 1.5], [0.6341950262, -0.4198707461, 1.6045975131])
    close(FLOW.forward_backward(START, H), None, [0.7190170606, -0.3907563672, 1.6535067557])


def test_a_jko_step_dissipates_what_it_travels():
    step = FLOW.jko(START, H)
    assert float(FLOW.fisher(step)) == pytest.approx(float(squared_w2(step, START)) / H**2, rel=1e-12)
    gain, alpha = float(kl(START, TARGET) - kl(step, TARGET)), float(torch.linalg.eigvalsh(A)[0])
    assert gain >= (1 / H + alpha / 2) * float(squared_w2(step, START))
    assert float(FLOW.energy(START) - FLOW.energy(step)) == pytest.approx(gain, rel=1e-12)


def test_energy_falls_by_the_dissipation():
    dt = 1e-4
    before, after = (kl(FLOW.exact(START, 0.3 + s * dt), TARGET) for s in (-1, 1))
    # The centred difference is off by dt² times a third derivative of order 10.
    assert float(after - before) / (2 * dt) == pytest.approx(-float(FLOW.fisher(FLOW.exact(START, 0.3))), rel=1e-6)


def test_stationary_laws():
    p = dict.fromkeys(("jko", "forward_backward", "langevin"), START)
    for _ in range(200):
        p = {name: getattr(FLOW, name)(law, H) for name, law in p.items()}
    for name in ("jko", "forward_backward"):  # neither has a bias in the step size
        assert float(squared_w2(p[name], TARGET)) < 1e-20
    biased = torch.linalg.inv(A @ (torch.eye(2) - H * A / 2))
    torch.testing.assert_close(p["langevin"].cov, biased, rtol=0, atol=1e-12)


def test_pieces_of_the_energy():
    eye, zero = torch.eye(2).double(), double([0, 0])
    heat = OrnsteinUhlenbeck(torch.zeros(2, 2).double(), zero)
    torch.testing.assert_close(heat.exact(START, 0.7).cov, START.cov + 1.4 * eye)
    potential = OrnsteinUhlenbeck(A, TARGET.mean, temperature=0.0)
    B = torch.linalg.inv(eye + H * A)
    torch.testing.assert_close(potential.jko(START, H).cov, B @ START.cov @ B)
    dirac = FLOW.jko(Moments(START.mean, 0 * eye), H)
    torch.testing.assert_close(dirac.cov, H * B)
    saddle = OrnsteinUhlenbeck(double([[1, 0], [0, -1]]), zero)
    small = saddle.exact(START, 1e-5)
    velocity = 2 * eye - saddle.A @ START.cov - START.cov @ saddle.A
    torch.testing.assert_close((small.cov - START.cov) / 1e-5, velocity, rtol=0, atol=1e-4)
    with pytest.raises(BadInput, match="smaller step"):
        saddle.jko(START, 1.0)


# T3 of the catalogue: errors in mean and standard deviation from N(2, 2²) towards N(0, 1) at time 1.
ERRORS = {
    "jko": {0.1: (0.035328, 0.024276), 0.05: (0.018020, 0.012386), 0.025: (0.009102, 0.006257)},
    "forward_euler": {0.1: (-0.038402, -0.026404), 0.05: (-0.018787, -0.012917), 0.025: (-0.009294, -0.006390)},
    "forward_backward": {0.1: (-0.038402, -0.009398), 0.05: (-0.018787, -0.004584), 0.025: (-0.009294, -0.002264)},
    "langevin": {0.1: (-0.038402, 0.002088), 0.05: (-0.018787, 0.000791), 0.025: (-0.009294, 0.000335)},
}
LINE, WIDE = OrnsteinUhlenbeck(double([[1]]), double([0])), Moments(double([2]), double([[4]]))


@pytest.mark.parametrize("name", ERRORS)
def test_jko_lags_and_euler_leads_by_the_tabulated_errors(name):
    end = LINE.exact(WIDE, 1.0)
    for h, expected in ERRORS[name].items():
        p = WIDE
        for _ in range(round(1 / h)):
            p = getattr(LINE, name)(p, h)
        found = float(p.mean - end.mean), float(p.cov.sqrt() - end.cov.sqrt())
        assert found == pytest.approx(expected, abs=6e-7)


# The solvers of the library, with the score of a Gaussian fit, make the same steps.
FEW = Particles(START.mean + math.sqrt(2) * torch.cat([(L := torch.linalg.cholesky(START.cov)).T, -L.T]))


@pytest.mark.parametrize(
    ("solver", "step"),
    [
        (ForwardEuler(Blob(GaussianFit())), FLOW.forward_euler),
        (JKO(Blob(GaussianFit()), LBFGS(max_iter=500, tolerance=1e-10), iters=1), FLOW.jko),
    ],
)
def test_particles_with_the_score_of_a_fit_make_the_steps_of_the_gaussian(solver, step):
    flow = solve(KL(TARGET.gaussian()), solver, FEW, step_size=H, num_steps=2)
    expected = step(step(START, H), H)
    assert float(squared_w2(Moments.of(flow.measure), expected)) < 1e-14


@pytest.mark.parametrize(("solver", "order"), [(ForwardEuler, 1), (Heun, 2), (RK4, 4)])
def test_particles_with_the_score_of_a_fit_show_the_order_of_a_solver(solver, order):
    end, errors = FLOW.exact(START, 1.0), []
    for k in (20, 40):
        flow = solve(
            KL(TARGET.gaussian()), solver(Blob(GaussianFit())), FEW, step_size=1 / k, num_steps=k, save=Save(0)
        )
        errors.append(float(squared_w2(Moments.of(flow.measure), end).sqrt()))
    # The next term of the error is O(h) relative to the first: 0.05 times a constant that grows with the order.
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.08 * order)


def test_moments_of_weighted_particles_are_those_of_split_ones():
    x, w = torch.randn(5, 2, generator=rng(), dtype=torch.float64), double([1, 2, 1, 1, 3])
    whole = Moments.of(Particles(x, w.log()))
    split = Moments.of(Particles(torch.cat([x, x]), torch.cat([w, w]).log()))
    torch.testing.assert_close(tuple(whole), tuple(split))
    again = Moments.of(Particles(x.repeat_interleave(w.long(), 0)))
    torch.testing.assert_close(tuple(whole), tuple(again))


def test_covariance_of_points_far_from_zero():
    x = (8 * torch.randn(50, 3, generator=rng())).round() / 8  # multiples of 1/8, which float32 holds at a million
    near, far = (Moments.of(Particles(x + c, torch.randn(50, generator=rng(1)))) for c in (0.0, 1e6))
    torch.testing.assert_close(far.cov, near.cov, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(far.mean - 1e6, near.mean, rtol=0, atol=0.0625)


def test_geodesic_has_constant_speed():
    distance = squared_w2(START, TARGET)
    for s in (0.0, 0.3, 1.0):
        point = geodesic(START, TARGET, s)
        assert float(squared_w2(START, point)) == pytest.approx(s**2 * float(distance), abs=1e-12)
        assert float(squared_w2(point, TARGET)) == pytest.approx((1 - s) ** 2 * float(distance), abs=1e-12)


def test_sampling_floor_of_the_symmetric_kl():
    """100 fits to 1000 points in 2 dimensions; the divergence of one has a relative spread of about (2/5)^½."""
    law = Gaussian(double([0, 0]), torch.eye(2).double())
    g = rng(0)
    found = [float(symmetric_kl(Moments.of(law.draw(1000, g)), Moments(law.mean, law.cov))) for _ in range(100)]
    assert sum(found) / 100 == pytest.approx(symmetric_kl_floor(2, 1000), rel=4 * (2 / 5) ** 0.5 / 10)


@pytest.mark.parametrize(("d", "m"), [(1, 2.0), (2, 2.0), (3, 2.0), (2, 3.0), (1, 1.5), (3, 4 / 3)])
def test_barenblatt_profiles(d, m):
    rho = Barenblatt(d, m, 0.3)
    r = torch.linspace(0, rho.radius, 20001, dtype=torch.float64)
    x = torch.cat([r[:, None], torch.zeros(len(r), d - 1)], 1)
    area = 2 * math.pi ** (d / 2) / math.gamma(d / 2) * r ** (d - 1)
    density = rho.log_prob(x).exp()
    integral = lambda f: float(torch.trapezoid(f * area, r))  # noqa: E731
    # The trapezoid's error at the edge, where the density is a root for m = 3, is of order (1/20000)^1.5.
    assert integral(density) == pytest.approx(1, abs=1e-6)
    assert integral(density * r**2) == pytest.approx(rho.second_moment, rel=1e-6)
    assert integral(density**m) / (m - 1) == pytest.approx(rho.energy, rel=1e-6)
    # dF/dt = -E|v|²
    dt = 1e-5
    slope = (rho.flow(dt).energy - rho.flow(-dt).energy) / (2 * dt)
    assert slope == pytest.approx(-integral(density * rho.velocity(x).square().sum(1)), rel=1e-6)
    # A JKO step: h grad(dF/drho) at the new law is the displacement back, so its square is h² times the dissipation.
    h, new = 0.1, rho.jko(0.1)
    moved = (1 - rho.radius / new.radius) ** 2 * new.second_moment
    assert moved == pytest.approx(h**2 * (new.beta / new.time) ** 2 * new.second_moment, rel=1e-12)


def test_barenblatt_vector_and_draws():
    rho = Barenblatt(2, 2.0, 0.05)
    assert rho.jko(0.01).radius / rho.radius == pytest.approx(1.0439474868588, abs=1e-13)
    assert rho.flow(0.01).radius / rho.radius == pytest.approx(1.2**0.25, abs=1e-13)
    p = rho.draw(20000, rng())
    # For m = 2 in the plane |x|²/R² has the distribution function 1 - (1 - s)².
    s = (p.x.square().sum(1) / rho.radius**2).numpy()
    assert kstest(s, lambda s: 1 - (1 - s) ** 2).pvalue > 1e-3
    assert kstest(torch.atan2(p.x[:, 1], p.x[:, 0]).numpy() / math.pi, "uniform", (-1, 2)).pvalue > 1e-3
    line = Barenblatt(1, 3.0, 0.05)
    assert (
        kstest(
            line.draw(2000, rng()).x[:, 0].numpy(), line.quantiles((torch.arange(20000) + 0.5).double() / 20000)
        ).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("d", [1, 2, 64, 1000])
@pytest.mark.parametrize("m", [1 + 1e-9, 1.01, 2.0, 50.0])
@pytest.mark.parametrize("dilation", [1 + 1e-9, 1.0833, 3.0, 1e4])
def test_barenblatt_steps_invert_their_formula(d: int, m: float, dilation: float) -> None:
    """The step that gives a dilation is h = t λ^(d(m-1)+1) (λ-1)/β, of any size."""
    rho = Barenblatt(d, m, 0.3)
    n = d * (m - 1) + 1
    log_h = math.log(rho.time) + n * math.log(dilation) + math.log(dilation - 1) - math.log(rho.beta)
    if abs(log_h) > 600:
        pytest.skip("no such step in float64")
    new = rho.jko(math.exp(log_h))
    assert new.radius / rho.radius == pytest.approx(dilation, rel=1e-12)
    # Of the growth alone, as precisely as the given dilation is: in the time, t λ^(1/β).
    assert math.log(new.time / rho.time) * rho.beta == pytest.approx(
        math.log(dilation), rel=1e-6 if dilation < 1.01 else 1e-12
    )


@pytest.mark.parametrize("m", [1 + 1e-8, 1 + 1e-4])
def test_barenblatt_profiles_tend_to_the_heat_kernel(m: float) -> None:
    """As m goes to 1 the density is that of N(0, 2t I), in any dimension, to the order of m - 1; quantiles too."""
    for d in (1, 3, 200):
        rho, x = (
            Barenblatt(d, m, 0.3),
            torch.linspace(0, 2, 5, dtype=torch.float64)[:, None].expand(5, d) / math.sqrt(d),
        )
        heat = -x.square().sum(1) / 1.2 - 0.5 * d * math.log(2 * math.pi * 0.6)
        away = rho.log_prob(x) - rho.log_prob(x[:1]) - (heat - heat[0])
        assert float(away.abs().max()) < 20 * (d + 2) * (m - 1) + 1e-7
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    normal = math.sqrt(1.2) * torch.erfinv(2 * u - 1)
    assert float((Barenblatt(1, m, 0.3).quantiles(u) - normal).abs().max()) < 20 * (m - 1) + 1e-9


@pytest.mark.parametrize("m", [1.0001, 1.5, 2.0, 20.0])
def test_barenblatt_quantiles_invert_the_distribution_function(m: float) -> None:
    """By Gauss-Legendre sums of the density, with the substitution x = R sin a that makes it smooth."""
    rho, u = Barenblatt(1, m, 0.3), double([0.01, 0.2, 0.5, 0.75, 0.999])
    nodes, weights = np.polynomial.legendre.leggauss(400)
    for level, q in zip(u.tolist(), rho.quantiles(u).tolist(), strict=True):
        low, high = -math.pi / 2, math.asin(q / rho.radius)
        if m < 1.01:
            low = max(low, -0.2)  # beyond there is no mass
        a = double(low + (high - low) * (nodes + 1) / 2)
        density = rho.log_prob(rho.radius * a.sin()[:, None]).exp() * rho.radius * a.cos()
        assert float((density * double(weights)).sum() * (high - low) / 2) == pytest.approx(level, abs=1e-6)


def test_steps_keep_small_variances() -> None:
    """Without entropy a step of the potential is a map: C+ = B^-1 C B^-1, also where C is nearly singular."""
    flow = OrnsteinUhlenbeck(double([[2, 0.5], [0.5, 1]]), double([0, 0]), temperature=0.0)
    C, B = double([[1, 1], [1, 1 + 1e-12]]), torch.eye(2).double() + 0.5 * flow.A
    # Along the direction that has almost no variance.
    direction = B @ double([1, -1])
    new = flow.jko(Moments(double([0, 0]), C), 0.5).cov
    assert float(direction @ new @ direction) == pytest.approx(1e-12, abs=1e-15)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
def test_units_of_a_covariance_do_not_make_it_singular(scale: float) -> None:
    """KL does not depend on the unit of a coordinate."""
    p, q = (Moments(double([0, m]), double([[1.0, c], [c, 2.0]])) for m, c in ((0.0, 0.3), (1.0, -0.2)))
    S = torch.diag(double([1.0, scale]))
    assert float(kl(*(Moments(S @ r.mean, S @ r.cov @ S) for r in (p, q)))) == pytest.approx(float(kl(p, q)), rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_kl_of_a_singular_gaussian_is_infinite_whatever_is_rounded(seed):
    """Of a determinant that is 0 but for rounding the logarithm is some number, or none."""
    root = torch.randn(3, 2, generator=rng(seed), dtype=torch.float64)
    flat, wide = (Moments(torch.zeros(3).double(), c) for c in (root @ root.T, torch.eye(3).double()))
    assert kl(flat, wide) == math.inf
    assert OrnsteinUhlenbeck(wide.cov, wide.mean).energy(flat) == math.inf


@pytest.mark.parametrize(
    ("mean", "cov", "message"),
    [
        (torch.zeros(2), torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "mirror images by up to 2"),
        (torch.zeros(2), -torch.eye(2), "the least is -1"),
        (torch.zeros(2), torch.eye(3), r"\(2,\) and \(3, 3\)"),
        (torch.zeros(2), torch.ones(2), r"\(2,\) and \(2,\)"),
        ([0.0], [[1.0]], "needs tensors"),
        (torch.zeros(2), torch.eye(2).double(), "float32 on cpu and torch.float64"),
        (torch.zeros(2).long(), torch.eye(2).long(), "one floating-point type"),
    ],
)
def test_moments_that_no_law_has(mean, cov, message):
    with pytest.raises(BadInput, match=message):
        Moments(mean, cov)


@pytest.mark.parametrize("function", [kl, squared_w2, lambda p, q: geodesic(p, q, 0.5)])
@pytest.mark.parametrize(
    "other", [Moments(torch.zeros(2), torch.eye(2)), Moments(torch.zeros(3).double(), torch.eye(3).double())]
)
def test_gaussians_that_cannot_be_compared(function, other):
    with pytest.raises(BadInput, match="of one dimension and type"):
        function(START, other)


@pytest.mark.parametrize(
    "name", ["exact", "jko", "forward_backward", "forward_euler", "langevin", "wasserstein_proximal"]
)
@pytest.mark.parametrize("t", [-0.1, math.nan, math.inf])
def test_times_that_are_none(name, t):
    with pytest.raises(BadInput, match="nonnegative, finite"):
        getattr(FLOW, name)(START, t)


def test_w1_flow_stops_where_it_arrives():
    x, y = double([-2, 0, 5]), double([0, 0.25, 1])
    assert w1_flow(x, y, 1.0).tolist() == [-1, 0.25, 4]
    assert w1_flow(x, y, 10.0).tolist() == y.tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OrnsteinUhlenbeck(double([[1, 2], [0, 1]]), double([0, 0])), "symmetric A"),
        (lambda: OrnsteinUhlenbeck(A, double([0])), "symmetric A"),
        (lambda: OrnsteinUhlenbeck(A, TARGET.mean, -1.0), "temperature=-1.0"),
        (lambda: Barenblatt(2, 1.0, 0.1), "m > 1"),
        (lambda: Barenblatt(2, 2.0, 0.1).jko(0.0), "positive step"),
        (lambda: GaussianFit().log_density(Particles(torch.ones(3, 2))), "singular"),
        (lambda: w1_flow(double([0]), double([0, 1]), 1.0), "two vectors"),
        (lambda: GaussianFit().log_density(Particles(torch.arange(8.0).view(4, 2) / 3)), "singular"),
        (
            lambda: kl(
                Moments(double([0, 0]), torch.eye(2).double()), Moments(double([0, 0]), double([[1, 1], [1, 1]]))
            ),
            "KL to a Gaussian needs",
        ),
        (lambda: geodesic(Moments(double([0]), double([[0]])), Moments(double([0]), double([[1]])), 0.5), "a geodesic"),
        (lambda: OrnsteinUhlenbeck(1e-9 * double([[1, 2], [0, 1]]), double([0, 0])), "symmetric A"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(BadInput, match=message):
        make()
