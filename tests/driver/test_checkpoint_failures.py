"""Folders that cannot be used, disks that fill up, quantities that stop being finite, logs that lost their end."""

import errno
import io
import json
import os
import shutil
import warnings
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from _flows import (
    STEPS,
    Interrupt,
    Seen,
    Stop,
    contents,
    files,
    flow,
    jko,
    load,
    newest,
    points,
)

import wgflow
from wgflow import (
    JKO,
    BadInput,
    Callback,
    CannotWrite,
    Checkpoint,
    CheckpointError,
    Critic,
    Diverged,
    JsonLog,
    Particles,
    Pushforward,
    Save,
    StandardNormal,
)

# --- folders that cannot be used --------------------------------------------------------------------------------------


def test_a_missing_parent_is_made(tmp_path):
    flow(tmp_path / "a" / "b")
    assert files(tmp_path / "a" / "b")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("precious")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        seen = Seen()
        with pytest.raises(CheckpointError, match=f"cannot write to the folder {folder}: "):
            flow(folder, callbacks=[seen])
        assert seen.updates == 0
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=f"cannot write to the folder {tmp_path}: Permission denied"):
        flow(tmp_path)
    tmp_path.chmod(0o700)


def test_a_folder_without_permission_as_the_system_reports_it(tmp_path, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CheckpointError, match=r"cannot write to the folder .*: Permission denied"):
        flow(tmp_path)


def test_a_second_run_in_the_folder_is_refused_while_the_first_goes_on(tmp_path):
    refused = []

    class Second(Callback):
        def on_step(self, run, row):
            with pytest.raises(CheckpointError, match="in use by another process") as caught:
                flow(tmp_path)
            refused.append(caught)

    assert flow(tmp_path, callbacks=[Second()]).status == "done"
    assert len(refused) == STEPS
    assert flow(tmp_path, num_steps=STEPS + 1).status == "done", "the folder is free again"


# --- full disks -------------------------------------------------------------------------------------------------------

Usage = namedtuple("Usage", "total used free")


def test_too_little_room_is_found_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 100))
    seen = Seen()
    with pytest.raises(CheckpointError, match="0 MB free and the 4 checkpoints of this run take up to"):
        flow(tmp_path, callbacks=[seen])
    assert seen.updates == 0
    assert not files(tmp_path)


def test_the_room_that_old_checkpoints_will_free_counts(tmp_path, monkeypatch):
    """A resumed run replaces its files, so it needs little beyond what it holds."""
    with pytest.raises(Stop):
        flow(tmp_path, initial=points(5000), save=Save(0), callbacks=[Interrupt(5)])
    size = files(tmp_path)[0].stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 2 * size))
    assert flow(tmp_path, initial=points(5000), save=Save(0)).status == "done"


save = torch.save


def full_at_once(monkeypatch, run):
    def refuse(payload, file):
        if isinstance(file, io.BytesIO):  # nothing is on the disk yet
            return save(payload, file)
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", refuse)


def full_inside_torch(monkeypatch, run):
    """PyTorch's own writer reports a plain RuntimeError when its disk is full."""

    def refuse(payload, file):
        if isinstance(file, io.BytesIO):
            return save(payload, file)
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 22")

    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))


def really_full(monkeypatch, run):
    """The device that is always full, in the place of every new file."""
    made = os.open

    def on_the_device(path, flags, mode=0o777, **options):
        if not flags & os.O_EXCL:
            return made(path, flags, mode, **options)
        Path(path).symlink_to("/dev/full")
        return made(path, flags & ~(os.O_EXCL | os.O_CREAT), mode, **options)

    monkeypatch.setattr(os, "open", on_the_device)


@pytest.mark.parametrize("fill", [full_at_once, full_inside_torch, really_full], ids=lambda f: f.__name__)
def test_a_disk_that_fills_up_keeps_the_earlier_checkpoints(tmp_path, monkeypatch, fill):
    if fill is really_full and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full, the device that is always full")

    class Fill(Callback):
        folder = tmp_path

        def on_update(self, run, info):
            if run.updates == 4:
                save._writer.wait()  # what is being written finds its room
                fill(patch, self)

    log, save = JsonLog(tmp_path / "log"), Checkpoint(tmp_path, every_updates=1, keep=3)
    message = r"no checkpoint could be written to .*: the disk is full; earlier ones stay"
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=message):
        flow(tmp_path, checkpoint=save, callbacks=[log, Fill()])
    assert log.file.closed
    assert [load(p)["ledger"]["updates"] for p in files(tmp_path)] == [3, 2, 1]
    beside = ["log", "run.lock", "saved-0000000000.states"]
    assert sorted(contents(tmp_path)) == sorted([p.name for p in files(tmp_path)] + beside)
    assert torch.equal(flow(tmp_path).measure.x, flow(tmp_path / "whole").measure.x)


def written(growing: wgflow.storage.growing.Growing, saved: list[Particles], updates: int) -> dict[str, Any]:
    return growing.append(growing.new({"history": [], "times": [], "saved": saved}), updates)


def test_states_that_found_no_room_are_written_with_the_next_checkpoint(tmp_path, monkeypatch):
    growing, sync, calls = wgflow.storage.growing.Growing(tmp_path), os.fsync, []

    def full_at_first(descriptor):
        calls.append(descriptor)
        if len(calls) in (1, 4):
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_first)
    saved = [points(value=float(i)) for i in range(3)]
    with pytest.raises(CannotWrite, match=r"saved-0000000001\.states: the disk is full"):
        written(growing, saved[:1], 1)
    written(growing, saved[:2], 1)
    with pytest.raises(CannotWrite, match="the disk is full"):
        written(growing, saved, 2)
    held = written(growing, saved, 2)
    found = wgflow.storage.growing.Growing(tmp_path).read({"saved": held})["saved"]
    assert [torch.equal(a.x, b.x) for a, b in zip(found, saved, strict=True)] == [True] * 3


# --- what is not finite -----------------------------------------------------------------------------------------------


class Poisoned(torch.nn.Module):
    """A linear map that turns NaN at one of its calls in training: its output there, or its weights right after."""

    def __init__(self, out: int, at: int | None, weights: bool = False) -> None:
        super().__init__()
        self.map, self.at, self.weights, self.calls = torch.nn.Linear(2, out), at, weights, 0

    def run_identity(self):
        """The fault is no part of the run."""
        return "a linear map"

    def forward(self, x):
        y = self.map(x)
        self.calls += self.training and torch.is_grad_enabled()
        if self.calls != self.at or not torch.is_grad_enabled():
            return y
        if not self.weights:
            return y * torch.nan
        y.register_hook(lambda grad: grad * torch.nan)  # a finite loss, and an update that is not
        return y


def sjko(folder: Path, generator: int | None = None, critic: int | None = None, **options: Any) -> wgflow.Solution:
    """Twelve updates, four a step; ``generator`` and ``critic`` are the calls at which those turn NaN."""
    networks = {
        "initial": Pushforward(StandardNormal(2), Poisoned(2, generator, weights=True)),
        "solver": JKO(Critic(Poisoned(1, critic)), iters=4, batch=4),
    }
    return flow(folder, **jko(StandardNormal(2)) | networks | {"num_steps": 3} | options)


def test_a_critic_that_turns_nan_stops_the_run_and_the_last_good_checkpoint_stays(tmp_path):
    # an update calls the critic on a fake and a real batch, and once more for the generator: 17 is in the sixth update
    log = JsonLog(tmp_path / "log")
    with pytest.raises(Diverged, match=r"critic/objective became nan at update 6, in time step 1") as caught:
        sjko(tmp_path, critic=17, callbacks=[log])
    assert (caught.value.term, caught.value.step, caught.value.update) == ("critic/objective", 1, 6)
    assert caught.value.solution.status == "diverged"
    assert log.file.closed
    assert newest(tmp_path)["ledger"]["updates"] == 5
    assert wgflow.storage.state.first_nonfinite(newest(tmp_path)["state"]) is None
    seen = Seen()
    assert sjko(tmp_path, callbacks=[seen]).status == "done"
    assert seen.updates == 12 - 5, "it goes on from the last good checkpoint"


def test_without_throw_the_solution_says_diverged(tmp_path):
    solution = sjko(tmp_path, critic=17, throw=False)
    assert (solution.status, solution.state.k, len(solution.history)) == ("diverged", 1, 1)


@pytest.mark.parametrize("throw", [True, False])
def test_weights_that_turn_nan_without_a_nan_loss_are_not_saved(tmp_path, throw):
    """The losses of the sixth update are finite, the weights after it are not."""
    if throw:
        with pytest.raises(Diverged, match=r"state.successor.map.\w+ is not finite after update 6, in time step 1"):
            sjko(tmp_path, generator=6)
    else:
        assert sjko(tmp_path, generator=6, throw=False).status == "diverged"
    assert newest(tmp_path)["ledger"]["updates"] == 5
    assert wgflow.storage.state.first_nonfinite(newest(tmp_path)["state"]) is None


def test_the_last_state_is_looked_at_without_a_checkpoint_too(tmp_path):
    with pytest.raises(Diverged, match=r"state\..* is not finite after update 12, in time step 3"):
        sjko(tmp_path, generator=12, checkpoint=None)


def test_log_weights_of_minus_infinity_are_as_they_should_be(tmp_path):
    weights = torch.tensor([0.0, -torch.inf, 0.0])
    assert wgflow.storage.state.first_nonfinite({"x": points().x, "log_w": weights}) is None
    assert wgflow.storage.state.first_nonfinite({"x": points().x, "w": weights}) == "state.w"
    with pytest.raises(BadInput, match=r"state.measure.log_w has entries that are not finite"):
        flow(tmp_path, initial=Particles(points().x, log_w=torch.tensor([0.0, torch.nan, 0.0])))


# --- logs -------------------------------------------------------------------------------------------------------------


def test_the_log_of_another_run_is_not_overwritten(tmp_path):
    (tmp_path / "log").write_text("precious\n")
    seen = Seen()
    with pytest.raises(BadInput, match="log holds the log of another run"):
        flow(tmp_path / "run", callbacks=[seen, JsonLog(tmp_path / "log")])
    assert seen.updates == 0
    assert (tmp_path / "log").read_text() == "precious\n"


def test_a_folder_in_the_place_of_a_log_is_called_one(tmp_path):
    with pytest.raises(CannotWrite, match="it is not a file"):
        flow(tmp_path / "run", callbacks=[JsonLog(tmp_path)])


@pytest.mark.parametrize(("left", "rows"), [(0, [4, 5, 6]), (1, [1, 4, 5, 6]), (None, [4, 5, 6])])
def test_a_log_that_lost_its_end_goes_on_after_its_last_whole_line(tmp_path, left, rows):
    """After a power failure, say: the checkpoint reached the disk and the log did not."""
    log = tmp_path / "log"
    with pytest.raises(Stop):
        flow(tmp_path, callbacks=[JsonLog(log), Interrupt(4)])
    lines = log.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    if left is None:
        log.unlink()
    else:
        log.write_bytes(b"".join(lines[:left]) + lines[left][:20])
    with pytest.warns(UserWarning, match="is shorter than when the checkpoint was written"):
        flow(tmp_path, callbacks=[JsonLog(log)])
    assert [json.loads(line)["k"] for line in log.read_text().splitlines()] == rows


def test_a_good_resume_warns_of_nothing(tmp_path):
    with pytest.raises(Stop):
        flow(tmp_path, callbacks=[JsonLog(tmp_path / "log"), Interrupt(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow(tmp_path, callbacks=[JsonLog(tmp_path / "log")])
