"""A number that is none is traced to where it came from; a smaller step is advised only where it helps."""

import math

import pytest
import torch

from wgflow import (
    JKO,
    KL,
    ODE,
    RBF,
    Accelerated,
    BadInput,
    Blob,
    Dataset,
    Diverged,
    EnergyDistance,
    ForwardEuler,
    InteractionEnergy,
    KernelDensity,
    Langevin,
    Particles,
    PotentialEnergy,
    StandardNormal,
    Stein,
    Unnormalised,
    solve,
)

START = Particles(torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, 0.0], [2.0, 1.0]]))
TARGET = KL(Unnormalised(lambda x: -x.square().sum(1).sqrt(), 2))
CONE = PotentialEnergy(lambda x: x.square().sum(1).sqrt())


def go(F, solver, start=START, h=0.1, steps=3):
    return solve(F, solver, start, step_size=h, num_steps=steps)


@pytest.mark.parametrize(
    ("F", "solver"),
    [
        (CONE, ForwardEuler()),
        (CONE, JKO(iters=3)),
        (CONE, Accelerated()),
        (CONE, ODE(method="dopri5")),
        (2.0 * CONE + EnergyDistance(StandardNormal(2)), ForwardEuler()),
        (TARGET, Langevin()),
        (TARGET, ForwardEuler(Stein(RBF(1.0)))),
        (TARGET, ForwardEuler(Blob(KernelDensity(RBF(1.0))))),
    ],
)
def test_a_root_at_0_is_named_with_its_particle(F, solver):
    with pytest.raises(
        BadInput, match=r"is nan at a finite point, first at particle 2, x = \[0, 0\] \(1 of 4"
    ) as caught:
        go(F, solver)
    assert "smaller step size does not help" in str(caught.value)
    assert "square root" in str(caught.value)


def test_a_root_at_0_that_a_particle_comes_to_is_named():
    with pytest.raises(Diverged, match=r"is nan at a finite point, first at particle 1, x = \[0, 0\] \(1 of 2"):
        go(CONE, ForwardEuler(), Particles(torch.tensor([[3.0, 4.0], [0.5, 0.0]])), h=0.5)


def test_an_interaction_is_looked_at_where_particles_meet_themselves():
    with pytest.raises(Diverged, match="not finite at z = 0, where every particle meets itself"):
        go(InteractionEnergy(lambda z: z.square().sum(-1).sqrt()), ForwardEuler())


def test_a_logarithm_outside_of_its_domain_is_named():
    with pytest.raises(BadInput, match=r"potential .* not finite at 2 of the 4 .* first at number 1, x = \[-1, 0.5\]"):
        go(PotentialEnergy(lambda x: x[:, 0].log() * x[:, 0]), JKO(iters=2))


@pytest.mark.parametrize("h", [3.0, 10.0])
def test_particles_that_run_away_want_a_smaller_step(h):
    with pytest.raises(Diverged, match="A smaller step size or learning rate") as caught:
        go(PotentialEnergy(lambda x: x.square().sum(1)), ForwardEuler(), h=h, steps=500)
    assert "does not help" not in str(caught.value)


@pytest.mark.parametrize(
    ("F", "solver", "start", "where"),
    [
        (
            EnergyDistance(Particles(torch.tensor([[0.0, 1.0], [math.nan, 0.0]]))),
            None,
            START,
            r"F.target.x\[1, 0\] = nan",
        ),
        (
            EnergyDistance(Particles(START.x, log_w=torch.tensor([0.0, math.nan, 0.0, 0.0]))),
            None,
            START,
            r"F.target.log_w\[1\] = nan",
        ),
        (
            CONE,
            None,
            Particles(torch.tensor([[0.0, 1.0], [1.0, math.inf]])),
            r"the first is state.measure.x\[1, 1\] = inf",
        ),
    ],
)
def test_data_that_are_not_finite_are_named_before_the_start(F, solver, start, where):
    with pytest.raises(BadInput, match=where):
        go(F, ForwardEuler() if solver is None else solver, start)


@pytest.mark.parametrize("bandwidth", [math.nan, math.inf, 0.0])
def test_a_bandwidth_is_a_length(bandwidth):
    with pytest.raises(BadInput, match="expected a positive, finite length"):
        RBF(torch.tensor(bandwidth))


def test_weights_of_0_are_finite():
    target = Particles(START.x, log_w=torch.tensor([0.0, -math.inf, 0.0, 0.0]))
    assert go(EnergyDistance(target), ForwardEuler()).status == "done"


def test_a_data_set_names_its_first_bad_entry():
    with pytest.raises(BadInput, match=r"2 of the 3 points .* are not finite, x\[1, 0\] = nan"):
        Dataset(torch.tensor([[1.0], [math.nan], [math.inf]]))
