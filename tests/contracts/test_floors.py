"""Imports point down: the floors of the package, read from its source."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import wgflow

ROOT = Path(wgflow.__file__).parent
FLOORS = [
    {"core"},
    {"_bench", "generative.nets", "maps", "numerics", "optim"},
    {"measures"},
    {"generative.data", "kernels", "storage"},
    {"functionals", "generative.metrics", "reference"},
    {"estimators", "metrics"},
    {"solvers"},
    {"driver"},
    {"plotting", "presets"},
    {"__init__"},  # the public names
    {"generative"},
    {"cli"},
    {"__main__"},
]
EXTRAS = {
    *("diffusers", "matplotlib", "ot", "safetensors", "tensorboard"),
    *("torch_fidelity", "torchmetrics", "torchvision", "yaml"),
}
FILES = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in sorted(ROOT.rglob("*.py"))}


def imports(path):
    """Yield (dotted name, whether it is imported with the module) for what runs; not what type checkers read."""
    stack = [(ast.parse(path.read_text(encoding="utf-8")), True)]
    while stack:
        node, at_load = stack.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_load) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from ((f"{node.module}.{alias.name}", at_load) for alias in node.names)
        at_load = at_load and not isinstance(node, (ast.FunctionDef, ast.Lambda))
        stack += [(child, at_load) for child in ast.iter_child_nodes(node)]


def module(name):
    """The file of ours that a dotted name comes from: the longest prefix that is one; None for another package."""
    parts = name.split(".")
    if parts[0] != "wgflow":
        return None
    for end in range(len(parts), 0, -1):
        for candidate in (".".join(parts[1:end]), ".".join([*parts[1:end], "__init__"])):
            if candidate in FILES:
                return candidate
    raise AssertionError(f"{name} is not a module of wgflow")


def floor(name):
    parts = name.split(".")
    found = [i for room in (".".join(parts[:2]), parts[0]) for i, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"wgflow.{parts[0]} has no floor: add it to FLOORS, as low as its imports allow"
    return found[0]


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    ours = {module(target) for target, _ in imports(FILES[name])} - {None}
    above = sorted(target for target in ours if floor(target) > floor(name))
    assert not above, f"wgflow.{name} imports from floors above it: {above}"


def test_no_two_modules_import_each_other():
    graph = {name: {module(t) for t, at_load in imports(f) if at_load} - {None, name} for name, f in FILES.items()}
    assert set(TopologicalSorter(graph).static_order()) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_packages_of_the_extras_are_imported_where_they_are_used(name):
    at_load = {target.split(".")[0] for target, at_load in imports(FILES[name]) if at_load}
    assert not at_load & EXTRAS


def test_the_reader_of_imports_sees_what_it_must(tmp_path):
    source = tmp_path / "example.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nimport torch.nn\nfrom wgflow.measures import Particles\n"
        "if TYPE_CHECKING:\n    from wgflow.driver.solve import Run\n"
        "def f():\n    from wgflow import presets\n    import torchvision\n"
    )
    found = set(imports(source))
    assert ("torch.nn", True) in found
    assert ("torchvision", False) in found
    assert {module(name) for name, _ in found} - {None} == {"measures.__init__", "presets.__init__"}
    assert module("wgflow.KL") == "__init__"
