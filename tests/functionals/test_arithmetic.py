"""Operators of functionals and kernels: numbers from anywhere, differences, and what a negative multiple is not."""

import math

import numpy as np
import pytest
import torch

from wgflow import (
    KL,
    RBF,
    BadInput,
    EnergyDistance,
    Entropy,
    Gaussian,
    Langevin,
    Particles,
    PotentialEnergy,
    solve,
    why_not,
)

Y = Particles(torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]]))
RHO = Particles(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))


@pytest.mark.parametrize(
    ("combine", "value"),
    [
        (lambda F, G: F * 0.5, lambda f, g: f / 2),
        (lambda F, G: F / 2, lambda f, g: f / 2),
        (lambda F, G: F * torch.tensor(0.5), lambda f, g: f / 2),
        (lambda F, G: torch.tensor(0.5) * F, lambda f, g: f / 2),
        (lambda F, G: np.float64(0.5) * F, lambda f, g: f / 2),
        (lambda F, G: F * np.float32(0.5), lambda f, g: f / 2),
        (lambda F, G: sum([F, G]), lambda f, g: f + g),
        (lambda F, G: F - G, lambda f, g: f - g),
        (lambda F, G: -F + G, lambda f, g: g - f),
        (lambda F, G: (F - 2 * G) / 4, lambda f, g: (f - 2 * g) / 4),
    ],
)
def test_the_algebra_of_values(combine, value):
    F, G = EnergyDistance(Y), PotentialEnergy(lambda x: x.square().sum(1))
    f, g = F.value(RHO), G.value(RHO)
    torch.testing.assert_close(combine(F, G).value(RHO), value(f, g))
    k, other = RBF(1.0), RBF(0.5)
    s = torch.tensor([0.0, 1.0, 4.0])
    torch.testing.assert_close(combine(k, other).profile(s), value(k.profile(s), other.profile(s)))


@pytest.mark.parametrize("bad", [0, 0.0, "a", None, [1.0], math.nan])
def test_nothing_is_divided_by_what_is_no_number(bad):
    with pytest.raises((BadInput, TypeError)):
        EnergyDistance(Y) / bad


def test_a_negative_multiple_has_a_value_only():
    F = -1.0 * KL(Gaussian(torch.zeros(2), torch.eye(2)))
    assert not any(F.can(method) for method in ("conjugate", "variational", "prox"))
    assert F.can("value")


def test_a_negative_entropy_has_no_flow():
    """Subtracting less than there is leaves diffusion at what is left: Langevin at temperature 1/4."""
    V = PotentialEnergy(lambda x: x.square().sum(1))
    reason = why_not(V - Entropy(), Langevin(), RHO)
    assert "heat equation run backwards" in reason
    less = V + Entropy() - 0.75 * Entropy()
    assert less.split_entropy()[1] == 0.25
    ours, theirs = (
        solve(F, Langevin(), RHO, step_size=0.1, num_steps=3).measure.x for F in (less, V + 0.25 * Entropy())
    )
    torch.testing.assert_close(ours, theirs)
