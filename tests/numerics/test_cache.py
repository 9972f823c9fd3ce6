"""What is remembered of a target is forgotten when the target changes, also where no counter of changes sees it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from wgflow import (
    RBF,
    EnergyDistance,
    Functional,
    Gaussian,
    Kernel,
    Measure,
    Particles,
    RandomFourierFeatures,
    SinkhornDivergence,
    SlicedWasserstein,
    SquaredMMD,
    SquaredW2,
)
from wgflow.numerics.cache import Kept, _entries, remember

RNG = np.random.default_rng(0)
FUNCTIONALS: dict[str, Callable[[Measure], Functional]] = {
    "W2": SquaredW2,
    "MMD": lambda nu: SquaredMMD(nu, RBF(1.0)),
    "energy distance": EnergyDistance,
    "Sinkhorn": lambda nu: SinkhornDivergence(nu, blur=0.5),
    "sliced": lambda nu: SlicedWasserstein(nu, directions=torch.ones(1, 1)),
}
WRITES: dict[str, Callable[[np.ndarray, torch.Tensor], None]] = {
    "by NumPy": lambda a, t: np.add(a, 3.0, out=a),
    "through data": lambda a, t: t.data.add_(3.0),
    "in place": lambda a, t: t.add_(3.0),
    "one entry": lambda a, t: a.__setitem__((7, 0), a[7, 0] + 1.0),
}


@pytest.mark.parametrize("kind", FUNCTIONALS)
@pytest.mark.parametrize("write", WRITES)
def test_a_target_that_is_written_to_counts_with_its_new_points(kind: str, write: str) -> None:
    buffer = RNG.normal(size=(50, 1)).astype(np.float32)
    target = torch.from_numpy(buffer)
    x = Particles(torch.from_numpy(RNG.normal(size=(40, 1)).astype(np.float32)))
    F = FUNCTIONALS[kind](Particles(target))
    before = F.value(x)
    assert torch.equal(F.value(x), before)
    WRITES[write](buffer, target)
    after, fresh = F.value(x), FUNCTIONALS[kind](Particles(target.clone())).value(x)
    assert torch.equal(after, fresh)
    assert abs(float(after - before)) > 1e-5


def test_weights_that_are_written_to_count() -> None:
    weights = np.zeros(30, dtype=np.float32)
    x = Particles(torch.from_numpy(RNG.normal(size=(20, 1)).astype(np.float32)))
    F = SquaredMMD(Particles(torch.linspace(-1, 1, 30)[:, None], torch.from_numpy(weights)), RBF(1.0))
    before = F.value(x)
    weights[:10] = 2.0
    assert not torch.equal(F.value(x), before)


@pytest.mark.parametrize(
    "make",
    [
        lambda k: k,
        lambda k: RBF(2.0) + 0.5 * k,
        lambda k: RandomFourierFeatures(k, 30),
        lambda k: RBF(2.0) + RandomFourierFeatures(k, 30),
    ],
    ids=["kernel", "sum", "features", "sum of features"],
)
def test_a_bandwidth_that_is_written_to_counts(make: Callable[[Kernel], Kernel]) -> None:
    points = torch.from_numpy(RNG.normal(size=(2, 20, 2)))
    x, target, bandwidth = Particles(points[0]), Particles(points[1]), torch.tensor(1.0)
    F = SquaredMMD(target, make(RBF(bandwidth)))
    before = F.value(x)
    assert torch.equal(F.value(x), before)
    bandwidth.fill_(0.3)
    after, fresh = F.value(x), SquaredMMD(target, make(RBF(torch.tensor(0.3)))).value(x)
    assert torch.equal(after, fresh)
    assert abs(float(after - before)) > 1e-3


def test_a_covariance_that_is_written_to_counts() -> None:
    cov = np.eye(2)
    normal, x = (
        Gaussian(torch.zeros(2, dtype=torch.float64), torch.from_numpy(cov)),
        torch.ones(3, 2, dtype=torch.float64),
    )
    normal.log_prob(x)
    cov *= 4.0
    fresh = Gaussian(torch.zeros(2, dtype=torch.float64), 4 * torch.eye(2, dtype=torch.float64))
    assert torch.equal(normal.log_prob(x), fresh.log_prob(x))


def test_what_has_not_changed_is_computed_once() -> None:
    calls: list[int] = []
    t, kept = torch.arange(5.0), Kept(lambda t: calls.append(1) or t.sum())
    _entries.clear()
    for _ in range(3):
        remember("sum", (t, None), lambda: calls.append(2) or t.sum())
        kept.of(t)
    assert calls == [2, 1]
    remember("sum", (t, t), lambda: calls.append(3))
    remember("another", (t, None), lambda: calls.append(4))
    assert calls == [2, 1, 3, 4]


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_tensor_without_values_is_compared_with_none_that_has() -> None:
    """Or what one test has left would decide whether the next one, under fake tensors, reads a value."""
    _entries.clear()
    remember("sum", (torch.ones(3),), lambda: 1)
    with FakeTensorMode():
        assert remember("sum", (torch.ones(3),), lambda: 2) == 2
    assert remember("sum", (torch.ones(3),), lambda: 3) == 1


@pytest.mark.parametrize("make", [lambda t: t.requires_grad_(), lambda t: t.double()], ids=["gradient", "dtype"])
def test_what_requires_gradient_or_has_another_dtype_is_not_the_same(
    make: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    calls: list[int] = []
    _entries.clear()
    remember("sum", (torch.ones(3),), lambda: calls.append(1))
    for _ in range(2):
        remember("sum", (make(torch.ones(3)),), lambda: calls.append(2))
    assert calls in ([1, 2, 2], [1, 2])
