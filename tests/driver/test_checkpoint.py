"""Checkpoints: what they hold, when they are written, and how a run goes on from one."""

import hashlib
import importlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _compare import assert_same, whole
from _flows import (
    STEPS,
    Interrupt,
    Seen,
    Stop,
    contents,
    files,
    flow,
    gaussian_divergence,
    load,
    newest,
    points,
    quadratic,
    tiny_critic,
    tiny_pushforward,
)

import wgflow
from wgflow import (
    JKO,
    Adam,
    BadInput,
    Callback,
    Checkpoint,
    CheckpointError,
    Evaluate,
    ForwardEuler,
    JsonLog,
    Particles,
    PotentialEnergy,
    Regression,
    Save,
    StopWhen,
    solve,
)
from wgflow.storage.files import write

# --- what a file holds ------------------------------------------------------------------------------------------------


def test_the_last_states_are_kept_in_files_of_plain_types(tmp_path):
    solution = flow(tmp_path)
    assert [p.name[:17] for p in files(tmp_path)] == ["update-0000000006", "update-0000000005", "update-0000000004"]
    for k, path in zip((6, 5, 4), files(tmp_path), strict=True):
        saved = load(path)
        assert saved["state"]["k"] == len(whole(path)["history"]) == k
        torch.testing.assert_close(saved["state"]["measure"]["x"], 0.9**k * points().x)
    assert torch.equal(load(files(tmp_path)[0])["state"]["measure"]["x"], solution.measure.x)


KINDS = {
    "explicit, particles": lambda: {},
    "explicit, critic, particles that knew their density": lambda: {
        "F": gaussian_divergence(),
        "solver": ForwardEuler(tiny_critic()),
        "initial": Particles(points().x, log_w=torch.tensor([0.0, 1.0, -1.0]), log_rho=torch.zeros(3)),
    },
    "explicit, critic, network": lambda: {
        "F": gaussian_divergence(),
        "solver": ForwardEuler(tiny_critic(), batch=8),
        "initial": tiny_pushforward(regression=Regression(Adam(1e-2), batch=8)),
    },
    "implicit, particles": lambda: {"solver": JKO(optim=Adam(1e-1), iters=4), "num_steps": 3},
    "implicit, critic, network": lambda: {
        "F": gaussian_divergence(),
        "solver": JKO(tiny_critic(), Adam(1e-2), iters=4, first_iters=5, batch=8),
        "initial": tiny_pushforward(ema=0.9, reference=torch.nn.Identity()),
        "num_steps": 3,
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [1, 3, 5])
def test_every_kind_of_state_comes_back_bit_for_bit(tmp_path, kind, after):
    flow(tmp_path / "whole", **KINDS[kind]())
    with pytest.raises(Stop):
        flow(tmp_path / "parts", **KINDS[kind]() | {"callbacks": [Interrupt(after)]})
    flow(tmp_path / "parts", **KINDS[kind]())
    assert_same(newest(tmp_path / "parts"), newest(tmp_path / "whole"))


def test_a_tensor_may_come_and_go_along_a_flow():
    """A density that is not known after a move, weights that there are after a reaction."""
    have, then = Particles(points().x, log_rho=torch.zeros(3)), Particles(points().x, log_w=torch.ones(3))
    restored = wgflow.storage.state.load_state(have, wgflow.storage.state.state_dict(then))
    assert restored.log_rho is None
    assert torch.equal(restored.log_w, torch.ones(3))


def test_numbers_of_numpy_do_not_make_a_file_unreadable(tmp_path):
    metric = lambda rho, rng: {"mean": np.float64(2.0), "count": np.int64(3), "half": np.float32(0.5)}  # noqa: E731
    solution = flow(
        tmp_path,
        step_size=np.float64(0.1),
        seed=np.int64(5),
        callbacks=[Evaluate([metric])],
        save=Save(fn=lambda state: {"k": np.int64(state.k), "norm": np.float32(1.5)}),
    )
    saved = newest(tmp_path)
    assert saved["history"][-1]["mean"] == 2.0
    assert saved["saved"][1] == {"k": 1, "norm": 1.5}
    with pytest.warns(UserWarning, match="another Save"):
        assert flow(tmp_path, step_size=0.1, seed=5).times == solution.times


def test_an_optimiser_with_numpy_settings_can_be_saved(tmp_path):
    solver = JKO(optim=Adam(np.float64(1e-2), eps=np.float64(1e-8)), iters=2)
    flow(tmp_path, num_steps=2, solver=solver)
    assert load(files(tmp_path)[0])["state"]["descent"]["optimizer"]["param_groups"][0]["lr"] == 1e-2


def test_what_cannot_be_saved_is_named_before_any_work(tmp_path):
    seen = Seen()
    with pytest.raises(CheckpointError, match=r"saved\[0\]\['net'\] is a torch.nn.modules.linear.Linear"):
        flow(tmp_path, save=Save(fn=lambda state: {"net": torch.nn.Linear(1, 1)}), callbacks=[seen])
    assert seen.updates == 0
    assert not files(tmp_path)


# --- resuming ---------------------------------------------------------------------------------------------------------


def test_a_finished_run_returns_its_solution_without_new_work(tmp_path):
    watchers = lambda: [Evaluate([lambda rho, rng: {"x": rho.x.mean()}]), JsonLog(tmp_path / "log"), Seen()]  # noqa: E731
    whole = flow(tmp_path, callbacks=watchers(), log_every=2)
    before, seen = contents(tmp_path), watchers()
    again = flow(tmp_path, callbacks=seen, log_every=2)
    assert seen[-1].updates == 0
    assert contents(tmp_path) == before
    assert (again.status, again.times, again.history) == (whole.status, whole.times, whole.history)
    assert torch.equal(again.measure.x, whole.measure.x)
    assert [torch.equal(a.x, b.x) for a, b in zip(again.saved, whole.saved, strict=True)] == [True] * (STEPS + 1)
    assert seen[0].initial == {"x": pytest.approx(2.0)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_goes_on_to_more_steps(tmp_path, kind):
    more = {"num_steps": KINDS[kind]().get("num_steps", STEPS) + 2}
    flow(tmp_path / "parts", **KINDS[kind]())
    flow(tmp_path / "parts", **KINDS[kind]() | more)
    flow(tmp_path / "whole", **KINDS[kind]() | more)
    assert_same(newest(tmp_path / "parts"), newest(tmp_path / "whole"))


def test_callbacks_may_come_and_go(tmp_path):
    with pytest.raises(Stop):
        flow(tmp_path, callbacks=[JsonLog(tmp_path / "log"), Interrupt(3)])
    evaluate = Evaluate([lambda rho, rng: {"x": rho.x.mean()}])
    flow(tmp_path, callbacks=[Seen(), evaluate, JsonLog(tmp_path / "log"), JsonLog(tmp_path / "second")])
    assert [json.loads(line)["k"] for line in (tmp_path / "log").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert [json.loads(line)["k"] for line in (tmp_path / "second").read_text().splitlines()] == [3, 4, 5, 6]


def test_a_stopped_run_stays_stopped_until_the_condition_changes(tmp_path):
    assert flow(tmp_path, callbacks=[StopWhen(lambda row: row["k"] >= 3)]).status == "stopped"
    seen = Seen()
    again = flow(tmp_path, callbacks=[StopWhen(lambda row: row["k"] >= 3), seen])
    assert (again.status, again.state.k, seen.updates) == ("stopped", 3, 0)
    assert flow(tmp_path, callbacks=[StopWhen(lambda row: row["k"] >= 5)]).state.k == 5
    assert flow(tmp_path).status == "done"


def test_a_passed_state_is_saved_and_restored_like_a_start(tmp_path):
    def first() -> wgflow.State:
        return solve(PotentialEnergy(quadratic), ForwardEuler(), points(), step_size=0.1, num_steps=2).state

    with pytest.raises(Stop):
        flow(tmp_path, state=first(), callbacks=[Interrupt(4)])
    seen = Seen()
    x = flow(tmp_path, state=first(), callbacks=[seen]).measure.x
    assert seen.resumed_from.startswith("update-0000000003")
    assert torch.equal(x, flow(tmp_path / "whole").measure.x)


def test_strays_of_killed_runs_are_removed(tmp_path):
    with pytest.raises(Stop):
        flow(tmp_path, callbacks=[Interrupt(3)])
    (tmp_path / ".writing-1").write_bytes(b"half a checkpoint")
    flow(tmp_path)
    assert not list(tmp_path.glob(".writing-*"))


# --- saved states -----------------------------------------------------------------------------------------------------


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob("saved-*.states"))


def assert_equal_clouds(ours: list[Any], theirs: list[Any]) -> None:
    assert [torch.equal(a.x, b.x) for a, b in zip(ours, theirs, strict=True)] == [True] * len(ours)


def test_a_checkpoint_does_not_grow_with_the_states_that_were_saved(tmp_path):
    flow(tmp_path, num_steps=40, initial=points(5000))
    sizes = [p.stat().st_size for p in files(tmp_path)]
    state = 5000 * 2 * 4
    assert max(sizes) < 4 * state
    assert sum(p.stat().st_size for p in states(tmp_path)) > 41 * state


@pytest.mark.parametrize("every_updates", [1, 3])
def test_saved_states_come_back_after_a_resume(tmp_path, every_updates):
    at = lambda name: wgflow.Checkpoint(tmp_path / name, every_updates=every_updates)  # noqa: E731
    whole = flow(tmp_path, checkpoint=at("whole"))
    for after in (2, 5):
        with pytest.raises(Stop):
            flow(tmp_path, checkpoint=at("parts"), callbacks=[Interrupt(after)])
    for _ in range(2):
        parts = flow(tmp_path, checkpoint=at("parts"))
        assert parts.times == whole.times
        assert_equal_clouds(parts.saved, whole.saved)


def test_an_end_that_no_checkpoint_knows_is_overwritten(tmp_path):
    with pytest.raises(Stop):
        flow(tmp_path, callbacks=[Interrupt(4)])
    with open(states(tmp_path)[0], "ab") as file:
        file.write(b"half a state")
    assert_equal_clouds(flow(tmp_path).saved, flow(tmp_path / "whole").saved)
    assert_same(newest(tmp_path), newest(tmp_path / "whole"))
    assert states(tmp_path)[0].stat().st_size == load(files(tmp_path)[0])["saved"]["bytes"]


@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_states_that_are_damaged_are_named(tmp_path, damage):
    flow(tmp_path)
    path = states(tmp_path)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 4] if damage == "cut" else content)
    with pytest.raises(CheckpointError, match=rf"none can be used(?s:.*)its states .*{path.name}"):
        flow(tmp_path)


def test_only_an_end_that_is_damaged_costs_one_checkpoint(tmp_path):
    whole = flow(tmp_path)
    path = states(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="its states in .* are truncated or altered"):
        again = flow(tmp_path)
    assert_equal_clouds(again.saved, whole.saved)


def in_an_earlier_format(path: Path, saved: dict[str, Any], number: int) -> None:
    """Make a checkpoint what it was in the first format, with all inside, or in the second, with the states beside it."""
    path.unlink()
    if number == 2:
        beside = path.with_name("saved-0000000000.states")
        content = b"".join(in_a_chunk([s]) for s in saved["saved"])
        if not beside.exists():  # the newest comes first, and has the most
            beside.write_bytes(content)
        assert beside.read_bytes().startswith(content)
        end = {"bytes": len(content), "digest": hashlib.sha256(content).hexdigest()}
        saved = saved | {"saved": {"file": beside.name, "count": len(saved["saved"])} | end}
    write(saved | {"wgflow_checkpoint": number}, path.parent, saved["ledger"]["updates"])


def in_a_chunk(states: list[Any]) -> bytes:
    content = io.BytesIO()
    torch.save(states, content)
    return content.tell().to_bytes(8, "little") + content.getvalue()


@pytest.mark.parametrize("number", [1, 2])
def test_a_folder_of_an_earlier_format_goes_on(tmp_path, number):
    done = flow(tmp_path)
    held = {path: whole(path) for path in files(tmp_path)}
    states(tmp_path)[0].unlink()
    for path, saved in held.items():
        in_an_earlier_format(path, saved, number)
    for _ in range(2):
        again = flow(tmp_path, num_steps=STEPS + 1)
        assert_equal_clouds(again.saved, flow(tmp_path / "whole", num_steps=STEPS + 1).saved)
        assert again.history[:STEPS] == done.history
        assert again.times[: STEPS + 1] == done.times
    assert "history" not in load(files(tmp_path)[0])


def test_states_are_thinned_where_nobody_asked_for_all(tmp_path, monkeypatch):
    cloud = 4 * points(500).x.numel()
    monkeypatch.setattr(importlib.import_module("wgflow.driver.run"), "MOST_SAVED", 6 * cloud)
    options = {"initial": points(500), "num_steps": 21}
    kept = flow(tmp_path / "whole", **options)
    assert [round(t / 0.1) for t in kept.times] == [0, 4, 8, 12, 16, 20, 21]
    with pytest.raises(Stop):
        flow(tmp_path / "parts", **options, callbacks=[Interrupt(11)])
    parts = flow(tmp_path / "parts", **options)
    assert parts.times == kept.times
    assert_equal_clouds(parts.saved, kept.saved)
    assert len(states(tmp_path / "parts")) <= 2, "files of states that were dropped go with their checkpoints"
    assert len(flow(tmp_path / "all", **options, save=Save(1)).saved) == 22
    assert len(flow(tmp_path / "parts", **options).saved) == 7


def test_states_that_another_save_has_kept_are_said_to_be(tmp_path):
    mean, largest = Save(fn=lambda state: state.measure.x.mean(0)), Save(fn=lambda state: state.measure.x.amax(0))
    flow(tmp_path, save=mean)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow(tmp_path, save=mean)
    with pytest.warns(UserWarning, match="holds states that another Save has kept"):
        flow(tmp_path, save=largest)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    flow(tmp_path)
    for path in files(tmp_path):
        saved = load(path)
        saved["state"]["measure"]["x"][0, 0] = float("nan")
        torch.save(saved, tmp_path / "it")
        (tmp_path / "it").rename(tmp_path / f"{path.name[:18]}{wgflow.storage.files._digest(tmp_path / 'it')}.pt")
        path.unlink()
    with pytest.raises(CheckpointError, match=r"holds a state\.measure\.x with entries that are not finite"):
        flow(tmp_path)


# --- when to save -----------------------------------------------------------------------------------------------------


class Clock(Callback):
    """Lets ten seconds pass with every update, and so many while a checkpoint is written."""

    def __init__(self, monkeypatch, checkpoint, written_in=0):
        self.now, self.checkpoint = 100.0, checkpoint
        monkeypatch.setattr(wgflow.driver.checkpoint.time, "monotonic", lambda: self.now)
        put = checkpoint._write

        def slowly(*args):
            put(*args)
            self.now += written_in

        monkeypatch.setattr(checkpoint, "_write", slowly)

    def on_update(self, run, info):
        self.checkpoint._writer.wait()
        self.now += 10


def test_every_seconds_counts_wall_time_from_the_last_one(tmp_path, monkeypatch):
    save = Checkpoint(tmp_path, every_seconds=25, keep=50)
    flow(tmp_path, num_steps=10, checkpoint=save, callbacks=[Clock(monkeypatch, save)])
    assert sorted(load(p)["ledger"]["updates"] for p in files(tmp_path)) == [0, 3, 6, 9, 10]


def test_checkpoints_are_written_for_a_tenth_of_the_time(tmp_path, monkeypatch):
    save = Checkpoint(tmp_path, every_seconds=25, keep=50)
    flow(tmp_path, num_steps=20, checkpoint=save, callbacks=[Clock(monkeypatch, save, written_in=6)])
    assert sorted(load(p)["ledger"]["updates"] for p in files(tmp_path)) == [0, 6, 12, 18, 20]


def test_every_updates_and_keep(tmp_path):
    flow(tmp_path, num_steps=10, checkpoint=Checkpoint(tmp_path, every_updates=4, keep=50))
    assert sorted(load(p)["ledger"]["updates"] for p in files(tmp_path)) == [0, 4, 8, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directory": ""}, "directory=''.*name of a folder"),
        ({"directory": "a\0b"}, "directory=.*name of a folder"),
        ({"name": " "}, "name=' '.*expected a name"),
        ({"keep": 1}, "keep=1.*at least 2"),
        ({"every_updates": 0}, "every_updates=0.*from 1 up"),
        ({"every_seconds": -1}, "every_seconds=-1"),
        ({"every_seconds": float("nan")}, "every_seconds=nan"),
    ],
)
def test_bad_settings(tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        Checkpoint(**{"directory": tmp_path} | options)
