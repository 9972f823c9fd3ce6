"""Mixtures with local precisions against automatic differentiation, convolution and matrix algebra."""

import math

import pytest
import torch
from _exact import double, rng
from torch import Tensor

import wgflow.numerics.by_blocks as module
from wgflow import BadInput, FactorCovariance, FullPrecision, GaussianMixture, LocalGaussians, LocalPrecision


def positive(K: int, d: int, seed: int = 0) -> Tensor:
    a = torch.randn(K, d, d, generator=rng(seed), dtype=torch.float64)
    return a @ a.mT + 0.2 * torch.eye(d, dtype=torch.float64)


def full(K: int = 4, d: int = 3) -> LocalPrecision:
    return FullPrecision.of(positive(K, d))


def low_rank(K: int = 4, d: int = 3, r: int = 2) -> LocalPrecision:
    g = rng(1)
    c = torch.rand(K, d, generator=g, dtype=torch.float64) + 0.1
    return FactorCovariance.of(c, torch.randn(K, d, r, generator=g, dtype=torch.float64))


FORMS = pytest.mark.parametrize("precision", [full(), low_rank()], ids=["full", "low_rank"])


def mixture(precision: LocalPrecision) -> LocalGaussians:
    return LocalGaussians(torch.randn(*precision.shape, generator=rng(2), dtype=torch.float64), precision)


def points(n: int = 7, d: int = 3) -> Tensor:
    return 2 * torch.randn(n, d, generator=rng(3), dtype=torch.float64)


@FORMS
def test_density_is_that_of_torch(precision):
    eta, x = mixture(precision), points()
    parts = torch.distributions.MultivariateNormal(eta.centres, precision.covariance)
    expected = parts.log_prob(x[:, None]).logsumexp(1) - math.log(len(eta.centres))
    torch.testing.assert_close(eta.log_prob(x), expected, rtol=1e-12, atol=1e-12)


@FORMS
def test_score_and_laplacian_ratio_are_those_of_automatic_differentiation(precision):
    """Check 14, in three dimensions: no stride of a trace fits but the right one."""
    eta, x = mixture(precision), points().requires_grad_(True)
    density = eta.log_prob(x).exp()
    (slope,) = torch.autograd.grad(density.sum(), x, create_graph=True)
    rows = [torch.autograd.grad(slope[:, j].sum(), x, retain_graph=True)[0][:, j] for j in range(3)]
    laplacian = torch.stack(rows).sum(0)
    torch.testing.assert_close(eta.score(x), slope / density[:, None], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(eta.laplacian_ratio(x), laplacian / density, rtol=1e-10, atol=1e-10)
    plain = super(LocalGaussians, eta)
    torch.testing.assert_close(eta.score(x), plain.score(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(eta.hyvarinen_score(x), plain.hyvarinen_score(x), rtol=1e-10, atol=1e-10)


@FORMS
def test_blocks_change_nothing_and_have_the_same_gradients(precision, monkeypatch):
    def loss_and_slopes():
        leaves = [t.clone().requires_grad_(True) for t in vars(precision).values() if t.dim() >= 2]
        eta = mixture(type(precision)(*leaves[: 1 if isinstance(precision, FullPrecision) else 2]))
        loss = eta.hyvarinen_score(points()).mean() + eta.log_prob(points()).mean() + eta.score(points()).sum()
        return [loss.detach(), *torch.autograd.grad(loss, leaves, allow_unused=True)]

    whole = loss_and_slopes()
    monkeypatch.setattr(module, "BLOCK", 30)
    for one, other in zip(whole, loss_and_slopes(), strict=True):
        if one is not None:
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12)


def test_far_points_and_stiff_precisions_do_not_overflow():
    eta = LocalGaussians(torch.zeros(2, 3), FullPrecision.of(1e8 * torch.eye(3).repeat(2, 1, 1)))
    x = torch.full((1, 3), 100.0)
    assert torch.isfinite(eta.log_prob(x)).all()
    torch.testing.assert_close(eta.score(x), -1e8 * x)


@FORMS
@pytest.mark.parametrize(("scale", "variance"), [(1.0, 0.7), (0.6, 0.0), (0.6, 1.3)])
def test_noise_adds_to_the_covariance(precision, scale, variance):
    noised = mixture(precision).noised(scale, variance)
    expected = scale**2 * precision.covariance + variance * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(noised.precision.covariance, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(noised.centres, scale * mixture(precision).centres)


@FORMS
def test_heat_is_the_convolution(precision):
    """Check 15, first half: the density after heat is the mean of the density at points moved by it, within five standard errors."""
    eta, x, variance, n = mixture(precision), points(3), 0.5, 100_000
    moved = x[:, None] + math.sqrt(variance) * torch.randn(1, n, 3, generator=rng(4), dtype=torch.float64)
    sample = eta.log_prob(moved.reshape(-1, 3)).exp().reshape(3, n)
    error = (sample.mean(1) - eta.noised(1.0, variance).log_prob(x).exp()).abs()
    assert (error < 5 * sample.std(1) / math.sqrt(n)).all()


@FORMS
def test_bounds_are_a_floor_of_the_precision_and_one_of_the_covariance(precision):
    floor, ceiling = 0.5, 3.0
    held = torch.linalg.inv(precision.within(floor, ceiling).covariance)
    own = torch.linalg.inv(precision.covariance)
    eye = torch.eye(3, dtype=torch.float64)
    expected = torch.linalg.inv(torch.linalg.inv(own + floor * eye) + eye / ceiling)
    torch.testing.assert_close(held, expected, rtol=1e-9, atol=1e-9)
    assert torch.linalg.eigvalsh(held).max() < ceiling


@FORMS
def test_the_largest_eigenvalue_is_bounded(precision):
    exact = torch.linalg.eigvalsh(torch.linalg.inv(precision.covariance)).amax(1)
    assert (precision.largest >= exact * (1 - 1e-12)).all()
    if isinstance(precision, FullPrecision):
        torch.testing.assert_close(precision.largest, exact)


def test_a_marginal_takes_blocks_of_the_covariance():
    """Check 17: the block of the precision would give 0.5."""
    precision = FullPrecision.of(double([[[2.0, 0, 1], [0, 2, 1], [1, 1, 2]]]))
    eta = LocalGaussians(torch.zeros(1, 3, dtype=torch.float64), precision)
    torch.testing.assert_close(eta.marginal([0]).precision.covariance, double([[[0.75]]]))
    draws = eta.draw(40_000, rng(5)).x[:, 0]
    assert abs(float(draws.var()) - 0.75) < 5 * 0.75 * math.sqrt(2 / 40_000)


@FORMS
def test_a_marginal_integrates_the_others_out(precision):
    eta = mixture(precision)
    x = eta.marginal([2, 0]).draw(5, rng(6)).x
    last = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    for point in x:
        line = torch.stack([point[1].expand_as(last), last, point[0].expand_as(last)], 1)
        total = torch.trapezoid(eta.log_prob(line).exp(), last)
        torch.testing.assert_close(total.log(), eta.marginal([2, 0]).log_prob(point[None])[0], rtol=1e-8, atol=1e-8)


def test_the_isotropic_one_is_a_gaussian_mixture():
    centres, x = points(9), points(5)
    ours, theirs = LocalGaussians.isotropic(centres, 0.3), GaussianMixture(centres, 0.3)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(ours.noised(0.5, 0.2).log_prob(x), theirs.noised(0.5, 0.2).log_prob(x))


def test_many_dimensions_make_no_matrix_of_them():
    """4000 dimensions and 20 centres: K d² would be 2.5 GB in double precision."""
    K, d, r = 20, 4000, 3
    eta = LocalGaussians(
        torch.zeros(K, d), FactorCovariance.of(torch.ones(K, d), torch.randn(K, d, r, generator=rng(7)))
    )
    x = eta.noised(0.9, 0.1).draw(2, rng(8)).x
    assert torch.isfinite(eta.hyvarinen_score(x)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FullPrecision.of(torch.eye(2)), "shape|expected precisions"),
        (lambda: FullPrecision.of(torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])), "least eigenvalue is -1"),
        (lambda: FullPrecision.of(torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])), "not symmetric"),
        (lambda: FullPrecision.of(torch.full((1, 2, 2), math.nan)), "finite"),
        (lambda: FactorCovariance.of(torch.tensor([[1.0, -2.0]]), torch.zeros(1, 2, 1)), "least is -2"),
        (lambda: FactorCovariance.of(torch.ones(1, 2), torch.zeros(1, 3, 1)), "expected diagonal"),
        (lambda: LocalGaussians(torch.zeros(3, 2), full()), "precisions of 4 Gaussians in 3"),
        (lambda: mixture(full()).marginal([0, 3]), "from 0 to 2"),
        (lambda: mixture(full()).noised(1.0, -1.0), "variance"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize("variance", [1e-2, 1e-4, 1e-6, 1e-8])
def test_a_thin_gaussian_keeps_its_density_along_its_columns(variance):
    """In float32 1/c - 1/c(...) had no digits left at a variance of 1e-6 off the manifold, the default ceiling of the model."""
    thin = FactorCovariance.of(torch.full((1, 5), variance), torch.randn(1, 5, 2, generator=rng(0)))
    wide = FactorCovariance(thin.diagonal.double(), thin.factor.double())
    r = (torch.randn(7, 2, generator=rng(1)) @ thin.factor[0].T)[:, None]
    expected = wide.quadratic(r.double())
    torch.testing.assert_close(thin.quadratic(r).double(), expected, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(thin.applied(r)[1].double(), expected, rtol=2e-5, atol=1e-6)


def test_bad_matrices_are_named_for_what_is_wrong_with_them():
    with pytest.raises(BadInput, match="not positive definite"):
        FullPrecision.of(torch.zeros(1, 2, 2))
    with pytest.raises(BadInput, match="of one dtype"):
        FactorCovariance(torch.ones(1, 2), torch.ones(1, 2, 1).double())
    with pytest.raises(BadInput, match="convert one of them"):
        LocalGaussians(torch.zeros(1, 2), FullPrecision.of(torch.eye(2).double()[None]))
    with pytest.raises(BadInput, match="no number of"):
        LocalGaussians.isotropic(torch.zeros(1, 2), 1e-20)
