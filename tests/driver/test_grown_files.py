"""The files beside checkpoints: each stays as long as a checkpoint needs it, whatever else lies in the folder."""

from pathlib import Path

import pytest
import torch

import wgflow as wg
from wgflow.driver import run as running

HALF = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
START = wg.Particles(torch.ones(4, 2))


class StopAtStep(wg.Callback):
    def __init__(self, k: int) -> None:
        self.k = k

    def on_step(self, run, row):
        return run.STOP if run.state.k == self.k else None


def flow(folder: Path | None, every: int, stop: int = 0) -> wg.Solution:
    checkpoint = None if folder is None else wg.Checkpoint(folder, every_updates=every, name="grown")
    stops = [StopAtStep(stop)]
    return wg.solve(HALF, wg.ForwardEuler(), START, step_size=0.1, num_steps=48, checkpoint=checkpoint, callbacks=stops)


def damage_newest(folder: Path) -> None:
    path = max(folder.glob("update-*.pt"))
    path.write_bytes(path.read_bytes()[:-10])


def test_a_file_of_a_refused_checkpoint_does_not_stand_for_that_of_a_later_one(tmp_path, monkeypatch):
    """Of the states every 8th is kept in the end; a new file begins with the first checkpoint after entries were dropped."""
    monkeypatch.setattr(running, "MOST_SAVED", 4 * START.x.nbytes)
    flow(tmp_path, every=5, stop=20)
    assert (tmp_path / "saved-0000000020.states").exists()
    damage_newest(tmp_path)
    flow(tmp_path, every=6, stop=36)  # from 15 on: files of 18, for the checkpoints at 18 to 30, and of 36
    damage_newest(tmp_path)
    whole, resumed = flow(None, 1), flow(tmp_path, every=6)
    assert resumed.times == whole.times
    assert [row["k"] for row in resumed.history] == [row["k"] for row in whole.history]
    assert all(torch.equal(a.x, b.x) for a, b in zip(resumed.saved, whole.saved, strict=True))


def test_files_that_no_checkpoint_needs_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "MOST_SAVED", 4 * START.x.nbytes)
    (tmp_path / "saved-0000000003.states").write_bytes(b"of a run that was killed before its checkpoint")
    flow(tmp_path, every=6)
    assert [p.name for p in tmp_path.glob("saved-*")] == ["saved-0000000036.states"]


def test_files_stay_where_checkpoints_cannot_be_mapped(tmp_path, monkeypatch):
    """Some file systems map no files: PyTorch then fails as it does for a damaged one."""
    load = torch.load

    def unmapped(*args, mmap=None, **options):
        if mmap:
            raise RuntimeError("unable to mmap 100 bytes from file: No such device (19)")
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", unmapped)
    monkeypatch.setattr(running, "MOST_SAVED", 4 * START.x.nbytes)
    flow(tmp_path, every=6, stop=36)
    damage_newest(tmp_path)
    with pytest.warns(UserWarning, match="checkpoint refused, the one before it is used"):
        assert len(flow(tmp_path, every=6).history) == 48
