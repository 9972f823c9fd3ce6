"""Folders of runs that are damaged, foreign, claimed twice or planted: one clear error each, and nothing lost."""

import json
import os
import shutil
import signal
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from wgflow import BadInput, Callback, CannotWrite, CheckpointError, DataNotFound, WgflowError
from wgflow.cli import main
from wgflow.generative import Monitor, NetworkPair, Recipe, evaluate, load_generator, sample, train
from wgflow.generative.folder import CHECKPOINTS, RECIPE, WEIGHTS, check_folder, claim_folder, plain_record, read_record
from wgflow.generative.nets import FineCritic, FineGenerator
from wgflow.storage.files import locked, reason, refusal

safetensors = pytest.importorskip("safetensors.torch")
pytest.importorskip("torchvision")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    kept = (p for p in folder.rglob("*") if p.is_file() and "tensorboard" not in p.parts and p.name != "report.json")
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    return capsys.readouterr().err.splitlines()[-1]


def edited(changes: dict[str, Any]) -> Callable[[str], str]:
    return lambda text: json.dumps(json.loads(text) | changes)


RECORDS = [
    (lambda _: "", "recipe.json is empty"),
    (lambda text: text[:-9], "is damaged"),
    (lambda _: "[" * 100_000, "is damaged"),
    (lambda _: '{"batch": 8, "batch": 9}', "a name is there twice"),
    (lambda _: "{3: 4}", "is damaged"),
    (lambda _: "[1]", "should hold the settings of a run by name"),
    (lambda _: "{}" + " " * 2**21, "larger than 1 MB"),
    (edited({"image_shape": None}), "image_shape=None: expected [channels, height, width]"),
    (edited({"image_shape": [1, -8, 8]}), "image_shape=[1, -8, 8]"),
    (edited({"image_shape": [1, 10**9, 8]}), "image_shape=[1, 1000000000, 8]"),
    (edited({"image_shape": [3, 8, 8]}), "is of another network than recipe.json says"),
    (edited({"bach": 8}), "no 'bach': did you mean 'batch'"),
    (edited({"method.batch": True}), "batch=True: expected a whole number"),
    (edited({"batch": 8}), "batch and method.batch are one option"),
    (edited({"data": {"a": 1}}), "data=<dict>: expected text"),
    (edited({"network": "smal"}), "did you mean 'small'"),
]


@pytest.mark.parametrize(("change", "message"), RECORDS, ids=[message[:40] for _, message in RECORDS])
def test_a_damaged_record_is_named(
    change: Callable[[str], str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / RECIPE).write_text(change((run / RECIPE).read_text()))
    before = contents(run)
    for words in (["sample", str(run), "--out", "x.png"], ["evaluate", str(run), "--features", "random-conv"]):
        said = error_of([*words, "--device", "cpu"], capsys)
        assert message in said
        assert str(run) in said
    assert contents(run) == before


def test_a_record_that_is_no_text_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / RECIPE).write_bytes(b"\xff\xfe\x00")
    assert "is not text in UTF-8" in error_of(["sample", str(run)], capsys)


@pytest.mark.parametrize("name", [RECIPE, WEIGHTS])
@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing", "link to nothing"])
def test_what_is_no_file_is_neither_read_nor_waited_for(
    name: str, kind: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = run / name
    place.unlink()
    {
        "folder": place.mkdir,
        "pipe": lambda: os.mkfifo(place),
        "nothing": lambda: None,
        "link to nothing": lambda: place.symlink_to("nothing"),
    }[kind]()
    said = error_of(["sample", str(run), "--device", "cpu"], capsys)
    assert (
        "not a file" if kind in ("folder", "pipe") else "no recipe.json" if name == RECIPE else "does not exist"
    ) in said


def without(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda held: {n: t for n, t in held.items() if n != name}


FIRST = "dense.0.weight"
WRONG_WEIGHTS = [
    (without(FIRST), f"it lacks {FIRST}"),
    (lambda held: held | {"more": torch.zeros(1)}, "it has more"),
    (lambda held: held | {FIRST: torch.zeros(2, 3)}, f"{FIRST} is (2, 3) of float32, not (64, 64) of float32"),
    (lambda held: held | {FIRST: held[FIRST].int()}, f"{FIRST} is (64, 64) of int32"),
    (lambda held: held | {FIRST: held[FIRST] * torch.nan}, f"not finite, in {FIRST}"),
    (lambda held: held | {FIRST: held[FIRST] / 0}, f"not finite, in {FIRST}"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_WEIGHTS)
def test_weights_that_do_not_fit_are_not_sampled(change: Callable[[Any], Any], message: str, run: Path) -> None:
    safetensors.save_file(change(safetensors.load_file(run / WEIGHTS)), run / WEIGHTS)
    with pytest.raises(BadInput) as error:
        load_generator(run, "cpu")
    assert message in str(error.value)
    assert str(run / WEIGHTS) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" * 20, b"\xff" * 8 + b"{}"])
def test_weights_that_are_no_safetensors_are_named(content: bytes, run: Path) -> None:
    (run / WEIGHTS).write_bytes(content)
    with pytest.raises(BadInput, match="cannot be read as safetensors"):
        load_generator(run, "cpu")


def test_what_is_lost_is_made_again_by_the_same_command(run: Path, options: list[str]) -> None:
    whole = contents(run)
    (run / RECIPE).write_text("")
    (run / WEIGHTS).unlink()
    (run / "recipe.yaml").unlink()
    (run / ".writing-0123.csv").write_text("of a run that was killed")
    assert main(["train", *options, "--folder", str(run)]) == 0
    assert contents(run) == whole


def test_a_lost_record_does_not_let_another_run_in(
    run: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (run / RECIPE).unlink()
    checkpoints = contents(run / CHECKPOINTS)
    assert "none can be used" in error_of(["train", *options, "--batch", "16", "--folder", str(run)], capsys)
    assert contents(run / CHECKPOINTS) == checkpoints


def test_a_start_that_fails_leaves_the_record_as_it_is(
    run: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = contents(run)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0})())
    assert "MB free" in error_of(["train", *options, "--folder", str(run)], capsys)
    assert contents(run) == whole


def test_one_of_many_claims_a_new_folder(tmp_path: Path) -> None:
    ready, outcomes = threading.Barrier(8), [""] * 8

    def claim(number: int) -> None:
        ready.wait()
        try:
            claim_folder(tmp_path / "run", {"number": number}, {"recipe.yaml": f"number: {number}"})
            outcomes[number] = "claimed"
        except WgflowError as error:
            outcomes[number] = type(error).__name__

    threads = [threading.Thread(target=claim, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert outcomes.count("claimed") == 1
    winner = outcomes.index("claimed")
    assert read_record(tmp_path / "run") == {"number": winner}
    assert (tmp_path / "run/recipe.yaml").read_text() == f"number: {winner}"


def test_a_folder_is_claimed_once_and_not_while_another_process_has_it(tmp_path: Path) -> None:
    with locked(tmp_path / "run" / CHECKPOINTS), pytest.raises(CheckpointError, match="in use by another process"):
        claim_folder(tmp_path / "run", {"seed": 1})
    claim_folder(tmp_path / "run", {"seed": 1})  # what a kill before the record leaves is no obstacle
    written = (tmp_path / "run" / RECIPE).stat()
    with locked(tmp_path / "run" / CHECKPOINTS):
        claim_folder(tmp_path / "run", {"seed": 1})
    assert (tmp_path / "run" / RECIPE).stat().st_mtime_ns == written.st_mtime_ns
    with pytest.raises(BadInput, match="seed is 2 here and 1 there"):
        check_folder(tmp_path / "run", {"seed": 2})


def test_an_infinite_step_is_recorded_in_json_and_older_records_are_the_same(tmp_path: Path) -> None:
    record = plain_record(Recipe(step_size=float("inf")).plain())
    assert record["method.step_size"] == "inf"
    assert Recipe.from_dict(record).options["step_size"] == float("inf")
    (tmp_path / RECIPE).write_text('{"step_size": Infinity}')
    check_folder(tmp_path, {"step_size": float("inf")})


LINKED = (RECIPE, "recipe.yaml", "metrics.csv", "curves.png", WEIGHTS, "report.json", "log.jsonl", "evaluation.json",
          "samples/update-000006.png", "samples-seed1.png")  # fmt: skip


@pytest.mark.parametrize("name", LINKED)
def test_nothing_is_written_through_a_planted_link(name: str, run: Path, options: list[str], tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("precious")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    (run / WEIGHTS).unlink() if name != WEIGHTS else None
    for words in (
        ["train", *options, "--folder", str(run)],
        ["sample", str(run)],
        ["evaluate", str(run), "--features", "random-conv"],
    ):
        assert main([*words, "--device", "cpu"]) in (0, 2)
    assert precious.read_text() == "precious"


def test_files_have_the_mode_that_the_umask_leaves(trained: Path) -> None:
    old = os.umask(0)
    os.umask(old)
    assert {stat.S_IMODE(p.stat().st_mode) for p in trained.rglob("*") if p.is_file()} == {0o666 & ~old}
    assert not list(trained.rglob(".writing-*"))


def test_a_folder_that_is_removed_in_mid_run_is_said(pictures: Path, tmp_path: Path) -> None:
    def remove(rho: Any, rng: torch.Generator) -> dict[str, float]:
        shutil.rmtree(tmp_path / "r")
        return {}

    recipe = Recipe(data=str(pictures), channels=4, batch=8, num_steps=1, first_iters=3, sinkhorn_n=0)
    with pytest.raises(CannotWrite, match="the folder was removed in mid-run"):
        train(recipe, tmp_path / "r", device="cpu", progress=False, metrics=[remove])
    assert not (tmp_path / "r").exists()


PAIR = NetworkPair(FineGenerator, FineCritic)
MODULE = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
from wgflow.generative import NetworkPair
from wgflow.generative.nets import FineCritic, FineGenerator
PAIR = NetworkPair(FineGenerator, FineCritic)
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module on the path, and the file that it makes when it is imported."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "evil.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    yield folder / "ran"
    sys.modules.pop("evil", None)


def test_code_that_a_run_names_is_asked_for(run: Path, evil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / RECIPE).write_text(edited({"network": "evil:PAIR"})((run / RECIPE).read_text()))
    (run / "mine.yaml").write_text("network: evil:PAIR\n")
    asked = [
        ["sample", str(run)],
        ["evaluate", str(run), "--features", "random-conv"],
        ["train", str(run / "mine.yaml")],
    ]
    for words in asked:
        said = error_of([*words, "--device", "cpu"], capsys)
        assert "names code to run: network='evil:PAIR'" in said
        assert "--allow-code" in said
    for ask in (load_generator, evaluate, Recipe.load):
        with pytest.raises(BadInput, match="allow_code=True"):
            ask(run / "mine.yaml" if ask == Recipe.load else run)
    assert not evil.exists()
    assert main(["sample", "--allow-code", str(run), "--device", "cpu"]) == 0
    assert evil.exists()


def test_code_that_the_user_names_is_not_asked_for(options: list[str], evil: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("network: evil:PAIR\n")
    folder = str(tmp_path / "r")
    assert main(["train", str(tmp_path / "mine.yaml"), *options, "--network", "conv", "--folder", folder]) == 0
    assert not evil.exists()
    assert main(["train", *options, "--network", "evil:PAIR", "--folder", f"{folder}2"]) == 0
    assert evil.exists()


class Tied(nn.Module):
    """A generator whose two layers share a weight, and whose buffers are views of each other."""

    source_shape, noise_shape = (8,), None

    def __init__(self, *, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 64), nn.Linear(64, 8), nn.Linear(8, 64)
        self.c.weight = self.a.weight
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("part", self.scale[1:3])
        self.image_shape = image_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.c(self.b(self.a(x))) * self.scale.mean()).unflatten(1, self.image_shape)

    def reference(self) -> None:
        return None


TIED = NetworkPair(Tied, FineCritic)


def test_tied_weights_are_exported_and_loaded(pictures: Path, tmp_path: Path) -> None:
    recipe = Recipe(data=str(pictures), network=f"{__name__}:TIED", batch=8, num_steps=1, first_iters=4, sinkhorn_n=0)
    solution = train(recipe, tmp_path / "r", device="cpu", progress=False)
    loaded = load_generator(tmp_path / "r", "cpu", allow_code=True)
    assert loaded.map.a.weight is loaded.map.c.weight
    held = safetensors.load_file(tmp_path / "r" / WEIGHTS)
    assert torch.equal(held["a.weight"], held["c.weight"])
    torch.testing.assert_close(sample(loaded, 3), sample(solution.measure.inference(), 3), rtol=0, atol=0)


class Later:
    """A metric that has a number from its second evaluation on, and an infinite one."""

    calls = 0

    def __call__(self, rho: Any, rng: torch.Generator) -> dict[str, float]:
        self.calls += 1
        return {"always": float("inf") if self.calls == 1 else -float("inf")} | (
            {"late": 2.0} if self.calls > 1 else {}
        )


def test_metrics_may_report_later_and_be_infinite_and_be_added(pictures: Path, tmp_path: Path) -> None:
    recipe = Recipe(data=str(pictures), channels=4, batch=8, num_steps=1, first_iters=4, evaluate_every=2, sinkhorn_n=0)
    train(recipe, tmp_path / "r", device="cpu", progress=False, metrics=[Later()])
    rows = (tmp_path / "r/metrics.csv").read_text().splitlines()
    assert rows == ["update,k,t,always,late", "0,0,0.0,inf,", "2,0,0.0,-inf,2.0", "4,1,0.1,-inf,2.0"]
    assert json.loads((tmp_path / "r/report.json").read_text())["last_step"]["always"] is None


def test_a_metric_that_is_added_when_a_run_goes_on_has_a_column(pictures: Path, tmp_path: Path) -> None:
    recipe = Recipe(data=str(pictures), channels=4, batch=8, num_steps=1, first_iters=4, evaluate_every=2, sinkhorn_n=0)

    class Killed(Exception):
        pass

    def kill(rho: Any, rng: torch.Generator) -> dict[str, float]:
        if (tmp_path / "r/metrics.csv").exists():
            raise Killed
        return {"old": 1.0}

    with pytest.raises(Killed):
        train(recipe, tmp_path / "r", device="cpu", progress=False, metrics=[kill])
    train(recipe, tmp_path / "r", device="cpu", progress=False, metrics=[lambda rho, rng: {"new": 3.0}])
    rows = (tmp_path / "r/metrics.csv").read_text().splitlines()
    assert rows == ["update,k,t,old,new", "0,0,0.0,1.0,", "2,0,0.0,,3.0", "4,1,0.1,,3.0"]


def test_a_monitor_alone_makes_its_folder(tmp_path: Path) -> None:
    Monitor(tmp_path / "new", [], every=1)._open(type("Run", (), {"updates": 0})())
    assert (tmp_path / "new").is_dir()


def test_a_folder_that_is_no_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match="wgflow train makes one"):
        load_generator(tmp_path)


def test_an_export_on_a_full_disk_is_said_and_the_run_goes_on_afterwards(pictures: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: grids are smaller than it, and the exported network is larger."""
    resource = pytest.importorskip("resource")
    before, unlimited = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.RLIM_INFINITY

    class Fills(Callback):
        def on_update(self, run: Any, info: Any) -> None:
            size = (tmp_path / "run" / WEIGHTS).stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, unlimited))

    recipe = Recipe(data=str(pictures), channels=4, batch=8, num_steps=1, first_iters=4, evaluate_every=2, sinkhorn_n=0)
    try:
        with pytest.raises(CannotWrite, match=r"cannot write .*generator.safetensors: .*File too large"):
            train(recipe, tmp_path / "run", device="cpu", progress=False, callbacks=[Fills()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.rglob(".writing-*"))
    assert train(recipe, tmp_path / "run", device="cpu", progress=False).status == "done"


@pytest.mark.parametrize(("told", "means"), [("(os error 28)", "the disk is full"), ("stream", "stream")])
def test_what_a_writer_says_of_a_full_disk_is_understood(told: str, means: str, tmp_path: Path) -> None:
    assert reason(refusal(tmp_path, RuntimeError(told))) == means
