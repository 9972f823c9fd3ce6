"""Step sizes that equalise the movement of steps."""

import math

import pytest
import torch

from wgflow import JKO, LBFGS, Adam, BadInput, Callback, Checkpoint, ForwardEuler, Particles, PotentialEnergy, solve
from wgflow.driver.pacing import EqualMovement, retimed

V = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))


def start():
    return Particles(torch.tensor([[3.0, 4.0]], dtype=torch.float64))


def test_steps_of_equal_length_towards_a_point():
    """One particle and V = |x|²/2: a step of size h moves |x| h / (1 + h), so the sizes follow from the distances."""
    pace = EqualMovement(0.05, distance=0.4, factor=1e6)
    flow = solve(V, JKO(optim=LBFGS(), iters=1), start(), step_size=pace, num_steps=8, callbacks=[pace])
    r, h = 5.0, 0.05
    for row in flow.history:
        moved = r * h / (1 + h)
        assert (row["step_size"], row["movement"]) == (pytest.approx(h, rel=1e-4), pytest.approx(moved, rel=1e-4))
        r, h = r - moved, h * 0.4 / moved
    movements = [row["movement"] for row in flow.history[2:]]
    assert movements == pytest.approx([0.4] * 6, rel=0.2)  # the rule lags a step behind a speed that falls by an eighth


def test_bounds():
    pace = EqualMovement(0.01, distance=1.0, factor=1.5, largest=0.05)
    flow = solve(V, JKO(optim=LBFGS(), iters=1), start(), step_size=pace, num_steps=7, callbacks=[pace])
    sizes = [row["step_size"] for row in flow.history]
    assert sizes == pytest.approx([0.01, 0.015, 0.0225, 0.03375, 0.05, 0.05, 0.05])


class Stop(Exception):
    pass


class StopAfter(Callback):
    def on_update(self, run, info):
        if run.updates == 11:
            raise Stop


def test_a_resumed_run_goes_on_with_the_same_sizes(tmp_path):
    solver = JKO(optim=Adam(0.05), iters=4)

    def run(*more, **options):
        pace = EqualMovement(0.05, distance=0.2)
        callbacks = [pace, *more]
        return solve(V, solver, start(), step_size=pace, num_steps=5, callbacks=callbacks, **options)

    whole = run()
    with pytest.raises(Stop):
        run(StopAfter(), checkpoint=Checkpoint(tmp_path, every_updates=1))
    again = run(checkpoint=Checkpoint(tmp_path, every_updates=1))
    assert torch.equal(again.measure.x, whole.measure.x)
    assert again.curve("step_size") == whole.curve("step_size")


def test_a_second_run_begins_anew():
    pace = EqualMovement(0.05, distance=0.4)
    runs = [
        solve(V, JKO(optim=LBFGS(), iters=1), start(), step_size=pace, num_steps=3, callbacks=[pace]) for _ in range(2)
    ]
    assert runs[0].times == runs[1].times


def test_retimed_steps_of_the_same_flow_move_evenly():
    """x(t) = e^-t: the time that halves each remaining distance; repeating converges to equal movement."""
    h = [0.5] * 6
    for _ in range(60):
        t = torch.tensor([0.0, *h], dtype=torch.float64).cumsum(0)
        moved = -(-t).exp().diff()
        h = retimed(h, moved.tolist())
    assert sum(h) == pytest.approx(3.0)
    assert moved.tolist() == pytest.approx([(1 - math.exp(-3)) / 6] * 6, rel=1e-6)


def test_what_it_refuses():
    for wrong in ({"first": 0.0}, {"distance": -1.0}, {"factor": 1.0}, {"largest": 0.0}, {"first": math.inf}):
        with pytest.raises(BadInput):
            EqualMovement(**{"first": 0.1, "distance": 1.0} | wrong)
    pace = EqualMovement(0.1, 1.0)
    with pytest.raises(BadInput, match="plain step_size"):
        solve(V, ForwardEuler(), start(), step_size=pace, num_steps=1, callbacks=[pace])
    for args in (([1.0], [1.0, 2.0]), ([], []), ([1.0], [0.0]), ([1.0], [1.0], 0.0)):
        with pytest.raises(BadInput):
            retimed(*args)
