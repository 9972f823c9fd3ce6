"""What a kernel of features owes its callers: its sums are those of its matrix."""

from collections.abc import Callable

import torch
from torch import Tensor

from wgflow.kernels.sums import kernel_discrepancy, kernel_energy, kernel_sums
from wgflow.testing._arguments import refuses_wrong_arguments
from wgflow.testing._checks import Suite, applies, at_most, close
from wgflow.testing._kernels import KernelCase
from wgflow.testing._precision import cast
from wgflow.testing._worlds import central, global_state_kept, points, rescaled, shuffled

FEATURE_KERNEL = Suite[KernelCase]()
Sum = Callable[..., Tensor]


def _clouds(case: KernelCase) -> list[Tensor]:
    """Return points x, weights a, points y and weights b."""
    y = points((2,), 9, seed=5) + 0.5
    return [case.p.x, case.p.w, y, torch.linspace(0.5, 1.5, len(y), dtype=y.dtype) / len(y)]


def _scalars(case: KernelCase) -> dict[str, Sum]:
    """Return the sums over pairs as functions of x, a, y and b, 0-d, by name."""
    k = case.kernel
    return {
        "kernel_energy": lambda x, a, y, b: kernel_energy(k, x, a, y, b),
        "kernel_energy of one cloud": lambda x, a, y, b: kernel_energy(k, x, a),
        "kernel_discrepancy": lambda x, a, y, b: kernel_discrepancy(k, x, a, y, b),
        "kernel_sums": lambda x, a, y, b: kernel_sums(k, x, y, b).sin().sum(),
    }


@FEATURE_KERNEL.check
def the_matrix_is_that_of_the_features(case: KernelCase) -> None:
    """k(x, y) is the matrix of products of the features, and positive semidefinite."""
    x, _, y, _ = _clouds(case)
    f, g = case.kernel.features(x), case.kernel.features(y)  # type: ignore[attr-defined]
    close(case.kernel(x, y), f @ g.T, "k(x, y) is not the product of the features", rtol=1e-12, atol=1e-12)
    least = float(torch.linalg.eigvalsh(case.kernel(x, x)).min())
    at_most(-least, 0.0, "the matrix has a negative eigenvalue", 1e-12 * len(x))


@FEATURE_KERNEL.check
def sums_are_those_of_the_matrix(case: KernelCase) -> None:
    """Sums over pairs by features are those of the matrix."""
    x, a, y, b = _clouds(case)
    k = case.kernel
    xx, xy = a @ k(x, x) @ a, a @ k(x, y) @ b
    close(kernel_energy(k, x, a, y, b), xy, "an energy is not that of the matrix", rtol=1e-9, atol=1e-12)
    close(kernel_energy(k, x, a), xx, "the energy of one cloud is not that of the matrix", rtol=1e-9, atol=1e-12)
    close(
        kernel_discrepancy(k, x, a, y, b), xx - 2 * xy, "a discrepancy is not that of the matrix", rtol=1e-9, atol=1e-9
    )
    close(kernel_sums(k, x, y, b), k(x, y) @ b, "sums at points are not those of the matrix", rtol=1e-9, atol=1e-12)


@FEATURE_KERNEL.check
def derivatives_are_central_differences(case: KernelCase) -> None:
    """Derivatives of the sums in points and weights of both clouds are central differences."""
    for name, f in _scalars(case).items():
        inputs = [t[:4].clone().requires_grad_(True) for t in _clouds(case)]
        found = torch.autograd.grad(f(*inputs), inputs, materialize_grads=True)
        for what, slope, exact in zip("xayb", found, central(f, inputs, 1e-5), strict=True):
            close(slope, exact, f"the derivative of {name} in {what} is not its slope", rtol=1e-6, atol=1e-8)


@FEATURE_KERNEL.check
def it_is_one_function(case: KernelCase) -> None:
    """The features of a point are the same at every call, whatever other points are there, and use no global random numbers."""
    x, k = case.p.x, case.kernel
    first = k.features(x)  # type: ignore[attr-defined]
    global_state_kept(lambda: k.features(x), "features")  # type: ignore[attr-defined]
    close(k.features(x[3:5]), first[3:5], "features depend on the other points", rtol=1e-12, atol=1e-12)  # type: ignore[attr-defined]


@FEATURE_KERNEL.check
def a_rule_looks_at_the_law_alone(case: KernelCase) -> None:
    """What fit(x, log_w) finds depends neither on the order of the points nor on the scale of their weights."""
    applies(case.rule.fit(case.p.x, case.p.log_w) is not case.rule, "it has no rule")
    at = lambda p: case.rule.fit(p.x, p.log_w)(case.p.x, case.p.x)  # noqa: E731
    order = torch.arange(len(case.p)).flip(0)
    close(at(shuffled(case.p, order)), at(case.p), "the rule depends on the order of the points", rtol=1e-10)
    for why, p, same in rescaled(case.p):
        close(at(p), at(same), f"the rule changes {why}", rtol=1e-10)


@FEATURE_KERNEL.check
def single_precision_keeps_half_of_the_digits(case: KernelCase) -> None:
    """In float32 features are float32, and sums agree with float64 to half of the digits."""
    single, clouds = torch.float32, _clouds(case)
    half = torch.finfo(single).eps ** 0.5
    low = KernelCase(case.rule, cast(case.kernel, single), case.p)
    rounded = [t.to(single) for t in clouds]
    assert low.kernel.features(rounded[0]).dtype == single, "features of points in float32 are not in float32"  # type: ignore[attr-defined]
    for name, f in _scalars(case).items():
        found = _scalars(low)[name](*rounded)
        close(found.double(), f(*clouds), f"{name} in float32 is not that in float64", rtol=half, atol=half)


@FEATURE_KERNEL.check
def wrong_arguments_are_refused(case: KernelCase) -> None:
    """Nothing but an error of wgflow leaves the constructor, and of values of every kind most are refused."""
    refuses_wrong_arguments(case.rule)
