"""Every benchmark is one script of its folder: called by its path it answers, and the pages name it where it is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(p for p in (ROOT / "benchmarks").rglob("[!_]*.py"))
PAGES = (ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("name", [p.stem for p in SCRIPTS])
def test_every_script_has_the_common_options(name, script, capsys):
    with pytest.raises(SystemExit) as end:
        script(name).main(["--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert all(option in printed for option in ("--device", "--threads", "--results", "--quick"))


@pytest.mark.parametrize("trial", ["--quick", "--dry"])
def test_a_trial_leaves_the_records_of_the_repository_as_they_are(trial, script, tmp_path, capsys):
    record = script("_record")
    options = record.parser("A benchmark.")
    options.add_argument("--dry", action="store_true")
    args = options.parse_args([trial])
    assert args.results.is_dir()
    assert list(args.results.iterdir()) == []
    assert str(args.results) in capsys.readouterr().err
    assert record.figure(args, "a.png") == args.results / "a.png"
    assert options.parse_args([trial, "--results", str(tmp_path)]).results == tmp_path
    args = options.parse_args([])
    assert args.results == record.RESULTS
    assert record.figure(args, "a.png") == record.FIGURES / "a.png"


def test_a_kill_while_a_record_is_written_leaves_the_one_before(script, tmp_path, monkeypatch):
    record, settings = script("_record"), {"updates": 3}
    path = record.write("a", tmp_path, settings, {"runs": [1]}, torch.device("cpu"))
    whole = Path.write_text

    def cut(self, text, **options):
        whole(self, text[:20], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(KeyboardInterrupt):
        record.write("a", tmp_path, settings, {"runs": [1, 2]}, torch.device("cpu"))
    assert record.held(path, settings) == {"runs": [1]}


def test_a_script_is_called_by_its_path_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "discretizations" / "discretizations.py"), "--help"]
    assert "--quick" in subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout


def test_the_table_of_questions_has_every_script():
    rows = re.findall(r"^\| `python (\S+\.py)", PAGES[0].read_text(), re.MULTILINE)
    assert sorted(rows) == [str(p.relative_to(ROOT)) for p in SCRIPTS]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_of_benchmarks_that_a_page_names_are_there(page):
    named = re.findall(r"\bbenchmarks/[\w/]+\.py\b", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
