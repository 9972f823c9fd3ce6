"""The one driver: it starts, advances, saves, checks and stops, and knows nothing of any method."""

import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from wgflow.core.context import ordinary, outside_inference
from wgflow.core.errors import Diverged, Incompatible, NotConverged
from wgflow.core.fields import Count, Whole, checked
from wgflow.core.inner import RESIDUAL, gathered
from wgflow.core.placing import tensors_in
from wgflow.core.ranks import Shares, Sharing, check_same, collective, on_any, shares, together
from wgflow.core.rng import Stream, generator, mixed
from wgflow.core.typing import Info
from wgflow.driver.callbacks import Callback
from wgflow.driver.checkpoint import Checkpoint
from wgflow.driver.compatibility import why_not
from wgflow.driver.crossings import keeps_order, report_crossings
from wgflow.driver.interrupts import Interrupts
from wgflow.driver.readers import Readers
from wgflow.driver.run import Run, StepSize
from wgflow.driver.solution import Save, Solution
from wgflow.driver.start import check_start, check_unmoved, handed_on
from wgflow.driver.undefined import undefined
from wgflow.functionals import Functional
from wgflow.functionals.base import check_batches
from wgflow.measures import MovingMeasure
from wgflow.numerics.pair_clock import PairClock
from wgflow.solvers import Solver, State


@ordinary()
@checked
@collective
def solve(
    F: Functional,
    solver: Solver,
    initial: MovingMeasure,
    *,
    step_size: StepSize,
    num_steps: Count,
    seed: Whole = 0,
    save: Save | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint | None = None,
    state: State | None = None,
    log_every: Count = 50,
    throw: bool = True,
) -> Solution:
    r"""Run a Wasserstein gradient flow of ``F`` from ``initial``.

    Parameters
    ----------
    F : Functional
        What decreases.
    solver : Solver
        The time discretization.
    initial : MovingMeasure
        :math:`\rho_0`, or a tensor or array of points; it is copied, never changed. Its device is the device of the flow.
    step_size : float or callable
        :math:`h`, or a function of the step number :math:`k`. Infinite for the proximal-free limit of an implicit solver.
    num_steps : int
        Time steps in all, those of a resumed run or a passed ``state`` included.
    seed : int
        Everything random is a function of it: network initialization, batches, latents. The global generators are
        left as they were found. Flows in several threads take turns, an update each, since networks draw from them.
    save : Save, optional
        What to keep of the states. By default particles of every step, and of every second, fourth, ... one where those
        would take more than 16 MB.
    callbacks : sequence of Callback
        Readers of the run: progress, logs, pictures, metrics.
    checkpoint : Checkpoint, optional
        Where to save everything; if the folder holds this run already, it goes on from there, bit for bit on a CPU.
        Ctrl-C and SIGTERM then wait for the end of the update and save first; a second one does not wait.
    state : State, optional
        Go on from the ``state`` of an earlier solution. Its generator and networks are those of this flow from then on, so a second
        flow from the same state is refused where they have moved: give each a ``copy.deepcopy`` of it.
    log_every : int
        Updates between looks at what they report (``on_log``). The device is waited for then, at the end of a time
        step and for a checkpoint, and at no other time.
    throw : bool
        Raise :class:`Diverged`; when False return the solution with ``status="diverged"``.

    Returns
    -------
    Solution

    Raises
    ------
    Incompatible
        When the three parts do not work together; the message says what to use instead. Also when the points of the
        flow and of its target differ in shape, dtype or device.
    BadInput
        For a step size or a count that is not positive, a start with entries that are not finite, or one outside of the support,
        where the log density or the potential that the flow goes by is not finite.
    Diverged
        When a reported quantity or a saved tensor is not finite; names the term, the step, the update and the time. Its
        ``solution`` holds what was saved until then and, for particles, the last finite law.
    CheckpointError
        When the folder holds another run, or no readable checkpoint among those it has.

    Warns
    -----
    EfficiencyWarning
        In the first update, when the sums over pairs of points would take more than an hour in all.

    Examples
    --------
    >>> import torch
    >>> from wgflow import ForwardEuler, Particles, PotentialEnergy, solve
    >>> V = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> flow = solve(V, ForwardEuler(), Particles(torch.ones(1, 2)), step_size=0.5, num_steps=2)
    >>> flow.measure.x
    tensor([[0.2500, 0.2500]])
    """
    how = shares()
    with ExitStack() as stack:
        stack.enter_context(Sharing(Shares()))  # callbacks may be there on one rank only

        settings = {"step_size": step_size, "num_steps": num_steps, "seed": seed, "save": save}
        run = together(lambda: _begun(F, solver, initial, state, stack, **settings))
        if how.world > 1:  # first: a rank that is refused below for its own numbers has other ones
            check_same(tensors_in([run.state, run.F, run.state.rng.get_state()]))
        with run.stream.turn():
            together(lambda: check_start(run))
        if checkpoint is not None:
            run.interrupts = stack.enter_context(Interrupts())
            stack.enter_context(checkpoint.opened(run, callbacks))
        if state is not None and run.resumed_from is None:
            together(lambda: check_unmoved(state))
        together(lambda: check_batches(run.F.at(run.state.k, run.state.t)))  # those found in the folder of the run
        return _drive(run, how, callbacks, checkpoint, log_every, throw)


def _begun(
    F: Functional, solver: Solver, initial: MovingMeasure, state: State | None, stack: ExitStack, **settings: Any
) -> Run:
    F, solver, initial = outside_inference(F), outside_inference(solver), outside_inference(initial)
    reason = why_not(F, solver, initial)
    if reason is not None:
        raise Incompatible(reason)
    solver, seed = solver.suited(initial), settings["seed"]
    stream = Stream(seed, initial.device)
    stack.callback(stream.close)
    with stream.turn():
        start = initial if state is None else None
        if state is None:
            # Mixed: a start that was drawn from manual_seed(seed) would be the noise of the first step as well.
            state = solver.init(F, initial, generator(mixed(seed), initial.device))
        return Run(F, solver, state, stream=stream, initial=start, **settings)


def _drive(
    run: Run,
    how: Shares,
    callbacks: Sequence[Callback],
    checkpoint: Checkpoint | None,
    log_every: int,
    throw: bool,
) -> Solution:
    solution, started, stops = run.solution, [], []

    def start() -> None:
        for c in callbacks:
            stops.append(c.on_start(run) == Run.STOP)
            started.append(c)

    def end() -> None:
        # Particles of the last good step are still there; networks have been changed in place.
        kept = solution.status == "diverged" and run.state.measure.tracks_points
        solution.state, solution.measure = run.state, run.sound[0] if kept else run.state.measure
        handed_on(run.state)
        with ExitStack() as ends:  # all of them end, also when one fails
            for c in reversed(started):
                ends.callback(c.on_end, run)

    try:
        run.keep()
        together(start)
        if checkpoint is not None and run.resumed_from is None:
            checkpoint.write(run, callbacks)
        if on_any(any(stops), run.state.rng.device) or _advance(run, how, callbacks, checkpoint, log_every):
            solution.status = "stopped"
        _say_unconverged(run)
    except BaseException as error:
        if isinstance(error, Diverged):
            _explain(error, run)
        if throw or not isinstance(error, Diverged):
            end()
            raise
    together(end)
    return solution


def _explain(error: Diverged, run: Run) -> None:
    """Add to an error what was saved until then, and why it has come so far."""
    run.solution.status = "diverged"
    error.solution, error.time = run.solution, run.sound[1]
    why = undefined(run.F, run.solver.estimator, run.state.estimator, run.sound[0], run.initial)
    error.advice = error.advice if why is None else why[0].upper() + why[1:]
    error.args = (f"{error.reason} {error.advice} The last finite law is that of time {error.time:g}.",)


def _advance(
    run: Run, how: Shares, callbacks: Sequence[Callback], checkpoint: Checkpoint | None, log_every: int
) -> bool:
    """Update until all time steps are done, ranks sharing like that; returns whether a callback has stopped the run before."""
    ledger, solution, device = run.ledger, run.solution, run.state.rng.device
    ordered = keeps_order(run.F, run.solver, run.state.measure)
    readers = Readers(callbacks)
    begun, clock = time.perf_counter(), PairClock(run.total_updates - run.updates)
    stop = run.interrupts.asked(looked=True, device=device)
    while run.state.k < run.num_steps and not stop:
        k = run.state.k
        with run.stream.turn(), gathered(run.state.carried) as inner, Sharing(how), clock:
            before = run.state.measure
            run.state, info = run.solver.update(run.F, run.state, run.h(k))
            if ordered:
                report_crossings(before, run.state.measure)
        run.state.carried = inner.found
        info |= inner.info()
        run.advice |= inner.advice
        ledger.add(k, info)
        readers.call("on_update", run, info)
        looked, stepped = ledger.updates % log_every == 0, run.state.k > k
        last = run.state.k == run.num_steps
        if looked or stepped:
            ledger.settle()
        if looked or last or not info:  # where nothing is reported, the state itself is looked at
            run.check()
        if stepped:
            run.sound = (run.state.measure, run.state.t)
        if looked:
            readers.call("on_log", run, ledger.mean_and_clear(ledger.window))
        if stepped:
            row = _record(run, time.perf_counter() - begun)
            begun = time.perf_counter()
            stop = readers.agree(Run.STOP in readers.call("on_step", run, row))
            if stop:
                readers.call("on_stop", run, row)
            row |= run.metrics
            run.metrics = {}
            solution.history.append(row)
            run.keep(last=stop or last)
        if (looked and not stepped) or stop:
            readers.agree()
        stop = run.interrupts.asked(looked=looked or stepped, device=device) or stop
        if checkpoint is not None and checkpoint.due(run, looked=looked or stepped, last=stop or last):
            ledger.settle()
            checkpoint.write(run, callbacks, wait=stop or last)
    return stop


def _say_unconverged(run: Run) -> None:
    """A flow that rests on solutions that are none is not done, and says so."""
    solution = run.solution
    remark = run.solver.remark(solution.history)
    if remark is not None:
        warnings.warn(remark, RuntimeWarning, stacklevel=6)
    if not solution.unconverged:
        return
    if solution.status == "done":
        solution.status = "unconverged"
    worst = {name: max(solution.curve(name + RESIDUAL)[1]) for name in solution.unconverged}
    warnings.warn(
        "inside of the time steps "
        + "; ".join(
            f"{name} missed its tolerance in {share:.0%} of the steps (residual up to {worst[name]:.2g}). "
            f"{run.advice.get(name, '')}".rstrip()
            for name, share in solution.unconverged.items()
        ),
        NotConverged,
        stacklevel=6,
    )


def _record(run: Run, seconds: float) -> dict[str, Any]:
    means: Info = run.ledger.mean_and_clear(run.ledger.step)
    return {"k": run.state.k, "t": run.state.t, "update": run.updates, "seconds": seconds} | means
