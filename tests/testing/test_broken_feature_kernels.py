"""Every check of a kernel of features catches one that is broken on purpose."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import wgflow as wg
from wgflow.testing import checks_for
from wgflow.testing._feature_kernels import FEATURE_KERNEL


def kernel(**held):
    """Return random features with other methods; each gets the right method and its arguments."""
    for name, f in list(held.items()):
        held[name] = lambda self, *a, n=name, f=f: f(getattr(super(Broken, self), n), *a)
    Broken = type("Broken", (wg.RandomFourierFeatures,), held)
    return Broken(wg.RBF(1.0), 20)


@dataclass(frozen=True)
class Careless(wg.RandomFourierFeatures):
    frequencies: Any = 20

    def __post_init__(self):
        assert self.frequencies > 0


BROKEN = {
    "the_matrix_is_that_of_the_features": (
        kernel(__call__=lambda right, x, y: right(x, y) + 1),
        r"k\(x, y\) is not the product of the features",
    ),
    "sums_are_those_of_the_matrix": (
        kernel(embedding=lambda right, x, a: right(x, a) * 1.01),
        "an energy is not that of the matrix",
    ),
    "derivatives_are_central_differences": (
        kernel(embedding=lambda right, x, a: right(x.detach(), a)),
        "the derivative of kernel_energy in x is not its slope",
    ),
    "it_is_one_function": (
        kernel(features=lambda right, x: right(x) + torch.randn(())),
        "features: it drew from the global generator",
    ),
    "a_rule_looks_at_the_law_alone": (
        kernel(fit=lambda right, x, log_w=None: wg.RandomFourierFeatures(wg.RBF(float(x[0].norm())))),
        "the rule depends on the order of the points",
    ),
    "single_precision_keeps_half_of_the_digits": (
        kernel(features=lambda right, x: right(x).double()),
        "features of points in float32 are not in float32",
    ),
    "wrong_arguments_are_refused": (Careless(wg.RBF(1.0)), r"Careless\(.*\) raises TypeError"),
}
MORE = {
    "sums_are_those_of_the_matrix": (kernel(at=lambda right, x, u: 2 * right(x, u)), "sums at points are not those"),
    "it_is_one_function": (
        kernel(features=lambda right, x: right(x - x.mean(0))),
        "features depend on the other points",
    ),
}


def test_there_is_a_broken_kernel_for_every_check():
    assert set(BROKEN) == set(FEATURE_KERNEL.checks)


@pytest.mark.parametrize(("name", "case"), [*BROKEN.items(), *MORE.items()])
def test_a_broken_kernel_is_caught(name, case):
    k, said = case
    check = next(c for c in checks_for(k) if c.name == name)
    with pytest.raises(AssertionError, match=said):
        check()
