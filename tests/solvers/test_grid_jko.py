"""JKO steps without networks: exact ones in one dimension by quantiles, entropic ones on grids."""

import math
from contextlib import nullcontext

import pytest
import torch
from _exact import double, rng
from scipy.optimize import minimize

from wgflow import (
    JKO,
    KL,
    RBF,
    W1,
    BadInput,
    Blob,
    Entropy,
    Gaussian,
    Incompatible,
    InteractionEnergy,
    KernelDensity,
    NotConverged,
    Particles,
    PotentialEnergy,
    PowerEntropy,
    PowerLaw,
    Save,
    Spacings,
    SquaredMMD,
    Unsupported,
    solve,
)
from wgflow.measures.grid import Grid
from wgflow.optim import LBFGS, TridiagonalNewton
from wgflow.optim.tridiagonal import multiply, solve_tridiagonal
from wgflow.reference import Barenblatt, Moments, OrnsteinUhlenbeck, squared_w2, w1_flow
from wgflow.solvers.entropic import EntropicJKO

NORMAL = Gaussian(double([0]), double([[1]]))
LINE, WIDE = OrnsteinUhlenbeck.towards(NORMAL), Moments(double([2]), double([[4]]))
QUANTILES = JKO(Blob(Spacings()), TridiagonalNewton(), iters=1)


def levels(n):
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def normal(n, p):
    return p.mean + p.cov.sqrt() * torch.special.ndtri(levels(n))[:, None]


def rms(x):
    return float(x.square().mean().sqrt())


def slope(n, errors):
    return math.log(errors[-1] / errors[0]) / math.log(n[-1] / n[0])


# --- quantiles -----------------------------------------------------------------------------------------------------


def test_gaussian_step_of_quantiles_converges_at_the_rate_of_the_tails():
    ns, errors = (250, 1000, 4000), []
    for n in ns:
        flow = solve(KL(NORMAL), QUANTILES, Particles(normal(n, WIDE)), step_size=0.1, num_steps=1)
        errors.append(rms(flow.measure.x - normal(n, LINE.jko(WIDE, 0.1))))
    # The catalogue has 8.3e-4 to 2.3e-4 and a rate of 0.47 for its own start; the extreme gaps dominate.
    assert errors[0] < 1e-3
    assert errors[-1] < 3e-4
    assert -0.6 < slope(ns, errors) < -0.35


def test_barenblatt_step_of_quantiles_converges_at_first_order():
    start, ns, errors = Barenblatt(1, 2.0, 0.05), (500, 4000), []
    for n in ns:
        solver = JKO(optim=TridiagonalNewton(), iters=1)
        rho = Particles(start.quantiles(levels(n))[:, None])
        flow = solve(PowerEntropy(Spacings(), 2.0), solver, rho, step_size=0.01, num_steps=1)
        errors.append(rms(flow.measure.x[:, 0] - start.jko(0.01).quantiles(levels(n))) / rms(rho.x))
    assert errors[-1] < 5e-5
    assert -1.1 < slope(ns, errors) < -0.8


def test_newton_solves_what_lbfgs_solves():
    F = PotentialEnergy(lambda x: 2 * (x[:, 0].square() - 1).square()) + Entropy()
    start = Particles(0.3 + 0.5 * normal(60, Moments(double([0]), double([[1]]))))
    exact = solve(F, QUANTILES, start, step_size=0.05, num_steps=2)
    slow = solve(
        F, JKO(Blob(Spacings()), LBFGS(max_iter=3000, tolerance=1e-6), iters=1), start, step_size=0.05, num_steps=2
    )
    assert exact.history[-1]["jko/residual"] <= 1e-8
    assert float((exact.measure.x - slow.measure.x).abs().max()) < 1e-6
    assert exact.history[-1]["jko/evaluations"] < 40 < slow.history[-1]["jko/evaluations"]


def test_newton_leaves_the_order_of_the_array_alone():
    x = normal(50, WIDE)
    shuffle = torch.randperm(50, generator=rng())
    one, other = (
        solve(KL(NORMAL), QUANTILES, Particles(p), step_size=5.0, num_steps=1).measure.x for p in (x, x[shuffle])
    )
    torch.testing.assert_close(one[shuffle], other, rtol=0, atol=1e-9)
    assert bool((one.diff(dim=0) > 0).all())


def test_splitting_quantiles_of_weighted_particles():
    """Weights enter as masses between quantiles, so an uneven sampling of one law has the same step, up to its gaps."""
    u = 1 - (1 - levels(2000)) ** 1.5
    w = 1.5 * (1 - levels(2000)) ** 0.5
    uneven = Particles(2 + 2 * torch.special.ndtri(u)[:, None], w.log())
    even = Particles(normal(2000, WIDE))
    laws = [Moments.of(solve(KL(NORMAL), QUANTILES, p, step_size=0.1, num_steps=1).measure) for p in (uneven, even)]
    starts = [Moments.of(p) for p in (uneven, even)]
    # Both are off by the tails, some 1e-3 of the variance each; the step itself changes it by 0.6.
    moved = [float(law.cov - start.cov) for law, start in zip(laws, starts, strict=True)]
    assert moved[0] == pytest.approx(moved[1], abs=0.01)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64])
def test_tridiagonal_systems(n):
    off = torch.randn(n - 1, generator=rng(), dtype=torch.float64)
    dense = off.diag(1) + off.diag(-1) if n > 1 else torch.zeros(1, 1, dtype=torch.float64)
    diagonal = 2 + 2 * off.abs().max() if n > 1 else double(2)
    diagonal = diagonal * (1 + torch.rand(n, generator=rng(), dtype=torch.float64))
    rhs = torch.randn(n, generator=rng(1), dtype=torch.float64)
    x, pivot = solve_tridiagonal(diagonal, off, rhs)
    torch.testing.assert_close(x, torch.linalg.solve(dense + diagonal.diag(), rhs))
    torch.testing.assert_close(multiply(diagonal, off, x), rhs)
    assert float(pivot) > 0
    shifted = diagonal - torch.linalg.eigvalsh(dense + diagonal.diag())[0] - 0.01
    assert float(solve_tridiagonal(shifted, off, rhs)[1]) < 0  # indefinite, and it says so


def test_w1_has_no_error_in_time():
    x, y = 2 + 1.5 * normal(100, Moments(double([0]), double([[1]]))), normal(100, Moments(double([0]), double([[1]])))
    F, solver = W1(Particles(y), batch=100), JKO(optim=LBFGS(max_iter=500, tolerance=1e-9), iters=3)
    end, moved = w1_flow(x[:, 0], y[:, 0], 1.0), []
    for k in (2, 8):
        # Not smooth where particles arrive: what is left is the minimizer's, a hundredth of an Euler step's h / 2. Begun anew, it
        # gets nearer (with torch 2.6 from 5.1e-3 to 4.7e-3).
        with pytest.warns(NotConverged, match="kinks"):
            flow = solve(F, solver, Particles(x), step_size=1 / k, num_steps=k)
        moved.append(rms(flow.measure.x[:, 0].sort()[0] - end) / rms(x[:, 0] - end))
    assert max(moved) < 5e-3


@pytest.mark.parametrize(
    ("F", "x", "error", "message"),
    [
        (W1(Particles(double([[0], [1]])), 2), double([[3], [4]]), Unsupported, "differentiated twice"),
        (PotentialEnergy(lambda x: x[:, 0] * x[:, 0].flip(0)), normal(9, WIDE), Unsupported, "neighboring"),
        (PotentialEnergy(lambda x: x.square().sum(1)), double([[3, 0], [4, 1]]), BadInput, "one coordinate"),
    ],
)
def test_what_newton_refuses(F, x, error, message):
    with pytest.raises(error, match=message):
        solve(F, JKO(optim=TridiagonalNewton(), iters=1), Particles(x), step_size=0.1, num_steps=1)


# --- grids ---------------------------------------------------------------------------------------------------------

NARROW = Moments(double([1.5]), double([[0.25]]))


def box(p, n=240, half=7.0):
    d = len(p.mean)
    return Grid.of(p.gaussian(), [-half] * d, [half] * d, [n] * d)


def entropic(F, start, h, steps, blur, **options):
    flow = solve(F, EntropicJKO(blur, **options), start, step_size=h, num_steps=steps, save=Save(0))
    assert flow.history[-1]["entropic/residual"] <= 1e-8
    return flow.measure


def entropic_gaussian_step(m, v, h, gamma, debias):
    """Moments after a step of KL to N(0, 1): the objective on Gaussians in closed form, minimised.

    The plan of entropic transport between variances a and b has covariance (D - gamma)/2, D² = 4ab + gamma², and the cost,
    with KL to the product of the first law and the Lebesgue measure, is E|x-y|²/2 + gamma (entropy of the plan - that of a).
    """

    def objective(p):
        mean, a, b = p[0], v, math.exp(p[1])
        c = (math.sqrt(4 * a * b + gamma**2) - gamma) / 2
        cost = ((m - mean) ** 2 + a + b - 2 * c) / 2 - gamma / 2 * math.log(b - c**2 / a)
        free = (mean**2 + b) / 2 - math.log(b) / 2
        return cost + h * free + (gamma / 4 * math.log(b) if debias else 0.0)

    best = minimize(objective, (m, math.log(v)), method="Nelder-Mead", options={"xatol": 1e-11, "fatol": 1e-16}).x
    return best[0], math.exp(best[1])


@pytest.mark.parametrize("debias", [True, False])
@pytest.mark.parametrize("gamma", [0.02, 0.1])
def test_a_grid_step_is_the_gaussian_minimiser(gamma, debias):
    found = Moments.of(entropic(KL(NORMAL), box(NARROW), 0.1, 1, math.sqrt(gamma), debias=debias).nodes())
    expected = entropic_gaussian_step(1.5, 0.25, 0.1, gamma, debias)
    # The minimum is flat: Nelder and Mead find the place to the root of rounding.
    assert (float(found.mean), float(found.cov)) == pytest.approx(expected, abs=1e-6)


def test_blur_costs_variance_in_proportion_and_debiased_in_square():
    """The catalogue: entropic transport inflates the variance by about gamma (1 - e^{-2T}) / (2h)."""
    exact = NARROW
    for _ in range(10):
        exact = LINE.jko(exact, 0.1)
    bias = {}
    for debias in (False, True):
        for gamma in (0.05, 0.1):
            law = Moments.of(entropic(KL(NORMAL), box(NARROW), 0.1, 10, math.sqrt(gamma), debias=debias).nodes())
            assert float(law.mean) == pytest.approx(float(exact.mean), abs=1e-6)
            bias[debias, gamma] = float(law.cov - exact.cov)
    for gamma in (0.05, 0.1):
        assert bias[False, gamma] == pytest.approx(gamma * (1 - math.exp(-2)) / 0.2, rel=0.05)
    assert bias[True, 0.1] / bias[True, 0.05] == pytest.approx(4, rel=0.05)
    assert bias[True, 0.1] < bias[False, 0.1] / 20


def test_first_order_in_the_step_towards_the_exact_flow_in_two_dimensions():
    target = Gaussian(double([1, -1]), torch.linalg.inv(double([[2, 0.5], [0.5, 1]])))
    flow, start = OrnsteinUhlenbeck.towards(target), Moments(double([-1, 2]), double([[1, -0.3], [-0.3, 2]]))
    end, errors = flow.exact(start, 0.6), []
    for k in (3, 6):
        h = 0.6 / k
        law = Moments.of(entropic(KL(target), box(start, 90, 8.0), h, k, math.sqrt(h / 4)).nodes())
        errors.append(float(squared_w2(law, end).sqrt()))
        jko = start
        for _ in range(k):
            jko = flow.jko(jko, h)
        assert float(squared_w2(law, jko).sqrt()) < 0.2 * errors[-1]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("ratio", [1e-2, 1.0, 1e2, 1e3, 1e4])
def test_steps_of_any_size_against_the_blur_are_solved(ratio):
    """A mean is moved exactly, whatever the blur: (m + h A m*) / (1 + h A)."""
    target, h = Gaussian(double([0.4]), double([[0.36]])), 0.01 * ratio
    start, law = box(Moments(double([0]), double([[4]])), 160, 8.0), Moments(double([0]), double([[4]]))
    for k in range(2):
        flow = solve(KL(target), EntropicJKO(0.1), start, step_size=h, num_steps=1, save=Save(0))
        start, law = flow.measure, OrnsteinUhlenbeck.towards(target).jko(law, h)
        assert flow.status == "done"
        found = Moments.of(start.nodes())
        assert float(found.mean) == pytest.approx(float(law.mean), abs=2e-5)
        # The blur's share of the variance, of second order in 0.01 over it, and what the box cuts off the start.
        assert float(found.cov) == pytest.approx(float(law.cov), rel=4e-3), k


@pytest.mark.parametrize("ratio", [1.0, 1e2, 1e3])
@pytest.mark.parametrize("m", [1.5, 2.0, 3.0, 4.0])
def test_a_symmetric_start_stays_symmetric(m, ratio):
    start = Grid.of(lambda x: -x[:, 0].square(), [-5.0], [5.0], [200])
    flow = solve(PowerEntropy(m=m), EntropicJKO(0.1), start, step_size=0.01 * ratio, num_steps=1, save=Save(0))
    assert flow.status == "done"
    mass = flow.measure.mass
    assert float((mass - mass.flip(0)).abs().sum()) < 1e-9


@pytest.mark.parametrize(("m", "h"), [(1.5, 0.5), (2.0, 0.2), (2.0, 5.0), (3.0, 2.0)])
def test_large_steps_of_the_porous_medium_equation(m, h):
    start = Barenblatt(1, m, 0.05)
    exact = start.jko(h)
    side = 1.2 * exact.radius
    blur = 0.015 * side
    rho = entropic(PowerEntropy(m=m), Grid.of(start, [-side], [side], [300]), h, 1, blur).nodes()
    assert math.sqrt(float(rho.mean(rho.x[:, 0].square())) / exact.second_moment) == pytest.approx(1, abs=3e-3)
    assert float((rho.log_rho.exp() - exact.log_prob(rho.x).exp()).abs().sum()) * 2 * side / 300 < 0.02


@pytest.mark.parametrize("debias", [True, False])
def test_masses_of_any_range_move_down_a_potential(debias):
    start = torch.zeros(200).double()
    start[[3, 60, 61, 190]] = double([1e-300, 0.5, 1e-30, 0.5])
    F, h = PotentialEnergy(lambda x: 0.5 * (x[:, 0] - 0.4).square()), 4.0
    solver = EntropicJKO(0.1, debias=debias)
    flow = solve(F, solver, Grid(start, (-5.0,), (5.0,)), step_size=h, num_steps=1, save=Save(0))
    assert flow.status == "done"
    found = Moments.of(flow.measure.nodes())
    ends = (torch.tensor([-1.975, 4.525]) + h * 0.4) / (1 + h)
    # The variance of the kernel, 0.01, contracted by 1 + h; debiased, what is left is of its own order.
    assert float(found.mean) == pytest.approx(float(ends.mean()), abs=1e-4)
    assert float(found.cov) == pytest.approx(float(ends.var(correction=0)), abs=0.01)


def test_a_step_that_runs_out_of_iterations_says_so():
    with pytest.warns(NotConverged, match="entropic missed its tolerance in 100%"):
        flow = solve(KL(NORMAL), EntropicJKO(0.1, max_iter=5), box(NARROW), step_size=1.0, num_steps=1, save=Save(0))
    assert (flow.status, flow.unconverged) == ("unconverged", {"entropic": 1.0})
    assert flow.history[-1]["entropic/residual"] > 1e-3
    assert flow.history[-1]["entropic/iterations"] <= 5


def test_single_precision_that_cannot_reach_what_was_asked_says_so():
    single = Grid(box(NARROW, 80).mass.float(), (-7.0,), (7.0,))
    F = KL(Gaussian(torch.zeros(1), torch.eye(1)))
    reached = {}
    for tolerance in (None, 1e-12):
        solver = EntropicJKO(0.2, tolerance=tolerance, max_iter=300)
        with nullcontext() if tolerance is None else pytest.warns(NotConverged, match="float64"):
            flow = solve(F, solver, single, step_size=0.5, num_steps=1, save=Save(0))
        reached[tolerance] = flow.status, flow.history[-1]["entropic/residual"]
    assert reached[None][0] == "done"
    assert reached[1e-12][0] == "unconverged"
    assert reached[1e-12][1] < reached[None][1]  # it went on as far as it could


def test_mass_is_conserved_whether_converged_or_not():
    start = box(NARROW, 100)
    for iterations in (1, 3, 1000):
        solver = EntropicJKO(0.3, max_iter=iterations)
        with nullcontext() if iterations == 1000 else pytest.warns(NotConverged):
            flow = solve(KL(NORMAL), solver, start, step_size=0.1, num_steps=3, save=Save(0))
        assert float(flow.measure.mass.sum()) == pytest.approx(1, abs=1e-12)
        assert float(flow.measure.mass.min()) >= 0


@pytest.mark.parametrize(("d", "n"), [(1, 200), (2, 64)])
def test_barenblatt_on_a_grid(d, n):
    start, h = Barenblatt(d, 2.0, 0.05), 0.02
    side = 1.3 * start.flow(0.06).radius
    F, blur = PowerEntropy(m=2.0), math.sqrt(h / 8)
    rho = entropic(F, Grid.of(start, [-side] * d, [side] * d, [n] * d), h, 3, blur).nodes()
    exact = start.jko(h).jko(h).jko(h)
    radius = math.sqrt(float(rho.mean(rho.x.square().sum(1))) / exact.second_moment)
    # What blur and cells leave, well below the error in time.
    assert radius == pytest.approx(1, abs=2e-3)
    assert abs(math.sqrt(exact.second_moment / start.flow(3 * h).second_moment) - 1) > 4 * abs(radius - 1)
    density = (rho.log_rho.exp() - exact.log_prob(rho.x).exp()).abs()
    assert float(density.sum()) * (2 * side / n) ** d < 0.02


def test_aggregation_and_diffusion_balance():
    """1/2 E log rho + quadratic attraction: steady at a Gaussian of variance 1/2, whose centre stays."""
    F = InteractionEnergy(PowerLaw(2)) + 0.5 * Entropy()
    start = Grid.of(lambda x: -2 * (x[:, 0] - 0.5).square(), [-4.5], [5.5], [160])
    law = Moments.of(entropic(F, start, 0.2, 40, 0.15).nodes())
    assert float(law.mean) == pytest.approx(0.5, abs=1e-6)
    # What is left of entropic transport, (gamma / sigma)² in relative variance at steady state, is below 1e-3.
    assert float(law.cov) == pytest.approx(0.5, abs=2e-3)


def test_aggregation_without_diffusion_contracts():
    start = Grid.of(lambda x: -0.5 * x[:, 0].square(), [-6.0], [6.0], [160])
    law = Moments.of(entropic(InteractionEnergy(PowerLaw(2)), start, 0.05, 10, 0.1).nodes())
    # The attraction is explicit: V = (x - mean)²/2 held for a step, so that a step is the map x / (1 + h).
    assert float(law.cov) == pytest.approx(1.05**-20, rel=0.01)


def test_grid_and_quantiles_agree_in_a_double_well():
    F = PotentialEnergy(lambda x: 2 * (x[:, 0].square() - 1).square()) + Entropy()
    start = Moments(double([0.5]), double([[0.25]]))
    grid = entropic(F, box(start, 300, 4.0), 0.02, 10, 0.05).nodes()
    line = solve(F, QUANTILES, Particles(normal(2000, start)), step_size=0.02, num_steps=10, save=Save(0)).measure
    for power in (1, 2, 4):
        one, other = (float(p.mean(p.x[:, 0] ** power)) for p in (grid, line))
        assert one == pytest.approx(other, rel=3e-3)  # 1e-3 from tails of the quantiles, as much from the blur


def test_a_kernel_distance_is_explicit_and_decreases():
    target = Particles(double([[-1], [1.5]]))
    F = SquaredMMD(target, RBF(1.0))
    start = box(Moments(double([0.2]), double([[0.5]])), 120, 5.0)
    flow = solve(
        F,
        EntropicJKO(0.1),
        start,
        step_size=0.5,
        num_steps=6,
        save=Save(fn=lambda s: float(F.value(s.measure.nodes()))),
    )
    assert flow.saved == sorted(flow.saved, reverse=True)
    assert flow.saved[-1] < 0.8 * flow.saved[0]


def test_single_precision_is_good_to_a_thousandth():
    pi = Gaussian(torch.zeros(1), torch.eye(1))
    start = Grid.of(NARROW.gaussian(), [-7.0], [7.0], [160])
    single = Grid(start.mass.float(), start.low, start.high)
    found, expected = (Moments.of(entropic_any(KL(nu), rho).nodes()) for nu, rho in ((pi, single), (NORMAL, start)))
    assert found.mean.dtype == torch.float32
    assert float(found.mean) == pytest.approx(float(expected.mean), abs=1e-3)
    assert float(found.cov) == pytest.approx(float(expected.cov), abs=1e-3)


def entropic_any(F, start):
    return solve(F, EntropicJKO(0.2), start, step_size=0.1, num_steps=5, save=Save(0)).measure


def test_a_resumed_flow_is_the_same():
    start = box(NARROW, 80)
    run = lambda steps, state=None: solve(  # noqa: E731
        KL(NORMAL), EntropicJKO(0.3), start, step_size=0.1, num_steps=steps, state=state, save=Save(0)
    )
    assert torch.equal(run(4).measure.mass, run(4, run(2).state).measure.mass)


def test_potentials_that_forbid_a_place_and_starts_that_are_empty_there():
    wall = PotentialEnergy(lambda x: torch.where(x[:, 0] > 0, 0.0, torch.inf).double())
    start = Grid.of(lambda x: torch.where((x[:, 0] - 1).abs() < 0.5, 0.0, -torch.inf).double(), [-3], [3], [120])
    rho = entropic(wall + Entropy(), start, 0.05, 4, 0.1).nodes()
    assert float(rho.w[rho.x[:, 0] < 0].sum()) == 0
    assert float(rho.w[rho.x[:, 0] > 0].sum()) == pytest.approx(1, abs=1e-12)


def test_a_grid_is_a_measure():
    rho = box(Moments(double([1, -1]), double([[1, 0.3], [0.3, 0.5]])), 80, 8.0)
    p = rho.draw(20000, rng())
    law, truth = Moments.of(p), Moments.of(rho.nodes())
    assert float(squared_w2(law, truth).sqrt()) < 0.04  # sampling; cells of 0.2 add 0.2²/12 to the variances
    inside = rho.log_prob(rho.points)
    torch.testing.assert_close(inside, rho.log_rho)
    assert float(rho.log_prob(double([[9, 0]]))) == -math.inf
    assert float((inside.exp() * rho.volume).sum()) == pytest.approx(1)
    value = float(KL(Gaussian(double([0, 0]), torch.eye(2).double())).value(rho.nodes()))
    law = Gaussian(double([1, -1]), double([[1, 0.3], [0.3, 0.5]]))
    expected = 0.5 * (2 - 2 + 1.5 - float(torch.logdet(law.cov)))
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Grid(double([1, -1]), (0,), (1,)), BadInput, "least is -1"),
        (lambda: Grid(double([0, 0]), (0,), (1,)), BadInput, "not all 0"),
        (lambda: Grid(double([1, 1]), (0, 0), (1, 1)), BadInput, "one axis a coordinate"),
        (lambda: Grid(double([1, 1]), (1,), (0,)), BadInput, "low < high"),
        (lambda: EntropicJKO(0.0), BadInput, "blur=0.0"),
        (lambda: solve(KL(NORMAL), EntropicJKO(0.01), box(NARROW, 50), step_size=0.1, num_steps=1), BadInput, "3/4"),
        (
            lambda: solve(KL(NORMAL), EntropicJKO(0.3), box(NARROW, 50), step_size=math.inf, num_steps=1),
            BadInput,
            "inf",
        ),
        (
            lambda: EntropicJKO(0.3).init(KL(NORMAL), Particles(double([[0]])), rng()),
            Incompatible,
            "masses of a Grid",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_functionals_that_the_grid_refuses():
    solver = EntropicJKO(0.3)
    assert solver.refuses(KL(NORMAL) + PowerEntropy(m=2.0) + InteractionEnergy(PowerLaw(2))) is None
    assert "one PowerEntropy" in solver.refuses(PowerEntropy(m=2.0) + PowerEntropy(m=3.0))
    assert solver.refuses(PowerEntropy(KernelDensity(RBF(0.1)), 2.0)) is None  # a function of the masses, explicit
