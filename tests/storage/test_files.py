"""What is written is there whole or not at all, never through a link, readable as the umask says; a folder has one run."""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from _flows import Interrupt, Stop, contents, files, flow

import wgflow
from wgflow import Callback, CannotWrite, CheckpointError
from wgflow.driver import checkpoint
from wgflow.storage.files import check_writable, locked, remove_strays, replacing, write_text

posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and pipes of POSIX")


@pytest.fixture
def for_the_group() -> Iterator[None]:
    """The umask of a folder that a group shares."""
    before = os.umask(0o007)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "numbers.csv"
    with replacing(path) as temporary:
        temporary.write_text("1,2\n")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.suffix == ".csv"
    assert contents(tmp_path) == {"new/numbers.csv": b"1,2\n"}


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_fails_in_the_middle_leaves_the_file_of_before(tmp_path: Path, error: BaseException) -> None:
    write_text(tmp_path / "a", "before")

    def fail() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert contents(tmp_path) == {"a": b"before"}


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    message = r"cannot write .*a: the disk is full"
    with pytest.raises(CannotWrite, match=message) as caught, replacing(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert isinstance(caught.value, OSError)
    assert contents(tmp_path) == {"a": b"before"}


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("precious")
    with pytest.raises(CannotWrite, match=r"cannot write .*a/b: "):
        write_text(tmp_path / "a" / "b", "text")
    assert contents(tmp_path) == {"a": b"precious"}


@pytest.mark.parametrize("name", ["folder", "folder/..", "."])
def test_a_folder_in_the_place_of_a_file_is_named_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotWrite, match=r"cannot write .*: Is a directory"), replacing(name):
        pytest.fail("it began")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_is_written_later_is_checked_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "a")
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(CannotWrite, match="cannot write"):
        check_writable("/dev/null/a")


@posix
def test_modes_are_what_the_umask_leaves(tmp_path: Path, for_the_group: None) -> None:
    write_text(tmp_path / "text", "text")
    with replacing(tmp_path / "replaced") as temporary:  # as writers do that keep a file to its owner
        temporary.unlink()
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600))
    flow(tmp_path / "run")
    assert {mode(p) for p in tmp_path.rglob("*") if p.is_file()} == {0o660}


@posix
def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a").symlink_to("precious")
    write_text(tmp_path / "a", "text")
    assert contents(tmp_path) == {"a": b"text", "precious": b"precious"}


@posix
def test_nothing_is_written_through_links_in_the_folder_of_a_run(tmp_path: Path) -> None:
    precious, run = tmp_path / "precious", tmp_path / "run"
    precious.write_text("precious")
    run.mkdir()
    (run / "run.lock").symlink_to(precious)
    with pytest.raises(CheckpointError, match=r"cannot write to the folder .*run: run.lock is a symbolic link"):
        flow(run)
    (run / "run.lock").unlink()
    (run / f".writing-{os.getpid()}").symlink_to(precious)
    flow(run)
    assert precious.read_text() == "precious"


@posix
def test_a_pipe_with_the_name_of_a_checkpoint_does_not_hold_the_run(tmp_path: Path) -> None:
    whole = flow(tmp_path)
    os.mkfifo(tmp_path / "update-0000000009-0123456789abcdef.pt")
    with pytest.warns(UserWarning, match="checkpoint refused.*it is not a file"):
        assert torch.equal(flow(tmp_path).measure.x, whole.measure.x)


def test_strays_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".writing-0123456789abcdef.png").write_text("half")
    (tmp_path / "other").write_text("whole")
    remove_strays(tmp_path)
    assert list(contents(tmp_path)) == ["other"]


def test_a_checkpoint_too_many_after_a_kill_is_removed_by_a_run_that_is_finished(tmp_path: Path) -> None:
    flow(tmp_path)
    kept = files(tmp_path)
    flow(tmp_path / "again", checkpoint=wgflow.Checkpoint(tmp_path / "again", every_updates=1, keep=9))
    older = files(tmp_path / "again")[3]
    older.rename(tmp_path / older.name)
    flow(tmp_path)
    assert files(tmp_path) == kept


def test_of_many_that_claim_a_new_folder_at_once_one_holds_it(tmp_path: Path) -> None:
    def claim(folder: Path) -> None:
        start.wait()
        try:
            with locked(folder):
                holding.append(1)
                refused_all.wait(10)
        except CheckpointError:
            refused.append(1)
            if len(refused) == 7:
                refused_all.set()

    for i in range(30):
        start, refused_all = threading.Barrier(8), threading.Event()
        holding: list[int] = []
        refused: list[int] = []
        threads = [threading.Thread(target=claim, args=(tmp_path / str(i),)) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert (len(holding), len(refused)) == (1, 7)


def test_a_folder_that_is_removed_while_a_checkpoint_is_written_is_named(tmp_path: Path, monkeypatch) -> None:
    def write(payload, folder, updates):
        if updates:
            folder.rename(tmp_path / "elsewhere")
        return whole(payload, folder, updates)

    whole = checkpoint.write
    monkeypatch.setattr(checkpoint, "write", write)
    with pytest.raises(CheckpointError, match="the folder was removed or emptied in mid-run; earlier ones stay"):
        flow(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_removed_in_mid_run_is_named(tmp_path: Path) -> None:
    class Remove(Callback):
        def on_update(self, run, info):
            if run.updates == 3:
                (tmp_path / "run").rename(tmp_path / "elsewhere")

    with pytest.raises(CheckpointError, match="the folder was removed or emptied in mid-run; earlier ones stay"):
        flow(tmp_path / "run", callbacks=[Remove()])
    assert not (tmp_path / "run").exists()
    with pytest.raises(Stop):
        flow(tmp_path / "elsewhere", callbacks=[Interrupt(4)])
