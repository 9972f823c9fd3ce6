"""A run killed with SIGKILL at any moment ends, once started again, bit for bit where the uninterrupted one ends (C17)."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from _compare import assert_same, whole

import wgflow
from wgflow.storage.files import files, read

if not hasattr(os, "fork"):
    pytest.skip("kills forks of a process, which POSIX systems have only", allow_module_level=True)

CHILD = Path(__file__).with_name("_kill_child.py")
KILLED, UPDATES, KEEP = -9, 32, 2
Job = Callable[..., dict[str, Any]]

# (where, at its how-manieth call); the checkpoints are written at updates 0, 3, 6, ..., 30 and 32
KILLS = [
    [("half a checkpoint written", 1)],
    [("half a checkpoint written", 2)],
    [("half a checkpoint written", 7)],
    [("half a checkpoint written", 12)],
    [("checkpoint written, not flushed", 1)],
    [("checkpoint written, not flushed", 5)],
    [("checkpoint flushed, not renamed", 1)],
    [("checkpoint flushed, not renamed", 6)],
    [("checkpoint renamed, old ones not removed", 1)],
    [("checkpoint renamed, old ones not removed", 9)],
    [("while an old checkpoint is removed", 3)],
    [("checkpoint complete", 1)],
    [("checkpoint complete", 12)],
    [("between critic and generator", 1)],
    [("between critic and generator", 20)],
    [("inside an optimiser step", 33)],
    [("before the running average", 17)],
    [("while a step is accepted", 1), ("while a step is accepted", 1)],
    [("half a line of the log", 4)],
    [("half a line of the log", 1), ("half a checkpoint written", 2), ("half a line of the log", 5)],
    [("after a step's line of the log", 1)],
    [("while metrics are evaluated", 1)],
    [("while metrics are evaluated", 3)],
    [("inside an optimiser step", 21), ("while a checkpoint is restored", 1), ("while a checkpoint is restored", 1)],
]


@pytest.fixture(scope="module")
def attempt() -> Iterator[Job]:
    """Return a function that runs one attempt in a process of its own and returns its exit code and duration."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(wgflow.__file__).parents[1])}
    server = subprocess.Popen(
        [sys.executable, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )

    def ask(folder: Path, **job: Any) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        print(json.dumps({"folder": str(folder)} | job), file=server.stdin, flush=True)
        return json.loads(server.stdout.readline())

    yield ask
    server.stdin.close()
    assert server.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def uninterrupted(attempt: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Folder of a run that nobody disturbed, and how long it took."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = attempt(folder)
    assert done["code"] == 0
    return folder, done["seconds"]


def log(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_ends_there(folder: Path, reference: Path) -> None:
    held = files(folder / "checkpoints")
    assert len(held) == KEEP
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {p.name for p in held} | {
        "run.lock",
        "saved-0000000000.states",
    }
    newest = whole(held[0])
    assert newest["ledger"]["updates"] == UPDATES
    assert_same(newest, whole(files(reference / "checkpoints")[0]))
    assert log(folder) == log(reference)


def newest(folder: Path) -> str:
    """Name of the newest checkpoint, all of which must be whole."""
    held = files(folder / "checkpoints")
    for path in held:
        read(path)
    return held[0].name if held else ""


def test_the_run_under_test_holds_what_has_to_survive(uninterrupted):
    saved = read(files(uninterrupted[0] / "checkpoints")[0])
    state = saved["state"]
    assert (state["k"], saved["ledger"]["updates"]) == (3, UPDATES)
    assert "body.1.running_mean" in state["measure"]["net"]
    assert not torch.equal(state["measure"]["average"]["body.0.weight"], state["measure"]["net"]["body.0.weight"])
    assert state["estimator"]["descent"]["optimizer"]["param_groups"][0]["lr"] < 1e-4, "the cosine has begun"
    assert [row["kind"] for row in log(uninterrupted[0])].count("updates") == UPDATES // 4
    assert [row["k"] for row in log(uninterrupted[0]) if "mean" in row] == [1, 2, 3]


def test_two_uninterrupted_runs_agree(attempt, uninterrupted, tmp_path):
    """Without this the others would say nothing."""
    assert attempt(tmp_path)["code"] == 0
    assert_ends_there(tmp_path, uninterrupted[0])


@pytest.mark.parametrize("kills", KILLS, ids=lambda kills: ", ".join(f"{point} {n}" for point, n in kills))
def test_killed_there_it_ends_where_the_uninterrupted_run_ends(attempt, uninterrupted, tmp_path, kills):
    for point, n in kills:
        assert attempt(tmp_path, point=point, n=n)["code"] == KILLED
    there = newest(tmp_path)
    assert attempt(tmp_path)["code"] == 0
    assert (tmp_path / "resumed").read_text() == there, "it did not go on from the newest checkpoint"
    assert_ends_there(tmp_path, uninterrupted[0])


def test_killed_at_random_times_it_ends_where_the_uninterrupted_run_ends(attempt, uninterrupted, tmp_path):
    reference, seconds = uninterrupted
    rng, kills, runs = random.Random(0), 0, 0
    while kills < 12:
        folder = tmp_path / str(runs)
        done = attempt(folder, seconds=rng.uniform(0, seconds))
        if done["code"] == KILLED:
            kills += 1
            newest(folder)
        else:
            assert done["code"] == 0
            assert_ends_there(folder, reference)
            runs += 1
    assert attempt(folder)["code"] == 0
    assert_ends_there(folder, reference)


def test_a_finished_run_is_not_touched_again(attempt, uninterrupted, tmp_path):
    attempt(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "resumed"}
    assert attempt(tmp_path)["code"] == 0
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "resumed"} == before


def test_a_second_process_is_refused_while_the_first_goes_on(attempt, uninterrupted, tmp_path):
    first = attempt(tmp_path, point="suspended", n=20)["suspended"]
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert attempt(tmp_path)["code"] == 1
    error = tmp_path / "error"
    assert error.read_text().startswith("CheckpointError: ")
    assert "in use by another process" in error.read_text()
    error.unlink()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert attempt(tmp_path, **{"go on": first})["code"] == 0
    assert_ends_there(tmp_path, uninterrupted[0])
