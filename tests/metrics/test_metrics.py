"""Sinkhorn divergence against closed forms, its floor, and the small metrics."""

import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch import nn

from wgflow import BadInput, EnergyDistance, Evaluate, ForwardEuler, NotConverged, PotentialEnergy, solve
from wgflow.functionals import Functional, SinkhornDivergence
from wgflow.measures import Dataset, Gaussian, Measure, Particles, Pushforward, Smoothed, StandardNormal
from wgflow.metrics import (
    MAX_POINTS,
    FunctionalValue,
    Memorization,
    Moments,
    PrecisionRecall,
    SinkhornMetric,
    sinkhorn_divergence,
)
from wgflow.numerics.sinkhorn import annealing_error


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def cloud(n, *event, seed=0):
    return torch.randn(n, *event, dtype=torch.float64, generator=rng(seed))


def gaussian_grid(mean, variance, points=241):
    """A 1-D Gaussian as weights on a grid, where the trapezoidal rule is exact to rounding."""
    x = torch.linspace(-12, 12, points, dtype=torch.float64)
    return x[:, None], (-((x - mean) ** 2) / (2 * variance)).softmax(0)


def entropic_ot(m0, v0, m1, v1, s2):
    """OT between 1-D Gaussians, cost |x-y|² and penalty 2 s2 KL(plan | product)."""
    D = math.sqrt(4 * v0 * v1 + s2**2)
    return (m0 - m1) ** 2 + v0 + v1 - D + s2 * (1 - math.log(2 * s2)) + s2 * math.log(D + s2)


# ---------------------------------------------------------------- the divergence


@pytest.mark.parametrize("blur", [0.05, 0.5, 2.0])
def test_translation_costs_half_its_square_at_any_blur(blur):
    x, t = cloud(80, 3), torch.tensor([0.3, -0.4, 1.2], dtype=torch.float64)
    assert sinkhorn_divergence(x + t, x, blur=blur).item() == pytest.approx(0.5 * 1.3**2, rel=1e-6)


@pytest.mark.parametrize(("p", "tolerance"), [(1, 1.1e-4), (2, 1e-12)])
def test_single_atoms_pay_the_cost(p, tolerance):
    """One atom a side fixes the plan: |x-y|^p / p with |x-y| = 5, less geomloss's own 1e-4 at p = 1."""
    x, y = torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[3.0, 4.0]]).double()
    assert sinkhorn_divergence(x, y, blur=0.1, p=p).item() == pytest.approx(5**p / p, abs=tolerance)


def test_identical_clouds_are_at_distance_zero():
    x = cloud(50, 2)
    assert sinkhorn_divergence(x, x.clone(), blur=0.1).item() == 0.0


def test_coinciding_points_are_at_distance_zero():
    """All points equal: the diameter, where geomloss starts its annealing, is 0."""
    x = torch.ones(4, 2, dtype=torch.float64)
    assert sinkhorn_divergence(x, x.clone(), blur=0.1).item() == 0.0


@pytest.mark.parametrize(
    ("m0", "v0", "m1", "v1", "blur"),
    [(0.0, 1.0, 1.0, 4.0, 1.0), (-1.0, 0.5, 0.5, 2.0, 0.7), (0.0, 1.0, 0.0, 0.25, 2.0)],
)
def test_gaussians_follow_the_closed_form(m0, v0, m1, v1, blur):
    """Our cost and penalty are half of those of the formula, with s2 = blur²."""
    ot = lambda *ab: entropic_ot(*ab, s2=blur**2)  # noqa: E731
    exact = 0.5 * (ot(m0, v0, m1, v1) - 0.5 * ot(m0, v0, m0, v0) - 0.5 * ot(m1, v1, m1, v1))
    (x, a), (y, b) = gaussian_grid(m0, v0), gaussian_grid(m1, v1)
    loose = sinkhorn_divergence(x, y, a=a, b=b, blur=blur).item()
    tight = sinkhorn_divergence(x, y, a=a, b=b, blur=blur, scaling=0.995).item()
    assert loose == pytest.approx(exact, rel=0.02)  # the docstring says: about 1 %
    assert tight == pytest.approx(exact, rel=1e-3)


def test_small_blur_tends_to_half_the_squared_wasserstein_distance():
    """In 1-D the exact plan sorts."""
    x, y = cloud(60, 1, seed=1), 2 * cloud(60, 1, seed=2) + 1
    exact = 0.5 * (x.sort(0).values - y.sort(0).values).square().mean().item()
    assert sinkhorn_divergence(x, y, blur=0.02, scaling=0.99).item() == pytest.approx(exact, rel=0.01)


def test_gradient_of_a_translation_is_the_translation():
    """∂S/∂x_i = t/n for y = x - t, from S = |t|²/2 per unit mass."""
    y, t = cloud(40, 2), torch.tensor([0.6, -0.2], dtype=torch.float64)
    x = (y + t).requires_grad_()
    (grad,) = torch.autograd.grad(sinkhorn_divergence(x, y, blur=0.5, scaling=0.95), x)
    torch.testing.assert_close(grad.sum(0), t, rtol=1e-6, atol=1e-8)


def test_splitting_a_point_into_two_half_weights_changes_nothing():
    x, y = cloud(20, 2, seed=1), cloud(20, 2, seed=2)
    split, a = torch.cat([x, x[:1]]), torch.full((21,), 1 / 20, dtype=torch.float64)
    a[0] = a[-1] = 1 / 40
    whole = sinkhorn_divergence(x, y, blur=0.3).item()
    halved = sinkhorn_divergence(split, y, a=a, blur=0.3).item()
    assert halved == pytest.approx(whole, rel=1e-10)


def test_float32_far_from_the_origin():
    """Unit-sized clouds around 1000 in every coordinate: |x|² has no digits left for |x-y|²."""
    x, y = cloud(50, 100, seed=1), cloud(50, 100, seed=2)
    exact = sinkhorn_divergence(x, y, blur=1.0).item()
    far = sinkhorn_divergence(x.float() + 1000, y.float() + 1000, blur=1.0).item()
    assert far == pytest.approx(exact, rel=1e-4)


def test_events_are_flattened():
    x, y = cloud(10, 2, 3, 4, seed=1), cloud(12, 2, 3, 4, seed=2)
    flat = sinkhorn_divergence(x.flatten(1), y.flatten(1), blur=1.0)
    assert sinkhorn_divergence(x, y, blur=1.0).item() == flat.item()


def test_gradient_mode_is_left_as_it_was(monkeypatch):
    x = cloud(5, 2).requires_grad_()
    with torch.no_grad():
        value = sinkhorn_divergence(x, cloud(5, 2, seed=1), blur=1.0)
        assert not torch.is_grad_enabled()
        assert not value.requires_grad

    def fails_midway(self, *args):
        torch.autograd.set_grad_enabled(False)
        raise MemoryError

    monkeypatch.setattr("geomloss.SamplesLoss.forward", fails_midway)
    with pytest.raises(MemoryError):
        sinkhorn_divergence(x, x, blur=1.0)
    assert torch.is_grad_enabled()


X = torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("x", "y", "kwargs", "message"),
    [
        (X, torch.zeros(4, 3), {}, "shape of a point"),
        (X, X.double(), {}, "dtype"),
        (X.int(), X.int(), {}, "float32 or float64"),
        (X.bfloat16(), X.bfloat16(), {}, "float32 or float64"),
        (X[0], X[0], {}, r"\(n, \*event\)"),
        (X[:0], X, {}, "n >= 1"),
        (X, X.masked_fill(X == 0, math.nan), {}, "4 of the 4 points of y are not finite"),
        (X, X, {"a": torch.full((4,), 0.5)}, "sum to 1"),
        (X, X, {"b": torch.tensor([1.5, -0.5, 0.0, 0.0])}, "nonnegative"),
        (X, X, {"a": torch.tensor([math.nan, 0.5, 0.5, 0.0])}, "sum to 1"),
        (X, X, {"a": torch.ones(3) / 3}, r"\(4,\)"),
        (X, X, {"blur": 0.0}, "blur"),
        (X, X, {"p": 3}, "p=3: expected one of 1, 2"),
        (X, X, {"scaling": 1.0}, "scaling"),
        (X, torch.zeros(MAX_POINTS + 1, 2), {}, "GB of memory"),
        (X.double(), X.double() + 1e200, {}, "overflow torch.float64"),
    ],
)
def test_bad_input_is_named(x, y, kwargs, message):
    with pytest.raises(BadInput, match=message):
        sinkhorn_divergence(x, y, **{"blur": 0.1} | kwargs)


# ---------------------------------------------------------------- the metric and its floor

NORMAL = StandardNormal(8, dtype=torch.float64)
SHIFT = torch.tensor([1.5] + [0.0] * 7, dtype=torch.float64)


@pytest.fixture(scope="module")
def metric():
    return SinkhornMetric(NORMAL, n=200, blur=0.5, floor_pairs=8)


def test_excess_of_the_data_itself_is_zero_within_its_standard_error(metric):
    calls = [metric(NORMAL, rng(s))["sinkhorn_excess"] for s in range(100, 116)]
    error = metric.floor_std * math.sqrt(1 / 16 + 1 / 8)
    assert abs(statistics.fmean(calls)) < 4 * error
    assert metric.floor > 20 * error  # the floor itself is no rounding error: it had to be subtracted


def test_shifting_the_model_moves_the_excess_by_the_exact_amount(metric):
    """At p = 2, S(X+t, A) = S(X, A) + t·(mean X - mean A) + |t|²/2, for any clouds and any blur."""
    seed = 100
    shifted = metric(Gaussian(SHIFT, torch.eye(8, dtype=torch.float64)), rng(seed))["sinkhorn_excess"]
    x = NORMAL.draw(200, rng(seed)).x
    exact = (SHIFT @ (x.mean(0) - metric._real.x.mean(0)) + 0.5 * SHIFT @ SHIFT).item()
    assert shifted - metric(NORMAL, rng(seed))["sinkhorn_excess"] == pytest.approx(exact, rel=1e-3)
    assert shifted > 5 * metric.floor_std


def test_real_samples_do_not_follow_from_a_callers_seed(metric):
    """The data evaluated with generators of small seeds must not be compared with a copy of itself."""
    assert all((NORMAL.draw(200, rng(s)).x != metric._real.x).all() for s in range(12))


def test_real_samples_are_fixed_by_the_seed_and_the_model_by_the_generator(metric):
    again = SinkhornMetric(NORMAL, n=200, blur=0.5, floor_pairs=8)
    model = Gaussian(SHIFT, torch.eye(8, dtype=torch.float64))
    assert again(model, rng(3)) == metric(model, rng(3))
    assert again(model, rng(4))["sinkhorn"] != metric(model, rng(3))["sinkhorn"]
    assert replace(metric, seed=50).floor != metric.floor


def test_values_are_plain_floats_and_add_up(metric):
    values = metric(NORMAL, rng(1))
    assert {type(v) for v in values.values()} == {float}
    assert values["sinkhorn"] - values["sinkhorn_floor"] == values["sinkhorn_excess"]


def test_the_residual_is_the_marginal_error_of_the_annealed_plan():
    """It falls with finer annealing, and the divergence is off by a fifth of it and less."""
    x, y = cloud(40, 3, seed=0), cloud(50, 3, seed=1) + 1
    exact = float(SinkhornDivergence(Particles(y), blur=0.3).value(Particles(x)))
    errors = [annealing_error(x, y, blur=0.3, scaling=s) for s in (0.5, 0.9, 0.99)]
    values = [float(sinkhorn_divergence(x, y, blur=0.3, scaling=s)) for s in (0.5, 0.9, 0.99)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.02
    assert all(abs(v / exact - 1) < e / 5 for v, e in zip(values, errors, strict=True))


def test_a_metric_whose_annealing_is_too_coarse_says_so():
    coarse = SinkhornMetric(NORMAL, n=100, blur=0.01, scaling=0.1)
    with pytest.warns(
        NotConverged, match=r"sinkhorn metric has not converged: .* Increase scaling \(0.1\) or blur \(0.01\)"
    ):
        values = coarse(NORMAL, rng(1))
    assert values["sinkhorn_residual"] > 0.3
    assert SinkhornMetric(NORMAL, n=100, blur=1.0)(NORMAL, rng(1))["sinkhorn_residual"] < 0.1


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1e6, 1e15])
def test_single_precision_and_units_do_not_count(scale: float, p: int) -> None:
    """In float32 eps underflowed to NaN at 1e-25; a far point put gradients of the others off by 78 %."""
    x, y = cloud(40, 3, seed=0).float(), cloud(50, 3, seed=1).float() + 1
    one, other = (sinkhorn_divergence(s * x, s * y, blur=0.1 * s, p=p) for s in (1.0, scale))
    if p == 1 or scale > 1e-20:
        assert float(other) / scale**p == pytest.approx(float(one), rel=1e-5)
    assert math.isfinite(float(other))
    x[0] = 1e4
    gradients = []
    for z in (x, x.double()):
        z = z.clone().requires_grad_()
        gradients.append(torch.autograd.grad(sinkhorn_divergence(z, y.to(z), blur=0.1, p=p), z)[0][1:].double())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_global_generator_is_untouched(metric):
    before = torch.get_rng_state()
    metric(NORMAL, rng(1))
    SinkhornMetric(NORMAL, n=20, blur=0.5).floor  # noqa: B018
    assert torch.equal(before, torch.get_rng_state())


def test_repeats_average_successive_draws(metric):
    source = rng(5)
    singles = [metric(NORMAL, source)["sinkhorn"] for _ in range(3)]
    assert replace(metric, repeats=3)(NORMAL, rng(5))["sinkhorn"] == pytest.approx(statistics.fmean(singles), rel=1e-12)


def test_real_samples_of_a_finite_data_set_share_no_point():
    """Exactly 2n points: the first floor sample must be the complement of the sample it is compared with."""
    data = cloud(100, 3)
    metric = SinkhornMetric(Dataset(data), n=50, blur=0.5)
    together = torch.cat([metric._real.x, metric._others(0).x])
    assert torch.equal(together.sort(0).values, data.sort(0).values)


@pytest.mark.parametrize("repeated", [2, 50, 100])
@pytest.mark.parametrize("kind", [Dataset, Particles, lambda x: Smoothed(Dataset(x), lambda k: 0.0)])
def test_equal_points_of_a_data_set_are_repetitions_of_its_law(kind, repeated):
    """They are told apart by their numbers: a point that is there twice may be once in each sample, and so in the model."""
    data = cloud(100, 3)
    data[:repeated] = data[0].clone()
    metric = SinkhornMetric(kind(data), n=50, blur=0.5)
    together = torch.cat([metric._real.x, metric._others(0).x])
    assert torch.equal(together.sort(0).values, data.sort(0).values)
    value = metric(kind(data), rng())
    assert value["sinkhorn"] == 0 if repeated == 100 else value["sinkhorn"] > 0


def test_smoothed_atoms_are_smoothed():
    data = torch.zeros(10, 4000, dtype=torch.float64)
    taken = Smoothed(Dataset(data), lambda k: 0.5).take(torch.arange(3), rng())
    assert taken.x.shape == (3, 4000)
    assert taken.x.std() == pytest.approx(0.5, rel=0.05)


def test_weights_of_the_model_are_used():
    """All but a negligible mass of the model sits on the reference's points; the rest is far away."""
    metric = SinkhornMetric(Dataset(cloud(80, 2)), n=40, blur=0.3)
    far = torch.full((1, 2), 1e3, dtype=torch.float64)
    model = Particles(
        torch.cat([metric._real.x[:39], far]), torch.cat([torch.zeros(39), torch.tensor([-80.0])]).double()
    )
    assert metric(model, rng())["sinkhorn"] < 1.0  # uniform weights would give 1e6 / 40


METRICS = [
    lambda data, n: FunctionalValue(EnergyDistance(data), n=n),
    lambda data, n: Moments(n),
    lambda data, n: SinkhornMetric(data, n=n, blur=0.3),
    lambda data, n: PrecisionRecall(data, n=n),
    lambda data, n: Memorization(data, n=n),
    lambda data, n: Memorization(data, held_out=cloud(90, 2, seed=5), n=n),
]


@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", METRICS)
def test_weights_that_are_no_numbers_are_refused(make, wrong, n):
    """Draws by weight of such particles would be finite points, and the metric a number."""
    metric = make(Dataset(cloud(120, 2)), n)
    log_w = torch.full((60,), wrong, dtype=torch.float64)
    if wrong != -math.inf:
        log_w[1:] = 0
    with pytest.raises(BadInput, match="must be finite, or -inf for some points, not for all"):
        metric(Particles(cloud(60, 2, seed=1), log_w), rng())
    metric(Particles(cloud(60, 2, seed=1), torch.where(torch.arange(60) == 3, -math.inf, 0.0)), rng())


class _WithItsWeights(Measure):
    """A law of one's own whose draws carry weights."""

    event_shape = torch.Size([2])

    def __init__(self, log_w):
        self.held = log_w

    def draw(self, n, rng):
        x = torch.randn(n, 2, generator=rng, dtype=torch.float64)
        return Particles(x, torch.zeros(n).double() + self.held)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", METRICS)
def test_weights_of_draws_that_are_no_numbers_are_refused(make, wrong):
    """The value of a functional was NaN, moments ended in an error of LAPACK."""
    metric = make(Dataset(cloud(120, 2)), 50)
    with pytest.raises(BadInput, match="log_w of draws of this _WithItsWeights must be finite"):
        metric(_WithItsWeights(wrong), rng())
    metric(_WithItsWeights(0.0), rng())


@pytest.mark.parametrize("n", [30, 60])
@pytest.mark.parametrize("make", METRICS)
def test_weights_of_a_latent_that_are_no_numbers_are_refused(make, n):
    """Draws by weight of the latent would be finite points."""
    latent = Particles(cloud(60, 2, seed=1), torch.where(torch.arange(60) == 3, math.nan, 0.0).double())
    with pytest.raises(BadInput, match="log_w of this Particles must be finite"):
        make(Dataset(cloud(120, 2)), n)(Pushforward(latent, nn.Identity()), rng())


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize(
    "make",
    [
        lambda law: SinkhornMetric(law, n=20, blur=0.3),
        lambda law: FunctionalValue(EnergyDistance(law)),
        lambda law: FunctionalValue(2 * EnergyDistance(law, batch=10) + EnergyDistance(cloud(60, 2))),
        lambda law: FunctionalValue(EnergyDistance(Smoothed(law, lambda k: 0.1), batch=10)),
    ],
)
def test_weights_of_a_reference_that_are_no_numbers_are_refused_on_construction(make, wrong):
    make(Particles(cloud(60, 2), torch.where(torch.arange(60) == 3, -math.inf, 0.0)))
    with pytest.raises(BadInput, match="log_w of this Particles must be finite"):
        make(Particles(cloud(60, 2), torch.where(torch.arange(60) == 3, wrong, 0.0)))


HALF = torch.cat([cloud(400, 2), torch.full((1, 2), 10.0).double()])
HALF_W = torch.cat([torch.zeros(400), torch.tensor([math.log(400)])]).double()  # half of the mass is one point


@pytest.mark.parametrize("kind", [Particles, Dataset])
def test_samples_of_a_weighted_reference_are_of_its_law_and_share_heavy_points_only(kind):
    metric = SinkhornMetric(kind(HALF, HALF_W), n=100, blur=0.3)
    for sample in (metric._real, metric._others(0), metric._others(1)):
        assert (sample.x == 10).all(1).sum() == 50
        assert len(sample) == 100
    real, other = ({tuple(row) for row in s.x.tolist()} for s in (metric._real, metric._others(0)))
    assert real & other == {(10.0, 10.0)}


def test_excess_of_a_weighted_reference_is_zero_for_its_own_law():
    law = Particles(HALF, HALF_W)
    metric = SinkhornMetric(law, n=100, blur=0.3, floor_pairs=8)
    excess = statistics.fmean(metric(law, rng(s))["sinkhorn_excess"] for s in range(8))
    assert abs(excess) < 3 * metric.floor_std  # not the 50 of samples with one heavy point in only one of them


def test_two_weighted_atoms_are_in_every_sample():
    two = Particles(torch.tensor([[0.0], [1.0]]), torch.tensor([0.25, 0.75]).log())
    assert SinkhornMetric(two, n=8, blur=0.3).floor == pytest.approx(0, abs=1e-9)


def test_protocol_names_every_parameter(metric):
    for part in (
        "geomloss",
        "p=2",
        "blur=0.5",
        "scaling=0.9",
        "n=200",
        "floor_pairs=8",
        "seed=0",
        "cost=|x-y|^2/2",
    ):
        assert part in metric.protocol


class Broken(Measure):
    event_shape = torch.Size([8])

    def draw(self, n, rng):
        return Particles(torch.full((n, 8), math.nan, dtype=torch.float64))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (StandardNormal(7), r"shape \(7,\), the reference of \(8,\)"),
        (Particles(torch.zeros(30, 8)), "set n to 30"),
        (Broken(), "200 of the 200 points of x are not finite"),
    ],
)
def test_bad_models_are_named(metric, model, message):
    with pytest.raises(BadInput, match=message):
        metric(model, rng())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"reference": Dataset(cloud(30, 2)), "n": 20}, "30 points were found. Set n to at most 15"),
        ({"reference": Particles(cloud(3, 2)), "n": 2}, "3 points were found. It takes 4 at least"),
        ({"n": 1}, "n must lie between"),
        ({"n": MAX_POINTS + 1}, "n must lie between"),
        ({"repeats": 0}, "repeats"),
        ({"floor_pairs": 1}, "floor_pairs"),
        ({"blur": -1.0}, "blur"),
    ],
)
def test_bad_parameters_are_named_on_construction(kwargs, message):
    with pytest.raises(BadInput, match=message):
        SinkhornMetric(**{"reference": NORMAL, "n": 20, "blur": 0.5} | kwargs)


def test_blur_has_no_default():
    with pytest.raises(TypeError, match="blur"):
        SinkhornMetric(NORMAL)


# ---------------------------------------------------------------- the small ones


def test_moments_of_a_weighted_law():
    """Atoms at ±2 on one axis and ±1 on the other, mass 1/2 an axis, shifted by (3, 4)."""
    atoms = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0], [9.0, 9.0]])
    rho = Particles(atoms + torch.tensor([3.0, 4.0]), log_w=torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]).log())
    expected = {
        "mean_norm": 5.0,
        "std_mean": math.sqrt(2.5 / 2),
        "std_min": math.sqrt(0.5),
        "std_max": math.sqrt(2.0),
    }
    assert Moments()(rho, rng()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [40, 120])
def test_a_model_that_is_data_is_looked_at_whole(n):
    """Of as many draws as there are points, none is missed and none seen twice."""
    x = cloud(40, 2)
    assert Moments(n=n)(Dataset(x), rng()) == pytest.approx(Moments(n=n)(Particles(x), rng()), rel=1e-12)
    metric = SinkhornMetric(Dataset(cloud(80, 2, seed=2)), n=40, blur=0.5)
    assert metric(Dataset(x), rng())["sinkhorn"] == pytest.approx(metric(Particles(x), rng())["sinkhorn"], rel=1e-9)


def test_an_unbiased_value_of_the_data_itself_is_zero_on_average():
    """Pairs of draws with replacement are those of the law; pairs of distinct points of six are farther apart."""
    data = Dataset(cloud(6, 2))
    metric = FunctionalValue(replace(EnergyDistance(data, batch=8), pairs="distinct"), n=8)
    values = [metric(data, rng(s))["functional"] for s in range(400)]
    assert abs(statistics.fmean(values)) < 3 * statistics.stdev(values) / 20


def test_moments_show_a_collapsed_direction():
    line = cloud(50, 1) * torch.tensor([[1.0, 1.0]]).double()
    values = Moments()(Particles(line), rng())
    assert values["std_min"] < 1e-12
    assert values["std_max"] == pytest.approx(math.sqrt(2) * line[:, 0].std(correction=0).item())


def test_functional_value_freezes_with_the_same_generator():
    class Shifted(Functional):
        """F(ρ) = E|x - c| with c drawn when frozen."""

        def __init__(self, c=None):
            self.c = c

        def freeze(self, rng):
            return Shifted(torch.rand((), generator=rng))

        def value(self, rho):
            return rho.mean((rho.x[:, 0] - self.c).abs())

    rho = Particles(torch.tensor([[2.0], [4.0]]))
    value = FunctionalValue(Shifted(), n=10)(rho, rng(7))
    assert value == {"functional": pytest.approx(3.0 - torch.rand((), generator=rng(7)).item())}
    assert type(value["functional"]) is float


def test_two_functionals_are_watched_under_two_names():
    F, G = (PotentialEnergy(lambda x, c=c: c * x.square().sum(1)) for c in (1.0, 2.0))
    look = Evaluate([FunctionalValue(F, name="one"), FunctionalValue(G, name="two")])
    start = Particles(torch.ones(1, 1))
    solve(F, ForwardEuler(), start, step_size=0.1, num_steps=1, callbacks=[look])
    assert look.initial == {"one": 1.0, "two": 2.0}
