"""Imports point down: the floors of the package, read from its source."""

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "_ext"))
from house import FLOORS, files, imports, module_of, room

EXTRAS = {
    *("diffusers", "matplotlib", "ot", "safetensors", "tensorboard"),
    *("torch_fidelity", "torchmetrics", "torchvision", "yaml"),
}
FILES = files()


def floor(module):
    found = [i for i, rooms in enumerate(FLOORS) if room(module) in rooms]
    assert found, f"wgflow.{room(module)} has no floor: add it to FLOORS, as low as its imports allow"
    return found[0]


def ours(module):
    return {module_of(target, FILES) for target, _ in imports(FILES[module])} - {None, module}


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    above = sorted(m for m in ours(name) if floor(m) > floor(name))
    assert not above, f"wgflow.{name} imports from floors above it: {above}"


def test_no_two_rooms_import_each_other():
    graph = {}
    for name in FILES:
        graph.setdefault(room(name), set()).update(room(m) for m in ours(name) if room(m) != room(name))
    assert set(TopologicalSorter(graph).static_order()) == {name for rooms in FLOORS for name in rooms}


def test_no_two_modules_import_each_other():
    at_load = {n: {module_of(t, FILES) for t, now in imports(f) if now} - {None, n} for n, f in FILES.items()}
    assert set(TopologicalSorter(at_load).static_order()) == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_packages_of_the_extras_are_imported_where_they_are_used(name):
    at_load = {target.split(".")[0] for target, now in imports(FILES[name]) if now}
    assert not at_load & EXTRAS


def test_importing_wgflow_loads_no_heavy_package():
    """In a fresh interpreter: SciPy, GeomLoss, torchdiffeq and the extras are loaded by what needs them."""
    code = "import sys, torch; before = set(sys.modules); import wgflow; print(*(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    others = {name.split(".")[0] for name in loaded} - sys.stdlib_module_names
    others = {
        name for name in others if not name.startswith("_sysconfigdata")
    }  # of the standard library, named by the platform
    assert "wgflow" in others
    assert others <= {"wgflow", "tqdm", "filelock"}


def test_the_reader_of_imports_sees_what_it_must(tmp_path):
    source = tmp_path / "example.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nimport torch.nn\nfrom wgflow.measures import Particles\n"
        "if TYPE_CHECKING:\n    from wgflow.driver.run import Run\n"
        "def f():\n    from wgflow import presets\n    import torchvision\n"
    )
    found = set(imports(source))
    assert {("torch.nn", True), ("torchvision", False), ("wgflow.driver.run.Run", False)} <= found
    names = {module_of(name, FILES) for name, _ in found}
    assert names == {None, "measures.__init__", "driver.run", "presets.__init__"}
    assert module_of("wgflow.KL", FILES) == "__init__"


def test_the_page_has_a_paragraph_for_every_room():
    page = (Path(__file__).resolve().parents[2] / "docs" / "architecture.md").read_text()
    rooms = [name for rooms in FLOORS for name in rooms if not name.startswith("_")]
    assert [name for name in rooms if f"**{name}**" not in page] == []
