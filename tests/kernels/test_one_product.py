"""One product of a block of kernel values in the place of two: far from the origin, with duplicates, with light particles."""

import math

import pytest
import torch
from _exact import rng

from wgflow.kernels import RBF
from wgflow.kernels import sums as sums_module
from wgflow.kernels.stein_sums import stein_sums
from wgflow.kernels.sums import kernel_sums

# The far points are 300 sqrt(d) from the others and 0.1 sqrt(d) from each other. Those of single precision are taken in double;
# from double precision nothing leads on, and 3000 of its units are lost in their differences.
ROUNDED = {torch.float32: 40, torch.float64: 6000}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def hard(d: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return points far from the origin, some of them equal and some far from all others but near each other; weights; slopes."""
    x = randn(40, d, seed=1)
    x[7] = x[3]
    x[20:23] = 300 * torch.ones(d) + 0.1 * randn(3, d, seed=2)
    x[30] = x[31] + 1e-3 * randn(d, seed=3)
    w = torch.softmax(3 * randn(40, seed=4), 0)
    w[11] = 0.0
    # Double precision of the numbers that the dtype holds.
    return tuple(t.to(dtype).double() for t in (x + 1e3, w, 10 * randn(40, d, seed=5)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [3, 8, 30, 100])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 30.0])
def test_stein_sums_far_from_the_origin(d, dtype, temperature):
    x, w, g = hard(d, dtype)
    bandwidth = math.sqrt(d)
    difference = x[:, None] - x[None]
    k = torch.exp(-difference.square().sum(2) / (2 * bandwidth**2)) * w
    slope = temperature / bandwidth**2
    exact = k @ g - slope * (k[..., None] * difference).sum(1)
    size = k @ g.abs() + slope * (k[..., None] * difference.abs()).sum(1)
    found = stein_sums(RBF(bandwidth), x.to(dtype), w.to(dtype), g.to(dtype), temperature).double()
    # A kernel value is as good as the squares that its distance is made of.
    error = (found - exact).abs() / (size + slope * k.sum(1, keepdim=True) * bandwidth)
    assert float(error.max()) < ROUNDED[dtype] * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [3, 23, 24, 100])
def test_sums_over_one_cloud_in_one_product_and_in_two(d, dtype, monkeypatch):
    """The derivative of sums over a cloud with itself is the same with the weights in the block and outside of it."""
    x, w, _ = hard(d, dtype)
    found = []
    for least in (1, 10**9):
        monkeypatch.setattr(sums_module, "WEIGHED", least)
        y, b = x.to(dtype).requires_grad_(True), w.to(dtype).requires_grad_(True)
        u = kernel_sums(RBF(math.sqrt(d)), y, y, b)
        found.append(torch.autograd.grad((u + 1e-9).log() @ b, (y, b)))
    y, b = x.clone().requires_grad_(True), w.clone().requires_grad_(True)
    k = torch.exp(-(y[:, None] - y[None]).square().sum(2) / (2 * d))
    exact = torch.autograd.grad((k @ b + 1e-9).log() @ b, (y, b))
    for grads in found:
        for ours, theirs in zip(grads, exact, strict=True):
            scale = theirs.abs().amax(-1, keepdim=True) + 1e-3 * theirs.abs().max()
            assert float(((ours.double() - theirs) / scale).abs().max()) < ROUNDED[dtype] * torch.finfo(dtype).eps


def test_two_leaves_of_one_memory_get_derivatives_of_their_own():
    """The one product is for a cloud with itself: two names of the same numbers are two clouds."""
    x, w = randn(9, 40), torch.full((9,), 1 / 9, dtype=torch.float64)
    p = x.clone().requires_grad_(True)
    q = p.detach().requires_grad_(True)
    total = kernel_sums(RBF(6.0), p, q, w) @ torch.arange(9.0, dtype=torch.float64)
    dp, dq = torch.autograd.grad(total, (p, q))
    k = lambda a, b: torch.exp(-(a[:, None] - b[None]).square().sum(2) / 72)  # noqa: E731
    r, s = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    exact = torch.autograd.grad((k(r, s) @ w) @ torch.arange(9.0, dtype=torch.float64), (r, s))
    torch.testing.assert_close((dp, dq), exact)
