"""What a training says of its speed, and traces of its updates."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import wgflow as wg
from wgflow import Adam, BadInput
from wgflow.cli import main
from wgflow.generative import Recipe, train
from wgflow.generative.speed import Speed, Trace

pytest.importorskip("torchvision")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    return path


def recipe(images: Path, **changes) -> Recipe:
    plain = dict(data=str(images), channels=4, batch=8, num_steps=2, first_iters=4, iters=3, evaluate_every=3)
    return Recipe(**(plain | dict(sinkhorn_n=8) | changes))


def test_operations_of_an_update_are_those_of_its_products():
    n, d = 16, 3
    critic = wg.Critic(nn.Linear(d, 1), Adam(1e-3))
    start = wg.Pushforward(wg.StandardNormal(d), nn.Linear(d, d))
    F = wg.KL(wg.Particles(torch.randn(n, d)), batch=n)
    speed, seen = Speed(n), []

    class Watch(wg.Callback):
        def on_log(self, run, window):
            seen.append(dict(window))

    options = dict(step_size=0.1, num_steps=1, log_every=2, callbacks=[speed, Watch(), speed.last])
    wg.solve(F, wg.JKO(critic, Adam(1e-3), iters=5, batch=n), start, **options)
    # The critic: a batch of the model is generated; values of model and data, and weight gradients of both. The generator: forward
    # and weight gradient of the map, and of its old map forward; values and the gradient in the points of the critic.
    generated, valued = 2 * n * d * d, 2 * n * d
    assert speed.flop_per_update == (generated + 2 * valued + 2 * valued) + (
        generated + generated + generated + 2 * valued
    )
    assert seen
    assert all(w["speed/images_per_second"] > 0 and w["speed/tflop_per_second"] > 0 for w in seen)


def test_a_training_says_it_in_log_and_report_and_its_numbers_stay_what_they_were(images, tmp_path):
    train(recipe(images, first_iters=60, iters=50, evaluate_every=60), tmp_path / "r", device="cpu", progress=False)
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert report["speed"]["images_per_second"] > 0
    assert report["speed"]["flop_per_update"] > 0
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert all("speed/images_per_second" in line for line in lines if line["kind"] == "updates")
    train(
        recipe(images, first_iters=60, iters=50, evaluate_every=60),
        tmp_path / "s",
        device="cpu",
        progress=False,
        profile=2,
    )
    same = [(tmp_path / name / "metrics.csv").read_bytes() for name in "rs"]
    assert same[0] == same[1]
    events = json.loads((tmp_path / "s" / "trace.json").read_text())["traceEvents"]
    names = [e.get("name") for e in events]
    assert "aten::convolution_backward" in names
    assert not (tmp_path / "r" / "trace.json").exists()


@pytest.mark.parametrize(("updates", "written"), [(1, False), (2, False), (3, True)])
def test_the_first_updates_are_not_traced_and_a_run_of_no_others_says_so(tmp_path, updates, written):
    F, start = wg.PotentialEnergy(lambda x: x.square().sum(1)), wg.Particles(torch.ones(1, 1))
    said = nullcontext() if written else pytest.warns(UserWarning, match=f"had {updates} updates, and the first 2 are")
    with said:
        trace = Trace(tmp_path / "trace.json", 5)
        wg.solve(F, wg.ForwardEuler(), start, step_size=0.1, num_steps=updates, callbacks=[trace])
    assert (tmp_path / "trace.json").exists() == written
    assert not torch.autograd.profiler._is_profiler_enabled


def test_a_run_that_ends_before_writes_the_trace_that_there_is(images, tmp_path):
    train(recipe(images, num_steps=1), tmp_path / "r", device="cpu", progress=False, profile=100)
    assert json.loads((tmp_path / "r" / "trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize("make", [lambda: Speed(0), lambda: Trace("x", 0), lambda: Trace("x", 2.5)])
def test_counts_are_positive(make):
    with pytest.raises(BadInput, match="expected a whole number from 1 up"):
        make()


def test_the_option_of_the_command_line(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(images), "--channels", "4", "--batch", "8", "--num-steps", "1", "--first-iters", "5"]
    main(["train", *words, "--sinkhorn-n", "0", "--folder", "r", "--device", "cpu", "--profile", "2"])
    assert (tmp_path / "r" / "trace.json").stat().st_size > 1000
