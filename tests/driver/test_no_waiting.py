"""Explicit solvers never wait for the device: under fake tensors, reading a value raises."""

import pytest
import torch
import torchdiffeq  # noqa: F401  (constants that it makes when it is imported must not be fake for the tests after this one)
from _exact import rng
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode

from wgflow import (
    JKO,
    ODE,
    RBF,
    RK4,
    SGD,
    W1,
    Accelerated,
    Adam,
    AdamsBashforth,
    Autograd,
    BirthDeath,
    Blob,
    Critic,
    Entropy,
    ForwardEuler,
    Heun,
    KernelDensity,
    Langevin,
    MetropolisLangevin,
    Particles,
    PotentialEnergy,
    Pushforward,
    RandomFourierFeatures,
    Regression,
    Reweight,
    SquaredMMD,
    SquaredW2,
    StandardNormal,
    WithReaction,
)
from wgflow.core.inner import gathered
from wgflow.estimators.evaluation_noise import EvaluationNoise
from wgflow.optim import LBFGS

V = PotentialEnergy(lambda x: x.square().sum(1) / 2)
WEIGHTED = Particles(torch.randn(50, 2, generator=rng(2)), torch.randn(50, generator=rng(3)))
RANDOM = RandomFourierFeatures(RBF(1.0), 20)
RANDOM.drawn(WEIGHTED.x)  # what it keeps must not be fake for the tests after this one
F, BLOB = V + Entropy(), Blob(KernelDensity(RBF(0.5)))
FREE = {
    "forward euler": (V, ForwardEuler()),
    "heun": (V, Heun()),
    "rk4, blob": (F, RK4(BLOB)),
    "langevin": (F, Langevin()),
    "mala": (F, MetropolisLangevin()),
    "accelerated": (F, Accelerated(BLOB, friction=None, restart=True)),
    "weights": (F, WithReaction(ForwardEuler(BLOB), Reweight(order=2, resample_below=0.5), strang=True)),
    "births and deaths": (F, WithReaction(Langevin(), BirthDeath(jitter=0.1), BLOB)),
    "evaluation noise": (V, Heun(EvaluationNoise(Autograd(), 0.1))),
    "jko": (V, JKO(optim=Adam(), iters=2)),
    "adams-bashforth": (V, AdamsBashforth()),
    "critic of w1": (W1(WEIGHTED, batch=10), ForwardEuler(Critic(nn.Linear(2, 1), SGD(0.1), iters=2))),
    "critic of w2": (SquaredW2(WEIGHTED, batch=10), ForwardEuler(Critic(nn.Linear(2, 1), SGD(0.1)))),
    "random features": (0.5 * SquaredMMD(WEIGHTED, RANDOM, batch=10), ForwardEuler()),
    "batches of a weighted target": (0.5 * SquaredMMD(WEIGHTED, RBF(1.0), batch=10), ForwardEuler()),
}
WAITS = {"ode": (V, ODE()), "jko by lbfgs": (V, JKO(optim=LBFGS(), iters=1))}


def two_updates(F, solver):
    state = solver.init(F, Particles(torch.randn(50, 2, generator=rng(1))), rng())
    with FakeTensorMode(allow_non_fake_inputs=True):
        for _ in range(2):
            state, _ = solver.update(F, state, 0.1)
    return state


@pytest.mark.filterwarnings(
    "ignore:Accessing the data pointer of FakeTensor"
)  # the state of a generator is on the host
@pytest.mark.parametrize("name", FREE)
def test_updates_read_no_value(name):
    assert isinstance(two_updates(*FREE[name]).measure.x, FakeTensor)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_what_a_regression_reports_is_not_read():
    rho = Pushforward(StandardNormal(2), nn.Linear(2, 2), regression=Regression(SGD(0.1), persistent=2))
    state = ForwardEuler().init(V, rho, rng())
    with FakeTensorMode(allow_non_fake_inputs=True), gathered() as reports:
        ForwardEuler().update(V, state, 0.1)
        assert reports.info()["regression/realised"].shape == ()


@pytest.mark.parametrize("name", WAITS)
def test_the_check_notices_those_that_do(name):
    with pytest.raises(DataDependentOutputException):
        two_updates(*WAITS[name])
