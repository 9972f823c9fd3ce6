"""Runs beside their training images: copies are found in pixels and in features, with pictures and files."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wgflow import BadInput, Particles
from wgflow.cli import main
from wgflow.generative import ImageData, LatentSpace, Recipe, evaluate, load_images, to_unit, train
from wgflow.generative.data import ImageSet
from wgflow.generative.memorization import memorization_reports, unseen_images
from wgflow.generative.metrics import ImageFeatures, RandomConvFeatures
from wgflow.metrics import Memorization

pytest.importorskip("torchvision")
pytest.importorskip("safetensors")

FEATURES = RandomConvFeatures(0)
KEYS = {"nn_ratio", "nn_ratio_chance", "nn_ratio_margin", "memorized", "near_copies", "closer", "precision", "coverage"}


def pictures(n: int, seed: int = 0) -> ImageSet:
    rng = torch.Generator().manual_seed(seed)
    return ImageSet(torch.randint(256, (n, 1, 8, 8), generator=rng, dtype=torch.uint8), None, "noise")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    np.savez(folder / "images.npz", images=pictures(60).images.numpy())
    np.savez(folder / "others.npz", images=pictures(40, seed=1).images.numpy())
    recipe = Recipe(
        data=str(folder / "images.npz"), channels=4, batch=8, num_steps=1, first_iters=2, sinkhorn_n=20, flip=True
    )
    watched = Memorization(ImageData(pictures(60).images), n=20)
    train(recipe, folder / "run", device="cpu", progress=False, metrics=[watched])
    return folder / "run"


@pytest.mark.parametrize("space", ["pixel", "feature"])
@pytest.mark.parametrize("unseen", [None, pictures(50, seed=1)])
def test_copies_are_found_in_both_spaces(space, unseen):
    train_set = pictures(80)
    copies = Particles(to_unit(train_set.images[:30]) + 1e-3)  # lost when they are saved with 8 bits
    found = memorization_reports(copies, train_set, unseen, FEATURES, n=1000)[space].values
    assert found[f"{space}_nn_ratio"] == pytest.approx(0, abs=1e-6)
    assert found[f"{space}_memorized"] == 1
    assert found[f"{space}_memorized_chance"] < 0.2


def test_mirrored_training_images_count_where_they_were_trained_on():
    train_set = pictures(80)
    mirrored = Particles(to_unit(train_set.images[:30].flip(-1)))
    for flip, memorized in ((False, 0), (True, 1)):
        reports = memorization_reports(mirrored, train_set, None, None, n=30, flip=flip)
        assert reports.keys() == {"pixel"}
        assert reports["pixel"].values["pixel_memorized"] == memorized


def test_copies_of_codes_are_found_among_codes():
    """What four components decode to is far from its original in pixels."""
    train_set = pictures(80)
    space = LatentSpace.fit(ImageData(train_set.images), 4)
    copies = Particles(space.decode(space.encode(to_unit(train_set.images[:30]))))
    reports = memorization_reports(copies, train_set, None, None, n=30, space=space)
    assert reports["code"].values["code_memorized"] > 0.8
    assert reports["pixel"].values["pixel_memorized"] < 0.1
    assert "4 principal components" in reports["code"].protocol


def test_the_closest_pairs_are_images_beside_their_originals():
    train_set = pictures(80)
    drawn = to_unit(torch.cat([pictures(20, seed=3).images, train_set.images[[4, 9]]]))
    pairs = memorization_reports(Particles(drawn), train_set, None, None, n=22)["pixel"].closest(2)
    assert torch.equal(pairs.generated, pairs.training)
    assert {tuple(p.flatten().tolist()) for p in pairs.training} == {
        tuple(p.flatten().tolist()) for p in to_unit(train_set.images[[4, 9]])
    }


def test_a_training_can_log_it(run):
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 2
    assert all(0 <= float(row["nn_ratio"]) <= 1 and row["closer"] for row in rows)
    assert len({row["nn_ratio_chance"] for row in rows}) == 1


def test_a_metric_of_a_training_can_be_in_features():
    metric = Memorization(to_unit(pictures(60).images), n=20, features=ImageFeatures(FEATURES), prefix="feature_")
    found = metric(Particles(to_unit(pictures(30, seed=5).images)), torch.Generator())
    assert abs(found["feature_closer"] - 0.5) < 2 * found["feature_closer_margin"]
    assert FEATURES.id in metric.protocol


@pytest.mark.parametrize("held_out", [None, "others.npz"])
def test_evaluate_writes_numbers_a_table_and_pictures(run, held_out):
    pytest.importorskip("matplotlib")
    path = held_out and str(run.parent / held_out)
    numbers = evaluate(run, n=20, features="random-conv", device="cpu", memorization=True, held_out=path)
    assert {f"{space}_{key}" for space in ("pixel", "feature") for key in KEYS} <= numbers.keys()
    assert json.loads((run / "evaluation.json").read_text())["pixel_nn_ratio"] == numbers["pixel_nn_ratio"]
    against = "held-out points" if held_out else "training points, each beside the others"
    assert sum(against in protocol for protocol in numbers["protocols"]) == 2
    table = (run / "memorization.txt").read_text()
    assert "pixel space" in table
    assert "feature space" in table
    assert all((run / f"memorization-{space}.png").stat().st_size > 10_000 for space in ("pixel", "feature"))


@pytest.mark.parametrize("option", ["--memorization", "--memorisation", "--memorisation=true"])
def test_both_spellings_of_the_option(run, option, capsys):
    assert main(["evaluate", option, str(run), "--n", "20", "--features", "random-conv", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert "pixel_nn_ratio" in json.loads(out)
    assert "nearer than a real point" in err


def test_without_it_evaluate_is_what_it_was(run):
    numbers = evaluate(run, n=20, features="random-conv", device="cpu")
    assert not [name for name in numbers if name.startswith(("pixel", "feature"))]
    with pytest.raises(BadInput, match="ask for that too"):
        evaluate(run, n=20, features="random-conv", device="cpu", held_out="x")


def test_the_test_split_is_taken_where_there_is_one(monkeypatch):
    asked = []
    monkeypatch.setattr("wgflow.generative.memorization.load_images", lambda *a, **k: asked.append((a, k)))
    unseen_images(Recipe(data="mnist", image_size=16), None)
    assert asked == [(("mnist", None), {"split": "test", "size": 16})]
    assert unseen_images(Recipe(data="fashion-mnist-10k"), None) is None


def test_bundled_images_against_themselves():
    """At the law of the data: one half of the images of clothing beside the other."""
    images = load_images("fashion-mnist-10k", size=14).images
    drawn, train_set = Particles(to_unit(images[:600])), ImageSet(images[600:3600], None, "train")
    for report in memorization_reports(drawn, train_set, None, FEATURES, n=600).values():
        values = {name.partition("_")[2]: value for name, value in report.values.items()}
        for name in ("nn_ratio", "memorized", "near_copies"):
            assert abs(values[name] - values[f"{name}_chance"]) <= values[f"{name}_margin"]
        assert abs(values["closer"] - 0.5) <= values["closer_margin"]
        assert values["density"] == pytest.approx(1, abs=0.1)
