"""Names at the border: near misses, duplicates, and entries from other packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wgflow import ESTIMATORS, FUNCTIONALS, KERNELS, KL, MAPS, MEASURES, SOLVERS, BadInput, ForwardEuler
from wgflow.core.registry import Registry


@pytest.fixture
def registry() -> Registry:
    held = Registry("shape")

    @held.register("circle")
    class Circle:
        pass

    @held.register("square")
    class Square:
        pass

    return held


def test_what_is_registered_is_found(registry):
    assert registry["circle"].__name__ == "Circle"
    assert registry["circle"].registered_name == "circle"
    assert list(registry) == ["circle", "square"]
    assert len(registry) == 2
    assert "square" in registry
    assert "sphere" not in registry


def test_an_unknown_name_lists_near_misses_and_what_there_is(registry):
    with pytest.raises(BadInput, match=r"no shape is called 'circel': did you mean 'circle'\? known: circle, square"):
        registry["circel"]
    with pytest.raises(BadInput, match=r"no shape is called 'xyz': known: circle, square$"):
        registry["xyz"]


def test_a_name_is_taken_once(registry):
    with pytest.raises(BadInput, match=r"shape 'circle' is already registered by test_registry\.registry.*Circle"):

        @registry.register("circle")
        class Other:
            pass

    assert registry["circle"].__name__ == "Circle"


def test_registering_the_same_class_again_is_no_conflict(registry):
    """A module that is reached under two names, say by its package and by an entry point."""
    circle = registry["circle"]
    assert registry.register("circle")(circle) is circle


@pytest.mark.parametrize(
    ("ours", "typo", "meant"),
    [
        (FUNCTIONALS, "klx", "kl"),
        (SOLVERS, "forward_eular", "forward_euler"),
        (ESTIMATORS, "critics", "critic"),
        (KERNELS, "laplacian", "laplace"),
        (MAPS, "affin", "affine"),
        (MEASURES, "particle", "particles"),
    ],
)
def test_the_six_families(ours, typo, meant):
    with pytest.raises(BadInput, match=f"did you mean '{meant}'"):
        ours[typo]
    assert FUNCTIONALS["kl"] is KL
    assert SOLVERS["forward_euler"] is ForwardEuler


def install(folder: Path, entries: str) -> None:
    """What pip leaves behind for a package with entry points."""
    (folder / "their_shapes.py").write_text("class Triangle: pass\nclass Circle: pass\n")
    info = folder / "their_shapes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-shapes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[wgflow.shapes]\n{entries}")


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("their_shapes", None)


def test_another_package_adds_an_entry(registry, plugins):
    install(plugins, "triangle = their_shapes:Triangle\n")
    assert "their_shapes" not in sys.modules, "plugins are loaded on first use"
    assert registry["triangle"].__module__ == "their_shapes"
    assert list(registry) == ["circle", "square", "triangle"]
    with pytest.raises(BadInput, match="did you mean 'triangle'"):
        registry["triangel"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("circle = their_shapes:Circle", r"shape 'circle' of the plugin their_shapes:Circle was left out: .*already"),
        ("broken = their_shapes:Pentagon", r"shape 'broken' of the plugin their_shapes:Pentagon was left out"),
        ("missing = no_such_module:It", r"shape 'missing' of the plugin no_such_module:It was left out: No module"),
    ],
)
def test_a_plugin_that_fails_is_left_out_with_a_warning_and_hides_nothing(registry, plugins, entry, message):
    install(plugins, f"{entry}\ntriangle = their_shapes:Triangle\n")
    with pytest.warns(UserWarning, match=message):
        known = list(registry)
    assert known == ["circle", "square", "triangle"]
    assert registry["circle"].__module__ == __name__


FAMILIES = {
    "functionals": "Functional",
    "estimators": "Estimator",
    "solvers": "Solver",
    "kernels": "Kernel",
    "maps": "maps.TransportMap",
    "measures": "Measure",
}


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a process says where another package has an entry in every family: registries look for plugins once."""
    folder = tmp_path_factory.mktemp("theirs")
    classes = (f"class New_{group}(wg.{kind}): pass\n" for group, kind in FAMILIES.items())
    (folder / "theirs.py").write_text("import wgflow as wg\n" + "".join(classes))
    info = folder / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    entries = (f"[wgflow.{group}]\nnew_{group} = theirs:New_{group}\n" for group in FAMILIES)
    (info / "entry_points.txt").write_text("".join(entries))
    found = (f"print(wg.{group.upper()}['new_{group}'].registered_name)\n" for group in FAMILIES)
    script = f"import wgflow as wg\n{''.join(found)}from wgflow.cli import main\nmain(['list'])"
    paths = os.pathsep.join([str(folder), *filter(None, sys.path)])
    command, env = [sys.executable, "-c", script], os.environ | {"PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.splitlines()


@pytest.mark.parametrize("group", FAMILIES)
def test_each_family_takes_entries_of_other_packages_and_the_command_line_lists_them(listed, group):
    name, lines = f"new_{group}", listed[len(FAMILIES) :]
    assert listed[list(FAMILIES).index(group)] == name
    assert [name in line for line in lines] == [line.startswith(f"{group}:") for line in lines]
