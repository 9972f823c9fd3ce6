"""Training in a folder: what is written, what goes on, what is refused."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wgflow import BadInput, CheckpointError, DataNotFound, Diverged, StopWhen, Streamed
from wgflow.cli import main
from wgflow.generative import (
    ImageData,
    NetworkPair,
    Recipe,
    Sharded,
    evaluate,
    fit,
    load_generator,
    load_images,
    runtime,
    sample,
    to_uint8,
    train,
)
from wgflow.generative.metrics.features import RandomConvFeatures
from wgflow.generative.nets import ConvCritic, ConvGenerator
from wgflow.measures import Smoothed, StandardNormal, instance_noise

pytest.importorskip("torchvision")
pytest.importorskip("safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, images=rng.integers(0, 256, (60, 8, 8), dtype=np.uint8))
    return path


def tiny(images: Path, **changes) -> Recipe:
    plain = dict(
        data=str(images), channels=4, batch=8, num_steps=3, first_iters=4, iters=3, evaluate_every=4, sinkhorn_n=20
    )
    return Recipe(**(plain | changes))


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "done"
    train(tiny(images), folder, device="cpu", progress=False)
    return folder


def test_a_run_leaves_all_that_a_person_looks_at(finished):
    report = json.loads((finished / "report.json").read_text())
    assert report["status"] == "done"
    assert report["last_step"]["update"] == 10
    assert [word in p for word, p in zip(("sinkhorn", "energy_distance"), report["protocols"], strict=True)] == [
        True,
        True,
    ]
    with open(finished / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["update"]) for r in rows] == [0, 4, 8, 10]
    assert all(
        float(r["sinkhorn_excess"]) == pytest.approx(float(r["sinkhorn"]) - float(r["sinkhorn_floor"])) for r in rows
    )
    grids = sorted(p.name for p in (finished / "samples").iterdir())
    assert grids == [f"update-{u:06d}.png" for u in (0, 4, 8, 10)]
    kinds = [json.loads(line)["kind"] for line in (finished / "log.jsonl").read_text().splitlines()]
    assert kinds.count("step") == 3
    assert (finished / "curves.png").stat().st_size > 1000
    assert not list(finished.rglob("*writing*"))


def test_the_same_call_again_returns_the_finished_run_and_changes_nothing(finished, images):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and "tensorboard" not in str(p)}
    solution = train(tiny(images), finished, device="cpu", progress=False)
    after = {p: p.read_bytes() for p in before}
    assert solution.history[-1]["k"] == 3
    assert [p.name for p in before if before[p] != after[p]] in ([], ["report.json"])


def test_another_recipe_is_refused_and_nothing_overwritten(finished, images):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(BadInput, match=r"holds another run \(method.batch is 16 here and 8 there\)"):
        train(tiny(images, batch=16), finished, device="cpu", progress=False)
    assert {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()} == before


def test_a_folder_of_something_else_is_refused(images, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(BadInput, match="is not the folder of a wgflow run"):
        train(tiny(images), tmp_path, device="cpu", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_end_of_a_training_that_a_callback_stops_is_looked_at(images, tmp_path):
    recipe = tiny(images)
    data = ImageData(load_images(recipe.data).images)
    with runtime("cpu") as here:
        flow = recipe.flow(data, here)
        stop = StopWhen(lambda row: row["k"] >= 2)
        solution = fit(flow, tmp_path / "r", here, record={}, every=4, callbacks=[stop], progress=False)
    assert (solution.status, solution.state.k) == ("stopped", 2)
    with open(tmp_path / "r" / "metrics.csv") as file:
        assert [int(r["update"]) for r in csv.DictReader(file)] == [0, 4, 7]


def test_images_that_are_streamed_from_their_file_give_the_same_run(finished, images, tmp_path, monkeypatch):
    np.save(tmp_path / "mapped.npy", load_images(images).images.numpy())
    monkeypatch.setattr("wgflow.generative.data._arrays._MAPPED", 0)
    monkeypatch.setattr(sys.modules[train.__module__], "_within_reach", lambda images, device: Streamed(images, device))
    train(tiny(tmp_path / "mapped.npy"), tmp_path / "r", device="cpu", progress=False)
    assert (tmp_path / "r" / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()
    law, same = (load_generator(folder, "cpu") for folder in (tmp_path / "r", finished))
    assert torch.equal(sample(law, 9, seed=1), sample(same, 9, seed=1))


def test_a_stopped_training_goes_on_to_the_same_weights_and_rows(finished, images, tmp_path, cut):
    cut(tiny(images), tmp_path / "r", 3)
    assert not (tmp_path / "r" / "report.json").exists()
    train(tiny(images), tmp_path / "r", device="cpu", progress=False)
    for name in ("generator.safetensors", "metrics.csv"):
        assert (tmp_path / "r" / name).read_bytes() == (finished / name).read_bytes()


def test_nan_stops_names_the_term_and_keeps_a_good_checkpoint(images, tmp_path):
    recipe = tiny(images, lr_generator=1e30, lr_critic=1e30, lr_floor=None, divergence="kl", num_steps=40)
    with pytest.raises(Diverged, match="update"):
        train(recipe, tmp_path / "r", device="cpu", progress=False)
    kept = sorted((tmp_path / "r" / "checkpoints").glob("update-*.pt"))
    state = torch.load(kept[-1], weights_only=True)["state"]
    assert all(torch.isfinite(t).all() for t in state["successor"].values() if t.is_floating_point())


def test_a_full_disk_is_said_before_work_starts(images, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(CheckpointError, match="MB free"):
        train(tiny(images), tmp_path / "r", device="cpu", progress=False)
    assert not list((tmp_path / "r").rglob("*.png"))


def test_missing_data_says_where_it_looked(tmp_path):
    with pytest.raises(DataNotFound, match=str(tmp_path / "nowhere")):
        train(Recipe(data="cifar10", data_root=str(tmp_path / "nowhere")), tmp_path / "r", progress=False)
    assert not (tmp_path / "r").exists()


def test_images_depend_on_their_number_only(finished):
    rho = load_generator(finished, "cpu")
    many = to_uint8(sample(rho, 12, seed=3, batch=5))
    assert torch.equal(many, to_uint8(sample(rho, 12, seed=3, batch=12)))
    assert torch.equal(many[7:], to_uint8(sample(rho, 5, seed=3, first=7)))
    assert not torch.equal(many, to_uint8(sample(rho, 12, seed=4)))
    assert len({tuple(image.flatten().tolist()) for image in many}) == 12


def test_evaluate_names_its_protocols_and_never_calls_a_proxy_fid(finished):
    numbers = evaluate(finished, n=40, features="random-conv", device="cpu")
    assert "fid" not in numbers
    assert numbers["frechet"] >= 0
    assert any(RandomConvFeatures(0).id in p for p in numbers["protocols"])
    assert json.loads((finished / "evaluation.json").read_text()) == numbers


def test_evaluate_goes_on_without_inception_weights(finished, monkeypatch, tmp_path):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("WGFLOW_FID_WEIGHTS", raising=False)
    numbers = evaluate(finished, n=40, device="cpu")
    assert "6726825d" in numbers["fid_skipped"]
    assert "sinkhorn_excess" in numbers


@pytest.mark.parametrize("whole", [StandardNormal(3), Smoothed(StandardNormal(3), instance_noise).at(2, 0.2)])
def test_a_sharded_draw_is_a_part_of_the_whole(whole):
    draws = [Sharded(whole, r, 2).draw(5, torch.Generator().manual_seed(0)).x for r in (0, 1)]
    together = torch.stack(draws, 1).flatten(0, 1)
    assert torch.equal(together, whole.draw(10, torch.Generator().manual_seed(0)).x)


def test_noise_on_a_part_is_the_part_of_the_noise():
    def draw(measure):
        return Smoothed(measure, instance_noise).draw(5, torch.Generator().manual_seed(0)).x

    whole = Smoothed(StandardNormal(3), instance_noise).draw(10, torch.Generator().manual_seed(0)).x
    parts = [draw(Sharded(StandardNormal(3), r, 2)) for r in (0, 1)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)


def test_two_processes_train_what_one_does(images, tmp_path):
    # Softplus is a mean over the batch; batch normalisation would see half of it, so the critic alone is compared
    # through the first log window, and the run through its end.
    command = ["train", "--data", str(images), "--channels", "4", "--batch", "8", "--num_steps", "2",
               "--first_iters", "50", "--iters", "5", "--sinkhorn_n", "0", "--device", "cpu"]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "wgflow"]
    subprocess.run([*launch, *command, "--folder", str(tmp_path / "two")], check=True, env=env, timeout=300)
    assert main([*command, "--folder", str(tmp_path / "one")]) == 0
    logs = [(tmp_path / n / "log.jsonl").read_text().splitlines() for n in ("one", "two")]
    first = [json.loads(log[0]) for log in logs]
    assert [len(log) for log in logs] == [3, 3]  # a window and two steps
    # Rank 0 reports its share of the batch, so means agree only up to sampling.
    assert first[1]["critic/data"] == pytest.approx(first[0]["critic/data"], abs=0.2)
    assert json.loads((tmp_path / "two" / "report.json").read_text())["processes"] == 2


def test_the_command_line_from_training_to_images(images, tmp_path, capsys):
    run = str(tmp_path / "r")
    arguments = {k: v for k, v in tiny(images).plain().items() if v is not None}
    flags = [
        part for k, v in arguments.items() for part in (f"--{k}", str(v).lower() if isinstance(v, bool) else str(v))
    ]
    assert main(["train", "fashion-mnist", "--folder", run, "--device", "cpu", *flags]) == 0
    assert main(["sample", run, "--n", "9", "--out", str(tmp_path / "x.npy"), "--device", "cpu"]) == 0
    assert np.load(tmp_path / "x.npy").shape == (9, 1, 8, 8)
    assert main(["sample", run, "--n", "9", "--device", "cpu"]) == 0
    assert (Path(run) / "samples-seed1.png").exists()
    assert main(["evaluate", run, "--n", "20", "--features", "random-conv", "--device", "cpu"]) == 0
    assert "frechet" in capsys.readouterr().out


def test_list_names_what_there_is(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for name in ("fashion-mnist", "cifar10", "softplus", "jko", "critic", "s_jko", "inception", "large"):
        assert name in printed


def test_half_precision_trains_and_exports_plain_weights(images, tmp_path):
    train(tiny(images, precision="bf16", num_steps=1), tmp_path / "r", device="cpu", progress=False)
    pictures = sample(load_generator(tmp_path / "r", "cpu"), 3)
    assert pictures.dtype == torch.float32
    assert pictures.isfinite().all()


class Wrapped(torch.nn.Module):
    """A generator of a user's whose own submodule has the name that the wrapper of half precision uses."""

    noise_shape = None

    def __init__(self, image_shape, channels):
        super().__init__()
        self.net = ConvGenerator(image_shape=image_shape, channels=channels, latent_dim=4)
        self.source_shape = self.net.source_shape

    def forward(self, x):
        return self.net(x)

    def reference(self):
        return self.net.reference()


MINE = NetworkPair(Wrapped, ConvCritic)


def test_a_network_of_the_users_own_survives_the_export(images, tmp_path):
    train(tiny(images, network=f"{__name__}:MINE", num_steps=1), tmp_path / "r", device="cpu", progress=False)
    assert sample(load_generator(tmp_path / "r", "cpu", allow_code=True), 3).shape == (3, 1, 8, 8)


def test_flips_do_not_reach_the_metrics(images):
    from wgflow.generative.train import sinkhorn

    data = ImageData(torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8), flip=True)
    (metric,) = sinkhorn(data, 10, 1.0)
    assert metric.reference.flip is False
    assert sinkhorn(data, 0, 1.0) == []
