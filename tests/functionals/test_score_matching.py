"""Score matching in closed form, and who may be fitted by it."""

import math

import pytest
import torch
from _exact import ALL, double, hermite, rng

from wgflow import (
    JKO,
    Adam,
    CrossEntropy,
    Dataset,
    FullPrecision,
    Gaussian,
    ImplicitScoreMatching,
    Incompatible,
    KernelScoreModel,
    LocalGaussians,
    NegativeLogLikelihood,
    Particles,
    StandardNormal,
    Unsupported,
    solve,
    why_not,
)

P = double([[2.0, 0.3, 0.1], [0.3, 1.5, -0.2], [0.1, -0.2, 0.7]])


def one(precision):
    return LocalGaussians(torch.zeros(1, 3, dtype=torch.float64), FullPrecision.of(precision[None]))


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
def test_one_gaussian_has_the_closed_form(c):
    """Check 13: J(cP) = (c² - 2c) tr P for data N(0, P⁻¹); Hermite nodes make the expectation exact."""
    data = hermite(mean=[0.0] * 3, root=torch.linalg.cholesky(torch.linalg.inv(P)).tolist())
    F = ImplicitScoreMatching(data, ALL)
    for law in (one(c * P), Gaussian(torch.zeros(3, dtype=torch.float64), torch.linalg.inv(c * P))):
        torch.testing.assert_close(F.value(law.draw(1, rng())), (c**2 - 2 * c) * P.trace())


def test_its_slope_in_the_precision_vanishes_at_the_data():
    data = hermite(mean=[0.0] * 3, root=torch.linalg.cholesky(torch.linalg.inv(P)).tolist())
    for F in (ImplicitScoreMatching(data, ALL), NegativeLogLikelihood(data, ALL)):
        factor = torch.linalg.cholesky(P)[None].requires_grad_(True)
        law = LocalGaussians(torch.zeros(1, 3, dtype=torch.float64), FullPrecision(factor))
        (slope,) = torch.autograd.grad(F.value(Particles(torch.zeros_like(law.centres), source=law)), factor)
        torch.testing.assert_close(slope.tril(), torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_the_likelihood_is_the_entropy_at_the_law_itself():
    law = StandardNormal(1, dtype=torch.float64)
    value = NegativeLogLikelihood(hermite(n=5), ALL).value(law.draw(1, rng()))
    assert float(value) == pytest.approx(0.5 * math.log(2 * math.pi * math.e))


def test_cross_entropy_is_a_potential_energy():
    p = Particles(double([[1.0, 2.0]]))
    F = CrossEntropy(StandardNormal(2))
    energy, temperature = F.split_entropy()
    assert temperature == 0
    torch.testing.assert_close(F.value(p), energy.value(p))


def test_it_is_refused_without_a_density_at_data():
    F = ImplicitScoreMatching(StandardNormal(2))
    assert "Particles has none there" in why_not(F, JKO(), Particles(torch.zeros(3, 2)))
    with pytest.raises(Unsupported, match="KernelScoreModel"):
        F.freeze(rng()).value(Particles(torch.zeros(3, 2)))


def test_centres_among_the_data_are_refused():
    """Check 16: the loss is unbounded below there."""
    x = torch.randn(40, 2, generator=rng(1))
    model, solver = KernelScoreModel(x[:20]), JKO(optim=Adam(1e-3), iters=2)
    for F in (
        ImplicitScoreMatching(Dataset(x[17:])),
        2 * ImplicitScoreMatching(Particles(x[17:].double())) + NegativeLogLikelihood(Dataset(x[20:])),
    ):
        with pytest.raises(Incompatible, match=r"3 of the 20 centers .* among the 23 points"):
            solve(F, solver, model, step_size=math.inf, num_steps=1)
    assert why_not(ImplicitScoreMatching(Dataset(x[20:])), solver, model) is None


def test_at_a_centre_the_loss_falls_without_bound():
    x = double([[0.0, 0.0], [5.0, 5.0]])
    values = []
    for c in (1.0, 10.0, 100.0):
        law = LocalGaussians(x, FullPrecision.of(c * torch.eye(2, dtype=torch.float64).repeat(2, 1, 1)))
        values.append(float(ImplicitScoreMatching(Particles(x)).value(law.draw(1, rng()))))
    torch.testing.assert_close(double(values[1:]), double([-40.0, -400.0]))
