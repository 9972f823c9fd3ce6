"""``wgflow run``: a preset by its name, a target of one's own, and what it leaves behind."""

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

MODULE = """
import torch, wgflow as wg
def log_prob(x): return -0.5 * ((x - 2) / 0.5).square().sum(1)
law = wg.Gaussian(torch.ones(3), torch.eye(3))
points = torch.linspace(0, 3, 40).view(20, 2)
start = wg.Particles(torch.linspace(-1, 1, 30).view(15, 2))
number = 3
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_targets.py").write_text(MODULE)
    (tmp_path / "named.csv").write_text("x,y\n1.0,2.0\n")
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, x=np.zeros((3, 2)))
    for module in ("my_targets", "mine"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def ran(*words: str) -> dict[str, np.ndarray]:
    assert main(["run", *words]) == 0
    folder = Path(words[words.index("--out") + 1] if "--out" in words else f"runs/{words[0]}")
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
    moved = ran("mmd_flow", "--target", "data.npy", "--start", "start.csv", *few, "--out", "here")
    assert moved["x"].shape == (7, 2)
    assert moved["x"].mean() > 0


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
    found = ran(*words, target, "--target", target, "--out", "here")["path"][0]
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


def test_a_folder_that_cannot_be_written_is_said_before_the_flow_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken").write_text("a file")
    monkeypatch.setattr(wg.Langevin, "update", lambda *_: pytest.fail("it ran"))
    assert main(["run", "ula", "--target", "my_targets:law", "--out", "taken"]) == 2
    assert "cannot write taken" in capsys.readouterr().err
