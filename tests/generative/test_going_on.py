"""Runs that go on, that are made longer, and what they export: a file that says what it is of."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import wgflow
from wgflow import BadInput, CheckpointError
from wgflow.cli import main
from wgflow.generative import Recipe, load_generator, sample, train
from wgflow.generative.folder import read_record

safetensors = pytest.importorskip("safetensors")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def recipe_of(run: Path, **changes: object) -> Recipe:
    return Recipe.load(run / "recipe.yaml").changed(**changes)


def rows(run: Path) -> list[str]:
    return [line.partition(",")[0] for line in (run / "metrics.csv").read_text().splitlines()[1:]]


def test_a_finished_run_is_made_longer_by_either_way(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, tmp_path / "other"))
    one = train(recipe_of(run), run, device="cpu", extend=2, progress=False)
    two = train(recipe_of(other, num_steps=4), other, device="cpu", progress=False)
    assert (one.state.k, two.state.k) == (4, 4)
    assert rows(run) == rows(other) == ["0", "3", "6", "9", "12"]
    assert read_record(run) == read_record(other)
    assert read_record(run)["method.num_steps"] == 2  # the schedule is that of the run that was begun
    images = [sample(load_generator(folder, "cpu"), 4, seed=3) for folder in (run, other)]
    assert torch.equal(*images)


def test_the_same_extension_again_adds_nothing_and_a_larger_one_goes_on(run: Path) -> None:
    for extend, steps in ((1, 3), (1, 3), (3, 5)):
        assert train(recipe_of(run), run, device="cpu", extend=extend, progress=False).state.k == steps
    with pytest.raises(CheckpointError, match="ask for 5 or more"):
        train(recipe_of(run), run, device="cpu", progress=False)


def test_what_else_differs_is_refused_as_before(run: Path) -> None:
    with pytest.raises(BadInput, match=r"method\.batch is 4 here"):
        train(recipe_of(run, num_steps=4, batch=4), run, device="cpu", progress=False)
    with pytest.raises(BadInput, match="num_steps is 1 here and 2 there"):
        train(recipe_of(run, num_steps=1), run, device="cpu", progress=False)


def test_a_method_of_one_step_has_no_more(run: Path, tmp_path: Path) -> None:
    one = recipe_of(run).changed(method="otm", iters=3)
    with pytest.raises(BadInput, match="extend=2: method otm solves one time step"):
        train(one, tmp_path / "otm", device="cpu", extend=2, progress=False)


def test_a_run_that_goes_on_says_where(run: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", *options, "--folder", str(run)]
    assert main([*words, "--extend", "1"]) == 0
    assert "going on from update 6 of 9, in time step 3 of 3" in capsys.readouterr().err
    assert main([*words, "--extend", "1"]) == 0
    assert "nothing is left to do" in capsys.readouterr().err


def test_exported_weights_say_what_they_are_of_and_load_alone(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.safetensors"
    shutil.copy(run / "generator.safetensors", file)
    with safetensors.safe_open(file, "pt") as held:
        about = json.loads(held.metadata()["wgflow"])
    assert about["network"] == "wgflow.generative.nets.fine.FineGenerator"
    assert about["input"] == "(n, 64)"
    assert about["recipe"]["image_shape"] == [1, 8, 8]
    images = sample(wgflow.load_generator(file, "cpu"), 4, seed=3)
    assert torch.equal(images, sample(load_generator(run, "cpu"), 4, seed=3))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match="does not say which run it is of"):
        load_generator(tmp_path / "x.safetensors", "cpu")
    (tmp_path / "y.safetensors").write_bytes(b"no")
    with pytest.raises(BadInput, match="cannot be read as safetensors"):
        load_generator(tmp_path / "y.safetensors", "cpu")


def test_a_generator_goes_to_plain_torch(run: Path, tmp_path: Path) -> None:
    law = load_generator(run, "cpu")
    z = torch.randn(3, *law.latent.event_shape, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(law.map, (z[:2],), dynamic_shapes=({0: torch.export.Dim("n")},), strict=False)
    torch.export.save(program, tmp_path / "generator.pt2")
    net = torch.export.load(tmp_path / "generator.pt2").module()
    torch.testing.assert_close(net(z), law.map(z))


def test_commands_say_what_they_have_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", str(run), "--n", "5", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{run / 'samples-seed1.png'}: 5 images, seed 1\n"
    assert main(["sample", str(run / "generator.safetensors"), "--n", "5", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"{run / 'samples-seed1.png'}: 5 images, seed 1\n"
    words = ["evaluate", str(run), "--n", "20", "--features", "random-conv", "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["protocols"]
    assert f"written to {run / 'evaluation.json'}" in said.err
