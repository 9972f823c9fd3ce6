"""The benchmarks of one-step generators run, keep the rows that they have, and count what they say."""

import json

import pytest


def record(script, name, folder, *options):
    path = script(name).main(["--quick", "--device", "cpu", "--results", str(folder), *options])
    return json.loads(path.read_text())


def test_a_row_a_field_and_rows_that_are_there_are_kept(script, tmp_path):
    first = record(script, "eight_gaussians", tmp_path, "--rows", "energy")["results"]
    assert first["exact_draws"]["within_3_std"] == pytest.approx(0.989, abs=0.02)
    both = record(script, "eight_gaussians", tmp_path, "--rows", "energy", "floor")["results"]
    assert both["rows"]["energy distance"] == first["rows"]["energy distance"]
    for row in both["rows"].values():
        assert {"seed", "cpu_seconds", "status", "W2", "sinkhorn", "within_3_std", "tv_of_masses"} <= row["seeds"][
            0
        ].keys()
    assert set(both["rows"]) == {"energy distance", "Algorithm 2 with the published floor"}


def test_plans_are_compared_at_the_error_that_they_reach(script, tmp_path):
    (size,) = record(script, "plan_cost", tmp_path)["results"]["sizes"]
    assert (size["groups"], size["n"]) == (3, 16)
    assert size["seconds"].keys() == size["marginal_error"].keys()
    for tol in (1e-2, 1e-3):
        assert size["marginal_error"][f"wgflow {tol:.0e}"] <= tol
        best = size["at_equal_error"][f"{tol:.0e}"]["geomloss"]
        assert best is None or size["marginal_error"][best] <= tol
