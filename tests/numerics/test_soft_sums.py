"""Log-sums of Gaussian bumps and what they pull towards, against dense formulas in double precision."""

import pytest
import torch
from _exact import rng

from wgflow import BadInput, Unsupported
from wgflow.numerics import soft_sums
from wgflow.numerics.metric import Metric
from wgflow.numerics.soft_sums import log_sums, soft_pulls


def randn(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=rng(seed))


def dense(x, y, bias, width):
    return bias - (x[:, None] - y).square().sum(2) / width


@pytest.mark.parametrize("d", [1, 3, 20])
@pytest.mark.parametrize("block", [1, 40, 2**20])
def test_values_and_all_derivatives(d, block, monkeypatch):
    monkeypatch.setattr(soft_sums, "BLOCK_CPU", block)
    x, y, bias = randn(7, d), randn(11, d, seed=1), randn(11, seed=2)
    leaves = [t.clone().requires_grad_(True) for t in (x, y, bias)]
    weight = randn(7, seed=3)
    ours, theirs = log_sums(*leaves, 1.7), torch.logsumexp(dense(*leaves, 1.7), 1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(weight @ f, leaves) for f in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    pulled = x - dense(x, y, bias, 1.7).softmax(1) @ y
    torch.testing.assert_close(soft_pulls(x, y, bias, 1.7), pulled, rtol=1e-11, atol=1e-12)


def test_one_cloud_with_itself():
    x, bias = randn(9, 2).requires_grad_(True), randn(9, seed=2)
    ours, theirs = log_sums(x, x, bias, 0.6).sum(), torch.logsumexp(dense(x, x, bias, 0.6), 1).sum()
    torch.testing.assert_close(*(torch.autograd.grad(f, x)[0] for f in (ours, theirs)), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_row_underflows(dtype):
    """Every exponential is below the least number: the sum and its slope are those of the nearest point."""
    x, y = torch.tensor([[1000.0], [-2000.0]], dtype=dtype), torch.tensor([[0.0], [1.0]], dtype=dtype)
    x.requires_grad_(True)
    sums = log_sums(x, y, torch.zeros(2, dtype=dtype), 0.5)
    torch.testing.assert_close(sums, torch.tensor([-2 * 999.0**2, -2 * 2000.0**2], dtype=dtype))
    (slope,) = torch.autograd.grad(sums.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([[-4 * 999.0], [4 * 2000.0]], dtype=dtype))


def test_a_term_without_mass_is_left_out():
    x, y, bias = randn(4, 2), randn(5, 2, seed=1), randn(5, seed=2)
    bias[3] = -torch.inf
    kept = torch.tensor([0, 1, 2, 4])
    torch.testing.assert_close(log_sums(x, y, bias, 1.0), log_sums(x, y[kept], bias[kept], 1.0))
    torch.testing.assert_close(soft_pulls(x, y, bias, 1.0), soft_pulls(x, y[kept], bias[kept], 1.0))


def test_single_precision_far_from_the_origin():
    """Points 1e-3 apart at a distance of 1e3: the pull keeps the digits of their differences."""
    x = (1e3 + 1e-3 * randn(40, 6)).float()
    exact = (
        x.double() - dense(x.double(), x.double(), torch.zeros(40, dtype=torch.float64), 1e-5).softmax(1) @ x.double()
    )
    found = soft_pulls(x, x, torch.zeros(40), 1e-5)
    assert float((found - exact).norm() / exact.norm()) < 1e-3  # exponents in float32


def test_is_differentiated_once():
    x = randn(3, 2).requires_grad_(True)
    (slope,) = torch.autograd.grad(log_sums(x, randn(4, 2, seed=1), randn(4), 1.0).sum(), x, create_graph=True)
    with pytest.raises(Unsupported, match="once only"):
        slope.square().sum().backward()


@pytest.mark.parametrize("diagonal", [True, False])
def test_a_metric_has_coordinates(diagonal):
    root = randn(3, 3)
    M = root.square().sum(1) + 0.1 if diagonal else root @ root.T + 0.1 * torch.eye(3, dtype=torch.float64)
    whole, metric, x = M.diag() if diagonal else M, Metric(M), randn(5, 3, seed=1)
    torch.testing.assert_close(metric.color(metric.whiten(x)), x)
    torch.testing.assert_close(metric.whiten(x).square().sum(1), ((x @ whole.inverse()) * x).sum(1))
    torch.testing.assert_close(metric.apply(x), x @ whole)
    torch.testing.assert_close(metric.log_det, torch.logdet(whole))
    images = x.repeat(1, 4).view(5, 3, 2, 2)
    with pytest.raises(BadInput, match="one of 3 coordinates, and points have 12"):
        metric.whiten(images)


@pytest.mark.parametrize(
    ("M", "says"),
    [
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "not symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "least eigenvalue is -1"),
        (torch.tensor([1.0, 0.0]), "least eigenvalue is 0"),
        (torch.ones(2, 3), r"expected a tensor \(d,\) or \(d, d\), got \(2, 3\)"),
        (torch.tensor([1.0, torch.nan]), "finite"),
    ],
)
def test_what_is_no_metric(M, says):
    with pytest.raises(BadInput, match=says):
        Metric(M)
