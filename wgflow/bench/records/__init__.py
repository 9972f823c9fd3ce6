"""Benchmarks of the repository from the command line: scripts run, records found, tables printed.

A module ``wgflow/_bench/NAME.py`` with a function ``table(record) -> str`` shows the record of the script ``NAME.py`` in a folder of
``benchmarks/``.
"""

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wgflow.core.errors import BadInput

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RESULTS = BENCHMARKS / "results"


def names() -> list[str]:
    """Return the benchmarks that have a table."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if hasattr(importlib.import_module(f"{__name__}.{name}"), "table"))


def tabulate(name: str) -> Callable[[dict[str, Any]], str]:
    """Return the function that makes the table of a benchmark.

    Raises
    ------
    BadInput
        When no benchmark of that name has a table.
    """
    if name not in names():
        raise BadInput(f"benchmark {name!r}: no table of that name. Known: {', '.join(names())}.")
    table: Callable[[dict[str, Any]], str] = importlib.import_module(f"{__name__}.{name}").table
    return table


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


def show(name: str, folder: Path) -> str:
    """Return the table of the record ``NAME.json`` in a folder.

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
        return table(json.loads(path.read_text()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise BadInput(f"{path} is not a record of the benchmark {name}: {error!r}") from error
