"""The benchmark of discretizations: its counts, its record and its table."""

import argparse
import json
import math
from pathlib import Path

import pytest
import torch

from wgflow.bench import records
from wgflow.bench.records.discretizations import table
from wgflow.bench.scores import error_for
from wgflow.cli import main

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
QUICK = argparse.Namespace(quick=True)


def test_a_flow_is_measured_with_the_calls_of_each_method(script):
    bench, flows = script("discretizations"), script("_flow_problems")
    found = bench.measure(flows.attraction(3, quick=True), QUICK, torch.device("cpu"))
    rows = {row["label"]: row for row in found["methods"]}
    assert [rows[m]["evaluations_per_step"][0] for m in ("forward Euler", "Heun", "RK4")] == [1, 2, 4]
    # The explicit errors of e^{-1}, and the implicit one, relative to the distance 1 - e^{-1}.
    for label, step in (("forward Euler", lambda h: 1 - h), ("JKO of particles", lambda h: 1 / (1 + h))):
        for k, error in zip(found["steps"], rows[label]["errors"], strict=True):
            assert error == pytest.approx(abs(step(1 / k) ** k - math.exp(-1)) / (1 - math.exp(-1)), abs=1e-6)
    assert rows["Heun"]["order"] == pytest.approx(2, abs=0.2)
    assert all(seconds > 0 for row in found["methods"] for seconds in row["seconds"])


def test_every_problem_has_an_error_that_the_start_has_too(script):
    """Of the start it is the distance to the end over the distance travelled."""
    for case in script("_flow_problems").problems(quick=True):
        problem, end = case.problem, case.problem.reference(case.problem.horizon)
        error = problem.error or error_for(end)
        travelled = error(problem.initial, end)
        for label, method in problem.methods.items():
            # Few quantiles and samples have moments of their own.
            start = (method.initial or problem.initial).start(torch.Generator().manual_seed(0))
            assert error(start, end) / travelled == pytest.approx(1, abs=0.25), (case.name, case.d, label)


RECORD = {
    "date": "2026-01-01T00:00:00+00:00",
    "machine": {"cpu": "a processor", "device": "cpu", "threads": 1},
    "commit": {"id": "0123456789abcdef", "dirty": True},
    "results": {
        "flows": [
            {
                "name": "a flow",
                "d": 2,
                "horizon": 1.0,
                "steps": [5, 10],
                "methods": [
                    {
                        "label": "one",
                        "steps": [5, 10],
                        "errors": [0.02, None],
                        "order": None,
                        "floor": 0.0,
                        "evaluations_per_step": [1.0, None],
                        "seconds_per_step": [0.001, None],
                        "extra_mb": None,
                    }
                ],
            }
        ],
        "cost_in_k": {
            "s_jko": {
                "seconds_per_phase": [0.1, 0.1],
                "fit": {"a": 0.1, "a_se": 0.01, "b": 0.0, "b_se": 0.001, "slope_of_log_total_at_K": 1.0},
                "exponent_of_total_cost_in_K": 1.0,
                "generator_calls_per_update": {"first": 3, "last": 3},
                "nfe_to_sample_after_K_phases": 1,
                "tensors_growth_mb": 0.0,
            }
        },
    },
}


def test_the_table_aligns_what_the_record_holds():
    shown = table(RECORD)
    assert "0123456789 (changed)" in shown
    head, row = (next(line for line in shown.splitlines() if mark in line) for mark in ("10 steps", "  one"))
    assert head.index("5 steps") + len("5 steps") == row.index("2.0e-02") + len("2.0e-02")
    assert "unstable" in row


def test_the_table_says_why_a_row_has_no_number():
    flow = RECORD["results"]["flows"][0]
    rows = [row | {"reasons": ["it missed its tolerance", "and again"]} for row in flow["methods"]]
    results = RECORD["results"] | {"flows": [flow | {"methods": rows}]}
    assert "  one: it missed its tolerance\n" in table(RECORD | {"results": results})


def test_the_command_prints_a_record_and_names_what_is_not_one(tmp_path, capsys):
    path = tmp_path / "discretizations.json"
    path.write_text(json.dumps(RECORD))
    assert main(["bench", "--results", str(tmp_path)]) == 0
    default = capsys.readouterr().out
    assert "a flow, d = 2, time 1" in default
    assert main(["bench", "discretizations", "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out == default
    path.write_text("{}")
    assert main(["bench", "--results", str(tmp_path)]) == 2
    assert "is not a record" in capsys.readouterr().err
    assert main(["bench", "--results", str(tmp_path / "nothing")]) == 2
    assert "--run" in capsys.readouterr().err
    assert main(["bench", "nothing"]) == 2
    message = capsys.readouterr().err
    assert all(name in message for name in records.names())


def test_a_benchmark_is_known_by_its_module_and_run_by_its_script(tmp_path, monkeypatch, capfd):
    package, scripts = tmp_path / "tables", tmp_path / "benchmarks"
    package.mkdir()
    (scripts / "folder").mkdir(parents=True)
    (package / "trial.py").write_text("def table(record, width):\n    return f\"found {record['found']}\"\n")
    (scripts / "folder" / "trial.py").write_text(
        "import json, pathlib, sys\nfolder = pathlib.Path(sys.argv[sys.argv.index('--results') + 1])\n"
        "(folder / 'trial.json').write_text(json.dumps({'found': '--quick' in sys.argv}))\n"
    )
    monkeypatch.setattr(records, "__path__", [*records.__path__, str(package)])
    monkeypatch.setattr(records, "BENCHMARKS", scripts)
    assert {"discretizations", "trial"} <= set(records.names())
    assert "tables" not in records.names()
    for options, found in (["--run", "--results", str(tmp_path)], False), (["--quick"], True):
        assert main(["bench", "trial", *options]) == 0
        assert capfd.readouterr().out == f"found {found}\n"
    assert main(["bench", "discretizations", "--quick"]) == 2
    assert "no " in capfd.readouterr().err
    (scripts / "folder" / "trial.py").write_text("raise SystemExit(3)\n")
    assert main(["bench", "trial", "--run", "--results", str(tmp_path)]) == 2
    assert "failed" in capfd.readouterr().err


def test_exponents_and_the_line_of_a_cost_that_is_known(script):
    cost = script("_cost_in_k")
    a, b, K = 3.0, 0.5, 64
    seconds = [a + b * k for k in range(K)]
    assert cost.line(seconds) == pytest.approx(
        {"a": a, "a_se": 0, "b": b, "b_se": 0, "slope_of_log_total_at_K": (a + b * (K - 0.5)) / (a + b * (K - 1) / 2)},
        abs=1e-9,
    )
    totals = [a * k + b * k * (k - 1) / 2 for k in (32, 64)]
    assert cost.exponents(seconds)[64] == pytest.approx(math.log2(totals[1] / totals[0]))
    assert set(cost.exponents([1.0] * 12).values()) == {1.0}
    assert cost.halvings(12) == [12, 6, 3]


def test_what_a_chain_holds_grows_by_a_map_a_step(script):
    cost = script("_cost_in_k")
    args = argparse.Namespace(steps=4, updates=2, batch=8, width=8, buffer=16)
    found = cost.cost_in_k(args, torch.device("cpu"))
    one = sum(p.numel() for p in cost.PointwiseGenerator(width=8).parameters()) * 4 / 2**20
    for name, maps in (("s_jko", 0), ("uncached_chain", 2), ("cached_chain", 2)):
        sizes = found[name]["tensors_mb"]
        assert sizes["4"] - sizes["2"] == pytest.approx(maps * one, abs=1e-6), name
    # Two draws an update, of the chain so far, and the map in training.
    assert found["uncached_chain"]["generator_calls_per_update"] == {"first": 2, "last": 2 + 2 * 3, "growth": 6}
    assert [r["nfe_to_sample_after_K_phases"] for r in found.values()] == [1, 4, 4]


@pytest.mark.slow
def test_the_whole_benchmark_runs(script, tmp_path):
    options = ["--quick", "--device", "cpu", "--results", str(tmp_path)]
    record = json.loads(script("discretizations").main(options).read_text())
    assert {"benchmark", "date", "machine", "versions", "commit", "note", "settings", "results"} <= record.keys()
    assert str(BENCHMARKS.parent) not in json.dumps(record)
    for name in script("_flow_figures").FINDINGS:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    costs, steps = record["results"]["cost_in_k"], record["settings"]["steps"]
    assert costs["s_jko"]["generator_calls_per_update"]["growth"] == 0
    assert costs["cached_chain"]["generator_calls_per_update"]["growth"] == 0
    assert costs["uncached_chain"]["generator_calls_per_update"]["growth"] > 0
    assert [c["nfe_to_sample_after_K_phases"] for c in costs.values()] == [1, steps, steps]
    assert costs["s_jko"]["tensors_growth_mb"] == 0


def test_inner_stopping_quickly(script, tmp_path):
    record = json.loads(script("inner_stopping").main(["--quick", "--results", str(tmp_path)]).read_text())
    ways = record["results"]["ways"]
    assert [w["label"] for w in ways] == ["chain of affine maps", "chain of ICNN gradients", "S-JKO"]
    for way in ways:  # without a tolerance every update is made
        whole = [r["updates_per_step"] for r in way["rows"] if r["tolerance"] is None]
        assert set(whole) == {6.0 if way["label"] == "S-JKO" else 3.0}
    assert "rate decayed" in records.tabulate("inner_stopping")(record)
