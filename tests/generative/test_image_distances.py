"""What is measured in pixels along every training."""

import csv
import math
import statistics

import numpy as np
import torch

from wgflow import Particles
from wgflow.generative import ImageData, Recipe, energy, load_images, train


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_energy_distance_is_the_mean_over_pairs_of_distinct_points():
    g = rng(0)
    data = ImageData(torch.randint(256, (30, 3, 4, 4), generator=g, dtype=torch.uint8))
    x = torch.rand(12, 3, 4, 4, generator=g) * 2 - 1
    (metric,) = energy(data, 12)
    y = data.draw(12, rng(1)).x
    apart = lambda a, b: torch.cdist(a.flatten(1).double(), b.flatten(1).double())  # noqa: E731
    exact = 2 * apart(x, y).mean() - sum(apart(a, a).sum() / (12 * 11) for a in (x, y))
    found = metric(Particles(x), rng(1))
    assert found.keys() == {"energy_distance"}
    assert math.isclose(found["energy_distance"], exact, rel_tol=1e-5)


def test_it_is_zero_on_average_at_the_law_of_the_data_for_few_images_as_well():
    data = ImageData(load_images("fashion-mnist-10k").images)
    (metric,) = energy(data, 20)
    values = [metric(data, rng(seed))["energy_distance"] for seed in range(60)]
    error = statistics.stdev(values) / math.sqrt(60)
    assert abs(statistics.fmean(values)) < 3 * error
    # The mean over all pairs, those of a point with itself as well, is above: 2 E|Y - Y'| / 20.
    apart = torch.pdist(data.draw(200, rng(0)).x.flatten(1)).mean()
    assert 3 * error < 2 * apart / 20


def test_real_images_are_before_paler_ones_and_these_before_noise():
    images = load_images("fashion-mnist-10k").images
    (metric,) = energy(ImageData(images[:5000]), 400)
    real = ImageData(images[5000:]).subset(400, rng(0))
    worse = [real, 0.75 * real, 0.5 * real, torch.rand(real.shape, generator=rng(1)) * 2 - 1]
    values = [metric(Particles(x), rng(2))["energy_distance"] for x in worse]
    assert values == sorted(values)


def test_no_metric_of_fewer_than_two_images():
    data = ImageData(torch.zeros(4, 1, 4, 4, dtype=torch.uint8))
    assert energy(data, 0) == energy(data, 1) == []


def test_a_training_records_it(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8))
    recipe = Recipe(
        data=str(tmp_path / "a.npy"), method="sliced_w_flow", particles=4, num_steps=2, sinkhorn_n=8, step_size=1.0
    )
    train(recipe, tmp_path / "r", device="cpu", progress=False)
    with open(tmp_path / "r" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("update", "k", "t")]
    assert "energy_distance" in names
    assert "sinkhorn_excess" in names
    assert all(math.isfinite(float(r["energy_distance"])) for r in rows)
    report = (tmp_path / "r" / "report.json").read_text()
    assert "energy_distance: SquaredMMD" in report
