"""Every method with every step size and every seed: errors, costs, and refusals with their reasons."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wgflow import Callback, Functional, Grid, MovingMeasure, Particles, Save, solve, why_not
from wgflow.bench.counting import Counts, counted
from wgflow.bench.judge import Judge, start_of
from wgflow.bench.measuring import Clock, peak_memory_mb, record, reset_peak
from wgflow.bench.problem import Method, Problem, as_method
from wgflow.bench.result import Result, Row, Status
from wgflow.core.clock import reached
from wgflow.core.errors import BadInput, Diverged, NotConverged, WgflowError
from wgflow.core.fields import Count, Positive, Whole, checked
from wgflow.core.progress import progress_bar
from wgflow.core.rng import generator

if TYPE_CHECKING:
    from tqdm import tqdm

_ITERATIONS = "/iterations"
_SAME = 1e-3
"""Steps of two seeds that differ by less, relatively, are those of a method without noise."""


@checked
def compare(
    problem: Problem,
    methods: Mapping[str, Any] | None = None,
    *,
    step_sizes: Sequence[Positive] | None = None,
    seeds: Count | Sequence[Whole] = 1,
    progress: bool = True,
) -> Result:
    """Run a problem by several methods, with several step sizes and seeds, and compare errors and costs.

    Parameters
    ----------
    problem : Problem
        The flow, of which the exact law is known.
    methods : mapping from labels to methods, optional
        A method is a solver (with its estimator inside), a function of the step size that returns one, a :class:`Method` with a
        functional or a start of its own, or a ``Flow`` such as a preset. By default those of the problem.
    step_sizes : sequence of float, optional
        By default those of the problem.
    seeds : int or sequence of int
        How many, or which ones. Error bars are over them; methods without noise differ from seed to seed by nothing but the start,
        where the problem draws one.
    progress : bool
        Show a bar on the standard error.

    Returns
    -------
    Result
        A row for every method and step size. A method that is refused, diverges or misses an inner tolerance is a row too, with the reason.

    Raises
    ------
    BadInput
        For no method, no step size, one that does not fit into the times of the problem, a method that takes none of them, or an error
        of the start that is no number.

    Notes
    -----
    Every method first makes one step that is not measured, or two on particles: imports and allocations are then nobody's, and it is
    seen whether seeds make a difference. Errors are taken outside of the clock. What a user's function raises on its own account ends
    the comparison, and so does Ctrl-C: the exception has a note of the method and the step size, and the ``Result`` of all rows before
    as its attribute ``result`` where there are any.

    Examples
    --------
    The particles contract by :math:`e^{-t}`; half the step of forward Euler has half of the error.

    >>> import wgflow as wg
    >>> problem = wg.bench.attraction(d=2, n=10)
    >>> result = wg.bench.compare(problem, {"Euler": wg.ForwardEuler()}, step_sizes=(0.02, 0.01), progress=False)
    >>> coarse, fine = (row.errors[0][-1] for row in result.rows)
    >>> round(coarse / fine, 1)
    2.0
    """
    ways = {label: as_method(m, label) for label, m in (problem.methods if methods is None else methods).items()}
    sizes = tuple(problem.step_sizes if step_sizes is None else step_sizes)
    if not ways:
        raise BadInput("methods is empty: expected at least one, such as {'Euler': ForwardEuler()}")
    if not sizes or len(set(sizes)) < len(sizes):
        raise BadInput(f"step_sizes={list(sizes)}: expected at least one, each once")
    for h in sizes:
        problem.steps(h)
    which = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not which or len(set(which)) < len(which):
        raise BadInput(f"seeds={list(which)}: expected at least one, each once")
    jobs = [(label, m, h) for label, m in ways.items() for h in sizes if m.takes(h)]
    for _, method, h in jobs:
        method.with_step(h)
    for label, method in ways.items():
        if not any(method.takes(h) for h in sizes):
            raise BadInput(
                f"methods[{label!r}] takes none of the step sizes {list(sizes)}: it has its own, {list(method.step_sizes or ())}"
            )
    judge, start = Judge.of(problem), start_of(problem.initial, which[0])
    start_errors = judge.start_errors(start)
    rows, floors = list[Row](), dict[str, float]()

    def result() -> Result:
        return Result(
            problem=problem.title,
            times=problem.times,
            step_sizes=sizes,
            seeds=which,
            start_errors=start_errors,
            rows=tuple(rows),
            about=record(start.device),
        )

    with progress_bar(total=sum(len(which[: m.seeds]) for _, m, _ in jobs), disable=not progress, leave=False) as bar:
        for label, method, h in jobs:
            bar.set_description_str(f"{label}, h = {h:g}")
            try:
                if label not in floors:
                    floors[label] = _floor(problem, method, h, which[0], judge)
                rows.append(_row(problem, label, method, h, which[: method.seeds], judge, floors[label], bar))
            except BaseException as error:
                error.add_note(f"in the comparison of {problem.title!r}, method {label!r}, step size {h:g}")
                if rows:  # hours, it may be
                    vars(error)["result"] = result()
                raise
    return result()


@dataclass
class _Watch(Callback):
    """Takes the errors between start and end, outside of the clock and of the counts."""

    judge: Judge
    clock: Clock
    counts: Counts
    errors: list[float | None] = field(default_factory=list, init=False)
    away: float = field(default=0.0, init=False)

    def on_start(self, run: Any) -> None:
        """What was asked for before is no part of the flow."""
        self.counts.gradients = self.counts.networks = 0

    def on_step(self, run: Any, row: dict[str, Any]) -> None:
        """Take the error where it is time."""
        times = self.judge.problem.times[:-1]
        if len(self.errors) == len(times) or not reached(run.state.t, times[len(self.errors)]):
            return
        begun, before = self.clock()[0], replace(self.counts)
        self.errors.append(self.judge.at(run.state.measure, times[len(self.errors)]))
        self.counts.gradients, self.counts.networks = before.gradients, before.networks
        self.away += self.clock()[0] - begun


@dataclass(frozen=True)
class _Outcome:
    """One run."""

    status: Status
    reason: str = ""
    errors: tuple[float | None, ...] = ()
    seconds: float = 0.0
    gradients: int = 0
    networks: int = 0
    iterations: float = 0.0
    memory_mb: float | None = None


def _parts(problem: Problem, method: Method, seed: int) -> tuple[Functional, MovingMeasure]:
    F = problem.functional if method.functional is None else method.functional
    return F, start_of(problem.initial if method.initial is None else method.initial, seed)


def _floor(problem: Problem, method: Method, h: float, seed: int, judge: Judge) -> float:
    """Make a first step, and of particles another one with another seed, which shows noise; return the floor of the method."""
    ends: list[tuple[Tensor, Tensor]] = []
    F, start = _parts(problem, method, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for s in (seed, seed + 1):
            F, begun = _parts(problem, method, s)
            try:
                end = solve(F, method.with_step(h), begun, step_size=h, num_steps=1, seed=s, save=Save(0)).measure
            except WgflowError:  # the run that is measured says it
                return method.floor or 0.0
            if not isinstance(begun, Particles) or not isinstance(end, Particles):
                break
            ends.append((begun.x, end.x))
    try:
        return judge.floor(method, start, noisy=len(ends) == 2 and _differ(*ends))
    except WgflowError:  # as above, where its measure is none that the error is taken of
        return 0.0


def _differ(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    """Whether two steps, by their starts and ends, lead elsewhere; rounding does not count."""
    if one[1].shape != other[1].shape:
        return True
    return float((one[1] - other[1]).norm()) > _SAME * float((one[1] - one[0]).norm())


def _row(
    problem: Problem,
    label: str,
    method: Method,
    h: float,
    seeds: Sequence[int],
    judge: Judge,
    floor: float,
    bar: "tqdm[Any]",
) -> Row:
    """Run a method with a step size; what ends one seed ends them all."""
    runs: list[_Outcome] = []
    for seed in seeds:
        runs.append(_run(problem, method, h, seed, judge))
        bar.update(1 if runs[-1].errors else len(seeds) - len(runs) + 1)
        if not runs[-1].errors:
            break
    start = _parts(problem, method, seeds[0])[1]
    worst = next((r for r in runs if r.status not in ("done", "unconverged")), None)
    scored = [] if worst is not None else runs
    worst = worst or next((r for r in runs if r.status != "done"), runs[0])
    memory = [r.memory_mb for r in scored if r.memory_mb is not None]
    return Row(
        method=label,
        step_size=h,
        steps=problem.steps(h),
        points=_points(start),
        status=worst.status,
        reason=worst.reason,
        errors=tuple(r.errors for r in scored),
        seconds=tuple(r.seconds for r in scored),
        gradients=_mean([r.gradients for r in scored]),
        networks=_mean([r.networks for r in scored]),
        iterations=_mean([r.iterations for r in scored]),
        memory_mb=max(memory, default=None),
        floor=floor,
        eps=_eps(start),
    )


def _run(problem: Problem, method: Method, h: float, seed: int, judge: Judge) -> _Outcome:
    F, start = _parts(problem, method, seed)
    device = start.device
    try:
        solver = method.with_step(h)
        reason = why_not(F, solver, start)
        if reason is not None:
            return _Outcome("refused", reason)
        clock = Clock(device)
        reset_peak(device)
        before = peak_memory_mb(device)
        with warnings.catch_warnings(), counted() as counts:
            warnings.simplefilter("ignore", NotConverged)  # the status says it
            watch = _Watch(judge, clock, counts)
            begun = clock()[0]
            flow = solve(
                F, solver, start, step_size=h, num_steps=problem.steps(h), seed=seed, save=Save(0), callbacks=[watch]
            )
            seconds = clock()[0] - begun - watch.away
        after = peak_memory_mb(device)
        errors = (*watch.errors, judge.at(flow.measure, problem.horizon))
    except Diverged as error:
        return _Outcome("diverged", str(error))
    except WgflowError as error:
        return _Outcome("refused", str(error))
    inner = [row[key] for row in flow.history for key in row if key.endswith(_ITERATIONS)]
    missed = ", ".join(
        f"{name} missed its tolerance in {share:.0%} of the steps" for name, share in flow.unconverged.items()
    )
    return _Outcome(
        "unconverged" if flow.unconverged else "done",
        missed,
        errors,
        seconds,
        counts.gradients,
        counts.networks,
        sum(inner),
        None if before is None or after is None else after - before,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _points(m: MovingMeasure) -> int | None:
    """Of a cloud or a grid; nothing for what makes as many as it is asked for."""
    if isinstance(m, Grid):
        return m.mass.numel()
    return len(m) if isinstance(m, Particles) else None


def _eps(m: MovingMeasure) -> float:
    rng = generator(0, m.device)
    return torch.finfo(m.start(rng).inference().draw(1, rng).x.dtype).eps
