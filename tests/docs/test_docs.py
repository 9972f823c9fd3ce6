"""The documentation tells the truth: its examples run, and it names everything that is registered and cited."""

import builtins
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import wgflow
from wgflow import ESTIMATORS, FUNCTIONALS, KERNELS, MAPS, MEASURES, SOLVERS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(str(p.relative_to(DOCS)) for p in [*DOCS.glob("*.md"), *DOCS.glob("howto/*.md")])
MODULES = ["wgflow", *sorted(m.name for m in pkgutil.walk_packages(wgflow.__path__, "wgflow."))]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture
def _registries_as_before():
    kept = [
        (registry, dict(registry._entries)) for registry in (FUNCTIONALS, SOLVERS, ESTIMATORS, KERNELS, MAPS, MEASURES)
    ]
    yield
    for registry, entries in kept:
        registry._entries = entries


def check_examples(test: doctest.DocTest) -> None:
    report: list[str] = []
    failed = doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=report.append).failed
    assert not failed, "".join(report)


@pytest.mark.usefixtures("_registries_as_before")
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page):
    text = (DOCS / page).read_text()
    code = re.sub(r"^```.*$", "", text, flags=re.MULTILINE)  # a fence would be read as expected output
    check_examples(doctest.DocTestParser().get_doctest(code, {"__name__": "docs"}, page, str(DOCS / page), 0))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        check_examples(test)


def test_classes_that_the_pages_name_exist():
    known = {name for module in map(importlib.import_module, MODULES) for name in vars(module)}
    known |= {"PyTorch", "Module", "DistributedDataParallel", "AutoencoderKL", "EvenNormal"}  # not of the package
    known |= {"Score"}  # of the first design
    unknown = []
    for path in [DOCS.parent / "README.md", *(DOCS / page for page in PAGES)]:
        text = path.read_text()
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        here = known | set(re.findall(r"class (\w+)", text))  # a page defines parts as well
        for code in re.findall(r"`([^`\n]+)`", prose):
            names = re.findall(r"(?<![\w./-])[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*(?![\w/-])", code)
            unknown += [(path.name, name) for name in names if name not in here and not hasattr(builtins, name)]
    assert not unknown


def test_the_pages_that_teach_have_examples():
    taught = {p for p in PAGES if ">>> " in (DOCS / p).read_text()}
    assert taught >= {
        "start_particles.md",
        "start_images.md",
        "concepts.md",
        "functionals.md",
        "extending.md",
        "reproducibility.md",
    }


@pytest.mark.parametrize("name", list(FUNCTIONALS))
def test_every_functional_is_described(name):
    page = (DOCS / "functionals.md").read_text()
    assert f"`{name}`" in page or FUNCTIONALS[name].__name__ in page


def test_every_reference_is_in_the_bibliography():
    entries = re.findall(r"^@\w+\{(\S+),$", (DOCS / "references.bib").read_text(), re.MULTILINE)
    assert len(entries) == len(set(entries))
    used = {key for r in (FUNCTIONALS, SOLVERS, ESTIMATORS) for n in r for key in getattr(r[n], "reference", ())}
    pages = "".join((DOCS / p).read_text() for p in PAGES)
    cited = {key for group in re.findall(r"\{cite:[pt]\}`([^`]+)`", pages) for key in group.split(",")}
    assert used | cited <= set(entries), (used | cited) - set(entries)


def test_every_public_name_is_in_the_reference():
    listed = "".join(p.read_text() for p in (DOCS / "api").glob("*.rst"))
    named = set(re.findall(r"(\w+)(?:\(.*\))?$", listed, re.MULTILINE))
    missing = (
        {name for name in wgflow.__all__ if not name.startswith("_")}
        - {"maps", "plotting", "presets", "reference", "testing"}
        - named
    )
    assert not missing


def test_the_python_of_the_readme_runs_at_a_smaller_size(tmp_path, monkeypatch):
    readme = (DOCS.parent / "README.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    for large, small in (("iters=500", "iters=2"), ("num_steps=10", "num_steps=2"), ("batch=400", "batch=25")):
        assert large in code
        code = code.replace(large, small)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["points"].shape == (1000, 2)
    assert list((tmp_path / "runs" / "toy").glob("update-*.pt"))


def test_the_python_of_the_front_page_runs_in_fewer_steps(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 8
    assert "num_steps=60" in code
    monkeypatch.chdir(tmp_path)
    exec(code.replace("num_steps=60", "num_steps=2"), {})
    assert (tmp_path / "flow.gif").is_file()


def test_the_film_of_the_front_page_is_small():
    assert 1e4 < (DOCS / "figures" / "flow.gif").stat().st_size < 1e6


def test_the_readme_names_commands_that_exist():
    readme = (DOCS.parent / "README.md").read_text()
    for command in re.findall(r"(?:`|bin/)wgflow (\w+)", readme):
        assert command in {"train", "sample", "evaluate", "list", "show", "bench", "run"}
