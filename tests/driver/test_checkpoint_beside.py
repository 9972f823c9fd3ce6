"""Checkpoints that are written while the run goes on: what they hold, whose error is told when, and who waits for them."""

import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _compare import assert_same
from _flows import Interrupt, Stop, files, flow, jko, load, newest

from wgflow import Callback, CannotWrite, Checkpoint, CheckpointError, StandardNormal
from wgflow.driver import checkpoint as checkpoints
from wgflow.storage.state import on_host

write = checkpoints.write


class Held(Callback):
    """Holds the writer back from update ``begin`` to update ``end``, and then lets it write, or fail."""

    def __init__(self, monkeypatch, begin: int = 2, end: int = 5, error: Exception | None = None) -> None:
        self.begin, self.end, self.error, self.may = begin, end, error, threading.Event()
        monkeypatch.setattr(checkpoints, "write", self.write)

    def write(self, payload: dict[str, Any], folder: Path, updates: int) -> Path:
        if updates == self.begin:
            assert self.may.wait(60)
            if self.error is not None:
                raise CannotWrite("cannot write") from self.error
        return write(payload, folder, updates)

    def on_update(self, run, info):
        if run.updates == self.end:
            self.may.set()


KINDS = {"critic and network": jko(StandardNormal(2)), "particles": {}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_the_state_at_which_it_was_taken(tmp_path, monkeypatch, kind):
    """Networks and optimizers are changed in place while it waits to be written."""
    for name, begin in {"plain": -1, "late": 2}.items():
        callbacks = [Held(monkeypatch, begin, end=3), Interrupt(3)]
        with pytest.raises(Stop):
            flow(tmp_path, **KINDS[kind], checkpoint=Checkpoint(tmp_path / name, every_updates=2), callbacks=callbacks)
    assert newest(tmp_path / "late")["ledger"]["updates"] == 2
    assert_same(newest(tmp_path / "late"), newest(tmp_path / "plain"))


def test_one_that_is_still_being_written_is_waited_for_where_updates_set_the_pace(tmp_path, monkeypatch):
    save = Checkpoint(tmp_path, every_updates=1, keep=9)
    held = Held(monkeypatch)
    threading.Timer(0.2, held.may.set).start()
    flow(tmp_path, checkpoint=save, callbacks=[held])
    assert len(files(tmp_path)) == 7


def test_one_that_is_still_being_written_is_left_alone_where_time_does(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SHARE", float("inf"))
    save = Checkpoint(tmp_path, every_seconds=0, keep=99)
    flow(tmp_path, num_steps=9, checkpoint=save, callbacks=[Held(monkeypatch, begin=1, end=6)])
    taken = {load(p)["ledger"]["updates"] for p in files(tmp_path)}
    assert {0, 1, 9} <= taken <= {0, 1, 6, 7, 8, 9}


def test_an_error_of_the_writer_stops_the_run_at_the_next_update(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SHARE", float("inf"))
    save = Checkpoint(tmp_path, every_seconds=0)
    held = Held(monkeypatch, begin=1, end=4, error=OSError("the cable"))

    class Meanwhile(Callback):
        seen = 0

        def on_update(self, run, info):
            self.seen = run.updates
            if run.updates == 4:
                save._writer._thread.join()

    meanwhile = Meanwhile()
    with pytest.raises(CheckpointError, match=r"no checkpoint could be written to .*: the cable; earlier ones stay"):
        flow(tmp_path, num_steps=99, checkpoint=save, callbacks=[held, meanwhile])
    assert meanwhile.seen == 4
    assert [load(p)["ledger"]["updates"] for p in files(tmp_path)] == [0]


def test_what_ended_the_run_is_told_before_an_error_of_the_writer(tmp_path, monkeypatch):
    save = Checkpoint(tmp_path, every_updates=2)
    held = Held(monkeypatch, end=3, error=OSError("the cable"))
    with pytest.warns(UserWarning, match="no checkpoint could be written to .*: the cable"), pytest.raises(Stop):
        flow(tmp_path, checkpoint=save, callbacks=[held, Interrupt(3)])


def test_what_ended_the_run_is_told_before_any_other_error_of_the_writer(tmp_path, monkeypatch):
    def fail(payload, folder, updates):
        if updates:
            raise MemoryError("no room to write in")
        return write(payload, folder, updates)

    monkeypatch.setattr(checkpoints, "write", fail)
    with pytest.warns(UserWarning, match="no room to write in"), pytest.raises(Stop):
        flow(tmp_path, checkpoint=Checkpoint(tmp_path, every_updates=2), callbacks=[Interrupt(3)])


def test_a_run_that_failed_holds_its_folder_until_the_last_is_written(tmp_path, monkeypatch):
    """Or another process could go on while a checkpoint of this one arrives."""
    save, held, refused = Checkpoint(tmp_path, every_updates=2), Held(monkeypatch, end=99), []

    def another() -> None:
        try:
            flow(tmp_path)
        except CheckpointError as error:
            refused.append(str(error))
        held.may.set()

    threading.Timer(0.2, another).start()
    with pytest.raises(Stop):
        flow(tmp_path, checkpoint=save, callbacks=[held, Interrupt(3)])
    assert "in use by another process" in refused[0]
    assert [load(p)["ledger"]["updates"] for p in files(tmp_path)] == [2, 0]


def test_without_room_for_a_copy_the_run_waits(tmp_path, monkeypatch):
    def refuse(saved):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(checkpoints, "on_host", refuse)
    flow(tmp_path / "in line")
    monkeypatch.undo()
    flow(tmp_path / "beside")
    assert_same(newest(tmp_path / "in line"), newest(tmp_path / "beside"))


def test_the_copy_is_gone_when_it_is_written(tmp_path, monkeypatch):
    copies: list[weakref.ref[torch.Tensor]] = []

    def remembered(saved):
        held, wait = on_host(saved)
        copies.append(weakref.ref(held["state"]["measure"]["x"]))
        return held, wait

    class Look(Callback):
        left = 0

        def on_update(self, run, info):
            save._writer.wait()
            self.left += sum(copy() is not None for copy in copies)

    monkeypatch.setattr(checkpoints, "on_host", remembered)
    look, save = Look(), Checkpoint(tmp_path, every_updates=2)
    flow(tmp_path, callbacks=[look], checkpoint=save)
    assert (len(copies), look.left) == (2, 0)


def test_tensors_that_share_their_storage_do_so_again():
    x = torch.randn(4, 6)
    parts = {"whole": x, "rows": x[1:3], "turned": x.T, "one": torch.randn(1).expand(5), "none": torch.empty(0, 3)}
    held, wait = on_host(parts | {"of complex": torch.tensor([1.0 + 2.0j]).conj()})
    wait()
    before = {name: t.clone() for name, t in held.items()}
    x.zero_()
    for name, t in parts.items():
        assert torch.equal(held[name], before[name])
        assert (held[name].stride(), held[name].storage_offset()) == (t.stride(), t.storage_offset())
    assert held["rows"].untyped_storage().data_ptr() == held["whole"].untyped_storage().data_ptr()
    assert held["of complex"].item() == 1.0 - 2.0j
    assert held["whole"].ne(0).all()


def test_arrays_of_numpy_that_begin_at_one_place_are_copied_as_long_as_they_are():
    x = np.arange(6.0)
    held, wait = on_host({"begin": torch.from_numpy(x[:2]), "whole": torch.from_numpy(x)})
    wait()
    assert held["begin"].tolist() == [0, 1]
    assert held["whole"].tolist() == [0, 1, 2, 3, 4, 5]
