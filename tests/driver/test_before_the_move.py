"""Checkpoints and a run folder that an earlier tree has written: a later one goes on with them, and ends where that one ended."""

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from _earlier_flows import (
    DATA,
    FIRST_FORMAT,
    FLOWS,
    KILLED_AT,
    RECIPE,
    USERS,
    Resumed,
    end,
    flow,
    folder_of,
    here,
    names_told,
)

from wgflow import CheckpointError
from wgflow.storage.describe import describe

ENDS = torch.load(DATA / "ends.pt", weights_only=True)
OF_ONE_PYTHON = {
    USERS: "functions of the user's are told apart by their bytecode",
    "critic and generator": "the signature of a checked function is told as Python keeps it",
}

WITHOUT_METHODS = {"wgflow.ForwardEuler", "wgflow.Heun", "wgflow.RK4"}
"""What had a generated ``repr`` alone, which is inherited now: there is no function to describe."""


def assert_ends_alike(ours: dict[str, Any], name: str) -> None:
    """To the last bit where the machine and PyTorch are those of the earlier run, else up to the order of sums."""
    theirs = ENDS["ends"][name]
    single = theirs["draws"].dtype == torch.float32
    assert_alike(ours, theirs, 0.0 if here() == ENDS["here"] else 1e-4 if single else 1e-6, name)


def assert_alike(ours: Any, theirs: Any, tolerance: float, where: str) -> None:
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_alike(ours[key], theirs[key], tolerance, f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_alike(*pair, tolerance, f"{where}[{i}]")
    elif isinstance(ours, (float, torch.Tensor)):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=lambda said: f"{where}: {said}")
    else:
        assert ours == theirs, where


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_goes_on_from_an_earlier_checkpoint(name: str, tmp_path: Path) -> None:
    if name in OF_ONE_PYTHON and sys.version_info[:2] != tuple(map(int, ENDS["python"].split(".")[:2])):
        pytest.skip(f"written by Python {ENDS['python']}: {OF_ONE_PYTHON[name]}")
    folder = Path(shutil.copytree(folder_of(name), tmp_path / "run"))
    resumed = Resumed()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = flow(name, folder, resumed)
    assert resumed.name == next(folder_of(name).glob("update-*.pt")).name
    assert resumed.name.startswith(f"update-{KILLED_AT - 1:010d}")
    assert_ends_alike(end(solution), name)


@pytest.mark.parametrize("name", [n for n in FLOWS if n != FIRST_FORMAT])
def test_another_flow_is_still_refused(name: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of(name), tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"seed is 4 here and 3 there"):
        flow(name, folder, seed=4)


def test_a_run_folder_goes_on_from_an_earlier_checkpoint(tmp_path: Path) -> None:
    generative = pytest.importorskip("wgflow.generative", exc_type=ImportError)
    for package in ("torchvision", "safetensors", "yaml"):
        pytest.importorskip(package)
    folder = Path(shutil.copytree(folder_of("training"), tmp_path / "run"))
    generator = generative.load_generator(folder, "cpu")
    assert generative.sample(generator, 2).shape == (2, 1, 28, 28)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # the oldest matplotlib has some, of the newest pyparsing
        solution = generative.train(generative.Recipe(**RECIPE), folder, device="cpu", progress=False)
    ours = end(solution)
    for row in ours["history"]:
        row.pop("energy_distance", None)  # which was not measured then
    assert_ends_alike(ours, "training")
    updates = [line.partition(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()]
    assert updates == ["update", "0", "2", "4", "6", "8"]


def test_what_is_public_is_told_by_its_earlier_name() -> None:
    """Functions of wgflow that something of the user's holds are described by their place: a module, or a class in one."""
    place = lambda name: name.rpartition(".")[0]  # noqa: E731  a class may have got another first method
    told = names_told(describe)
    earlier = {name: place(full) for name, full in ENDS["names"].items() if full.startswith("wgflow.")}
    earlier = {
        name: its for name, its in earlier.items() if its != "wgflow._fields.Checked"
    }  # who has no method to name
    assert len(earlier) > 120
    assert earlier.keys() - told.keys() == WITHOUT_METHODS
    kept = earlier.keys() & told.keys()
    assert {name: place(told[name]) for name in kept} == {name: earlier[name] for name in kept}
