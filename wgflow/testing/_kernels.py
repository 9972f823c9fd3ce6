"""What a kernel owes its callers."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow import Kernel, Particles
from wgflow.core.errors import Unsupported
from wgflow.core.rng import generator
from wgflow.kernels import KernelSum
from wgflow.testing._arguments import refuses_wrong_arguments
from wgflow.testing._checks import Suite, applies, at_most, close
from wgflow.testing._precision import cast
from wgflow.testing._worlds import points, rescaled, shuffled, untouched

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class KernelCase:
    """A kernel in float64, fitted to points where it has a rule, and squared distances to look at it."""

    rule: Kernel
    kernel: Kernel
    p: Particles

    @classmethod
    def of(cls, kernel: Kernel) -> "KernelCase":
        """Return the case of a kernel."""
        rule = cast(kernel, torch.float64)
        x = points((2,), 20)
        p = Particles(x, torch.randn(len(x), generator=generator(3), dtype=torch.float64))
        return cls(rule, cast(rule.fit(p.x, p.log_w), torch.float64), p)

    @property
    def s(self) -> Tensor:
        """Squared distances away from 0."""
        return torch.logspace(-1.3, 1.3, 60, dtype=torch.float64)


KERNEL = Suite[KernelCase]()


@KERNEL.check
def slope_is_the_derivative_of_the_profile(case: KernelCase) -> None:
    """slope(s) is the derivative of profile(s) in the squared distance s, by autograd and by differences."""
    _derivative(case.kernel.slope, case.kernel.profile, case.s, "slope is not the derivative of profile")


@KERNEL.check
def curvature_is_the_derivative_of_the_slope(case: KernelCase) -> None:
    """curvature(s) is the derivative of slope(s), where there is one, by autograd and by differences."""
    try:
        case.kernel.curvature(case.s)
    except Unsupported:
        applies(False, "it has no curvature")
    _derivative(case.kernel.curvature, case.kernel.slope, case.s, "curvature is not the derivative of slope")


def _derivative(found: Function, of: Function, s: Tensor, claim: str) -> None:
    leaf = s.clone().requires_grad_(True)
    (exact,) = torch.autograd.grad(of(leaf).sum(), leaf)
    close(found(s), exact, f"{claim} by autograd", rtol=1e-10, atol=1e-12)
    h = 1e-5  # an error of some h² times the third derivative, and of rounding over h
    close(found(s), (of(s + h) - of(s - h)) / (2 * h), claim, rtol=1e-6, atol=1e-7)


@KERNEL.check
def evaluate_is_profile_and_slope(case: KernelCase) -> None:
    """evaluate(s) returns (k, q, c) with k = profile(s) and c q = slope(s), finite also at 0."""
    s = torch.cat([torch.zeros(2, dtype=torch.float64), case.s])
    value, q, c = case.kernel.evaluate(s.clone())
    close(value, case.kernel.profile(s), "the value of evaluate is not profile", rtol=1e-13, atol=1e-14)
    close(c * q, case.kernel.slope(s), "the slope of evaluate is not slope", rtol=1e-13, atol=1e-14)


@KERNEL.check
def coincident_points_are_harmless(case: KernelCase) -> None:
    """Value and slope are finite at distance 0; the slope is continuous there, or 0 of a kernel that is not declared smooth."""
    zero, near = (torch.full((1,), s, dtype=torch.float64) for s in (0.0, 1e-12))
    for name, f in (("profile", case.kernel.profile), ("slope", case.kernel.slope)):
        assert bool(torch.isfinite(f(zero)).all()), (
            f"{name}(0) is {float(f(zero))}: coincident particles would have no force"
        )
    if not case.kernel.smooth and not isinstance(case.kernel, KernelSum):
        claim = "smooth is denied, and coincident particles act on each other: let the slope be 0 at 0"
        close(case.kernel.slope(zero), torch.zeros_like(zero), claim)
    if case.kernel.smooth:
        claim = "smooth is declared, but the slope jumps at distance 0"
        close(case.kernel.slope(near), case.kernel.slope(zero), claim, rtol=1e-3, atol=1e-3)


@KERNEL.check
def works_entry_by_entry(case: KernelCase) -> None:
    """Profile and slope treat every entry by itself, whatever the shape, and leave their argument as it was."""
    for name, f in (("profile", case.kernel.profile), ("slope", case.kernel.slope)):
        s = case.s.view(6, 10).clone()
        untouched(s, lambda f=f, s=s: f(s), f"{name} changes its argument in place")  # type: ignore[misc]
        close(
            f(s),
            torch.stack([f(t) for t in s.flatten()]).view(6, 10),
            f"{name} of a block is not that of its entries",
            rtol=1e-14,
        )


@KERNEL.check
def the_matrix_is_that_of_the_profile(case: KernelCase) -> None:
    """k(x, y) is the matrix of profile(|x - y|²), and symmetric."""
    x = case.p.x
    s = (x[:, None] - x[None]).square().sum(2)
    close(case.kernel(x, x), case.kernel.profile(s), "k(x, y) is not profile(|x - y|²)", rtol=1e-9, atol=1e-9)


@KERNEL.check
def is_positive_definite_where_it_is_characteristic(case: KernelCase) -> None:
    """A characteristic kernel gives every difference of two laws a positive energy."""
    applies(case.kernel.characteristic, "it is not declared characteristic")
    K, n = case.kernel(case.p.x, case.p.x), len(case.p)
    centre = torch.eye(n, dtype=torch.float64) - 1 / n
    # The constant vector, which is no difference of laws, is moved out of the way.
    least = float(torch.linalg.eigvalsh(centre @ K @ centre + torch.full_like(K, float(K.abs().max()))).min())
    at_most(-least, 0.0, "characteristic is declared, but a difference of two laws has a negative energy", 1e-12 * n)


@KERNEL.check
def its_integral_is_known(case: KernelCase) -> None:
    """exp(log_integral(d)) is the integral of k(x, 0) over d dimensions, where the kernel is used as a density."""
    try:
        logs = [float(case.kernel.log_integral(d)) for d in (1, 2, 3)]
    except Unsupported:
        applies(False, "it is not used as a density")
    t = torch.linspace(-25, 8, 20001, dtype=torch.float64)  # r = e^t: trapezoidal, exact to rounding for what decays
    r, step = t.exp(), float(t[1] - t[0])
    for d, log in zip((1, 2, 3), logs, strict=True):
        sphere = 2 * math.pi ** (d / 2) / math.gamma(d / 2)
        found = math.log(float(sphere * (r**d * case.kernel.profile(r * r)).sum() * step))
        close(log, found, f"log_integral({d}) is not the logarithm of the integral", atol=1e-6)


@KERNEL.check
def a_rule_looks_at_the_law_alone(case: KernelCase) -> None:
    """What fit(x, log_w) finds depends neither on the order of the points nor on the scale of their weights."""
    applies(case.rule.fit(case.p.x, case.p.log_w) is not case.rule, "it has no rule")
    at = lambda p: case.rule.fit(p.x, p.log_w).profile(case.s)  # noqa: E731
    order = torch.randperm(len(case.p), generator=generator(3))
    close(at(shuffled(case.p, order)), at(case.p), "the rule depends on the order of the points", rtol=1e-10)
    for why, p, same in rescaled(case.p):
        close(at(p), at(same), f"the rule changes {why}", rtol=1e-10)


@KERNEL.check
def single_precision_keeps_half_of_the_digits(case: KernelCase) -> None:
    """In float32 everything is float32, and agrees with float64 to half of its digits."""
    single, kernel = torch.float32, cast(case.kernel, torch.float32)
    half = torch.finfo(single).eps ** 0.5
    for name in ("profile", "slope"):
        value = getattr(kernel, name)(case.s.float())
        assert value.dtype == single, f"{name} is {value.dtype} for distances of {single}"
        close(
            value,
            getattr(case.kernel, name)(case.s).float(),
            f"{name} in float32 is not that in float64",
            rtol=half,
            atol=half,
        )


@KERNEL.check
def wrong_arguments_are_refused(case: KernelCase) -> None:
    """Nothing but an error of wgflow leaves the constructor, and of values of every kind most are refused."""
    refuses_wrong_arguments(case.rule)
