"""Sinkhorn flows begin a step with the potentials of the one before: fewer sweeps, the same answer to the tolerance, exact resume."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import wgflow as wg
from wgflow.core.inner import Carried, gathered
from wgflow.numerics.sinkhorn_problem import Problem
from wgflow.storage.state import load_state, state_dict

TOL = 1e-7


def points(n: int, d: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TARGET = wg.Particles(0.8 * points(90, seed=1) + 0.5)
START = wg.Particles(points(70))
DIVERGENCE = wg.SinkhornDivergence(TARGET, blur=0.5, tol=TOL)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many half-sweeps were made to potentials on the target."""
    count, to_g = [0], Problem.to_g

    def counted(self: Problem, *args: object) -> Tensor:
        count[0] += 1
        return to_g(self, *args)

    monkeypatch.setattr(Problem, "to_g", counted)
    return count


def flow(F: wg.Functional = DIVERGENCE, **options: object) -> wg.Solution:
    settings = {"initial": START, "step_size": 0.2, "num_steps": 6} | options
    return wg.solve(F, settings.pop("solver", wg.ForwardEuler()), **settings)


def by_hand(F: wg.Functional, num_steps: int = 6) -> Tensor:
    """Return the end of the same flow, in which every step finds its potentials anew."""
    x = START.x
    for _ in range(num_steps):
        x = x + 0.2 * wg.Autograd().velocity(F, wg.Particles(x), None)
    return x


@pytest.mark.parametrize(
    "F",
    [
        DIVERGENCE,
        wg.SinkhornDivergence(TARGET, blur=0.5, tol=TOL, debias=False),
        wg.SinkhornDivergence(TARGET, blur=0.5, tol=TOL, reach=1.0),
        DIVERGENCE + wg.SinkhornDivergence(wg.Particles(points(90, seed=2) - 1), blur=0.5, tol=TOL),
    ],
    ids=["divergence", "cost", "soft marginals", "two of one kind"],
)
def test_a_flow_is_that_of_potentials_found_anew_to_the_tolerance(F):
    exact = by_hand(F)
    assert (flow(F).measure.x - exact).norm() < 100 * TOL * (exact - START.x).norm()


def test_steps_after_the_first_take_fewer_sweeps(sweeps):
    coarse = wg.SinkhornDivergence(TARGET, blur=1.0, tol=1e-3)
    by_hand(coarse)
    anew, sweeps[0] = sweeps[0], 0
    flow(coarse)
    assert 1.5 * sweeps[0] < anew


@pytest.mark.parametrize("solver", [wg.ForwardEuler(), wg.RK4(), wg.JKO(optim=wg.LBFGS(max_iter=50), iters=1)])
def test_a_run_that_was_cut_goes_on_to_the_last_bit(tmp_path, solver):
    whole = flow(solver=solver, num_steps=4).measure.x
    flow(solver=solver, num_steps=2, checkpoint=wg.Checkpoint(tmp_path))
    assert torch.equal(flow(solver=solver, num_steps=4, checkpoint=wg.Checkpoint(tmp_path)).measure.x, whole)
    state = flow(solver=solver, num_steps=2).state
    assert torch.equal(flow(solver=solver, num_steps=4, state=state).measure.x, whole)


def test_the_potentials_are_what_a_run_goes_on_with(tmp_path):
    """Without them the run would end elsewhere in the last digits: the test above could fail."""
    state = flow(num_steps=3).state
    assert len(state.carried.held) == 2
    state.carried = Carried()
    assert not torch.equal(flow(state=state).measure.x, flow().measure.x)


def test_a_state_of_before_there_were_any_is_read():
    state = flow(num_steps=1).state
    saved = state_dict(state)
    del saved["carried"]
    assert load_state(state, saved).carried.held == {}


def test_potentials_of_other_points_are_refused_once(sweeps):
    """As in the training of a generator, whose points are drawn anew: one vain look, and the numbers of a start without."""
    far = wg.Particles(30 * points(70, seed=5))
    expected = DIVERGENCE.value(far)
    cold, sweeps[0] = sweeps[0], 0
    held, counts = Carried(), []
    for rho in (START, far, START, far):
        with gathered(held) as inner:
            value = DIVERGENCE.value(rho)
        held, before = inner.found, sweeps[0]
        counts.append(before)
    assert torch.equal(value, expected)
    assert counts[3] - counts[2] == cold
    assert cold < counts[1] - counts[0] <= cold + 3


def test_during_an_update_the_functional_is_one_function():
    with gathered(flow(num_steps=2).state.carried):
        values = [DIVERGENCE.value(START) for _ in range(2)]
    assert torch.equal(*values)
