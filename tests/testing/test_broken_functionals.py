"""Every check of a functional catches one that is broken on purpose."""

from dataclasses import dataclass, replace

import pytest
import torch

import wgflow as wg
from wgflow.testing import checks_for
from wgflow.testing._functionals import FUNCTIONAL


@dataclass(frozen=True)
class Spread(wg.Functional):
    """E|X - m|² for the mean m of the target; nothing is wrong with it."""

    target: wg.Measure
    batch: int = 64

    def value(self, rho):
        mean = (self.target.w @ self.target.x.flatten(1)).view(self.target.event_shape)
        return rho.mean((rho.x - mean).square().flatten(1).sum(1))

    @classmethod
    def example(cls, event_shape=(2,)):
        return cls(wg.StandardNormal(*event_shape))


def functional(value):
    """Return Spread with another value, a function of the right one and of the particles."""

    @dataclass(frozen=True)
    class Broken(Spread):
        def value(self, rho):
            return value(super(), rho)

    return Broken(wg.StandardNormal(2))


def divergence(**methods):
    """Return KL with other methods, each a function of the right one and its arguments."""
    held = {n: lambda self, *a, n=n, f=f: f(getattr(super(Broken, self), n), *a) for n, f in methods.items()}
    Broken = type("Broken", (wg.KL,), held | {"__doc__": "KL, or not."})
    return Broken(wg.StandardNormal(2), 64)


class Formless(wg.Functional):
    """It has neither form."""


@dataclass(frozen=True)
class Unchecked(Spread):
    scale: "Unknown" = 1.0  # noqa: F821

    def __post_init__(self):
        assert self.scale**2 > 0


def in_place(right, rho):
    value = right.value(rho)
    with torch.no_grad():
        rho.x.add_(1e-3)
    return value


BROKEN = {
    "has_a_primal_or_a_dual_form": (Formless(), "has no value, conjugate or variational"),
    "value_is_a_finite_scalar": (functional(lambda right, rho: right.value(rho).log() * -1e400), "value is -?inf|nan"),
    "dual_forms_are_finite_scalars": (
        divergence(conjugate=lambda right, phi: right(phi) * float("nan")),
        "variational is nan",
    ),
    "order_of_the_particles_does_not_matter": (
        functional(lambda right, rho: right.value(rho) + rho.x[0, 0]),
        r"value changes with the order of the particles: found .* off by \S+ where \S+ is allowed",
    ),
    "splitting_a_particle_changes_nothing": (
        functional(lambda right, rho: right.value(replace(rho, log_w=None))),
        "value changes when a particle is split into two of half the weight: found",
    ),
    "scale_of_the_weights_does_not_matter": (
        functional(lambda right, rho: right.value(rho) * (1 if rho.log_w is None else rho.log_w.exp().sum())),
        "value changes with weights that do not sum to one",
    ),
    "a_particle_without_mass_does_not_matter": (
        functional(lambda right, rho: right.value(rho) + rho.x.abs().max()),
        "value changes when a particle of weight 0 joins",
    ),
    "gradients_are_central_differences": (
        functional(lambda right, rho: right.value(rho) + rho.mean(rho.x.detach()[:, 0])),
        r"the gradient of value in the positions is not that of its values: found .* at \[\d, 0\]",
    ),
    "shape_of_a_point_does_not_matter": (
        functional(lambda right, rho: right.value(rho) * rho.x.dim()),
        "value changes with the shape of a point",
    ),
    "randomness_comes_from_freezing_alone": (
        functional(lambda right, rho: right.value(rho) + torch.randn(())),
        "value changes when it is evaluated again",
    ),
    "inputs_are_left_as_they_were": (functional(in_place), "an evaluation changes its inputs in place"),
    "single_precision_keeps_half_of_the_digits": (
        functional(lambda right, rho: (right.value(rho) + 1e6) - 1e6),
        "value in float32 is not that in float64: found",
    ),
    "wrong_arguments_are_refused": (
        Unchecked(wg.StandardNormal(2)),
        r"Unchecked\(scale='a'\) raises TypeError .*, expected BadInput",
    ),
    "fenchel_young": (
        divergence(f_star=lambda right, u: right(u) - 0.1),
        r"E_rho\[phi\] - F\*\(phi\) is above F\(rho\)",
    ),
    "no_critic_exceeds_the_value": (
        divergence(variational=lambda right, net, rho: right(net, rho) + 9),
        r"what a critic ascends is above F\(rho\): \S+ exceeds \S+ by",
    ),
    "the_best_critic_attains_the_value": (
        divergence(variational=lambda right, net, rho: 0.5 * right(net, rho)),
        r"the best critic does not attain F\(rho\)",
    ),
    "critics_are_high_on_data_and_low_on_the_model": (
        divergence(witness=lambda right, v: v),
        r"at point of the data \d+ what a critic ascends has the slope -",
    ),
    "vanishes_at_the_target_and_nowhere_else": (
        divergence(perspective=lambda right, log_r: right(log_r) + 0.1),
        "the divergence of the target from itself is not 0",
    ),
    "f_star_is_the_conjugate_of_f": (
        divergence(f_star=lambda right, u: right(u) + 0.1),
        r"f\*\(u\) is not p u - f\(p\)",
    ),
    "ratio_is_the_slope_of_f_star": (
        divergence(ratio=lambda right, u: 2 * right(u)),
        r"ratio\(u\) is not the slope of",
    ),
    "perspective_has_the_mean_of_f": (
        divergence(perspective=lambda right, log_r: 2 * right(log_r)),
        r"the mean of perspective\(log r\) is not that of f\(r\)",
    ),
}


def test_there_is_a_broken_functional_for_every_check():
    assert set(BROKEN) == set(FUNCTIONAL.checks)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_functional_is_caught(name):
    F, said = BROKEN[name]
    check = next(c for c in checks_for(F) if c.name == name)
    with pytest.raises(AssertionError, match=said):
        check()


def test_nothing_is_wrong_with_the_one_that_is_broken():
    report = wg.testing.check_functional(Spread(wg.StandardNormal(2)))
    assert set(report.passed) == set(FUNCTIONAL.checks) - set(report.skipped)
    assert wg.testing.check_functional(divergence()).skipped == {}


def test_a_value_that_is_no_scalar_is_said_by_the_checks_themselves():
    @dataclass(frozen=True)
    class Several(wg.Functional):
        """One number a particle, where one is asked for."""

        def value(self, rho):
            return rho.x.square().sum(1)

    with pytest.raises(
        AssertionError, match=r"Several: \d+ of \d+ checks failed\n.*value has shape \(7,\), expected a 0-d"
    ):
        wg.testing.check_functional(Several())
