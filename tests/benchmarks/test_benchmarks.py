"""The benchmarks run, write complete records, and their counts (never their times) come out as claimed."""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wgflow.core import compiling

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(script, tmp_path):
    """Return a function that runs one benchmark quickly and returns its record."""

    def run(name, *options):
        path = script(name).main(["--quick", "--device", "cpu", "--results", str(tmp_path), *options])
        return json.loads(path.read_text())

    gc.freeze()  # what the other tests have left is not looked through for every count of live tensors
    yield run
    gc.unfreeze()


def assert_says_where_it_comes_from(record):
    assert {"benchmark", "date", "machine", "versions", "commit", "note", "settings", "results"} <= record.keys()
    assert {"cpu", "device", "threads"} <= record["machine"].keys()
    assert record["versions"]["torch"] == torch.__version__
    assert {"id", "dirty"} == record["commit"].keys()
    assert record["settings"]["quick"] is True
    assert str(BENCHMARKS.parent) not in json.dumps(record)


def test_cost_of_a_phase_in_network_calls_and_memory(benchmark, tmp_path):
    figure = tmp_path / "phases.png"
    record = benchmark("phase_cost", "--figure", str(figure))
    assert_says_where_it_comes_from(record)
    found, steps = record["results"], record["settings"]["steps"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    for costs in found.values():
        assert len(costs["seconds_per_phase"]) == len(costs["wall_seconds_per_phase"]) == steps
        assert {"slope_percent_per_phase", "slope_percent_per_phase_se"} <= costs["trend"].keys()
    s_jko, uncached, cached = found["s_jko"], found["uncached_maps"], found["cached_maps"]
    # Spec section 5: one call for the critic's batch, one trained, one of the snapshot, whatever the phase.
    assert s_jko["generator_calls_per_update"] == {"first": 3, "last": 3, "growth": 0}
    # Two draws of the law so far, each through all k - 1 maps before, and two calls of the new map.
    assert uncached["generator_calls_per_update"] == {
        "first": 2,
        "last": 2 * (steps - 1) + 2,
        "growth": 2 * (steps - 1),
    }
    assert cached["generator_calls_per_update"]["growth"] == 0
    calls = [costs["nfe_to_sample_after_K_phases"] for costs in (s_jko, uncached, cached)]
    assert calls == [1, steps, steps]
    assert s_jko["live_tensors_mb"]["growth"] == 0
    assert s_jko["live_parameter_tensors"]["growth"] == 0
    assert uncached["live_parameter_tensors"]["growth"] > 0


def test_hot_loop_reads_nothing_and_keeps_the_fake_batch_out_of_the_graph(benchmark):
    record = benchmark("hot_loop")
    assert_says_where_it_comes_from(record)
    reads, fake = record["results"]["host_reads"], record["results"]["fake_batch"]
    assert "images" in reads["library"]
    for name, found in reads["library"].items():
        assert found["per_update"] == 0, f"{name}: {found['where']}"
    for found in reads["with_sgd"].values():
        assert found["per_update"] + found["per_update_in_optimizer_step"] == 0
    assert reads["control_reads_one_number"]["per_update"] == 1
    assert fake["library"]["fake_batches"] > 0
    assert fake["library"]["fake_batches_with_gradient"] == 0
    assert fake["with_gradient"]["fake_batches_with_gradient"] == fake["with_gradient"]["fake_batches"]
    nodes = [fake[name]["backward_nodes_per_critic_step"] for name in ("library", "with_gradient")]
    assert nodes[0] < nodes[1]
    assert record["results"]["speed"].keys() >= {"images_per_second_of_work", "share_of_time", "time_relative_to_base"}


def test_r1_by_the_derivatives_of_the_library_and_of_pytorch(benchmark):
    record = benchmark("r1_cost")
    assert_says_where_it_comes_from(record)
    for found in record["results"].values():
        assert found["convolutions"]["library"] < found["convolutions"]["pytorch"]
        assert found["gradients_differ_by"] < 1e-2  # of the smallest gradients in float32


def test_compiled_updates_are_timed_beside_eager_ones(benchmark, monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", compiling.BACKEND)
    record = benchmark("compiled")
    assert_says_where_it_comes_from(record)
    (found,) = record["results"].values()
    assert found["critics_differ_by_after_one_update"] < 1e-3
    assert found["eager_over_compiled"] > 0
    assert found["seconds_of_first_update"]["compiled"] > found["seconds_of_first_update"]["eager"]


def test_checkpoints_are_timed_in_line_and_beside_and_hold_no_history(benchmark):
    record = benchmark("checkpoints")
    assert_says_where_it_comes_from(record)
    waiting, growth = record["results"]["waiting"], record["results"]["growth"]
    assert set(waiting["seconds_that_the_run_waits"]) == {"in line", "beside"}
    sizes = {name: found["kilobytes"] for name, found in growth["a_checkpoint"].items()}
    assert sizes["history beside"] < sizes["history inside"]


def test_cifar_methods_get_equal_updates_and_a_labelled_distance(benchmark, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    options = ("--updates", "4", "--data", str(tmp_path / "pictures.npy"), "--runs", str(tmp_path / "runs"))
    record = benchmark("cifar10", *options)
    assert_says_where_it_comes_from(record)
    found = record["results"]
    methods = found["methods"]
    assert set(methods) == {f"{m}-{d}" for m in ("s_jko", "source_fixed") for d in ("kl", "js_nonsat")} | {
        "gan-js_nonsat"
    }
    assert {m["updates"] for m in methods.values()} == {4}
    for name, m in methods.items():
        assert (m["phases"] > 1) == name.startswith("s_jko")
        assert {"frechet", "images_per_second", "peak_memory_mb", "curve"} <= m.keys()
    assert "not FID" in found["protocol"]
    assert "claims nothing about quality" in found["caution"]
    assert (tmp_path / f"{record['benchmark']}.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in json.dumps(record)
    # The same call goes on where it stopped, which is at the end.
    assert benchmark("cifar10", *options)["results"]["frechet_floor"] == found["frechet_floor"]


def test_cifar_runs_of_another_plan_are_not_taken_over(benchmark, tmp_path):
    from wgflow import BadInput

    np.save(tmp_path / "pictures.npy", np.zeros((40, 32, 32, 3), dtype=np.uint8))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "plan.json").write_text('{"asked": {"updates": 9}}')
    with pytest.raises(BadInput, match="another plan"):
        benchmark("cifar10", "--data", str(tmp_path / "pictures.npy"), "--runs", str(tmp_path / "runs"))


def test_the_eight_objectives_are_scored_and_a_record_goes_on(benchmark, tmp_path):
    record = benchmark("gwf")
    assert_says_where_it_comes_from(record)
    runs = record["results"]["runs"]
    assert [(r["objective"], r["tau"]) for r in runs] == [(o, t) for o in ("kl", "ckmmd") for t in ("none", "1")]
    assert all(r["frechet"] > 0 and r["sinkhorn_excess"] > 0 for r in runs)
    assert benchmark("gwf")["results"]["runs"] == runs, "runs of the record are kept"


def test_metrics_are_measured_at_every_level_of_worse_images(benchmark):
    record = benchmark("metric_order")
    assert_says_where_it_comes_from(record)
    (found,) = record["results"].values()
    assert len(found["values"]) == 1 + 4 * 3
    assert found["wrong_order"].keys() == {"energy_distance", "sinkhorn_excess", "frechet", "kernel"}
    pale = found["values"]["contrast 0.5"]["energy_distance"][0]
    assert pale > found["values"]["real"]["energy_distance"][0]  # by so much that 20 images show it
