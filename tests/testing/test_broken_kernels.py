"""Every check of a kernel catches one that is broken on purpose."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import wgflow as wg
from wgflow.testing import checks_for
from wgflow.testing._kernels import KERNEL


def kernel(kind=wg.RBF, made=(1.0,), **held):
    """Return a kernel with other attributes; functions are called with the right method and its arguments."""
    for name, f in list(held.items()):
        if callable(f):
            held[name] = lambda self, *a, n=name, f=f: f(getattr(super(Broken, self), n), *a)
    Broken = type("Broken", (kind,), held)
    return Broken(*made)


def in_place(right, s):
    value = right(s)
    s.add_(1.0)
    return value


@dataclass(frozen=True)
class Careless(wg.Kernel):
    length: Any

    def __post_init__(self):
        assert self.length**2 > 0

    def profile(self, s):
        return torch.exp(-s / self.length)

    def slope(self, s):
        return -self.profile(s) / self.length


BROKEN = {
    "slope_is_the_derivative_of_the_profile": (
        kernel(slope=lambda right, s: 2 * right(s)),
        "slope is not the derivative of profile",
    ),
    "curvature_is_the_derivative_of_the_slope": (
        kernel(curvature=lambda right, s: -right(s)),
        "curvature is not the derivative",
    ),
    "evaluate_is_profile_and_slope": (
        kernel(evaluate=lambda right, s: (*right(s)[:2], 1.0)),
        "the slope of evaluate is not slope: found",
    ),
    "coincident_points_are_harmless": (
        kernel(wg.Laplace, smooth=True),
        r"smooth is declared, but the slope jumps at distance 0",
    ),
    "works_entry_by_entry": (
        kernel(profile=lambda right, s: right(s) / s.sum()),
        "profile of a block is not that of its entries",
    ),
    "the_matrix_is_that_of_the_profile": (
        kernel(__call__=lambda right, x, y: right(x, y) + 1),
        r"k\(x, y\) is not profile",
    ),
    "is_positive_definite_where_it_is_characteristic": (
        kernel(wg.PowerLaw, (2.0,), characteristic=True),
        "characteristic is declared, but a difference of two laws has a negative energy: .* exceeds",
    ),
    "its_integral_is_known": (
        kernel(log_integral=lambda right, d: right(d) + 0.1),
        r"log_integral\(1\) is not the logarithm",
    ),
    "a_rule_looks_at_the_law_alone": (
        kernel(wg.MedianRBF, (), fit=lambda right, x, log_w=None: wg.RBF(float(x[0].norm()))),
        "the rule depends on the order of the points",
    ),
    "single_precision_keeps_half_of_the_digits": (
        kernel(profile=lambda right, s: right(s).double()),
        "profile is torch.float64 for",
    ),
    "wrong_arguments_are_refused": (Careless(1.0), r"Careless\(length='a'\) raises TypeError"),
}
MORE = {
    "coincident_points_are_harmless": (kernel(slope=lambda right, s: right(s) / s), r"slope\(0\) is -inf"),
    "works_entry_by_entry": (kernel(profile=in_place), "profile changes its argument in place"),
}


def test_there_is_a_broken_kernel_for_every_check():
    assert set(BROKEN) == set(KERNEL.checks)


@pytest.mark.parametrize(("name", "case"), [*BROKEN.items(), *MORE.items()])
def test_a_broken_kernel_is_caught(name, case):
    k, said = case
    check = next(c for c in checks_for(k) if c.name == name)
    with pytest.raises(AssertionError, match=said):
        check()
