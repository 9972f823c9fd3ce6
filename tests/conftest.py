"""What every test may use: the device under test and the real data that some tests are checked against."""

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

torch.set_num_threads(1)  # the same sums in the same order on every machine

_ROOT = Path(__file__).resolve().parents[1]
_SHARED = _ROOT.parent / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="torch device that tests run on, for example cuda (default: cpu)")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.config.getoption("--device"))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function from a name to its file or folder of real data; the test is skipped without it."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("WGFLOW_TEST_DATA") or _SHARED)
        if not (folder / name).exists():
            pytest.skip(f"needs real data: no {name} in {folder}; set WGFLOW_TEST_DATA to a folder that holds it")
        return folder / name

    return find


@pytest.fixture
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Return a function from the name of a file of the benchmarks, whatever its folder, to its module."""
    threads = torch.get_num_threads()

    def module(name: str) -> ModuleType:
        (path,) = (_ROOT / "benchmarks").rglob(f"{name}.py")
        return importlib.import_module(".".join(path.relative_to(_ROOT).with_suffix("").parts))

    yield module
    torch.set_num_threads(threads)
