"""Generators of classes: from a recipe with labels to images of one class."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wgflow import BadInput, Labelled
from wgflow.cli import main
from wgflow.generative import ImageData, Recipe, Runtime, evaluate, load_generator, load_images, runtime, sample, train
from wgflow.generative.methods import methods
from wgflow.generative.sample import class_rows, of_class

pytest.importorskip("torchvision")
pytest.importorskip("safetensors")

GENERATORS = [m.name for m in methods() if "generator" in m.roles]
SMALL = {"num_steps": 2, "first_iters": 2, "iters": 2, "batch": 9, "persistent": 1, "features": 8, "guidance": 0.0}


def options(name: str) -> dict:
    taken = next(m for m in methods() if m.name == name).options
    return {"method": name, **{k: v for k, v in SMALL.items() if k in taken}}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Dark images of class 0, grey ones of class 1 and bright ones of class 2, which is there twice as often."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 2], 15)
    path = tmp_path_factory.mktemp("data") / "greys.npz"
    np.savez(
        path, images=(rng.integers(0, 20, (60, 8, 8)) + 110 * labels[:, None, None]).astype(np.uint8), labels=labels
    )
    return path


def recipe(images: Path, **changes) -> Recipe:
    plain = {"data": str(images), "labels": True, "channels": 4, "evaluate_every": 1000, "sinkhorn_n": 20}
    return Recipe(**(plain | options(changes.get("method", "s_jko")) | changes))


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "classes"
    changes = {"method": "energy_drift", "num_steps": 120, "batch": 24, "lr": 1e-2, "ema_half_life": 160}
    train(recipe(images, **changes), folder, device="cpu", progress=False)
    return folder


def test_every_class_has_its_own_images(finished: Path) -> None:
    rho = load_generator(finished, "cpu")
    brightness = [sample(of_class(rho, c), 20).mean().item() for c in range(3)]
    assert brightness == pytest.approx([(9.5 + 110 * c) / 127.5 - 1 for c in range(3)], abs=0.15)
    # and without a class they come as often as in the data
    mixed = sample(rho, 200).mean((1, 2, 3))
    assert (mixed > 0.3).float().mean().item() == pytest.approx(0.5, abs=0.15)


def test_a_class_is_drawn_by_its_name_and_the_grid_has_one_a_row(finished: Path, tmp_path: Path) -> None:
    rho = load_generator(finished, "cpu")
    rows = class_rows(rho, 2, seed=5)
    assert rows.shape == (6, 1, 8, 8)
    assert torch.equal(rows[2:4], sample(of_class(rho, 1), 2, seed=5))
    one = tmp_path / "one.npy"
    assert main(["sample", str(finished), "--class", "2", "--n", "4", "--seed", "5", "--out", str(one)]) == 0
    assert np.load(one).mean() > 150
    grid = tmp_path / "grid.png"
    assert main(["sample", str(finished), "--n", "9", "--out", str(grid)]) == 0
    from PIL import Image

    with Image.open(grid) as picture:
        width, height = picture.size
    assert width == height  # three of each of three
    assert evaluate(finished, features="random-conv", n=60, device="cpu")["frechet"] > 0


def test_the_classes_of_a_run_are_recorded_and_belong_to_it(finished: Path, images: Path) -> None:
    record = json.loads((finished / "recipe.json").read_text())
    assert record["classes"] == {"0": 15, "1": 15, "2": 30}
    with pytest.raises(BadInput, match="holds another run"):
        train(recipe(images, labels=False), finished, device="cpu", progress=False)


@pytest.mark.parametrize("said", ["3", "two"])
def test_a_class_that_is_not_there_is_named(finished: Path, capsys, said: str) -> None:
    assert main(["sample", str(finished), "--class", said]) == 2
    assert f"no class is called '{said}': " in capsys.readouterr().err


def test_a_run_without_labels_has_no_classes(images: Path, tmp_path: Path, capsys) -> None:
    train(recipe(images, labels=False), tmp_path / "run", device="cpu", progress=False)
    assert main(["sample", str(tmp_path / "run"), "--class", "1"]) == 2
    assert "trained without labels" in capsys.readouterr().err
    with pytest.raises(BadInput, match="has no classes"):
        of_class(load_generator(tmp_path / "run", "cpu"), 1)


def test_images_without_labels_and_methods_that_take_none_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "plain.npy", np.zeros((30, 8, 8), dtype=np.uint8))
    with pytest.raises(BadInput, match=r"plain\.npy have no labels"):
        train(recipe(tmp_path / "plain.npy"), tmp_path / "run", device="cpu", progress=False)
    np.savez(tmp_path / "gap.npz", images=np.zeros((30, 8, 8), dtype=np.uint8), labels=np.repeat([0, 2], 15))
    with pytest.raises(BadInput, match="no point of class 1"):
        train(recipe(tmp_path / "gap.npz"), tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists(), "nothing was begun"
    with pytest.raises(BadInput, match="labels=True is not for method svgd: it has no generator"):
        Recipe(method="svgd", labels=True)
    assert Recipe(labels=True).changed(method="svgd").labels is False


@pytest.mark.parametrize("name", GENERATORS)
def test_every_method_with_a_generator_takes_labels_or_says_why_not(name: str, images: Path) -> None:
    pictures = load_images(images)
    data = Labelled(ImageData(pictures.images, labels=pictures.labels))
    made = recipe(images, method=name)
    with runtime("cpu") as here:
        if name == "w2_fe":
            with pytest.raises(BadInput, match="compares points by their distance"):
                made.flow(data, here)
            return
        end = made.flow(data, here).solve()
    points = end.measure.inference().draw(12, torch.Generator().manual_seed(0)).x
    assert torch.equal(points[:, 64:].sum(1), torch.ones(12)), "the label is kept"


def test_a_drift_with_labels_says_that_it_is_of_one_process(images: Path) -> None:
    pictures = load_images(images)
    data = Labelled(ImageData(pictures.images, labels=pictures.labels))
    with pytest.raises(BadInput, match=r"over 2 processes it compares .* train in one process"):
        recipe(images, method="energy_drift", batch=8).flow(data, Runtime(torch.device("cpu"), world=2))


def test_a_batch_without_a_point_of_every_class_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="batch=2 is less than the 3 parts of the target"):
        train(recipe(images, batch=2), tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_law_in_training_is_drawn_with_the_classes_of_the_data(images: Path, tmp_path: Path) -> None:
    def classes_of(rho, rng) -> dict[str, float]:
        latent = rho.latent.draw(400, rng).x[:, -3:].mean(0)
        return {f"class{c}": float(part) for c, part in enumerate(latent)}

    run = train(recipe(images), tmp_path / "run", device="cpu", metrics=[classes_of], progress=False)
    expected = [0.25, 0.25, 0.5]
    assert [run.history[-1][f"class{c}"] for c in range(3)] == pytest.approx(expected, abs=0.08)
    alone = sample(run.measure.inference(), 400, seed=2)[:, 64:].mean(0)
    assert alone.tolist() == pytest.approx(expected, abs=0.08)


def test_labels_go_with_codes_in_a_latent_space(images: Path, tmp_path: Path) -> None:
    made = recipe(images, pca=5, network=None, channels=8)
    train(made, tmp_path / "run", device="cpu", progress=False)
    assert sample(of_class(load_generator(tmp_path / "run", "cpu"), 2), 3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize("objective", ["mmd", "ckmmd", "w1"])
def test_the_objectives_of_gwf_train_from_a_recipe(objective: str, images: Path, tmp_path: Path) -> None:
    made = recipe(images, method="gwf", objective=objective)
    train(made, tmp_path / "run", device="cpu", progress=False)
    assert sample(of_class(load_generator(tmp_path / "run", "cpu"), 1), 2).shape == (2, 1, 8, 8)
