"""An adaptive method goes on with its inner step from one time step to the next, and over a checkpoint."""

import pytest
import torch

from wgflow import KL, ODE, Checkpoint, CheckpointError, Particles, PotentialEnergy, Stein, Unnormalised, solve
from wgflow.kernels import RBF
from wgflow.storage.state import load_state, state_dict

X = torch.linspace(-2.0, 3.0, 12, dtype=torch.float64).view(6, 2)
SPRING = PotentialEnergy(lambda x: 0.5 * (x.square() * torch.tensor([1.0, 3.0], dtype=x.dtype)).sum(1))
# Evaluations of an inner step; the one before the first of a time step comes on top.
STAGES = {"dopri5": 6, "bosh3": 3, "adaptive_heun": 1}


@pytest.mark.parametrize("method", STAGES)
def test_a_time_step_that_one_inner_step_spans_is_one(method):
    flow = solve(SPRING, ODE(method=method, rtol=1e-2, atol=1e-2), Particles(X), step_size=0.02, num_steps=6)
    first, *others = flow.curve("ode/evaluations")[1]
    assert first >= 2 + STAGES[method]
    assert others == [1 + STAGES[method]] * 5


def test_a_field_that_becomes_stiff_is_met_with_shorter_steps():
    """The step is tried, not taken: what the flow is afterwards is within the tolerance of the exact flow."""
    V = PotentialEnergy(lambda x: 0.25 * x.square().sum(1).square())  # |x| follows r' = -r^3, fast at first
    x = 30 * X / X.norm(dim=1, keepdim=True)
    for first, then in ((1e-4, 1.0), (1.0, 1e-4)):
        sizes = [first, then]
        flow = solve(
            V,
            ODE(method="dopri5", rtol=1e-7, atol=1e-7),
            Particles(x),
            step_size=lambda k, sizes=sizes: sizes[k],
            num_steps=2,
        )
        exact = x / (1 + 2 * (first + then) * 900) ** 0.5
        torch.testing.assert_close(flow.measure.x, exact, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("F", [SPRING, KL(Unnormalised(lambda x: -0.25 * x.square().sum(1).square(), 2))])
def test_it_goes_on_over_a_checkpoint_to_the_last_bit(F, tmp_path):
    solver = ODE(Stein(RBF(1.0)), method="dopri5")
    options = {"step_size": lambda k: 0.3 if k < 3 else 0.05, "seed": 1}
    whole = solve(F, solver, Particles(X), num_steps=6, **options)
    solve(F, solver, Particles(X), num_steps=2, checkpoint=Checkpoint(tmp_path), **options)
    parts = solve(F, solver, Particles(X), num_steps=6, checkpoint=Checkpoint(tmp_path), **options)
    assert torch.equal(whole.measure.x, parts.measure.x)
    assert whole.state.inner == parts.state.inner > 0
    assert whole.curve("ode/evaluations") == parts.curve("ode/evaluations")


def test_a_state_from_before_it_had_an_inner_step_is_read():
    state = solve(SPRING, ODE(method="dopri5"), Particles(X), step_size=0.1, num_steps=1).state
    saved = state_dict(state)
    del saved["inner"]
    assert load_state(state, saved).inner == 0.0
    del saved["k"]
    with pytest.raises(CheckpointError, match="expected the entries"):
        load_state(state, saved)


def test_a_fixed_method_keeps_nothing_and_an_adaptive_one_goes_on_from_it():
    flow = solve(SPRING, ODE(method="rk4"), Particles(X), step_size=0.1, num_steps=2)
    assert not hasattr(flow.state, "inner")
    on = solve(SPRING, ODE(method="dopri5"), Particles(X), step_size=0.1, num_steps=4, state=flow.state)
    assert on.state.k == 4
