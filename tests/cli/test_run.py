"""``wgflow run``: a preset by its name, a target of one's own, and what it leaves behind."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import wgflow as wg
from wgflow.cli import main
from wgflow.cli.run import presets
from wgflow.core.rng import generator
from wgflow.generative.folder import read_record
from wgflow.storage.files import locked

MODULE = """
import torch, wgflow as wg
def log_prob(x): return -0.5 * ((x - 2) / 0.5).square().sum(1)
law = wg.Gaussian(torch.ones(3), torch.eye(3))
points = torch.linspace(0, 3, 40).view(20, 2)
start = wg.Particles(torch.linspace(-1, 1, 30).view(15, 2))
number = 3
def steep(x): return -x.square().sum(1).exp()
def made(): return law
pushed = wg.Pushforward(law, lambda: torch.nn.Linear(3, 3), regression=wg.Regression(wg.Adam()))
def signalled(x):
    import os
    calls = int(os.environ.get("CALLS", 0)) + 1
    os.environ["CALLS"] = str(calls)  # what it holds itself would count as its code
    if calls == int(os.environ.get("SIGNAL_AT", 0)):
        os.kill(os.getpid(), int(os.environ["SIGNAL"]))
    return log_prob(x)
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_targets.py").write_text(MODULE)
    (tmp_path / "named.csv").write_text("x,y\n1.0,2.0\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "holes.txt").write_text("1 2 3\n1 2 nan\n-inf 2 nan\n")
    np.save(tmp_path / "flat.npy", np.arange(5.0))
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, x=np.zeros((3, 2)))
    for module in ("my_targets", "mine"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def ran(*words: str) -> dict[str, np.ndarray]:
    assert main(["run", *words]) == 0
    folder = Path(words[words.index("--folder") + 1] if "--folder" in words else f"runs/{words[0]}")
    assert (folder / "solution.png").stat().st_size > 1000
    with np.load(folder / "solution.npz", allow_pickle=False) as file:
        return dict(file)


def test_a_preset_of_a_log_density_is_that_of_python() -> None:
    words = [
        "--target",
        "my_targets:log_prob",
        "--dim",
        "2",
        "--particles",
        "30",
        "--num-steps",
        "5",
        "--kernel",
        "rbf(1.5)",
    ]
    found = ran("svgd", *words, "--seed", "4", "--double")
    target = wg.Unnormalised(lambda x: -0.5 * ((x - 2) / 0.5).square().sum(1), 2)
    start = wg.Particles(wg.StandardNormal(2).draw(30, generator(4)).x)
    flow = wg.presets.svgd(target, start, kernel=wg.RBF(1.5), num_steps=5).double().solve(seed=4)
    assert np.array_equal(found["x"], flow.measure.x.numpy())
    assert found["x"].dtype == np.float64
    assert np.array_equal(found["times"], flow.times)
    assert np.array_equal(found["path"], torch.stack([p.x for p in flow.saved]).numpy())
    assert np.allclose(found["history/flow/dissipation"], flow.curve("flow/dissipation")[1])
    np.testing.assert_allclose(np.exp(found["log_w"]), 1 / 30)


def test_targets_and_starts_may_be_measures_tensors_and_files() -> None:
    np.save("data.npy", np.arange(12.0).reshape(6, 2))
    np.savetxt("start.csv", np.zeros((7, 2)), delimiter=",")
    assert ran("ula", "--target", "my_targets:law", "--num-steps", "3", "--particles", "8")["x"].shape == (8, 3)
    few = ["--kernel", "riesz(1.0)", "--num-steps", "2"]
    assert ran("mmd_flow", "--target", "my_targets:points", "--start", "my_targets:start", *few)["x"].shape == (15, 2)
    moved = ran("mmd_flow", "--target", "data.npy", "--start", "start.csv", *few, "--folder", "here")
    assert moved["x"].shape == (7, 2)
    assert moved["x"].mean() > 0
    made = ran("ula", "--target", "my_targets:made", "--num-steps", "3", "--particles", "8", "--folder", "there")
    assert np.array_equal(
        made["x"], ran("ula", "--target", "my_targets:law", "--num-steps", "3", "--particles", "8")["x"]
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["svgd"], "needs --target"),
        (["svdg", "--target", "my_targets:law"], "did you mean 'svgd'"),
        (["s_jko", "--target", "my_targets:law"], "wgflow train --method"),
        (["svgd", "--target", "my_targets:log_prob"], "--dim D"),
        (["svgd", "--target", "my_targets:number"], "expected a measure, points or a log density"),
        (["svgd", "--target", "my_targets:nothing"], "nothing"),
        (["svgd", "--target", "law"], "expected package.module:NAME"),
        (["svgd", "--target", "law.npy"], "there is no file of this name"),
        (["mmd_flow", "--target", "my_targets:points"], "needs --kernel"),
        (["mmd_flow", "--target", "my_targets:log_prob", "--dim", "2", "--kernel", "rbf(1.0)"], "needs draws"),
        (["svgd", "--target", "my_targets:law", "--device", "gpu"], "a device that torch has"),
        (["svgd", "--target", "my_targets:law", "--start", "my_targets:number"], "expected Particles or points"),
        (["svgd", "--target", "my_targets.py"], "expected my_targets:NAME"),
        (
            ["svgd", "--target", "named.csv"],
            "expected numbers with commas between them, a point a line, without a header",
        ),
        (["svgd", "--target", "my_targets:law", "--step_size", "-1"], "step_size"),
        (["svgd", "--target", "my_targets:law", "--step_size", ""], "wgflow: step_size is empty"),
        (["svgd", "--target", "my_targets:law", "--dim", "2"], "dim=2, and points have the shape (3,)"),
        (["ula", "--target", "my_targets:log_prob", "--dim", "3", "--start", "my_targets:start"], "dim=3, and points"),
        (["mmd_flow", "--target", "archive.npy", "--kernel", "riesz(1.0)"], "expected an array of numpy.save"),
        (["svgd", "--target", "my_targets:law", "--start", "my_targets:pushed"], "expected Particles or points"),
        (["svgd", "--target", "my_targets:law", "--start", "empty.txt"], "start='empty.txt': expected at least one"),
        (
            ["svgd", "--target", "my_targets:law", "--start", "flat.npy"],
            "wgflow: start='flat.npy': expected points (n, d), "
            "got float64 of shape (5,). One number a point has the shape (n, 1)",
        ),
        (
            ["ula", "--target", "my_targets:law", "--start", "holes.txt"],
            "start='holes.txt': 2 of its 3 points are not finite, the first is number 1 with nan for coordinate 2",
        ),
        (
            ["ksd_descent", "--target", "my_targets:law", "--kernel", "rbf(1.0)", "--extend", "2"],
            "solves one time step",
        ),
        (["svgd", "--target", "my_targets:law", "--folder", "my_targets.py"], "is not the folder of a wgflow run"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "write",
    {
        "the other order of bytes": lambda x: np.save("data.npy", x.astype(">f8")),
        "long doubles": lambda x: np.save("data.npy", x.astype(np.longdouble)),
        "unsigned": lambda x: np.save("data.npy", x.astype(">u2")),
        "columns first": lambda x: np.save("data.npy", np.asfortranarray(x)),
        "a mark of bytes": lambda x: np.savetxt("data.csv", x, delimiter=",", encoding="utf-8-sig"),
        "capitals": lambda x: np.savetxt("data.CSV", x, delimiter=","),
        "an array turned round": lambda x: Path("mine.py").write_text(
            "import numpy as np\nx = np.arange(12.0).reshape(6, 2)[::-1].astype('>f4')[:, ::-1]"
        ),
    }.values(),
)
def test_points_are_read_however_they_were_written(write: Callable[[np.ndarray], object]) -> None:
    write(np.arange(12.0).reshape(6, 2))
    target = next((str(p) for p in Path().glob("data.*")), "mine:x")
    words = ["mmd_flow", "--kernel", "riesz(1.0)", "--num-steps", "2", "--start"]
    found = ran(*words, target, "--target", target, "--folder", "here")["path"][0]
    assert sorted(found.flatten()) == list(range(12))


def test_every_particle_preset_has_its_options_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"svgd", "ula", "mala", "blob", "mmd_flow", "wfr", "sinkhorn_flow"} <= set(presets())
    assert main(["run", "wfr", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--rate" in told
    assert "nearest_rbf" in told


CALLBACKS = """
import wgflow as wg
class Seen(wg.Callback):
    rows = []
    def on_step(self, run, row):
        Seen.rows.append(row | run.metrics)
stop = wg.StopWhen(lambda row: row["k"] == 1)
def needy(argument): ...
number = 3
"""


@pytest.mark.parametrize("flag", ["--callback", "--callback="])
def test_a_training_is_read_by_callbacks_of_ones_own(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_callbacks.py").write_text(CALLBACKS)
    monkeypatch.delitem(sys.modules, "my_callbacks", raising=False)
    images = torch.randint(0, 255, (24, 8, 8, 1), generator=generator(0), dtype=torch.uint8).numpy()
    np.save("images.npy", images)
    names = "my_callbacks:Seen,my_callbacks:stop"
    words = [
        "--data",
        "images.npy",
        "--channels",
        "4",
        "--batch",
        "8",
        "--num-steps",
        "3",
        "--first-iters",
        "2",
        "--iters",
        "2",
    ]
    words += ["--evaluate-every", "2", "--sinkhorn-n", "4", "--folder", "r", "--device", "cpu"]
    assert main(["train", "fashion-mnist", *words, *([flag + names] if flag.endswith("=") else [flag, names])]) == 0
    rows = sys.modules["my_callbacks"].Seen.rows
    assert [row["k"] for row in rows] == [1]
    assert "sinkhorn" in rows[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_callbacks:number", "expected a wgflow.Callback"),
        ("my_callbacks:needy", "without arguments"),
        ("Seen", "package.module:NAME"),
        ("my_callbacks:None_there", "None_there"),
    ],
)
def test_another_callback_is_refused_before_the_training(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_callbacks.py").write_text(CALLBACKS)
    monkeypatch.delitem(sys.modules, "my_callbacks", raising=False)
    assert main(["train", "fashion-mnist", "--callback", name]) == 2
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_result_that_cannot_be_written_is_said_before_the_flow_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(*ULA)
    Path("runs/ula/solution.npz").unlink()
    Path("runs/ula/solution.npz").mkdir()
    monkeypatch.setattr(wg.Langevin, "update", lambda *_: pytest.fail("it ran"))
    assert main(["run", *ULA, "--extend", "2"]) == 2
    assert "cannot write runs/ula/solution.npz: Is a directory" in capsys.readouterr().err


ULA = ("ula", "--target", "my_targets:law", "--num-steps", "5", "--particles", "8")


def bytes_of(folder: str) -> bytes:
    return Path(folder, "solution.npz").read_bytes()


def test_the_same_command_on_a_finished_run_says_so_and_makes_what_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(*ULA)
    whole = bytes_of("runs/ula")
    for name in ("solution.npz", "solution.png", "recipe.json"):
        Path("runs/ula", name).unlink()
    Path("runs/ula/.writing-0123.npz").write_text("of a run that was killed")
    capsys.readouterr()
    monkeypatch.setattr(wg.Langevin, "update", lambda *_: pytest.fail("it ran"))
    ran(*ULA)
    assert "all 5 updates of 5 time steps are done already: nothing is left to do" in capsys.readouterr().err
    assert bytes_of("runs/ula") == whole
    left = {"checkpoints", "recipe.json", "solution.npz", "solution.png"}
    assert {path.name for path in Path("runs/ula").iterdir()} == left


def test_a_finished_run_is_made_longer_by_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    ran(*ULA)
    shutil.copytree("runs/ula", "other")
    whole = ran(*ULA, "--num-steps", "7", "--folder", "whole")
    capsys.readouterr()
    for _ in range(2):
        assert np.array_equal(ran(*ULA, "--extend", "2")["x"], whole["x"])
    assert "going on from update 5 of 7, in time step 6 of 7" in capsys.readouterr().err
    assert np.array_equal(ran(*ULA, "--num-steps", "7", "--folder", "other")["x"], whole["x"])
    assert read_record(Path("other"))["num_steps"] == 5  # the schedules are those of the run that was begun
    assert bytes_of("runs/ula") == bytes_of("other") == bytes_of("whole")
    assert main(["run", *ULA]) == 2
    assert "ask for 7 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "1"], "(seed is 1 here and 0 there)"),
        (["--double"], "(double is True here and False there)"),
        (["--particles", "9"], "(particles is 9 here and 8 there)"),
        (["--step-size", "0.02"], "(step_size is 0.02 here and 0.01 there)"),
        (["--num-steps", "4"], "(num_steps is 4 here and 5 there)"),
        (["--target", "my_targets:made"], "(target is 'my_targets:made' here and 'my_targets:law' there)"),
        (["--start", "start.csv"], "start is 'start.csv' here and None there)"),
    ],
)
def test_what_differs_from_the_run_in_the_folder_is_named(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savetxt("start.csv", np.zeros((8, 3)), delimiter=",")
    ran(*ULA)
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert main(["run", *ULA, *words]) == 2
    assert "wgflow: runs/ula holds another run (" in (told := capsys.readouterr().err)
    assert said in told
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == before


def test_another_preset_and_a_training_do_not_get_the_folder_and_the_other_way_round(
    trained: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ran(*ULA)
    refused = {
        "flow is 'mala' here and 'ula' there": ["run", "mala", *ULA[1:], "--step-size", "0.01", "--folder", "runs/ula"],
        "holds another run (of wgflow run ula)": ["train", *options, "--folder", "runs/ula"],
        "holds another run (of wgflow train)": ["run", *ULA, "--folder", str(trained)],
        "holds a flow of particles and no images": ["sample", "runs/ula"],
    }
    for said, words in refused.items():
        assert main(words) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("lost", [False, True])
def test_a_target_or_start_that_has_changed_is_refused(lost: bool, capsys: pytest.CaptureFixture[str]) -> None:
    np.savetxt("start.csv", np.zeros((8, 2)), delimiter=",")
    words = ["ula", "--target", "my_targets:log_prob", "--start", "start.csv", "--num-steps", "3"]
    ran(*words)
    if lost:  # the checkpoints know their run as well
        Path("runs/ula/recipe.json").unlink()
    whole = bytes_of("runs/ula")
    Path("my_targets.py").write_text(MODULE.replace("/ 0.5", "/ 0.55"))
    del sys.modules["my_targets"]
    assert main(["run", *words]) == 2
    assert ("none can be used" if lost else "(content of target is") in capsys.readouterr().err
    Path("my_targets.py").write_text("# A remark is no change.\n" + MODULE)
    del sys.modules["my_targets"]
    ran(*words)
    np.savetxt("start.csv", np.full((8, 2), 1e-3), delimiter=",")
    assert main(["run", *words]) == 2
    assert "(content of start is" in capsys.readouterr().err
    assert bytes_of("runs/ula") == whole


def test_a_target_that_does_not_show_what_it_holds_goes_on_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    hidden = "hidden = (i for i in range(3))\n" + MODULE.replace("-0.5 * ((x - 2)", "len([hidden]) * -0.5 * ((x - 2)")
    words = ["run", "ula", "--target", "my_targets:log_prob", "--dim", "2", "--num-steps", "3", "--particles", "8"]
    for _ in range(2):
        Path("my_targets.py").write_text(hidden)
        sys.modules.pop("my_targets", None)
        assert main(words) == 0
        told = capsys.readouterr().err
        assert "globals.hidden, a builtins.generator, is the same cannot be told: leave it as it is until" in told
    assert "nothing is left to do" in told
    Path("my_targets.py").write_text(hidden.replace("/ 0.5", "/ 0.55"))
    del sys.modules["my_targets"]
    assert main(words) == 2
    assert "(content of target is" in capsys.readouterr().err


def test_a_folder_in_use_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with locked(Path("runs/ula/checkpoints")):
        assert main(["run", *ULA]) == 2
    assert "runs/ula/checkpoints is in use by another process" in capsys.readouterr().err
    ran(*ULA)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks of a process, which POSIX systems have only")
@pytest.mark.parametrize(
    "words",
    [
        ["wfr", "--target", "my_targets:law", "--particles", "12", "--num-steps", "16"],
        ["sinkhorn_flow", "--target", "my_targets:points", "--blur", "0.3", "--particles", "9", "--num-steps", "16"],
        ["birth_death_langevin", "--target", "my_targets:law", "--particles", "12", "--num-steps", "16"],
    ],
    ids=lambda words: words[0],
)
def test_a_run_that_is_killed_ends_with_the_bytes_of_one_that_is_not(words: list[str]) -> None:
    kills = [
        "update",
        "1",
        "update",
        "5",
        "checkpoint",
        "3",
        "rename",
        "2",
        "update",
        "4",
        "solution",
        "1",
        "picture",
        "1",
    ]
    child, root = Path(__file__).with_name("_kill_child.py"), Path(wg.__file__).parents[1]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, str(child), "run", *words, "--folder", "killed", "--kills", *kills],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "going on from update 4 of 16" in done.stderr or "going on from update 3 of 16" in done.stderr
    ran(*words, "--folder", "whole")
    assert bytes_of("killed") == bytes_of("whole")
    left = {"checkpoints", "recipe.json", "solution.npz", "solution.png"}
    assert {path.name for path in Path("killed").iterdir()} == left
    assert not list(Path("killed").rglob(".writing-*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_mid_run_saves_first(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ula", "--target", "my_targets:signalled", "--dim", "2", "--num-steps", "40", "--particles", "6"]
    ran(*words, "--folder", "whole")
    for name, value in {"SIGNAL": int(number), "SIGNAL_AT": 20, "CALLS": 0}.items():
        monkeypatch.setenv(name, str(value))
    assert main(["run", *words]) == status
    assert (
        capsys.readouterr().err.splitlines()[-1] == "wgflow: stopped; the same command goes on from the last checkpoint"
    )
    newest = max(Path("runs/ula/checkpoints").glob("update-*.pt")).name
    assert 5 < int(newest[7:17]) < 40
    assert not Path("runs/ula/solution.npz").exists()
    ran(*words)
    assert bytes_of("runs/ula") == bytes_of("whole")


def test_a_flow_that_diverges_says_where_and_writes_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "ula", "--target", "my_targets:steep", "--dim", "2", "--particles", "8", "--step-size", "2"]
    for _ in range(2):  # it goes on from the checkpoint and ends there again
        assert main(words) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert "in time step" in told
        assert "The last finite law is that of time" in told
    assert {path.name for path in Path("runs/ula").iterdir()} == {"checkpoints", "recipe.json"}


def test_without_matplotlib_the_solution_is_there_and_the_picture_comes_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as without:
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"] or ["matplotlib"]:
            without.setitem(sys.modules, name, None)
        assert main(["run", *ULA]) == 2
    told = capsys.readouterr()
    assert "matplotlib" in told.err.splitlines()[-1]
    assert "wrote runs/ula/solution.npz" in told.out
    ran(*ULA)


def test_in_many_coordinates_the_picture_has_the_target_where_it_can_be_drawn_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    draw = wg.plotting.particles
    monkeypatch.setattr(wg.plotting, "particles", lambda *a, **k: seen.append(k) or draw(*a, **k))
    ran(*ULA)
    ran("ula", "--target", "my_targets:log_prob", "--dim", "3", *ULA[3:], "--folder", "here")
    assert [type(k["over"]).__name__ for k in seen] == ["Gaussian", "NoneType"]
    assert all(k["dims"] == (0, 1) for k in seen)
