"""Every check of an estimator catches one that is broken on purpose."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

import wgflow as wg
from wgflow.testing import checks_for
from wgflow.testing._estimators import ESTIMATOR


def estimator(kind=wg.Autograd, made=(), **held):
    """Return an estimator with other attributes; functions are called with the right method and its arguments."""
    for name, f in list(held.items()):
        if callable(f):
            held[name] = lambda self, *a, n=name, f=f: f(getattr(super(Broken, self), n), *a)
    Broken = type("Broken", (kind,), held)
    return Broken(*made)


def surrogate(change, **held):
    """Return Autograd with a surrogate that is changed, a function of the right one, the functional and the particles."""
    return estimator(surrogate=lambda right, F, rho, es: change(lambda p: right(F, p, es), rho), **held)


@dataclass(frozen=True)
class Careless(wg.Autograd):
    scale: Any

    def __post_init__(self):
        assert self.scale**2 > 0


@dataclass(frozen=True)
class Remembers(wg.Autograd):
    """It counts in its own settings."""

    calls: list = field(default_factory=list)

    def init(self, F, rng):
        self.calls.append(1)


@dataclass(eq=False)
class Gain:
    value: torch.Tensor

    def state_dict(self):
        return {}

    def load_state_dict(self, saved):
        pass


LEARNS = {
    "init": lambda right, F, rng: Gain(torch.rand((), generator=rng)),
    "surrogate": lambda right, F, rho, es: es.value * right(F, rho, es),
}
BROKEN = {
    "declares_what_functionals_have": (
        estimator(needs=("value", "vlaue")),
        "needs='vlaue': a functional has no method",
    ),
    "surrogate_is_a_finite_scalar": (
        surrogate(lambda right, rho: right(replace(rho, log_w=rho.log_w.detach()))),
        "gives_potential is declared, and surrogate does not depend on the weights",
    ),
    "velocity_is_minus_the_gradient_of_the_first_variation": (
        estimator(velocity=lambda right, F, rho, es: -right(F, rho, es)),
        r"velocity is not minus the gradient of the first variation: found .* at \[\d, \d\]",
    ),
    "the_first_variation_is_centred": (
        estimator(gradient=lambda right, *a: (right(*a)[0] + 1, right(*a)[1])),
        "the mean of the first variation is not 0: found 1",
    ),
    "gradients_are_central_differences": (
        surrogate(lambda right, rho: right(rho) + rho.mean(rho.x.detach()[:, 0])),
        "the gradient of the surrogate in the positions is not that of its values",
    ),
    "order_of_the_particles_does_not_matter": (
        surrogate(lambda right, rho: right(rho) + rho.x[0].sum()),
        "velocities change with the order of the particles",
    ),
    "splitting_a_particle_changes_nothing": (
        surrogate(lambda right, rho: right(replace(rho, log_w=None))),
        "velocities change when a particle is split into two of half the weight",
    ),
    "scale_of_the_weights_does_not_matter": (
        surrogate(lambda right, rho: right(rho) * (1 if rho.log_w is None else rho.log_w.exp().sum())),
        "velocities change with weights that do not sum to one",
    ),
    "pointwise_velocities_see_one_point": (
        surrogate(lambda right, rho: right(rho) + rho.mean(rho.x[:, 0]).square(), pointwise=True),
        "pointwise is declared, and velocities depend on the other particles",
    ),
    "the_seed_decides_everything": (
        estimator(velocity=lambda right, *a: right(*a) + torch.randn(())),
        "init, refine and velocity: it drew from the global generator",
    ),
    "state_dict_restores_it": (estimator(**LEARNS), "a state that was written and read gives another velocity"),
    "inputs_are_left_as_they_were": (Remembers(), "a use of the estimator changes its inputs in place"),
    "wrong_arguments_are_refused": (Careless(1.0), r"Careless\(scale='a'\) raises TypeError"),
}


def test_there_is_a_broken_estimator_for_every_check():
    assert set(BROKEN) == set(ESTIMATOR.checks)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_estimator_is_caught(name):
    broken, said = BROKEN[name]
    check = next(c for c in checks_for(broken) if c.name == name)
    with pytest.raises(AssertionError, match=said):
        check()


def test_one_that_serves_nothing_simple_asks_for_a_functional():
    with pytest.raises(wg.BadInput, match=r"serves no simple functional: give one that it does, F=..."):
        wg.testing.check_estimator(estimator(refuses=lambda right, F: "no. Use another."))
