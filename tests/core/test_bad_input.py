"""What a solve refuses before it does any work, and how it says so."""

import math

import pytest
import torch
from _flows import START, quadratic, two_particles

import wgflow
from wgflow import (
    JKO,
    KL,
    BadInput,
    Callback,
    Critic,
    Dataset,
    Gaussian,
    Incompatible,
    Particles,
    PotentialEnergy,
    Pushforward,
    StandardNormal,
    Unnormalised,
)


class Worked(Callback):
    """Fails the test when an update is made."""

    def on_update(self, run, info):
        pytest.fail("work has started")


BAD = {
    "h zero": ({"step_size": 0.0}, BadInput, r"step_size=0.0: expected a positive number, or a function"),
    "h negative": ({"step_size": -0.1}, BadInput, r"step_size=-0.1: expected"),
    "h nan": ({"step_size": math.nan}, BadInput, r"step_size=nan: expected"),
    "h a word": ({"step_size": "big"}, BadInput, r"step_size='big': expected"),
    "h missing": ({"step_size": None}, BadInput, r"step_size=None: expected"),
    "h infinite, explicit": ({"step_size": math.inf}, BadInput, r"step_size=inf: .* ForwardEuler is explicit"),
    "h bad later": ({"step_size": lambda k: 1.0 - k / 3}, BadInput, r"step_size=0.0 at step 3"),
    "no steps": ({"num_steps": 0}, BadInput, r"num_steps=0: expected a whole number from 1 up"),
    "negative steps": ({"num_steps": -3}, BadInput, r"num_steps=-3"),
    "broken steps": ({"num_steps": 2.5}, BadInput, r"num_steps=2.5: expected a whole number"),
    "no log": ({"log_every": 0}, BadInput, r"log_every=0"),
    "negative seed": ({"seed": -1}, BadInput, r"seed=-1: expected a whole number from 0 up"),
    "large seed": ({"seed": 2**63}, BadInput, r"seed=9223372036854775808"),
    "a class for a functional": ({"F": PotentialEnergy}, BadInput, r"F=<class .*expected a Functional"),
    "a name for a solver": ({"solver": "jko"}, BadInput, r"solver='jko': expected a Solver"),
    "numbers for points": (
        {"initial": START[:, 0]},
        BadInput,
        r"initial=<tensor .*: expected a MovingMeasure. An array of points is floating-point and finite, of shape",
    ),
    "nan particles": (
        {"initial": Particles(torch.tensor([[1.0, math.nan]]))},
        BadInput,
        r"the flow cannot start: state.measure.x has entries that are not finite",
    ),
    "shapes": (
        {"F": KL(Gaussian(torch.zeros(3), torch.eye(3))), "solver": JKO(Critic(lambda: torch.nn.Linear(2, 1)))},
        Incompatible,
        r"points of shape \(2,\), the target of shape \(3,\)",
    ),
    "dtypes": (
        {"F": KL(StandardNormal(2, dtype=torch.float32)), "solver": JKO(Critic(lambda: torch.nn.Linear(2, 1)))},
        Incompatible,
        r"points of torch.float64, the target of torch.float32: convert one",
    ),
    "devices": (
        {"F": KL(StandardNormal(2, device="meta")), "solver": JKO(Critic(lambda: torch.nn.Linear(2, 1)))},
        Incompatible,
        r"the moving measure is on cpu, the target on meta: move one",
    ),
    "a target without draws": (
        {"F": KL(Unnormalised(quadratic, 2)), "solver": JKO(Critic(lambda: torch.nn.Linear(2, 1)))},
        Incompatible,
        r"Critic needs draws of the target, and an Unnormalised density has none",
    ),
    "nothing to train": (
        {"initial": Pushforward(StandardNormal(2), torch.nn.Identity()), "solver": JKO()},
        BadInput,
        r"nothing to train",
    ),
    "too many steps done": (
        {"state": wgflow.State(Particles(START), 5, 1.0, torch.Generator())},
        BadInput,
        r"num_steps=4 counts all time steps, and the state passed has completed 5",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_any_work(case):
    options, error, message = BAD[case]
    with pytest.raises(error, match=message):
        two_particles(callbacks=[Worked()], **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Particles(torch.zeros(0, 2)), r"shape \(n, \*event\) with n >= 1, got \(0, 2\)"),
        (lambda: Particles(torch.zeros(3)), r"shape \(n, \*event\) with n >= 1, got \(3,\)"),
        (lambda: Particles([[1.0]]), "got list"),
        (lambda: Particles(torch.zeros(3, 2, dtype=torch.int64)), "floating-point positions, got torch.int64"),
        (lambda: Particles(torch.zeros(3, 2), log_w=torch.zeros(2)), r"log_w must have shape \(3,\).* got \(2,\)"),
        (lambda: Dataset(torch.zeros(0, 2)), "n >= 1"),
        (lambda: Dataset(torch.zeros(3, 2, dtype=torch.uint8)), "torch.uint8"),
        (lambda: Dataset(torch.tensor([[1.0], [math.nan], [math.inf]])), "2 of the 3 points .* are not finite"),
    ],
)
def test_points_that_are_none_are_refused_where_they_are_made(make, message):
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize("position", range(3))
def test_what_cannot_be_asked_for_its_compatibility_is_named(position):
    parts = [KL(StandardNormal(2)), wgflow.Langevin(), Particles(torch.zeros(3, 2))]
    parts[position] = "a name"
    with pytest.raises(BadInput, match="='a name': expected a"):
        wgflow.why_not(*parts)
