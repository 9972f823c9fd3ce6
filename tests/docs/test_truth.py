"""The page of what was checked names tests and numbers that exist."""

import importlib.util
from pathlib import Path

import pytest

EXTENSION = Path(__file__).resolve().parents[2] / "docs" / "_ext" / "wgflow_truth.py"
pytest.importorskip("sphinx")
spec = importlib.util.spec_from_file_location("wgflow_truth", EXTENSION)
truth = importlib.util.module_from_spec(spec)
spec.loader.exec_module(truth)
METHODS = truth.methods()


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["name"])
def test_what_is_named_exists(method):
    assert set(method) <= {"name", "write", "against", "tests", "measured", "missing"}
    assert method["tests"]
    for test in method["tests"]:
        assert truth.function_of(test) is not None, f"no test {test}"
    for text in (method["measured"], method.get("missing", "")):
        assert "{" not in truth.filled(text)


def test_a_test_that_is_not_there_is_missed():
    assert truth.function_of("solvers/test_orders.py::test_of_no_such_name") is None
    assert truth.function_of("solvers/test_of_no_such_file.py::test_claimed_orders") is None
    with pytest.raises((KeyError, StopIteration)):
        truth.filled("{discretizations | flows/0/methods/label=no such row/order | .2f}")


def test_methods_are_named_once():
    names = [method["name"] for method in METHODS]
    assert len(names) == len(set(names)) >= 25
