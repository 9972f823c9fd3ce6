"""``wgflow bench``: comparisons, saved ones, and the records that travel with the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import wgflow as wg
from wgflow import bench
from wgflow.bench import records
from wgflow.cli import main

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
import math
import torch
import wgflow as wg
from wgflow import Heun

X = torch.ones(2, 1, dtype=torch.float64)
V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
PROBLEM = wg.bench.Problem(V, wg.Particles(X), lambda t: math.exp(-t) * X, name="one of my own")
EULER = wg.ForwardEuler()

def with_methods():
    return wg.bench.Problem(V, wg.Particles(X), lambda t: math.exp(-t) * X, methods={"mine": wg.Heun()}, times=(0.4, 1.0))

def nothing():
    return 3

def stopped():
    def error(measure, exact):
        if abs(float(measure.x[0]) - 0.9**10) < 1e-9:  # the end at step size 0.1
            raise KeyboardInterrupt
        return wg.bench.path_error(measure, exact)

    return wg.bench.Problem(V, wg.Particles(X), lambda t: math.exp(-t) * X, error)

def of_something(x):
    return PROBLEM
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's in the present folder, where nothing else would look for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "my_problem_of_the_test.py").write_text(MODULE)
    yield "my_problem_of_the_test"
    sys.modules.pop("my_problem_of_the_test", None)


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_ready_problem_is_compared_and_saved(tmp_path, capsys):
    path = tmp_path / "mine.json"
    solvers = "forward_euler,JKO"
    assert main(["bench", "attraction", "--solvers", solvers, "--step-sizes", "0.5,0.25", "--save", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "quadratic attraction" in shown
    saved = bench.load(path)
    assert saved.methods == ("forward_euler", "JKO")
    assert saved.step_sizes == (0.5, 0.25)
    assert shown.strip() == str(saved.table())
    assert main(["bench", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(saved.table())


def test_a_problem_and_a_solver_of_ones_own_by_their_names(module, capsys):
    solvers = f"heun,{module}:EULER,{module}:Heun"  # an object, and a class as the registered ones are
    words = ["bench", "--problem", f"{module}:PROBLEM", "--solvers", solvers, "--step-sizes", "0.2,0.1"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "one of my own" in shown
    assert f"{module}:EULER" in shown
    assert f"{module}:Heun" in shown
    assert main(["bench", "--problem", f"{module}:with_methods", "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    assert "mine" in shown
    assert "Errors at time 0.4" in shown
    assert "Errors at time 1;" in shown
    assert str(Path.cwd()) not in sys.path


def test_a_comparison_that_is_stopped_keeps_what_there_is(module, tmp_path, capsys):
    path = tmp_path / "mine.json"
    words = ["--solvers", "forward_euler", "--step-sizes", "0.2,0.1", "--save", str(path)]
    assert main(["bench", "--problem", f"{module}:stopped", *words]) == 130
    kept = bench.load(path)
    assert [(row.step_size, row.status) for row in kept.rows] == [(0.2, "done")]
    assert capsys.readouterr().out.strip() == str(kept.table())


def test_a_comparison_that_cannot_be_written_is_printed(module, tmp_path, monkeypatch, capsys):
    def refused(self, path):
        raise wg.CannotWrite("the disk is full")

    monkeypatch.setattr(bench.Result, "save", refused)
    words = ["--solvers", "forward_euler", "--step-sizes", "0.2", "--save", str(tmp_path / "mine.json")]
    assert main(["bench", "--problem", f"{module}:PROBLEM", *words]) == 2
    assert "one of my own" in capsys.readouterr().out


def test_files_go_into_new_folders(module, tmp_path, capsys):
    words = ["bench", "--problem", f"{module}:PROBLEM", "--solvers", "forward_euler", "--step-sizes", "0.2"]
    kept, picture = tmp_path / "new" / "mine.json", tmp_path / "other" / "new" / "mine.png"
    assert main([*words, "--save", str(kept), "--plot", str(picture)]) == 0
    assert main(["bench", str(kept), "--plot", str(tmp_path / "again" / "mine.svg")]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "again" / "mine.svg").read_bytes()
    assert main(["bench", str(kept), "--plot", "mine.picture"]) == 2
    assert "expected the name of a picture" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--save", "--plot"])
def test_a_folder_that_cannot_be_written_is_said_before_the_comparison(option, module, monkeypatch, capsys):
    monkeypatch.setattr(wg.ForwardEuler, "update", lambda *_: pytest.fail("it ran"))
    words = ["--solvers", "forward_euler", "--step-sizes", "0.2", option, "/dev/null/new/mine.png"]
    assert main(["bench", "--problem", f"{module}:PROBLEM", *words]) == 2
    assert "cannot write /dev/null/new/mine.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ou", "--solvers", "euler"], "no solver is called 'euler'"),
        (["ou", "--solvers", "heun,,rk4"], "one is empty"),
        (["ou", "--step-sizes", "small"], "step_sizes='small'"),
        (["ou", "--step-sizes", "-0.1"], "positive"),
        (["ou", "--step-sizes", "0.3"], "does not divide the time 1"),
        (["ou", "--seeds", "0"], "seeds"),
        (["ou", "--run"], "are for records"),
        (["ou", "--save", "."], "cannot write .: expected the name of a file"),
        (["ou", "--save", "my_problem_of_the_test.py/mine.json"], "in a folder"),
        (["ou", "--plot", "mine.picture"], "expected the name of a picture"),
        (["porous-medium", "--solvers", "nothing"], "no solver is called 'nothing'"),
        (["ou", "--problem", "a:B"], "two problems"),
        (["--problem", "nowhere_at_all:B"], "cannot be imported: ModuleNotFoundError"),
        (["--problem", "nowhere"], "expected package.module:NAME"),
        (["--problem", "my_problem_of_the_test:PROBLEM"], "names no methods of its own"),
        (["--problem", "my_problem_of_the_test:nothing"], "is 3: expected a wgflow.bench.Problem"),
        (
            ["--problem", "my_problem_of_the_test:of_something"],
            "is not a function without arguments that returns a Problem",
        ),
        (["discretizations", "--solvers", "heun"], "--solvers: for the comparison of a problem"),
        (["nothing.json"], "not a file"),
        (["mixtures"], "did you mean 'mixture'"),
    ],
)
@pytest.mark.usefixtures("module")
def test_wrong_words_are_one_line(words, message, capsys):
    assert main(["bench", *words]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("wgflow: ")
    assert message in found.err


def test_problems_and_records_are_listed(capsys):
    assert main(["list"]) == 0
    shown = dict(
        line.split(":", 1) for line in lines(capsys) if not line.startswith(" ")
    )  # methods are described below
    assert shown["problems"].split(", ") == [" " * 4 + next(iter(bench.PROBLEMS)), *list(bench.PROBLEMS)[1:]]
    assert set(map(str.strip, shown["records"].split(","))) == set(records.names())


@pytest.mark.parametrize("name", records.names())
@pytest.mark.parametrize("columns", [60, 100])
def test_a_record_fits_the_terminal_and_says_its_commit(name, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["bench", name]) == 0
    shown = lines(capsys)
    assert max(map(len, shown)) <= columns
    commit = json.loads((records.RESULTS / f"{name}.json").read_text())["commit"]["id"]
    assert f"commit {commit[:10]}" in " ".join(shown[:3])


def test_no_name_of_a_problem_is_that_of_a_record():
    assert not set(bench.PROBLEMS) & set(records.names())


def test_a_reader_who_has_seen_enough_gets_no_traceback():
    reader = "import sys; sys.stdin.readline()"
    writer = subprocess.Popen(
        [sys.executable, "-m", "wgflow", "bench", "ornstein_uhlenbeck"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    subprocess.run([sys.executable, "-c", reader], stdin=writer.stdout, check=True)
    writer.stdout.close()
    said = writer.stderr.read()
    writer.stderr.close()
    assert writer.wait() in (0, 141)
    assert said == b""


def test_every_record_with_a_table_travels_in_the_package():
    import tomllib

    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert built["force-include"] == {"benchmarks/results": "wgflow/bench/results"}
    assert all((ROOT / "benchmarks" / "results" / f"{name}.json").is_file() for name in records.names())


def test_the_version_is_that_of_the_package():
    assert wg.__version__ == bench.measuring.VERSION
