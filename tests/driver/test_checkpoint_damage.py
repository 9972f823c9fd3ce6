"""Checkpoints that are damaged, foreign or of another run: refused by name, never overwritten."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
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
    narrow,
    points,
    tiny_critic,
    tiny_pushforward,
)

import wgflow
from wgflow import (
    JKO,
    Adam,
    CheckpointError,
    Dataset,
    Pushforward,
    StandardNormal,
)
from wgflow.storage import files as checkpoint_files


def named_by_content(folder: Path, update: int, content: bytes) -> Path:
    """A file whose name promises the digest that it has."""
    (folder / "content").write_bytes(content)
    path = folder / f"update-{update:010d}-{checkpoint_files._digest(folder / 'content')}.pt"
    (folder / "content").rename(path)
    return path


def truncated(folder: Path) -> Path:
    path = files(folder)[0]
    path.write_bytes(path.read_bytes()[:-100])
    return path


def emptied(folder: Path) -> Path:
    path = files(folder)[0]
    path.write_bytes(b"")
    return path


def one_bit_flipped(folder: Path) -> Path:
    path = files(folder)[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def random_bytes(folder: Path) -> Path:
    return named_by_content(folder, 9, np.random.default_rng(0).bytes(2000))


def wrong_name(folder: Path) -> Path:
    path = folder / "update-last.pt"
    files(folder)[0].rename(path)
    return path


def a_folder(folder: Path) -> Path:
    path = folder / "update-0000000009-0123456789abcdef.pt"
    path.mkdir()
    return path


def pickled_object(folder: Path) -> Path:
    torch.save({"wgflow_checkpoint": 1, "state": Path("/")}, folder / "it")
    return named_by_content(folder, 9, (folder / "it").read_bytes())


def altered(folder: Path, **entries: Any) -> Path:
    torch.save(load(files(folder)[0]) | entries, folder / "it")
    return named_by_content(folder, 9, (folder / "it").read_bytes())


def other_format(folder: Path) -> Path:
    return altered(folder, wgflow_checkpoint=0)


def entries_missing(folder: Path) -> Path:
    torch.save({"wgflow_checkpoint": 1}, folder / "it")
    return named_by_content(folder, 9, (folder / "it").read_bytes())


def another_state(folder: Path) -> Path:
    return altered(folder, state={"network": torch.zeros(3)})


def of_another_run(folder: Path) -> Path:
    flow(folder / "other", num_steps=9, seed=1)
    path = files(folder / "other")[0]
    path.rename(folder / path.name)
    shutil.rmtree(folder / "other")
    return folder / path.name


DAMAGES = {
    truncated: "truncated or altered",
    emptied: "truncated or altered",
    one_bit_flipped: "truncated or altered",
    random_bytes: "cannot be read",
    wrong_name: "does not have the name of a checkpoint",
    a_folder: "cannot be read",
    pickled_object: "cannot be read",
    other_format: "not a checkpoint of this version",
    entries_missing: "not a checkpoint of this version",
    another_state: ": state: expected the entries",
    of_another_run: "is of another run: seed is 0 here and 1 there",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_a_bad_file_is_refused_by_name_and_the_one_before_is_used(tmp_path, damage):
    whole = flow(tmp_path)
    bad = damage(tmp_path)
    good = [p for p in files(tmp_path) if p != bad]
    content = None if bad.is_dir() else bad.read_bytes()
    seen = Seen()
    with pytest.warns(UserWarning, match=f"checkpoint refused.*{bad.name}.*{DAMAGES[damage]}"):
        again = flow(tmp_path, callbacks=[seen])
    assert seen.resumed_from == good[0].name
    assert torch.equal(again.measure.x, whole.measure.x)
    assert len(again.history) == STEPS
    assert bad.is_dir() or bad.read_bytes() == content, "a refused file is not ours to change"


def test_refused_files_do_not_push_good_ones_out(tmp_path):
    """The refused files have the highest counts, so they would fill the places of the newest."""
    with pytest.raises(Stop):
        flow(tmp_path, callbacks=[Interrupt(3)])
    bad = {tmp_path / f"update-{9 + i:010d}-0123456789abcdef.pt" for i in range(3)}
    for path in bad:
        path.write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="checkpoint refused"):
        flow(tmp_path)
    good = [p for p in files(tmp_path) if p not in bad]
    assert [load(p)["ledger"]["updates"] for p in good] == [6, 5, 4]
    assert bad < set(files(tmp_path))


def test_no_good_file_left_is_an_error_that_lists_them_all(tmp_path):
    flow(tmp_path)
    for path in files(tmp_path):
        path.write_bytes(path.read_bytes()[:500])
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="none can be used") as caught:
        flow(tmp_path)
    for path in files(tmp_path):
        assert f"{path.name} is truncated or altered" in str(caught.value)
    assert contents(tmp_path) == before


normal, data = StandardNormal(2), torch.arange(20.0).view(10, 2)
OTHERS = {
    "seed": ({}, {"seed": 1}, "seed is 1 here and 0 there"),
    "step size": ({}, {"step_size": 0.2}, "step_size is 0.2 here and 0.1 there"),
    "solver": ({}, {"solver": JKO(iters=2)}, "solver.class is 'JKO' here and 'ForwardEuler' there"),
    "particles": ({}, {"initial": points(value=2.0)}, "measure.x is "),
    "number of particles": ({}, {"initial": points(4)}, r"measure.x is 'tensor \(4, 2\)"),
    "optimiser": (
        jko(normal),
        jko(normal, solver=JKO(tiny_critic(), Adam(1e-3), iters=2, batch=4)),
        "solver.optim.lr is 0.001 here and 0.0002 there",
    ),
    "functional": (jko(normal), jko(normal, F=wgflow.KL(normal, batch=4)), "functional.class is 'KL' here"),
    "data": (jko(Dataset(data)), jko(Dataset(data + 1)), "functional.target.x is "),
    "target": (
        jko(wgflow.GaussianMixture(data, 0.1)),
        jko(wgflow.GaussianMixture(data, 0.2)),
        "functional.target.std is 0.2 here and 0.1 there",
    ),
    "network": (
        jko(normal),
        jko(normal, initial=tiny_pushforward()),
        "measure.net.class is 'Sequential' here and 'Linear' there",
    ),
    "average": (jko(normal, initial=tiny_pushforward()), jko(normal, initial=tiny_pushforward(ema=0.9)), "measure.ema"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_folder_of_another_run_is_refused_and_not_touched(tmp_path, other):
    ours, theirs, message = OTHERS[other]
    if other == "network":
        ours = ours | {"initial": Pushforward(StandardNormal(2), torch.nn.Linear(2, 2))}
        theirs = theirs | {"initial": narrow(3).start(torch.Generator())}
    flow(tmp_path, **ours)
    (tmp_path / ".writing-123").write_bytes(b"half a file of theirs")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=f"(?s)holds checkpoints and none can be used.*another run: .*{message}"):
        flow(tmp_path, **theirs)
    assert contents(tmp_path) == before


def test_fewer_steps_than_the_folder_holds_are_an_error(tmp_path):
    flow(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=r"has made 6 updates and completed 6 time steps.*num_steps=4"):
        flow(tmp_path, num_steps=4)
    assert contents(tmp_path) == before
