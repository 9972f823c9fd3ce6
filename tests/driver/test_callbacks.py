"""Callbacks: when they are called, what they write and how they end."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from _flows import two_particles

import wgflow
from wgflow import (
    JKO,
    SGD,
    BadInput,
    Callback,
    Checkpoint,
    Evaluate,
    ForwardEuler,
    JsonLog,
    Particles,
    PotentialEnergy,
    Progress,
    StopWhen,
    solve,
)


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x.square().sum(1)


def flow(**options: Any) -> wgflow.Solution:
    """One particle down a parabola from 1: implicit, three updates a step and five in the first; 11 updates in all."""
    settings = {
        "F": PotentialEnergy(quadratic),
        "solver": JKO(optim=SGD(0.1), iters=3, first_iters=5),
        "initial": Particles(torch.ones(1, 1, dtype=torch.float64)),
        "step_size": 1.0,
        "num_steps": 3,
        "log_every": 2,
    }
    return solve(**settings | options)


def position(rho: wgflow.Measure, rng: torch.Generator) -> dict[str, float]:
    return {"x": rho.x.mean()}


class Diary(Callback):
    """Writes down every call."""

    def __init__(self, name: str = "", fails: str = "") -> None:
        self.name, self.fails, self.calls = name, fails, []

    def _note(self, what: str, *details: Any) -> None:
        self.calls.append((what, *details))
        if what == self.fails:
            raise ZeroDivisionError(self.name)

    def on_start(self, run):
        self._note("start", run.updates)

    def on_update(self, run, info):
        self._note("update", run.updates)

    def on_log(self, run, window):
        self._note("log", run.updates, window)

    def on_step(self, run, row):
        self._note("step", run.state.k)

    def on_end(self, run):
        self._note("end", run.solution.state is run.state)


def names(diary: Diary) -> list[str]:
    return [call[0] for call in diary.calls]


def lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a log, read strictly: Python alone would take the words Infinity and NaN."""
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


# --- moments ----------------------------------------------------------------------------------------------------------


def test_the_moments_of_a_run():
    diary = Diary()
    flow(callbacks=[diary], num_steps=2, log_every=4)
    assert [call[:2] for call in diary.calls] == [
        ("start", 0),
        *[("update", u) for u in (1, 2, 3, 4)],
        ("log", 4),
        ("update", 5),
        ("step", 1),
        *[("update", u) for u in (6, 7, 8)],
        ("log", 8),
        ("step", 2),
        ("end", True),
    ]


def test_a_window_holds_the_means_since_the_last_one():
    infos, diary = [], Diary()

    class Record(Callback):
        def on_update(self, run, info):
            infos.append(float(info["jko/energy"]))

    flow(callbacks=[Record(), diary], log_every=4)
    windows = [call[1:] for call in diary.calls if call[0] == "log"]
    assert [update for update, _ in windows] == [4, 8]
    assert windows[0][1]["jko/energy"] == pytest.approx(sum(infos[:4]) / 4, rel=1e-14)
    assert windows[1][1]["jko/energy"] == pytest.approx(sum(infos[4:8]) / 4, rel=1e-14)


def test_checkpoints_do_not_move_the_windows(tmp_path):
    plain, saved = Diary(), Diary()
    flow(callbacks=[plain], log_every=4)
    flow(callbacks=[saved], log_every=4, checkpoint=Checkpoint(tmp_path, every_updates=3))
    assert saved.calls == plain.calls


@pytest.mark.parametrize("moment", ["update", "log", "step"])
def test_a_failure_ends_all_callbacks(moment, tmp_path):
    first, second, log = Diary("first"), Diary("second", fails=moment), JsonLog(tmp_path / "log")
    with pytest.raises(ZeroDivisionError, match="second"):
        flow(callbacks=[first, second, log])
    assert names(first)[-1] == names(second)[-1] == "end"
    assert log.file.closed


def test_who_did_not_start_does_not_end():
    first, second, third = Diary("first"), Diary("second", fails="start"), Diary("third")
    with pytest.raises(ZeroDivisionError, match="second"):
        flow(callbacks=[first, second, third])
    assert names(first) == ["start", "end"]
    assert names(second) == ["start"]
    assert names(third) == []


def test_a_failure_at_the_end_does_not_keep_others_from_ending(tmp_path):
    first, second, log = Diary("first", fails="end"), Diary("second", fails="end"), JsonLog(tmp_path / "log")
    with pytest.raises(ZeroDivisionError, match="second"):
        flow(callbacks=[first, second, log])
    assert names(first)[-1] == names(second)[-1] == "end"
    assert log.file.closed


def test_a_callback_that_overrides_nothing_is_one():
    assert flow(callbacks=[Callback()]).status == "done"


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_when_sees_the_record_and_the_metrics_before_it():
    seen, diary = [], Diary()

    def condition(row):
        seen.append(row)
        return row["x"] < 0.5

    # exact implicit Euler would halve x; 5 and 3 descent steps come to 0.67 and 0.49
    solution = flow(callbacks=[Evaluate([position]), StopWhen(condition), diary], num_steps=50)
    assert solution.status == "stopped"
    assert solution.state.k == len(solution.history) == len(seen)
    assert [row["x"] < 0.5 for row in seen] == [False] * (len(seen) - 1) + [True]
    assert {"k", "t", "update", "seconds", "jko/energy", "x"} <= seen[0].keys()
    assert solution.times[-1] == solution.state.t == len(seen), "the last state is saved"
    assert names(diary)[-2:] == ["step", "end"], "all callbacks see the last step"


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_counts_updates(capsys):
    bar = Progress()
    flow(callbacks=[bar])
    assert (bar.bar.total, bar.bar.initial, bar.bar.n) == (11, 0, 11)
    shown = capsys.readouterr().err
    assert "11/11" in shown
    assert "step=" in shown
    assert "transport=" in shown


def test_progress_shows_the_quantities_asked_for(capsys):
    flow(callbacks=[Progress(keys=["jko/energy"])])
    shown = capsys.readouterr().err
    assert "energy=" in shown
    assert "transport=" not in shown


def test_progress_is_silent_when_disabled(capsys):
    flow(callbacks=[Progress(disable=True)])
    assert capsys.readouterr() == ("", "")


def test_progress_starts_where_the_run_goes_on(tmp_path):
    with pytest.raises(ZeroDivisionError):
        flow(callbacks=[Diary(fails="step")], checkpoint=Checkpoint(tmp_path, every_updates=2))
    resumed, passed = Progress(disable=False), Progress()
    flow(callbacks=[resumed], checkpoint=Checkpoint(tmp_path))
    assert (resumed.bar.total, resumed.bar.initial, resumed.bar.n) == (11, 4, 11)
    flow(callbacks=[passed], state=flow(num_steps=1).state)
    assert (passed.bar.total, passed.bar.initial, passed.bar.n) == (11, 5, 11)


# --- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_has_a_line_a_window_and_a_line_a_step(tmp_path):
    path = tmp_path / "new" / "folder" / "log.jsonl"
    solution = flow(callbacks=[Evaluate([position]), JsonLog(path)], log_every=4)
    rows = lines(path)
    assert [(row["kind"], row["update"], row["k"]) for row in rows] == [
        ("updates", 4, 0),
        ("step", 5, 1),
        ("updates", 8, 2),
        ("step", 8, 2),
        ("step", 11, 3),
    ]
    steps = [row for row in rows if row.pop("kind") == "step"]
    assert steps == solution.history
    assert [row["x"] for row in steps] == [float(saved.x) for saved in solution.saved[1:]]


def test_lines_are_there_while_the_run_goes_on(tmp_path):
    counts = []

    class Count(Callback):
        def on_step(self, run, row):
            counts.append(len(lines(tmp_path / "log")))

    flow(callbacks=[JsonLog(tmp_path / "log"), Count()], log_every=100)
    assert counts == [1, 2, 3]


def test_a_run_that_goes_on_from_a_state_appends(tmp_path):
    first = flow(callbacks=[JsonLog(tmp_path / "log")], num_steps=1, log_every=100)
    flow(callbacks=[JsonLog(tmp_path / "log")], state=first.state, log_every=100)
    assert [row["k"] for row in lines(tmp_path / "log")] == [1, 2, 3]


def test_the_same_object_may_log_two_runs(tmp_path):
    log = JsonLog(tmp_path / "log")
    flow(callbacks=[log], log_every=100)
    log.path = tmp_path / "second"
    flow(callbacks=[log], log_every=100)
    assert [row["k"] for row in lines(tmp_path / "second")] == [1, 2, 3]


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3]), (2, [2, 3]), (5, [3])])
def test_metrics_are_evaluated_at_their_turn_and_at_both_ends(every, steps):
    evaluate = Evaluate([position], every=every)
    solution = flow(callbacks=[evaluate])
    assert evaluate.initial == {"x": 1.0}
    assert [row["k"] for row in solution.history if "x" in row] == steps
    assert solution.history[-1]["x"] == float(solution.measure.x)


def test_every_metric_and_every_step_has_a_stream_of_its_own():
    drawn = []

    def draw(rho, rng):
        drawn.append(float(torch.randn((), generator=rng)))
        return {}

    flow(callbacks=[Evaluate([draw, draw])], seed=0)
    assert len(set(drawn)) == 8
    again = list(drawn)
    drawn.clear()
    flow(callbacks=[Evaluate([draw, draw])], seed=1)
    assert not set(drawn) & set(again)


def test_metrics_see_an_averaged_network_in_evaluation_mode():
    seen = []

    def mode(rho, rng):
        seen.append(rho.map.training)
        return {}

    solution = flow(
        F=wgflow.Softplus(wgflow.StandardNormal(2), batch=4),
        solver=JKO(wgflow.Critic(lambda: torch.nn.Linear(2, 1)), iters=2, batch=4),
        initial=wgflow.Pushforward(wgflow.StandardNormal(2), lambda: torch.nn.Linear(2, 2)),
        callbacks=[Evaluate([mode])],
    )
    assert seen == [False] * 4
    assert solution.state.successor.net.training


def test_bad_settings():
    with pytest.raises(BadInput, match=r"Evaluate\(every=0\): expected a whole number from 1 up"):
        Evaluate([position], every=0)


def test_a_metric_that_is_infinite_does_not_stop_the_run(tmp_path):
    """A number beside the flow, such as the divergence between disjoint laws."""
    solution = flow(callbacks=[Evaluate([lambda rho, rng: {"d": math.inf}]), JsonLog(tmp_path / "log")])
    assert solution.status == "done"
    assert solution.history[-1]["d"] == math.inf
    assert [row["d"] for row in lines(tmp_path / "log") if "d" in row] == [None] * 3


def test_an_infinite_step_can_be_logged(tmp_path):
    flow(callbacks=[JsonLog(tmp_path / "log")], step_size=math.inf, num_steps=1, log_every=100)
    assert [(row["k"], row["t"]) for row in lines(tmp_path / "log")] == [(1, None)]


def test_an_explicit_flow_is_seen_at_every_step():
    diary = Diary()
    flow(callbacks=[diary], solver=ForwardEuler(), step_size=0.5, log_every=100)
    assert names(diary) == ["start", *["update", "step"] * 3, "end"]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda row: row["loss"] < 1, r"looks for 'loss', and the record of step 1 has .*row.get\('loss', math.inf\)"),
        (lambda row: torch.ones(2) > 0, "must answer yes or no"),
    ],
)
def test_a_condition_that_cannot_be_answered_says_why(condition, message):
    with pytest.raises(BadInput, match=message):
        two_particles(callbacks=[StopWhen(condition)])


@pytest.mark.parametrize("names", [("mean", "mean"), ("k",), ("update",)])
def test_a_metric_that_would_overwrite_a_number_is_refused_before_the_first_step(names):
    metrics = [lambda rho, rng, name=name: {name: 1.0} for name in names]
    with pytest.raises(BadInput, match=f"reports '{names[-1]}', which a record has already"):
        flow(callbacks=[Evaluate(metrics)])
