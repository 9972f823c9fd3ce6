"""The benchmark of equal updates: every row trains the same number of them, a second call goes on with the first."""

import argparse
import json
import math

import pytest


@pytest.fixture
def equal_updates(script):
    return script("equal_updates")


def test_all_rows_have_the_same_number_of_updates(equal_updates):
    args = argparse.Namespace(updates=1600, quick=False)
    for name, changes in (equal_updates.COMPARED | equal_updates.CHANGED).items():
        options = equal_updates.recipe(changes, args, 0).options
        assert options["first_iters"] + (options["num_steps"] - 1) * options["iters"] == 1600, name


def test_it_scores_every_row_and_goes_on_where_it_stopped(equal_updates, tmp_path, monkeypatch):
    monkeypatch.setattr(equal_updates, "COMPARED", dict(list(equal_updates.COMPARED.items())[:1]))
    monkeypatch.setattr(equal_updates, "CHANGED", {"JSD": {"divergence": "js_nonsat"}})
    call = ["--quick", "--results", str(tmp_path)]
    first = json.loads(equal_updates.main(call).read_text())["results"]
    assert [row["seeds"] for row in first["rows"]] == [1, 1]
    assert all({"frechet", "energy_distance", "sinkhorn_excess"} <= row.keys() for row in first["rows"])
    monkeypatch.setattr(equal_updates, "train", lambda *_: pytest.fail("trained again"))
    assert json.loads(equal_updates.main(call).read_text())["results"] == first


def test_a_row_with_other_settings_is_trained_again_and_the_others_are_kept(equal_updates, tmp_path, monkeypatch):
    call, trained = ["--quick", "--results", str(tmp_path)], []
    monkeypatch.setattr(equal_updates, "judges", lambda *_: ([], {}))
    monkeypatch.setattr(
        equal_updates, "train", lambda changes, *_: trained.append(changes) or {"frechet": len(trained)}
    )
    monkeypatch.setattr(equal_updates, "COMPARED", {"as it is": {}, "GAN": {"step_size": math.inf}})
    monkeypatch.setattr(equal_updates, "CHANGED", {"R1": {"r1": 1.0}})
    equal_updates.main(call)
    monkeypatch.setattr(equal_updates, "CHANGED", {"R1": {"r1": 2.0}})
    found = json.loads(equal_updates.main(call).read_text())["results"]
    assert trained == [{}, {"step_size": math.inf}, {"r1": 1.0}, {"r1": 2.0}]
    assert [(row["name"], row["seeds"], row["frechet"]) for row in found["rows"]] == [
        ("as it is", 1, 1), ("GAN", 1, 2), ("R1", 1, 4),
    ]  # fmt: skip


def test_a_number_that_the_time_steps_cannot_share_is_refused(equal_updates, capsys):
    with pytest.raises(SystemExit):
        equal_updates.main(["--updates", "1000"])
    assert "multiples of 32" in capsys.readouterr().err
