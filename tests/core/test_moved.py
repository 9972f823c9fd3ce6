import importlib
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import wgflow
from wgflow.core.moved import _EARLIER, _PARTS, told_name

IMPORTED = sorted(earlier for earlier in _EARLIER.values() if earlier != "wgflow.solve")


@pytest.mark.parametrize("earlier", IMPORTED)
def test_a_module_is_found_under_the_name_it_had(earlier: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = importlib.import_module(earlier)
    if earlier in ("wgflow.cli", "wgflow.optim"):  # rooms now, that give what the modules of these names gave
        assert Path(module.__file__).name == "__init__.py"
    else:
        assert told_name(module.__name__) == earlier
        assert module is sys.modules[module.__name__]
        assert module.__spec__.name == module.__name__


def test_what_a_name_is_now_is_said() -> None:
    code = "from wgflow.densities import Spacings; import wgflow; assert Spacings is wgflow.Spacings"
    done = subprocess.run([sys.executable, "-W", "default", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "DeprecationWarning: wgflow.densities is wgflow.kernels.densities now" in done.stderr


def test_the_function_solve_keeps_its_place() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("wgflow.solve")
    assert callable(wgflow.solve)


def test_a_module_that_never_was_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        importlib.import_module("wgflow.no_such_module")


@pytest.mark.parametrize("now", sorted(_EARLIER | _PARTS))
def test_every_entry_is_of_a_module_that_is_there(now: str) -> None:
    assert importlib.import_module(now).__name__ == now
