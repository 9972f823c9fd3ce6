"""The driver: what it does, what it keeps, and what it leaves alone."""

import copy
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from _flows import START, quadratic, two_particles
from torch.utils._python_dispatch import TorchDispatchMode

import wgflow
from wgflow import (
    JKO,
    R1,
    SGD,
    Adam,
    BadInput,
    Callback,
    Critic,
    Diverged,
    Evaluate,
    Particles,
    PotentialEnergy,
    Pushforward,
    Save,
    Softplus,
    StandardNormal,
    solve,
)
from wgflow.core.rng import generator


def network(inputs: int, outputs: int) -> torch.nn.Module:
    layers = torch.nn.Linear(inputs, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.Linear(8, outputs)
    return torch.nn.Sequential(*layers)


def generative(**options: Any) -> wgflow.Solution:
    """A tiny S-JKO whose networks use the global generator (dropout)."""
    settings = {
        "F": Softplus(StandardNormal(2), batch=8),
        "solver": JKO(Critic(lambda: network(2, 1), r1=R1(0.1)), Adam(1e-2), iters=4, batch=8),
        "initial": Pushforward(StandardNormal(2), lambda: network(2, 2), ema=0.9),
        "step_size": 0.5,
        "num_steps": 2,
    }
    return solve(**settings | options)


def weights(solution: wgflow.Solution) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in solution.state.successor.parameters()])


class Worked(Callback):
    """Fails the test when an update is made."""

    def on_update(self, run, info):
        pytest.fail("work has started")


# --- what happens along the flow --------------------------------------------------------------------------------------


def test_an_infinite_step_is_the_proximal_free_limit_of_an_implicit_solver():
    """Without the proximal term JKO minimises the functional itself."""
    solver = JKO(optim=SGD(1.0), iters=1)
    solution = two_particles(solver=solver, step_size=math.inf, num_steps=1)
    # gradient of the mean of |x|^2/2 over two particles is x/2
    torch.testing.assert_close(solution.measure.x, START / 2)
    assert solution.times == [0.0, math.inf]


def test_step_sizes_may_vary():
    steps = [0.5, 0.25, 0.125]
    solution = two_particles(step_size=lambda k: steps[k], num_steps=3)
    torch.testing.assert_close(solution.measure.x, START * 0.5 * 0.75 * 0.875)
    assert solution.times == [0.0, 0.5, 0.75, 0.875]
    assert solution.state.t == 0.875


def test_numbers_may_come_from_numpy():
    ours = two_particles(step_size=np.float32(0.25), num_steps=np.int64(3), seed=np.int32(1), log_every=np.int16(2))
    assert torch.equal(ours.measure.x, two_particles(num_steps=3).measure.x)
    assert type(ours.state.t) is float


def test_the_start_is_not_changed():
    start = Particles(START.clone())
    two_particles(initial=start)
    assert torch.equal(start.x, START)
    net = network(2, 2)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    generative(initial=Pushforward(StandardNormal(2), net))
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (3, [0, 3, 5]), (9, [0, 5]), (0, [])]
)
def test_states_are_saved_at_their_turn_and_the_first_and_last_always(every, steps):
    solution = two_particles(num_steps=5, save=Save(every))
    assert solution.times == pytest.approx([0.25 * k for k in steps])
    for k, saved in zip(steps, solution.saved, strict=True):
        torch.testing.assert_close(saved.x, START * 0.75**k)


def test_saving_takes_any_function_of_the_state():
    assert two_particles(save=Save(2, fn=lambda state: state.k)).saved == [0, 2, 4]
    assert generative().saved == [None] * 3


def test_the_history_has_a_record_a_step_with_the_means_of_its_updates():
    seen = []

    class Record(Callback):
        def on_update(self, run, info):
            seen.append((run.updates, {name: float(value) for name, value in info.items()}))

    solution = generative(callbacks=[Record()], num_steps=3, step_size=0.5, log_every=7)
    assert [(row["k"], row["t"], row["update"]) for row in solution.history] == [(1, 0.5, 4), (2, 1.0, 8), (3, 1.5, 12)]
    assert [update for update, _ in seen] == list(range(1, 13))
    for row in solution.history:
        assert row["seconds"] >= 0
        for name in ("critic/objective", "jko/transport", "jko/energy"):
            values = [info[name] for update, info in seen if row["update"] - 4 < update <= row["update"]]
            assert row[name] == pytest.approx(sum(values) / 4, rel=1e-12)
    assert solution.curve("jko/energy") == ([0.5, 1.0, 1.5], [row["jko/energy"] for row in solution.history])
    assert solution.curve("no such thing") == ([], [])


@pytest.mark.parametrize("log_every", [1, 3, 4, 100])
def test_how_often_one_looks_changes_nothing_else(log_every):
    theirs = generative(log_every=50)
    ours = generative(log_every=log_every)
    assert torch.equal(weights(ours), weights(theirs))
    drop = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]  # noqa: E731
    assert drop(ours.history) == drop(theirs.history)


# --- going on ---------------------------------------------------------------------------------------------------------


def test_going_on_from_a_state_is_one_long_flow():
    first = two_particles(num_steps=2)
    second = two_particles(num_steps=5, state=first.state, save=Save(2))
    assert torch.equal(second.measure.x, two_particles(num_steps=5).measure.x)
    assert [row["k"] for row in second.history] == [3, 4, 5]
    assert [row["update"] for row in second.history] == [3, 4, 5]
    assert second.times == [0.5, 1.0, 1.25]


def test_going_on_inside_a_flow_of_networks_is_one_long_flow():
    """Without dropout: the global generator, from which it draws, is not part of a state."""
    plain = {
        "initial": Pushforward(StandardNormal(2), lambda: torch.nn.Linear(2, 2), ema=0.9),
        "solver": JKO(Critic(lambda: torch.nn.Linear(2, 1)), iters=3, first_iters=5, batch=8),
    }
    first = generative(num_steps=1, **plain)
    second = generative(num_steps=3, state=first.state, **plain)
    whole = generative(num_steps=3, **plain)
    assert torch.equal(weights(second), weights(whole))
    assert [row["update"] for row in second.history] == [8, 11]


def test_a_second_flow_from_a_state_begins_where_the_first_one_did():
    first = two_particles(num_steps=2)
    ends = [
        two_particles(num_steps=5, state=first.state).measure.x for _ in range(2)
    ]  # nothing is drawn, nothing trained
    assert torch.equal(*ends)


@pytest.mark.parametrize("solver", ["noise", "networks"])
def test_a_second_flow_from_a_state_that_the_first_has_moved_is_refused(solver):
    """It began with the random numbers and the networks of the first one's end, at the earlier time, and said nothing."""
    if solver == "noise":
        go = lambda **options: two_particles(F=wgflow.Entropy(), solver=wgflow.Langevin(), **options)  # noqa: E731
    else:
        parts = {
            "initial": Pushforward(StandardNormal(2), lambda: torch.nn.Linear(2, 2)),
            "solver": JKO(Critic(lambda: torch.nn.Linear(2, 1)), iters=3, first_iters=5, batch=8),
        }
        go = lambda **options: generative(**parts, **options)  # noqa: E731
    first = go(num_steps=1)
    kept = copy.deepcopy(first.state)
    second = go(num_steps=2, state=first.state)
    with pytest.raises(BadInput, match="an earlier flow has gone on from it and has moved its random numbers"):
        go(num_steps=2, state=first.state)
    again = go(num_steps=2, state=kept)
    assert again.state.t == second.state.t
    if solver == "noise":
        assert torch.equal(again.measure.x, second.measure.x)
    else:
        assert torch.equal(weights(again), weights(second))
    assert go(num_steps=3, state=second.state).status == "done"


def test_a_state_that_is_there_already_needs_no_work():
    first = two_particles()
    again = two_particles(state=first.state, callbacks=[Worked()])
    assert (again.status, again.history, again.times) == ("done", [], [1.0])
    assert torch.equal(again.measure.x, first.measure.x)


# --- randomness -------------------------------------------------------------------------------------------------------


def global_states() -> tuple[Any, ...]:
    cuda = [t.tolist() for t in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate(), cuda  # noqa: NPY002


def test_the_global_generators_are_left_as_they_were_found():
    before = global_states()
    generative(callbacks=[Evaluate([lambda rho, rng: {"noise": torch.randn(())}])])
    assert global_states() == before
    with pytest.raises(BadInput):
        generative(step_size=lambda k: 1.0 - k)
    with pytest.raises(ZeroDivisionError):
        generative(callbacks=[Evaluate([lambda rho, rng: {"a": 1 / 0}])])
    assert global_states() == before


def test_a_flow_is_a_function_of_its_seed():
    torch.manual_seed(1)
    first = generative(seed=3)
    torch.manual_seed(2)
    assert torch.equal(weights(generative(seed=3)), weights(first))
    assert not torch.equal(weights(generative(seed=4)), weights(first))


def test_the_seed_decides_the_start_too():
    def start(seed: int) -> torch.Tensor:
        seen = []

        class Look(Callback):
            def on_start(self, run):
                seen.append(torch.cat([p.detach().flatten().clone() for p in run.state.successor.parameters()]))

        generative(seed=seed, num_steps=1, callbacks=[Look()])
        return seen[0]

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_evaluating_changes_neither_the_flow_nor_the_other_evaluations():
    """Also when a metric draws from the global generator, as dropout does."""

    def metric(rho, rng):
        return {"drawn": rho.draw(5, rng).x.sum(), "global": torch.randn(())}

    quiet = generative(num_steps=4)
    often, seldom = (generative(num_steps=4, callbacks=[Evaluate([metric], every=every)]) for every in (1, 2))
    assert torch.equal(weights(often), weights(quiet))
    assert torch.equal(weights(seldom), weights(quiet))
    pairs = lambda solution, key: dict(zip(*solution.curve(key), strict=True))  # noqa: E731
    for key in ("drawn", "global"):
        assert list(pairs(seldom, key)) == [1.0, 2.0]
        assert pairs(seldom, key).items() <= pairs(often, key).items()
        assert len(set(pairs(often, key).values())) == 4


# --- divergence -------------------------------------------------------------------------------------------------------


class Potential:
    """A parabola that is NaN at one of its calls; the first is the look at the start."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return quadratic(x) * (math.nan if self.calls == self.at else 1.0)


def test_particles_that_turn_nan_stop_the_run_in_that_step():
    with pytest.raises(Diverged, match=r"flow/dissipation became nan at update 3, in time step 2") as caught:
        two_particles(F=PotentialEnergy(Potential(4)))
    assert (caught.value.term, caught.value.step, caught.value.update) == ("flow/dissipation", 2, 3)
    assert len(caught.value.solution.history) == 2
    assert [bool(p.x.isfinite().all()) for p in caught.value.solution.saved] == [True] * 3


def test_a_potential_that_turns_nan_inside_a_step_names_term_step_and_update():
    with pytest.raises(Diverged, match=r"jko/energy became nan at update 7, in time step 1") as caught:
        two_particles(F=PotentialEnergy(Potential(8)), solver=JKO(optim=SGD(0.1), iters=4), log_every=2)
    assert (caught.value.term, caught.value.step, caught.value.update) == ("jko/energy", 1, 7)


def test_a_flow_that_explodes_is_stopped():
    """h = 3 > 2: every step multiplies by -2, and the dissipation |v|^2 = 4^k leaves float32, which ends at 2^128."""
    solution = two_particles(initial=Particles(torch.ones(1, 1)), step_size=3.0, num_steps=1000, throw=False)
    assert (solution.status, solution.state.k) == ("diverged", 65)
    assert len(solution.history) == len(solution.saved) - 1 == 64


def test_large_numbers_of_a_double_precision_flow_are_finite():
    start = Particles(torch.full((1, 1), 1e30, dtype=torch.float64))
    solution = two_particles(initial=start, solver=JKO(optim=SGD(0.1), iters=1), num_steps=1)
    assert solution.history[0]["jko/energy"] == pytest.approx(5e59)


# --- waiting for the device -------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for a GPU, here on a CPU: values of tensors that become Python numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in ("tolist", "numpy", "cpu"):
            monkeypatch.setattr(torch.Tensor, name, self._counted(getattr(torch.Tensor, name)))

    def _counted(self, method):
        def counted(*args, **kwargs):
            self.count += 1
            return method(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return func(*args, **(kwargs or {}))


def test_the_hot_loop_does_not_wait_for_the_device(monkeypatch):
    """No value of a tensor is read but at a look, of which there is one every tenth update, and at the end of a step."""
    waits, at = Waits(monkeypatch), Counter()

    class Watch(Callback):
        def on_update(self, run, info):
            at[run.updates] = waits.count

    critic = Critic(lambda: network(2, 1), SGD(1e-3, 0.9), r1=R1(0.1))
    with waits:
        generative(
            solver=JKO(critic, SGD(1e-3, 0.9), iters=25, batch=8), num_steps=2, log_every=10, callbacks=[Watch()]
        )
    waited = [u - 1 for u in range(2, 51) if at[u] > at[u - 1]]
    assert waited == [10, 20, 25, 30, 40]
    assert waits.count > at[50], "the end is looked at"


def test_a_start_drawn_with_the_seed_of_the_flow_is_not_its_noise():
    """Both from seed 0: the covariance of start and noise would add 2 sqrt(2h) to a variance of 1 + 2h."""
    start = wgflow.StandardNormal(1).draw(10_000, generator(0))
    after = solve(wgflow.Entropy(), wgflow.Langevin(), start, step_size=0.5, num_steps=1, seed=0).measure.x
    noise = (after - start.x)[:, 0]
    assert abs(torch.corrcoef(torch.stack([start.x[:, 0], noise]))[0, 1]) < 0.04  # four standard errors


# --- counts and states ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver", [wgflow.ForwardEuler(), JKO(iters=2, first_iters=3), wgflow.ForwardBackward(), wgflow.WithReaction()]
)
def test_a_count_of_steps_costs_nothing_until_they_are_made(solver):
    """Updates of 10^9 steps are counted in closed form, and equal the sum over the steps of a short flow."""
    assert solver.updates_before(10**9) > 0
    assert [solver.updates_before(k) for k in range(6)] == [sum(map(solver.updates, range(k))) for k in range(6)]


def test_a_state_of_another_solver_is_refused_by_name():
    state = two_particles(num_steps=1).state
    with pytest.raises(
        BadInput, match="Accelerated goes on from an AcceleratedState, not from a State: start from its measure"
    ):
        two_particles(solver=wgflow.Accelerated(), state=state)
