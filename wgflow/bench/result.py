"""What a comparison found: a row for every method and step size, as a table, as a picture, and as a file."""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from wgflow.bench.order import UNSTABLE, Order, fit
from wgflow.bench.picture import picture
from wgflow.bench.show import table
from wgflow.bench.tables import Text, terminal
from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, Finite, NonNegative, Positive, Whole, checked
from wgflow.storage.files import read_text, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
Status = Literal["done", "unconverged", "diverged", "refused"]


@dataclass(frozen=True)
class Row(Checked):
    """A method with one step size.

    Attributes
    ----------
    method : str
        Its label.
    step_size : float
        :math:`h`.
    steps : int
        How many lead to the last time.
    status : {"done", "unconverged", "diverged", "refused"}
        All steps made; a solver inside of one missed its tolerance; a quantity ceased to be finite; or the parts do not work together.
    reason : str
        Why it is not done.
    errors : tuple of tuples of float or None
        One tuple a seed, with one error a time; None for one that is not finite. Empty for a row without errors.
    seconds : tuple of float
        One a seed: CPU time of the process on a CPU, waited-for wall time on a GPU.
    gradients : float or None
        First variations asked of the estimator, mean over seeds.
    networks : float or None
        Calls of maps, generators and critics, mean over seeds.
    iterations : float or None
        Iterations that solvers inside of the steps report, such as scalings on a grid.
    memory_mb : float or None
        Growth of the peak memory during a run: of the resident set on Linux, of tensors on a GPU.
    points : int or None
        Of a cloud or a grid.
    floor : float
        Error that is not one in time: of sampling.
    eps : float
        Unit of rounding of the numbers computed with.

    Examples
    --------
    >>> import wgflow as wg
    >>> problem = wg.bench.attraction(d=2, n=10)
    >>> row = wg.bench.compare(problem, {"Euler": wg.ForwardEuler()}, step_sizes=(0.1,), progress=False).rows[0]
    >>> row.method, row.step_size, row.status
    ('Euler', 0.1, 'done')
    """

    method: str
    step_size: Positive
    steps: Count
    status: Status
    reason: str
    errors: tuple[tuple[Finite | None, ...], ...]
    seconds: tuple[NonNegative, ...]
    gradients: NonNegative | None
    networks: NonNegative | None
    iterations: NonNegative | None
    memory_mb: Finite | None
    points: int | None
    floor: NonNegative
    eps: Positive

    def error(self, index: int = -1) -> float | None:
        """Return the mean error over seeds at time number ``index``, by default the last; None where there is none."""
        found = [of_seed[index] for of_seed in self.errors]
        known = [e for e in found if e is not None]
        return sum(known) / len(known) if known and len(known) == len(found) else None

    def spread(self, index: int = -1) -> float:
        """Return the standard error of that mean; 0 for one seed."""
        found, mean = [of_seed[index] for of_seed in self.errors], self.error(index)
        if mean is None or len(set(found)) < 2:
            return 0.0
        squares = sum((e - mean) ** 2 for e in found if e is not None)
        return math.sqrt(squares / (len(found) - 1) / len(found))

    @property
    def cpu_seconds(self) -> float | None:
        """The least over seeds, which others on the machine disturb least."""
        return min(self.seconds, default=None)


@dataclass(frozen=True)
class Result(Checked):
    """What :func:`compare` found.

    Attributes
    ----------
    problem : str
        Name of the problem.
    times : tuple of float
        When errors were taken.
    step_sizes : tuple of float
        Those that were asked for.
    seeds : tuple of int
        Those that were run.
    start_errors : tuple of float or None
        Error of the start against the exact law of each time: how far the flow has to go.
    rows : tuple of Row
        One a method and step size.
    about : dict
        Date, machine, versions and commit.

    Examples
    --------
    >>> import wgflow as wg
    >>> problem = wg.bench.attraction(d=2, n=10)
    >>> result = wg.bench.compare(problem, {"Euler": wg.ForwardEuler()}, step_sizes=(0.2, 0.1), progress=False)
    >>> result.problem, len(result.rows)
    ('quadratic attraction, d = 2', 2)
    """

    problem: str
    times: tuple[Positive, ...]
    step_sizes: tuple[Positive, ...]
    seeds: tuple[Whole, ...]
    start_errors: tuple[Finite | None, ...]
    rows: tuple[Row, ...]
    about: dict[str, Any]

    @property
    def methods(self) -> tuple[str, ...]:
        """Labels, in their order."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    def of(self, method: str) -> tuple[Row, ...]:
        """Return the rows of a method, by falling step size; raises ``BadInput`` for an unknown label."""
        found = [row for row in self.rows if row.method == method]
        if not found:
            raise BadInput(f"no method {method!r} in this comparison: it has {', '.join(map(repr, self.methods))}")
        return tuple(sorted(found, key=lambda row: -row.step_size))

    def index(self, time: float | None) -> int:
        """Return the number of a time, of the last one for None; raises ``BadInput`` for another time."""
        if time is None:
            return len(self.times) - 1
        near = [i for i, t in enumerate(self.times) if math.isclose(t, time, rel_tol=1e-9)]
        if not near:
            raise BadInput(f"time={time}: errors were taken at {', '.join(f'{t:g}' for t in self.times)}")
        return near[0]

    def order(self, method: str, time: float | None = None) -> Order:
        """Return the observed order of a method at a time, by default the last; see :class:`Order` for what it rests on."""
        rows, i = self.of(method), self.index(time)
        start = self.start_errors[i]
        return fit(
            [row.step_size for row in rows],
            [row.error(i) for row in rows],
            [row.spread(i) for row in rows],
            floor=max(row.floor for row in rows),
            scale=start or math.inf,
            eps=rows[0].eps,
        )

    def unstable(self, row: Row, time: float | None = None) -> bool:
        """Whether the error of a row is above three times that of the start, or not finite."""
        i = self.index(time)
        error, start = row.error(i), self.start_errors[i]
        return bool(row.errors) and (error is None or error > UNSTABLE * (start or math.inf))

    def table(self, time: float | None = None, *, width: int | None = None) -> Text:
        """Return errors, orders and costs as text; ``width`` columns wide, by default as wide as the terminal, if there is one.

        Calls and milliseconds are those of a step, at the smallest step size. ``print`` it, or look at it in a notebook.
        """
        return table(self, time, width or terminal())

    def plot(self, time: float | None = None, *, figure: "Figure | None" = None) -> "Figure":
        """Draw errors against step size and seconds, in a new figure of matplotlib (extra ``plot``) or in ``figure``; returns it."""
        return picture(self, time, figure)

    def __str__(self) -> str:
        """Return the table."""
        return str(self.table())

    def save(self, path: str | Path) -> Path:
        """Write everything to a JSON file, whole or not at all; raises ``CannotWrite`` when the file system refuses."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        results = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("about", "rows")}
        held = {"wgflow_comparison": FORMAT, **self.about, "results": results | {"rows": rows}}
        write_text(path, json.dumps(held, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote. No code is run.

        Raises
        ------
        BadInput
            For a file that is not a saved comparison, or of another version of the format; names what is wrong.
        """
        what = "a saved comparison of wgflow"
        text = read_text(Path(path), what)
        try:
            held = json.loads(text, parse_constant=_no_constant)
            if not isinstance(held, dict) or "wgflow_comparison" not in held:
                raise BadInput("it has no entry wgflow_comparison")
            found = held.pop("wgflow_comparison")
            if found != FORMAT:
                raise BadInput(f"it is of format {found!r}, this version of wgflow reads {FORMAT}")
            results = held.pop("results")
            rows = tuple(Row(**row) for row in results.pop("rows"))
            result = cls(rows=rows, about=held, **results)
            result._check()
        except (BadInput, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise BadInput(f"{path} is not {what}: {error}") from error
        return result

    def _check(self) -> None:
        """Raise ``BadInput`` unless the parts of a file go together."""
        for problem in self._problems():
            raise BadInput(problem)

    def _problems(self) -> Iterator[str]:
        if not self.times or not self.rows or len(self.start_errors) != len(self.times):
            yield "expected at least one row and one time, and an error of the start for each time"
        for row in self.rows:
            if len(row.errors) != len(row.seconds) or any(len(e) != len(self.times) for e in row.errors):
                yield f"the row {row.method!r}, step size {row.step_size:g}, has not one error a seed and time"
        missing = {"date", "machine", "versions", "commit"} - self.about.keys()
        if missing:
            yield f"it does not say its {', '.join(sorted(missing))}"


@checked
def load(path: str | Path) -> Result:
    """Read a comparison that :meth:`Result.save` wrote.

    Parameters
    ----------
    path : path
        A ``.json`` file.

    Returns
    -------
    Result
        What was saved.

    Raises
    ------
    BadInput
        For any other file.

    Examples
    --------
    >>> import tempfile
    >>> import wgflow as wg
    >>> problem = wg.bench.attraction(d=2, n=10)
    >>> result = wg.bench.compare(problem, {"Euler": wg.ForwardEuler()}, step_sizes=(0.1,), progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = wg.bench.load(result.save(f"{folder}/attraction.json"))
    >>> again.rows == result.rows
    True
    """
    return Result.load(path)


def _no_constant(name: str) -> None:
    raise BadInput(f"{name} is not JSON")
