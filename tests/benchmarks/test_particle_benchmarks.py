"""The particle benchmark: its record is complete, its peers compute what the library does."""

import json
from pathlib import Path

import pytest
import torch

import wgflow as wg
from wgflow.kernels import RBF, Riesz
from wgflow.kernels.sums import kernel_sums

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CASES = ("mmd_rbf", "energy", "stein", "blob", "sliced")


@pytest.fixture
def record(script, tmp_path):
    """Return a function that runs a benchmark quickly and returns its record."""

    def run(name, *options):
        path = script(name).main(["--quick", "--device", "cpu", "--results", str(tmp_path), *options])
        return json.loads(path.read_text())

    return run


def assert_says_where_it_comes_from(found):
    assert {"benchmark", "date", "machine", "versions", "commit", "note", "settings", "results"} <= found.keys()
    assert {"id", "dirty"} == found["commit"].keys()
    assert found["settings"]["quick"] is True
    assert str(BENCHMARKS.parent) not in json.dumps(found)


@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("case", CASES)
def test_all_methods_take_the_same_step(script, case, d):
    cases, peers = script("_particle_cases"), script("_peers")
    p = cases.Problem.make(case, 70, d, dtype=torch.float64)
    rows = torch.arange(0, 70, 3)
    velocity, value = cases.reference_velocity(p, rows), cases.reference_value(p)
    found = {"wgflow": (cases.value(p), cases.library(p)()[1])}
    for name, make in peers.METHODS[case].items():
        if name != "keops" and peers.absent(name) is None:  # KeOps would compile
            found[name] = make(p)()
    assert {"wgflow", "torch"} <= found.keys()
    for name, (v, moved) in found.items():
        # Products of matrices leave 1e-16 |x|^2 in squared distances, that is 1e-8 |x| in those of coincident points; and
        # geomloss cuts distances off at 1e-4 (of 1/n of the pairs).
        torch.testing.assert_close(moved[rows], velocity, rtol=1e-6, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
        if value is not None:
            assert float(v) == pytest.approx(value, rel=1e-4 if name == "geomloss" else 1e-7), name


def test_a_share_of_the_rows_is_that_share_of_the_step(script):
    cases, peers = script("_particle_cases"), script("_peers")
    for case in ("mmd_rbf", "stein"):
        p = cases.Problem.make(case, 60, 2, dtype=torch.float64)
        whole, part = peers.blocks(p)()[1], peers.blocks(p, rows=20)()[1]
        torch.testing.assert_close(part, whole[:20], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [RBF(0.7), Riesz(1.0)])
def test_sums_of_a_cloud_with_itself_are_those_with_its_copy(kernel):
    """The library halves the pairs of one cloud; a copy is another cloud."""
    rng = torch.Generator().manual_seed(0)
    x, g = (torch.randn(600, 3, generator=rng, dtype=torch.float64) for _ in range(2))  # more than one block
    b = torch.rand(600, generator=rng, dtype=torch.float64)
    x.requires_grad_(True), b.requires_grad_(True)
    found = [torch.autograd.grad(kernel_sums(kernel, x, y, b) @ g[:, 0], (x, b)) for y in (x, x.clone())]
    for one, two in zip(*found, strict=True):
        # 600 terms of order 1 in another order.
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)


@pytest.mark.slow  # starts four processes
def test_record_of_the_particle_steps(record, tmp_path):
    figure = tmp_path / "figure.png"
    found = record("particles", "--figure", str(figure))
    assert_says_where_it_comes_from(found)
    results = found["results"]
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert [s["case"] for s in results["steps"]] == list(CASES)
    for step in results["steps"]:
        # Every method is accounted for: it ran, or a reason is given.
        peers = {"mmd_rbf": 5, "energy": 5, "stein": 4, "blob": 4, "sliced": 3}[step["case"]]
        assert len(step["methods"]) + len(step["not_run"]) == peers
        assert step["ratio"].keys() == step["methods"].keys() - {"wgflow"}
        for method in step["methods"].values():
            # float32 keeps 7 digits; distances from products lose some where particles nearly coincide.
            assert method["velocity_error"] < 1e-3
    assert {"wgflow", "torch_blocks"} == results["large"][0]["methods"].keys()
    assert results["large"][0]["methods"]["wgflow"]["velocity_error"] < 1e-4
    assert {m["method"] for m in results["memory"]} == {"wgflow", "torch"}
    for run in results["sinkhorn"]:
        assert run["reference_converged"]
        errors = [r["gradient_error"] for r in run["runs"]["wgflow"]]
        assert errors[-1] < 1e-3  # at a tolerance of 1e-5, in float32
        assert len(run["at_equal_error"]) == 5
    for run in results["exact_w2"]:
        assert all(m["value_error"] < 1e-5 for m in run["methods"].values())  # float32
        assert {"wgflow", "scipy"} <= run["methods"].keys()


def test_steps_against_another_checkout(record):
    """Against itself: every case is there, with times on both sides."""
    found = record("steps_against", str(BENCHMARKS.parent))
    assert_says_where_it_comes_from(found)
    steps = found["results"]["steps"]
    assert {s["case"] for s in steps} >= {"mmd_rbf", "energy", "ksd", "stein", "blob", "sliced"}
    for s in steps:
        assert s["before"] > 0
        assert s["after"] > 0
        assert s["turns"] >= 7


@pytest.mark.slow  # seven processes start
def test_the_record_of_several_processes_has_its_model_beside_it(record, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    found = record("ranks")
    assert_says_where_it_comes_from(found)
    rows = found["results"]["measured"]
    assert [row["processes"] for row in rows] == [1, 2, 4] * 2
    assert all(row["cpu_seconds"] > 0 and row["predicted"] > 0 for row in rows)
    assert found["results"]["messages"]["seconds_a_byte"] > 0


def test_the_step_of_many_particles_is_right_to_its_bound(record):
    found = record("million")
    assert_says_where_it_comes_from(found)
    rows = found["results"]["steps"]
    fast = ["SlicedWasserstein", "SlicedEnergyDistance", "RandomFourierFeatures"]
    assert [(row["distance"], row["d"]) for row in rows] == [(name, d) for d in (2, 50) for name in fast]
    for row in rows:
        assert row["seconds_a_step"] > 0
        if row["distance"] != "SlicedWasserstein":
            assert 0.01 * row["bound"] < row["error_of_a_force"] < row["bound"]
            assert row["seconds_of_all_pairs"] > 0


def test_the_driver_is_timed_beside_its_updates_and_a_loop_by_hand(record, script):
    found = record("driver")
    assert_says_where_it_comes_from(found)
    rows = {row["case"]: row for row in found["results"]["rows"]}
    assert all({"solve_us", "updates_us", "driver_us"} <= row.keys() for row in rows.values())
    assert "by_hand_us" in rows["forward Euler"]

    driver, x = script("driver"), torch.randn(5, 2)
    flow = wg.solve(driver.FLOW, wg.ForwardEuler(), wg.Particles(x), step_size=driver.H, num_steps=7)
    torch.testing.assert_close(driver.by_hand(x, 7), flow.measure.x)
