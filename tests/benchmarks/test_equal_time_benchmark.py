"""The benchmark of equal CPU time: a clock that stops where it should, a score for every method."""

import json
from types import SimpleNamespace

import pytest
import torch

from wgflow import Particles
from wgflow.generative import load_images, to_unit


@pytest.fixture
def equal_time(script):
    return script("equal_time")


def test_a_flow_is_stopped_at_the_step_nearest_to_the_end_of_its_time(equal_time, monkeypatch):
    now = iter([0.0])
    monkeypatch.setattr(equal_time.time, "process_time", lambda: next(now))
    run = SimpleNamespace(state=SimpleNamespace(present=Particles(torch.zeros(1, 1))), updates=0, STOP="stop")
    clock = equal_time.Clock(10.0, 1.0, 2, [lambda rho, rng: {"score": 0.0}])
    clock.on_start(run)
    # Every step takes 4, and every look 100: after 5, and after 9, which is nearer to 10 than 13.
    now = iter([4.0, 104.0, 108.0, 208.0])
    assert clock.on_step(run, {}) is None
    assert clock.on_step(run, {}) == "stop"
    assert [row["seconds"] for row in clock.path] == [5.0, 9.0]


def test_the_energy_distance_is_the_unbiased_one_of_trainings(equal_time):
    pictures = load_images("fashion-mnist-10k")
    metrics, _ = equal_time.judges(pictures, SimpleNamespace(quick=True, points=20))
    x = to_unit(pictures.images[:20])
    # At the points of the data themselves 2 S/n^2 - 2 S/n(n - 1), with S the sum of all distances.
    expected = -2 * float(torch.cdist(x.flatten(1), x.flatten(1)).sum()) / (20 * 20 * 19)
    found = metrics[1](Particles(x), torch.Generator())["energy_distance"]
    assert found == pytest.approx(expected, rel=1e-4)


def test_every_method_is_scored(equal_time, tmp_path):
    path = equal_time.main(["--quick", "--device", "cpu", "--results", str(tmp_path)])
    results = json.loads(path.read_text())["results"]
    assert [row["method"] for row in results["rows"]] == list(equal_time.METHODS)
    for row in results["rows"]:
        assert {"sinkhorn_excess", "energy_distance", "frechet", "update", "seconds"} <= row.keys()
    assert [run["seed"] for run in results["runs"]] == [0] * 4
    assert results["rows"][0]["before_training"] > 0  # an encoder is not free
    assert results["real"].keys() >= {"classifier_accuracy", "energy_distance", "frechet"}
    assert (tmp_path / "equal_time.png").exists()


def test_seeds_are_averaged_by_name(equal_time):
    runs = [{"method": "a", "seed": 0, "w1": 1.0, "path": []}, {"method": "b", "seed": 0, "w1": 5.0}]
    a, b = equal_time.summary([*runs, {"method": "a", "seed": 1, "w1": 3.0, "path": []}], "method")
    assert (a["seeds"], a["w1"], a["w1_std"]) == (2, 2.0, 2**0.5)
    assert (b["seeds"], b["w1"], b["w1_std"]) == (1, 5.0, None)
