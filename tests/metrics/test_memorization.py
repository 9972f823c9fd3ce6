"""The memorization report and the four numbers of nearest-neighbor balls, against brute force and known laws."""

import math

import pytest
import torch

from wgflow import BadInput
from wgflow.measures import Dataset, Gaussian, Particles, StandardNormal
from wgflow.metrics import Memorization, PrecisionRecall, precision_recall
from wgflow.numerics.neighbors import nearest

STATISTICS = ("nn_ratio", "memorized", "near_copies", "closer")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def cloud(n, *event, seed=0, dtype=torch.float64):
    return torch.randn(n, *event, dtype=dtype, generator=rng(seed))


def distances(x, y):
    return (x[:, None] - y[None]).flatten(2).square().sum(2).sqrt()


# ---------------------------------------------------------------- neighbors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [2, 7, 40])
def test_neighbors_are_those_of_all_distances(d, dtype, monkeypatch):
    monkeypatch.setattr("wgflow.numerics.distances.BLOCK_CPU", 900)  # blocks of 30 x 30
    x, y = cloud(70, d, seed=1, dtype=dtype), cloud(101, d, seed=2, dtype=dtype)
    found, index = nearest(x, y, 3)
    expected, place = distances(x.double(), y.double()).topk(3, largest=False)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)
    assert torch.equal(index, place)


def test_a_point_is_no_neighbor_of_itself(monkeypatch):
    monkeypatch.setattr("wgflow.numerics.distances.BLOCK_CPU", 900)
    y = cloud(80, 5)
    own = torch.randperm(80, generator=rng())[:50]
    found, index = nearest(y[own], y, 2, own)
    expected, place = distances(y, y).fill_diagonal_(math.inf)[own].topk(2, largest=False)
    torch.testing.assert_close(found, expected)
    assert torch.equal(index, place)


# ---------------------------------------------------------------- the report


def by_hand(x, train, real):
    """The four statistics from matrices of all distances."""
    ours, theirs = (distances(p, train).sort(1).values[:, :2] for p in (x, real))
    r, q = ours[:, 0] / ours[:, 1], theirs[:, 0] / theirs[:, 1]
    near = theirs[:, 0].sort().values[math.ceil(0.05 * len(real)) - 1]
    pairs = ours[:, :1] - theirs[:, 0]
    return {
        "nn_ratio": r.mean(),
        "nn_ratio_chance": q.mean(),
        "nn_ratio_margin": 1.96 * (q.var() * (1 / len(x) + 1 / len(real))).sqrt(),
        "memorized": (r < 1 / 3).double().mean(),
        "memorized_chance": (q < 1 / 3).double().mean(),
        "near_copies": ((r < 1 / 3) & (ours[:, 0] < near)).double().mean(),
        "closer": (pairs < 0).double().mean() + (pairs == 0).double().mean() / 2,
        "closer_margin": 1.96 * math.sqrt((1 / len(x) + 1 / len(real)) / 12),
    }


def test_numbers_are_those_of_all_distances():
    train, real, x = cloud(90, 3, seed=1), cloud(60, 3, seed=2), 0.8 * cloud(50, 3, seed=3)
    x[:10] = train[:10] + 1e-3  # near copies, so that their share is not 0
    found = Memorization(train, real, n=60)(Particles(x), rng())
    for name, value in by_hand(x, train, real).items():
        assert found[name] == pytest.approx(float(value), rel=1e-12), name
    assert found["near_copies"] >= 0.2


def test_without_held_out_points_training_points_are_compared_with_the_others():
    train = cloud(40, 3)
    d = distances(train, train).fill_diagonal_(math.inf).sort(1).values
    found = Memorization(train, n=40)(StandardNormal(3), rng())
    assert found["nn_ratio_chance"] == pytest.approx(float((d[:, 0] / d[:, 1]).mean()), rel=1e-6)
    assert "log_prob_held_out" not in found


@pytest.mark.parametrize("held_out", [None, StandardNormal(4)])
def test_a_generator_that_copies(held_out):
    data = Dataset(cloud(300, 4, dtype=torch.float32))
    found = Memorization(data, held_out, n=200)(data, rng(1))
    assert found["nn_ratio"] == 0.0
    assert (found["memorized"], found["near_copies"], found["closer"]) == (1.0, 1.0, 1.0)
    assert found["memorized_chance"] < 0.2


@pytest.mark.parametrize(("held_out", "least"), [(StandardNormal(2), 0.9), (None, 0.85)])
def test_independent_draws_come_out_at_chance(held_out, least):
    """Over 40 data sets 95 % of the values are within the margin; the binomial error of the share is 0.035.

    Training points beside each other depend on each other a little, where all of them are looked at.
    """
    inside = []
    for seed in range(40):
        found = Memorization(cloud(400, 2, seed=seed), held_out, n=300)(StandardNormal(2), rng(1000 + seed))
        chance = {name: found.get(f"{name}_chance", 0.5) for name in STATISTICS}
        inside += [abs(found[name] - chance[name]) <= found[f"{name}_margin"] for name in STATISTICS]
    assert sum(inside) / len(inside) >= least


@pytest.mark.parametrize("d", [1, 2, 4])
def test_chance_is_that_of_a_smooth_density(d):
    """Of many points the volumes within the two nearest are uniformly divided: P(r < t) = t^d. A torus has no edge."""
    x = torch.rand(8000, d, generator=rng(d), dtype=torch.float64)
    angle = 2 * math.pi * x
    found = Memorization(torch.cat([angle.cos(), angle.sin()], 1), n=4000)(StandardNormal(2 * d), rng())
    assert found["nn_ratio_chance"] == pytest.approx(d / (d + 1), abs=0.015)
    assert found["memorized_chance"] == pytest.approx(3.0**-d, abs=0.02)


def test_the_margin_is_not_wider_than_it_says():
    """Draws that are a tenth nearer to their training point are outside of it."""
    train = cloud(2000, 2)
    x = cloud(1000, 2, seed=1)
    neighbor = train[nearest(x, train, 1)[1][:, 0]]
    found = Memorization(train, StandardNormal(2))(Particles(neighbor + 0.85 * (x - neighbor)), rng())
    assert found["nn_ratio_chance"] - found["nn_ratio"] > found["nn_ratio_margin"]


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_do_not_matter(scale, dtype):
    train, real, x = (cloud(150, 20, seed=s, dtype=dtype) for s in range(3))
    x[:20] = train[:20] + 1e-3 * cloud(20, 20, seed=4, dtype=dtype)
    one = Memorization(train, real, n=150)(Particles(x), rng())
    other = Memorization(scale * train, scale * real, n=150)(Particles(scale * x), rng())
    assert other == pytest.approx(one, rel=1e-4 if dtype == torch.float32 else 1e-10)


def test_copies_of_repeated_training_points_are_seen():
    """The second neighbor is another point, not the same one once more."""
    train = cloud(100, 3).repeat(2, 1)
    metric = Memorization(train, StandardNormal(3), n=100)
    assert metric(Particles(train[:100]), rng())["memorized"] == 1.0
    single = Memorization(train[:100], StandardNormal(3), n=100)
    assert metric(StandardNormal(3), rng(5)) == single(StandardNormal(3), rng(5))
    assert "train=100 distinct, 100 repeated" in metric.protocol
    alone = Memorization(train, n=100)(StandardNormal(3), rng(5))
    assert alone["memorized_chance"] < 0.5  # a training point is no neighbor of its repetition


def test_weights_count_as_repetitions_do():
    train, x = cloud(80, 3, seed=1), 0.5 * cloud(40, 3, seed=2)
    w = torch.ones(40, dtype=torch.float64)
    w[:10] = 3.0
    metric = Memorization(train, StandardNormal(3), n=60)
    weighted, repeated = metric(Particles(x, w.log()), rng()), metric(Particles(torch.cat([x, x[:10], x[:10]])), rng())
    for name in STATISTICS:
        assert weighted[name] == pytest.approx(repeated[name], rel=1e-12)


def test_points_without_mass_are_not_there():
    train, x = cloud(80, 3, seed=1), cloud(50, 3, seed=2)
    log_w = torch.zeros(80, dtype=torch.float64)
    log_w[50:] = -math.inf
    part, held = Memorization(train[:50], n=50), Memorization(Dataset(train, log_w), n=50)
    assert held(Particles(x), rng()) == part(Particles(x), rng())


def test_log_densities_are_reported_where_there_are_some():
    data, held = cloud(200, 2, seed=1), cloud(150, 2, seed=2)
    law = Gaussian(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    found = Memorization(data, held, n=200)(law, rng())
    for name, x in (("held_out", held), ("train", data)):
        expected = float(-0.5 * x.square().sum(1).mean() - math.log(2 * math.pi))
        assert found[f"log_prob_{name}"] == pytest.approx(expected, rel=1e-12)
    assert "log_prob_train" not in Memorization(data, held, n=150)(Dataset(data), rng())


def test_the_report_of_a_tensor_has_a_table_and_pairs():
    train, x = cloud(60, 1, 2, 2, seed=1), cloud(30, 1, 2, 2, seed=2)
    x[7], x[21] = train[3] + 1e-3, train[5]
    report = Memorization(train, n=40).report(x)
    pairs = report.closest(4)
    assert torch.equal(pairs.generated[:2], x[[21, 7]])
    assert torch.equal(pairs.training[:2], train[[5, 3]])
    assert pairs.ratio[0] == 0
    assert bool((pairs.ratio.diff() >= 0).all())
    assert "nearer than a real point" in str(report)
    assert "coverage" in str(report)


def test_features_and_a_prefix():
    train, x = cloud(60, 4, seed=1), cloud(40, 4, seed=2)
    first = Memorization(train, n=40, features=lambda p: p[:, :2], prefix="feature_")(Particles(x), rng())
    plain = Memorization(train[:, :2], n=40)(Particles(x[:, :2].contiguous()), rng())
    # Distinct points are in another order, and so is the choice of real ones.
    assert first["feature_nn_ratio"] == pytest.approx(plain["nn_ratio"], rel=1e-12)
    assert first.keys() == {f"feature_{name}" for name in plain}


def test_a_generator_of_another_type_and_repeated_calls():
    train = cloud(50, 2, dtype=torch.float32)
    metric = Memorization(train, n=50)
    assert metric(Particles(cloud(20, 2)), rng()) == metric(Particles(cloud(20, 2)), rng(3))
    assert metric(StandardNormal(2), rng(1)) != metric(StandardNormal(2), rng(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Memorization(cloud(2, 2)), "2 distinct points.*3 at least"),
        (lambda: Memorization(torch.zeros(9, 2)), "1 distinct points"),
        (lambda: Memorization(StandardNormal(2)), "finitely many points"),
        (lambda: Memorization(cloud(9, 2), cloud(9, 2)), "100% of the held-out points are training points"),
        (lambda: Memorization(cloud(9, 2), cloud(9, 3)), r"shape \(3,\), the training data \(2,\)"),
        (lambda: Memorization(cloud(9, 2), n=5), "more draws than k=5"),
        (lambda: Memorization(cloud(9, 2) / 0), "train has points that are not finite"),
        (lambda: Memorization(cloud(9, 2), features=lambda x: x.sum(1)), "vectors"),
        (lambda: Memorization(cloud(9, 2))(StandardNormal(3), rng()), r"shape \(3,\), the training data of \(2,\)"),
        (lambda: Memorization(cloud(9, 2))(Particles(cloud(9, 2) / 0), rng()), "the model has points that are not"),
        (lambda: Memorization(cloud(9, 2))(Particles(cloud(4, 2)), rng()), "k=5 neighbors take at least 6"),
        (lambda: Memorization([[0.0]]), "train="),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(BadInput, match=message):
        make()


# ---------------------------------------------------------------- precision and recall


def balls_by_hand(real, model, k):
    radius = [distances(p, p).sort(1).values[:, k] for p in (real, model)]
    d = distances(model, real)
    return {
        "precision": (d <= radius[0]).any(1).double().mean(),
        "recall": (d <= radius[1][:, None]).any(0).double().mean(),
        "density": (d <= radius[0]).double().sum(1).mean() / k,
        "coverage": (d.amin(0) <= radius[0]).double().mean(),
    }


@pytest.mark.parametrize("k", [1, 3, 5])
def test_balls_are_those_of_all_distances(k, monkeypatch):
    monkeypatch.setattr("wgflow.numerics.distances.BLOCK_CPU", 900)
    real, model = cloud(90, 6, seed=1), 0.8 * cloud(70, 6, seed=2) + 0.3
    found = precision_recall(real, model, k)
    assert found == pytest.approx({name: float(v) for name, v in balls_by_hand(real, model, k).items()})


def test_at_the_law_of_the_data_density_is_1_and_coverage_what_counting_says():
    """No point of the model is in a ball when its k nearest are all real: the product of (n-1-i)/(n+m-1-i)."""
    n, k, runs = 400, 5, 8
    found = [precision_recall(cloud(n, 3, seed=s), cloud(n, 3, seed=100 + s), k) for s in range(runs)]
    empty = math.prod((n - 1 - i) / (2 * n - 1 - i) for i in range(k))
    assert sum(f["density"] for f in found) / runs == pytest.approx(1, abs=0.03)
    assert sum(f["coverage"] for f in found) / runs == pytest.approx(1 - empty, abs=0.01)


def test_copies_and_far_points():
    real = cloud(100, 3)
    assert precision_recall(real, real.clone()) == {
        "precision": 1,
        "recall": 1,
        "density": pytest.approx(1.2),
        "coverage": 1,
    }
    assert set(precision_recall(real, real + 100).values()) == {0.0}


def test_too_few_real_points_are_said_before_anything_is_drawn():
    train = torch.randn(20, 2, generator=rng(0))
    with pytest.raises(BadInput, match="expected more than k real points, and there are 3"):
        Memorization(train, torch.randn(3, 2, generator=rng(1)))


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_points_whose_squared_distances_are_no_numbers_are_refused(unit):
    """All distances were 0 or infinite, and precision and recall 1."""
    x = unit * torch.randn(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(BadInput, match="change the unit"):
        precision_recall(x[:15], x[15:])
    with pytest.raises(BadInput, match="change the unit"):
        Memorization(x[:15], n=10)(Particles(x[15:]), torch.Generator())


def test_precision_and_recall_along_a_flow_are_those_of_its_draws_in_features():
    real, model = cloud(40, 3, seed=0), cloud(40, 3, seed=1) + 0.5
    seen = lambda x: torch.stack([x[:, 0], x.square().sum(1)], 1)  # noqa: E731
    metric = PrecisionRecall(Particles(real), n=40, k=3, features=seen)
    assert metric(Particles(model), torch.Generator()) == precision_recall(seen(real), seen(model), 3)
    assert metric(Particles(model), torch.Generator()) != precision_recall(real, model, 3)
    assert "n_real=40 k=3" in metric.protocol


@pytest.mark.parametrize("n", [60, 200])
def test_a_model_that_is_data_is_looked_at_whole(n):
    """Draws with replacement are their own nearest neighbors: the balls around them had no radius, and recalled nothing."""
    real, model = cloud(60, 2, seed=0), cloud(60, 2, seed=1)
    found = PrecisionRecall(Particles(real), n=n)(Dataset(model), rng())
    assert found == pytest.approx(precision_recall(real, model), abs=1e-12)
    metric = Memorization(Dataset(cloud(300, 2, seed=3)), held_out=Particles(real), n=n)
    assert metric(Dataset(model), rng()) == pytest.approx(metric.report(model).values, abs=1e-12)


def test_precision_and_recall_need_more_points_than_neighbors():
    with pytest.raises(BadInput, match="expected more than k points, and there are 5"):
        PrecisionRecall(Particles(cloud(5, 2)))
    with pytest.raises(BadInput, match="points must have one shape"):
        PrecisionRecall(Particles(cloud(20, 2)), n=20)(Particles(cloud(20, 3)), torch.Generator())
    with pytest.raises(BadInput, match="not finite"):
        PrecisionRecall(Particles(cloud(20, 2)), n=20)(Particles(cloud(20, 2) / 0), torch.Generator())


@pytest.mark.parametrize("kind", [Particles, Dataset])
def test_copies_of_a_heavy_point_are_no_neighbors_of_it(kind):
    """Half of the draws were copies of it, within balls of no extent, and not covered by the points around it."""
    x, log_w = cloud(400, 2, seed=0), torch.zeros(400)
    x[0], log_w[0] = 0.0, math.log(399)
    heavy, light = kind(x, log_w), Particles(cloud(100, 2, seed=1))
    assert PrecisionRecall(heavy, n=100)(light, rng(0))["coverage"] > 0.9
    assert PrecisionRecall(heavy, n=1000)(light, rng(0)) == precision_recall(Particles(x, log_w), light)
    assert Memorization(cloud(200, 2, seed=2), heavy, n=100)(light, rng(0))["coverage"] > 0.9
    with pytest.raises(BadInput, match="there are 3"):
        PrecisionRecall(kind(x[:3], log_w[:3]))


def test_shares_of_weighted_points_are_at_most_one():
    """The sum of the weights was another one above than below."""
    x = cloud(40, 2, seed=0)
    for seed in range(20):
        law = Particles(x, cloud(40, seed=seed))
        assert precision_recall(law, law) | {"density": 1.0} == dict.fromkeys(
            ("precision", "recall", "density", "coverage"), 1.0
        )
