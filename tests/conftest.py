"""What every test may use: the device under test and the real data that some tests are checked against."""

import importlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # the same sums in the same order on every machine
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; tests of Ctrl-C inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

_SETTINGS = dict(channels=4, batch=8, num_steps=2, first_iters=3, iters=3, evaluate_every=3, sinkhorn_n=10)
os.environ.pop("COLUMNS", None)  # which pytest-xdist sets for its workers: a table would be as narrow as a terminal
_ROOT = Path(__file__).resolve().parents[1]
_SHARED = _ROOT.parent / "shared" / "data"


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Answer ``-n auto``: every worker takes half a gigabyte and some seconds to start, so more than a few do not pay."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="torch device that tests run on, for example cuda (default: cpu)")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let no test depend on what those before it have drawn from the global generators."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  the global one is what a library of others draws from


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


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images of 8 x 8 in a file."""
    path = tmp_path_factory.mktemp("pictures") / "digits.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    return path


@pytest.fixture(scope="session")
def options(pictures: Path) -> list[str]:
    """Options of a training of seconds."""
    chosen = _SETTINGS | {"data": pictures, "device": "cpu"}
    return [word for name, value in chosen.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def trained(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run; to be copied, not changed."""
    pytest.importorskip("torchvision")
    pytest.importorskip("safetensors")
    from wgflow.cli import main

    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", *options, "--folder", str(folder)]) == 0
    return folder
