"""Records of the repository's own benchmarks: found, shown as tables, and made anew in a copy of the repository.

A module ``wgflow/bench/records/NAME.py`` shows the record of the script ``NAME.py`` in a folder of ``benchmarks/``:
``parts(record)`` returns paragraphs and tables, ``table(record)`` the same as text.
"""

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wgflow.bench.tables import Columns
from wgflow.core.errors import BadInput
from wgflow.core.registry import near_misses

_PACKAGED = Path(__file__).resolve().parents[1] / "results"  # put there by the build, see pyproject.toml
BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
RESULTS = _PACKAGED if _PACKAGED.is_dir() else BENCHMARKS / "results"
"""Where the records are: inside of an installed package, or in the copy of the repository that it is run from."""


def names() -> list[str]:
    """Return the benchmarks that have a table."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if hasattr(importlib.import_module(f"{__name__}.{name}"), "table"))


def tabulate(name: str) -> Callable[..., str]:
    """Return the function that makes the table of a benchmark.

    Raises
    ------
    BadInput
        When no benchmark of that name has a table.
    """
    if name not in names():
        raise BadInput(f"no benchmark {name!r} has a table: {near_misses(name, names())}")
    table: Callable[..., str] = importlib.import_module(f"{__name__}.{name}").table
    return table


def parts(name: str, record: dict[str, Any]) -> list[str | Columns]:
    """Return the paragraphs and tables of a record."""
    tabulate(name)  # refuses what has none
    found: list[str | Columns] = importlib.import_module(f"{__name__}.{name}").parts(record)
    return found


def run(name: str, folder: Path, quick: bool) -> None:
    """Run the script ``NAME.py`` in a folder of ``benchmarks/``, which writes ``NAME.json`` into the folder.

    Raises
    ------
    BadInput
        When the script is not there, or fails.
    """
    script = next(BENCHMARKS.glob(f"*/{name}.py"), None)
    if script is None:
        raise BadInput(
            f"no {name}.py in a folder of {BENCHMARKS}: benchmarks are in the repository, not in the installed "
            "package. Run this in a copy of it."
        )
    command = [sys.executable, str(script), "--results", str(folder), *(["--quick"] if quick else [])]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise BadInput(f"{script} failed; its output is above")


def show(name: str, folder: Path, width: int | None = None) -> str:
    """Return the table of the record ``NAME.json`` in a folder, at most ``width`` columns wide.

    Raises
    ------
    BadInput
        When the benchmark has no table, or when there is no record, or when the record is of something else.
    """
    table, path = tabulate(name), folder / f"{name}.json"
    if not path.is_file():
        raise BadInput(
            f"no record at {path}. Run `wgflow bench {name} --run` in a copy of the repository, "
            "or name the folder of the record: --results FOLDER."
        )
    try:
        return table(json.loads(path.read_text(encoding="utf-8")), width)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise BadInput(f"{path} is not a record of the benchmark {name}: {error!r}") from error
