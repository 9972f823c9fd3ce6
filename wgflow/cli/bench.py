"""``wgflow bench``: a comparison of solvers on a problem, or a record of the repository's own benchmarks."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wgflow.cli.own import named, save_picture
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Positive
from wgflow.core.imports import require
from wgflow.core.instead import shown
from wgflow.core.registry import near_misses
from wgflow.core.rules import rule_of
from wgflow.core.words import read
from wgflow.storage.files import check_writable

if TYPE_CHECKING:
    from wgflow.bench import Problem, Result


def bench(
    name: str | None = None,
    *,
    problem: str | None = None,
    solvers: str | None = None,
    step_sizes: str | None = None,
    seeds: Count = 1,
    save: str | None = None,
    plot: str | None = None,
    results: str | None = None,
    run: bool = False,
    quick: bool = False,
) -> None:
    """Compare solvers on a problem whose exact flow is known, or show a record of the repository's own benchmarks.

    Parameters
    ----------
    name
        A problem or a record by name (wgflow list), or the file of a saved comparison. Default: the record of all discretizations.
    problem
        A problem of your own, as package.module:NAME of a Problem or of a function that returns one; the module is run.
    solvers
        Separated by commas: methods of the problem, solvers by name, or package.module:NAME. Default: the problem's methods.
    step_sizes
        Separated by commas. Default: those of the problem.
    seeds
        Seeds a method, for error bars.
    save
        Write the comparison to this JSON file.
    plot
        Draw it into this file.
    results
        Folder of the record. Default: those that came with wgflow.
    run
        Run the script of the record first, in a copy of the repository: minutes, for some an hour.
    quick
        Run it in seconds, for tests: the numbers mean nothing.
    """
    from wgflow.bench import PROBLEMS, load, records
    from wgflow.bench.tables import terminal

    if name is not None and name.replace("-", "_") in PROBLEMS:
        name = name.replace("-", "_")
    if problem is not None and name is not None:
        raise BadInput(f"name={name!r} and problem={problem!r} are two problems: give one of them")
    options = {"--solvers": solvers, "--step-sizes": step_sizes, "--save": save, "--plot": plot}
    given = [option for option, value in options.items() if value is not None] + ["--seeds"] * (seeds > 1)
    if problem is not None or name in PROBLEMS:
        if results or run or quick:
            raise BadInput(
                "--results, --run and --quick are for records: a comparison is measured now, --save FILE keeps it"
            )
        compare(
            _problem(problem, "problem") if problem else PROBLEMS[str(name)](), solvers, step_sizes, seeds, save, plot
        )
        return
    if given and not (name and name.endswith(".json") and given == ["--plot"]):
        what = f"{name!r} is none" if name else "none is named"
        raise BadInput(
            f"{', '.join(given)}: for the comparison of a problem, and {what}. Problems: {', '.join(sorted(PROBLEMS))}"
        )
    if name is not None and name.endswith(".json"):
        saved = load(name)
        _check_files(None, plot)
        print(saved.table())
        if plot is not None:
            save_picture(saved.plot(), plot)
        return
    name = "discretizations" if name is None else name
    if name not in records.names():
        known = sorted([*PROBLEMS, *records.names()])
        raise BadInput(
            f"{name!r}: no problem and no table of that name, {near_misses(name, known)}. One of your own: --problem module:NAME"
        )
    folder = Path(results) if results else records.RESULTS
    if run or quick:
        if quick and not results:
            folder = Path(tempfile.mkdtemp())
        records.run(name, folder, quick)
    print(records.show(name, folder, terminal()))


def compare(
    problem: "Problem", solvers: str | None, step_sizes: str | None, seeds: int, save: str | None, plot: str | None
) -> None:
    """Run a comparison and print it, a table a time; everything is checked before anything runs."""
    from wgflow.bench import compare as run

    _check_files(save, plot)
    methods = None if solvers is None else {word: _method(problem, word) for word in _words(solvers, "solvers")}
    if methods is None and not problem.methods:
        raise BadInput(f"{problem.title} names no methods of its own: say which solvers, --solvers forward_euler,heun")
    sizes = None if step_sizes is None else [_size(word) for word in _words(step_sizes, "step_sizes")]
    for path in filter(None, (save, plot)):
        check_writable(path)
    try:
        result = run(problem, methods, step_sizes=sizes, seeds=seeds)
    except BaseException as error:  # Ctrl-C, or an error of the user's own function
        if (found := getattr(error, "result", None)) is not None:
            _keep(found, save, plot)
        raise
    _keep(result, save, plot)


def _keep(result: "Result", save: str | None, plot: str | None) -> None:
    """Write and print a comparison; what cannot be written is printed all the same."""
    try:
        if save is not None:
            result.save(save)
    finally:
        print("\n\n".join(str(result.table(time)) for time in result.times))
    if plot is not None:
        save_picture(result.plot(), plot)


def _check_files(save: str | None, plot: str | None) -> None:
    """Raise before the comparison what would stop its end."""
    for path in (save, plot):
        if path is not None and (Path(path).is_dir() or Path(path).parent.is_file()):
            raise BadInput(f"cannot write {path}: expected the name of a file, in a folder")
    if plot is not None:
        known = require("matplotlib.backend_bases", extra="plot").FigureCanvasBase.get_supported_filetypes()
        if Path(plot).suffix[1:] not in known:
            raise BadInput(
                f"plot={plot!r}: expected the name of a picture, that ends in one of .{', .'.join(sorted(known))}"
            )


def _words(text: str, name: str) -> list[str]:
    words = [word.strip() for word in text.split(",")]
    if "" in words:
        raise BadInput(f"{name}={text!r}: expected names separated by commas, one is empty")
    return words


def _size(word: str) -> float:
    value = read(Positive, word, "step_sizes")
    rule = rule_of(Positive)
    return value if rule is None else rule(value, "step_sizes={}")


def _problem(name: str, what: str) -> "Problem":
    from wgflow.bench import Problem

    found = named(name, what)
    try:
        made = found() if callable(found) else found
    except TypeError as error:
        raise BadInput(
            f"{what}={name!r} is not a function without arguments that returns a Problem: {error}"
        ) from error
    if not isinstance(made, Problem):
        raise BadInput(
            f"{what}={name!r} is {shown(made)}: expected a wgflow.bench.Problem, or a function that returns one"
        )
    return made


def _method(problem: "Problem", name: str) -> Any:
    from wgflow import SOLVERS
    from wgflow.bench.problem import as_method

    if name in problem.methods:
        return problem.methods[name]
    if ":" not in name and name not in SOLVERS:
        known = [*problem.methods, *SOLVERS]
        raise BadInput(f"no solver is called {name!r}: {near_misses(name, known)}, or package.module:NAME")
    found = named(name, "solvers") if ":" in name else SOLVERS[name]
    try:
        return as_method(found() if isinstance(found, type) else found, name)
    except TypeError as error:
        raise BadInput(
            f"{name} cannot be made without arguments ({error}): write it in a module, package.module:NAME"
        ) from error
