"""The benchmark of the main job's pictures: every variant trains, its pictures are kept with its scores, a second call goes on."""

import json

import numpy as np
import pytest
from PIL import Image


def test_pictures_and_scores_of_a_run_are_kept_together(script, tmp_path, monkeypatch):
    benchmark = script("before_and_after")
    call = ["--quick", "--results", str(tmp_path)]
    first = json.loads(benchmark.main(call).read_text())["results"]
    assert [row["name"] for row in first["rows"]] == list(benchmark.VARIANTS)
    assert all({"frechet", "energy_distance", "sinkhorn_excess"} <= run.keys() for run in first["runs"])
    strips = np.asarray(Image.open(tmp_path / "before_and_after_strips.png"))
    assert strips.shape == (28 * len(first["runs"]), 28 * benchmark.SHOWN)

    train = benchmark.train
    trained = []
    monkeypatch.setattr(
        benchmark, "train", lambda changes, seed, *rest: trained.append((changes, seed)) or train(changes, seed, *rest)
    )
    again = json.loads(benchmark.main(call).read_text())["results"]
    assert again == first
    assert not trained, "runs that the record holds are kept"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "before_and_after_strips.png")), strips)

    one_more = np.concatenate([strips, strips[:28]])  # of a call that was killed before it wrote the record
    Image.fromarray(one_more).save(tmp_path / "before_and_after_strips.png")
    drawn = []
    monkeypatch.setattr(benchmark, "draw", lambda runs, strips, path: drawn.append(strips))
    benchmark.main(call)
    assert np.array_equal(np.concatenate(drawn[0]), strips)


def test_one_variant_is_the_recipe(script):
    from wgflow.generative import RECIPES

    recipe = RECIPES["fashion-mnist"]
    assert recipe in [recipe.changed(**changes) for changes in script("before_and_after").VARIANTS.values()]


def test_runs_of_a_variant_that_was_edited_are_refused(script, tmp_path, monkeypatch, capsys):
    benchmark = script("before_and_after")
    monkeypatch.setattr(benchmark, "VARIANTS", {"one": benchmark.FIRST, "two": benchmark.JSD})
    call = ["--quick", "--results", str(tmp_path)]
    benchmark.main(call)
    monkeypatch.setattr(benchmark, "VARIANTS", {"one": benchmark.FIRST, "two": benchmark.JSD | {"batch": 32}})
    with pytest.raises(SystemExit):
        benchmark.main(call)
    assert "runs of two with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_every_variant_has_a_panel_with_its_seeds(script, tmp_path, names):
    runs = [{"name": name, "seed": seed} for seed in range(2) for name in names]
    script("before_and_after").draw(runs, np.zeros((len(runs), 28, 56), np.uint8), tmp_path / "f.png")
    assert Image.open(tmp_path / "f.png").size[1] > 100 * len(names)
