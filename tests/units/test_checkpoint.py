"""Checkpoints: what is refused, what is kept, and what a run says when it cannot save."""

import errno
import json
import os
import shutil
import warnings
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _compare import assert_same

import wgflow
from wgflow import (
    JKO,
    Adam,
    BadInput,
    Callback,
    Checkpoint,
    CheckpointError,
    Critic,
    Dataset,
    Diverged,
    Evaluate,
    ForwardEuler,
    JsonLog,
    Particles,
    PotentialEnergy,
    Pushforward,
    Regression,
    Save,
    Softplus,
    StandardNormal,
    StopWhen,
    solve,
)
from wgflow import _files as checkpoint_files

STEPS = 6


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x.square().sum(1)


def points(n: int = 3, value: float = 1.0) -> Particles:
    return Particles(torch.full((n, 2), value) * torch.arange(1, n + 1)[:, None])


def flow(folder: Path, num_steps: int = STEPS, **options: Any) -> wgflow.Solution:
    """Particles down a parabola with a checkpoint at every update."""
    settings = {
        "F": PotentialEnergy(quadratic),
        "solver": ForwardEuler(),
        "initial": points(),
        "step_size": 0.1,
        "num_steps": num_steps,
        "checkpoint": Checkpoint(folder, every_updates=1, keep=3),
    }
    return solve(**settings | options)


class Seen(Callback):
    """Remembers where a run went on and how many updates it made."""

    updates = 0

    def on_start(self, run):
        self.resumed_from = run.resumed_from

    def on_update(self, run, info):
        self.updates += 1


class Stop(Exception):
    pass


class Interrupt(Callback):
    """Ends a run the hard way."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_update(self, run, info):
        if run.updates == self.after:
            raise Stop


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def files(folder: Path) -> list[Path]:
    return checkpoint_files.files(folder)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint with nothing of ours: tensors and plain types only."""
    return torch.load(path, weights_only=True)


def newest(folder: Path) -> dict[str, Any]:
    return load(files(folder)[0])


def named_by_content(folder: Path, update: int, content: bytes) -> Path:
    """A file whose name promises the digest that it has."""
    (folder / "content").write_bytes(content)
    path = folder / f"update-{update:010d}-{checkpoint_files._digest(folder / 'content')}.pt"
    (folder / "content").rename(path)
    return path


# --- what a file holds ------------------------------------------------------------------------------------------------


def test_the_last_states_are_kept_in_files_of_plain_types(tmp_path):
    solution = flow(tmp_path)
    assert [p.name[:17] for p in files(tmp_path)] == ["update-0000000006", "update-0000000005", "update-0000000004"]
    for k, path in zip((6, 5, 4), files(tmp_path), strict=True):
        saved = load(path)
        assert saved["state"]["k"] == len(saved["history"]) == k
        torch.testing.assert_close(saved["state"]["measure"]["x"], 0.9**k * points().x)
    assert torch.equal(load(files(tmp_path)[0])["state"]["measure"]["x"], solution.measure.x)


def tiny_pushforward(**options: Any) -> Pushforward:
    return Pushforward(StandardNormal(2), lambda: torch.nn.Linear(2, 2), **options)


def tiny_critic() -> Critic:
    return Critic(lambda: torch.nn.Linear(2, 1), Adam(1e-2))


def gaussian_divergence() -> Softplus:
    return Softplus(StandardNormal(2), batch=8)


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
    restored = wgflow._state.load_state(have, wgflow._state.state_dict(then))
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
    saved = load(files(tmp_path)[0])
    assert saved["history"][-1]["mean"] == 2.0
    assert saved["saved"][1] == {"k": 1, "norm": 1.5}
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


# --- damaged and foreign files ----------------------------------------------------------------------------------------


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
    torch.save(newest(folder) | entries, folder / "it")
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


def narrow(width: int) -> Pushforward:
    return Pushforward(
        StandardNormal(2), lambda: torch.nn.Sequential(torch.nn.Linear(2, width), torch.nn.Linear(width, 2))
    )


def jko(target: wgflow.Measure, **options: Any) -> dict[str, Any]:
    return {
        "F": Softplus(target, batch=4),
        "solver": JKO(tiny_critic(), iters=2, batch=4),
        "initial": narrow(3),
        "num_steps": 2,
    } | options


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
    "network": (jko(normal), jko(normal, initial=tiny_pushforward()), "measure.net is "),
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


# --- when to save -----------------------------------------------------------------------------------------------------


def test_every_seconds_counts_wall_time_from_the_last_file(tmp_path, monkeypatch):
    now = 100.0

    class Clock(Callback):
        def on_update(self, run, info):
            nonlocal now
            now += 10

    monkeypatch.setattr(wgflow.checkpoint.time, "monotonic", lambda: now)
    flow(tmp_path, num_steps=10, checkpoint=Checkpoint(tmp_path, every_seconds=25, keep=50), callbacks=[Clock()])
    assert sorted(load(p)["ledger"]["updates"] for p in files(tmp_path)) == [0, 3, 6, 9, 10]


def test_every_updates_and_keep(tmp_path):
    flow(tmp_path, num_steps=10, checkpoint=Checkpoint(tmp_path, every_updates=4, keep=50))
    assert sorted(load(p)["ledger"]["updates"] for p in files(tmp_path)) == [0, 4, 8, 10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 1}, "keep=1.*at least 2"),
        ({"every_updates": 0}, "every_updates=0.*at least 1"),
        ({"every_seconds": -1}, "every_seconds=-1"),
        ({"every_seconds": float("nan")}, "every_seconds=nan"),
    ],
)
def test_bad_settings(tmp_path, options, message):
    with pytest.raises(BadInput, match=message):
        Checkpoint(tmp_path, **options)


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


def full_at_once(monkeypatch, run):
    def refuse(payload, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", refuse)


def full_inside_torch(monkeypatch, run):
    """PyTorch's own writer reports a plain RuntimeError when its disk is full."""

    def refuse(payload, file):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 128 vs 22")

    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))


def really_full(monkeypatch, run):
    (run.folder / f".writing-{os.getpid()}").symlink_to("/dev/full")


@pytest.mark.parametrize("fill", [full_at_once, full_inside_torch, really_full], ids=lambda f: f.__name__)
def test_a_disk_that_fills_up_keeps_the_earlier_checkpoints(tmp_path, monkeypatch, fill):
    if fill is really_full and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full, the device that is always full")

    class Fill(Callback):
        folder = tmp_path

        def on_update(self, run, info):
            if run.updates == 4:
                fill(patch, self)

    log = JsonLog(tmp_path / "log")
    message = r"no checkpoint could be written to .*: the disk is full; earlier ones stay"
    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=message):
        flow(tmp_path, callbacks=[log, Fill()])
    assert log.file.closed
    assert [load(p)["ledger"]["updates"] for p in files(tmp_path)] == [3, 2, 1]
    assert sorted(contents(tmp_path)) == sorted([p.name for p in files(tmp_path)] + ["log", "run.lock"])
    assert torch.equal(flow(tmp_path).measure.x, flow(tmp_path / "whole").measure.x)


# --- what is not finite -----------------------------------------------------------------------------------------------


class Poisoned(torch.nn.Module):
    """A linear map that turns NaN at one of its calls in training: its output there, or its weights right after."""

    def __init__(self, out: int, at: int | None, weights: bool = False) -> None:
        super().__init__()
        self.map, self.at, self.weights, self.calls = torch.nn.Linear(2, out), at, weights, 0

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
    return flow(folder, **jko(normal) | networks | {"num_steps": 3} | options)


def test_a_critic_that_turns_nan_stops_the_run_and_the_last_good_checkpoint_stays(tmp_path):
    # an update calls the critic on a fake and a real batch, and once more for the generator: 17 is in the sixth update
    log = JsonLog(tmp_path / "log")
    with pytest.raises(Diverged, match=r"critic/objective became nan at update 6, in time step 1") as caught:
        sjko(tmp_path, critic=17, callbacks=[log])
    assert (caught.value.term, caught.value.step, caught.value.update) == ("critic/objective", 1, 6)
    assert caught.value.solution.status == "diverged"
    assert log.file.closed
    assert newest(tmp_path)["ledger"]["updates"] == 5
    assert wgflow._state.first_nonfinite(newest(tmp_path)["state"]) is None
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
    assert wgflow._state.first_nonfinite(newest(tmp_path)["state"]) is None


def test_the_last_state_is_looked_at_without_a_checkpoint_too(tmp_path):
    with pytest.raises(Diverged, match=r"state\..* is not finite after update 12, in time step 3"):
        sjko(tmp_path, generator=12, checkpoint=None)


def test_log_weights_of_minus_infinity_are_as_they_should_be(tmp_path):
    weights = torch.tensor([0.0, -torch.inf, 0.0])
    assert wgflow._state.first_nonfinite({"x": points().x, "log_w": weights}) is None
    assert wgflow._state.first_nonfinite({"x": points().x, "w": weights}) == "state.w"
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
