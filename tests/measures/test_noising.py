"""Noise forwards and backwards: the laws in closed form, and the library's own solvers along them."""

import math

import pytest
import torch
from _exact import double, rng

from wgflow import (
    RK4,
    BadInput,
    CrossEntropy,
    ForwardEuler,
    FullPrecision,
    Gaussian,
    GaussianMixture,
    LocalGaussians,
    Noising,
    Particles,
    Reversed,
    SlicedWasserstein,
    StandardNormal,
    Unsupported,
    presets,
    solve,
)


def mixture():
    precision = double([[[4.0, 1.0], [1.0, 2.0]], [[1.0, 0.0], [0.0, 9.0]]])
    return LocalGaussians(double([[1.0, 0.5], [-1.0, 0.0]]), FullPrecision.of(precision))


@pytest.mark.parametrize("drift", [0.0, 1e-9, 0.7])
def test_the_noise_solves_its_equation(drift):
    """d scale = -b scale ds and d variance = 2 (β - b variance) ds, by central differences."""
    noising, h = Noising(0.6, drift), 1e-5
    scale, variance = noising(1.3)
    (s0, v0), (s1, v1) = noising(1.3 - h), noising(1.3 + h)
    assert (s1 - s0) / (2 * h) == pytest.approx(-drift * scale, abs=1e-8)
    assert (v1 - v0) / (2 * h) == pytest.approx(2 * (0.6 - drift * variance), abs=1e-8)
    assert noising(0.0) == (1.0, 0.0)


@pytest.mark.parametrize("law", [Gaussian.example(), GaussianMixture.example()])
def test_noised_laws_have_the_density_of_the_sum(law):
    """Stein's identity of the noised density at noised draws, within five standard errors."""
    n, noised = 20_000, law.noised(0.8, 0.5)
    x = 0.8 * law.draw(n, rng(1)).x + math.sqrt(0.5) * torch.randn(n, 2, generator=rng(2))
    terms = x * noised.score(x) + 1
    assert (terms.mean(0).abs() < 5 * terms.std(0) / math.sqrt(n)).all()


def test_the_time_in_force_is_that_of_the_step_and_of_the_stage():
    """RK4 of the probability flow of N(0, 1 + 2βs) scales a point by the root of the variances; its order is 4."""
    back = Reversed(Gaussian(double([0.0]), double([[1.0]])), Noising(0.5), horizon=3.0)
    errors = []
    for steps in (8, 16):
        flow = solve(0.5 * CrossEntropy(back), RK4(), Particles(double([[2.0]])), step_size=3 / steps, num_steps=steps)
        errors.append(abs(float(flow.measure.x) - 1.0))
    assert errors[1] < 1e-5
    assert 11 < errors[0] / errors[1] < 22


@pytest.mark.parametrize("drift", [0.0, 0.8])
@pytest.mark.parametrize("method", [presets.reverse_diffusion, presets.probability_flow])
def test_reverse_processes_and_direct_draws_agree(method, drift):
    """Check 15, second half: mean, covariance and sliced W2, against two direct samples."""
    eta, n = mixture(), 4000
    start = Reversed(eta, Noising(0.5, drift), 2.0).draw(n, rng(1))
    flow = method(eta, start, beta=0.5, drift=drift, horizon=2.0, num_steps=100).solve(seed=3)
    x, direct, other = flow.measure.x, eta.draw(n, rng(4)).x, eta.draw(n, rng(5)).x
    assert (x.mean(0) - direct.mean(0)).abs().max() < 5 * direct.std() * math.sqrt(2 / n)
    torch.testing.assert_close(x.T.cov(), direct.T.cov(), rtol=0.1, atol=0.03)
    SW = SlicedWasserstein(Particles(direct), directions=100, batch=n).freeze(rng(6))
    assert float(SW.value(Particles(x))) < 3 * float(SW.value(Particles(other)))


def test_the_wrong_noise_level_would_be_seen():
    eta = mixture()
    start = eta.draw(4000, rng(1))  # not that of time 0
    x = presets.probability_flow(eta, start, horizon=2.0).solve().measure.x
    assert float(x.var(0).sum()) < 0.7 * float(eta.draw(4000, rng(4)).x.var(0).sum())


def test_a_time_beyond_the_horizon_is_refused():
    back = Reversed(Gaussian.example(), Noising(0.5), horizon=1.0)
    assert back.at(0, 1 + 1e-12).law.cov.equal(back.base.cov)
    with pytest.raises(BadInput, match=r"time 1\.5 is beyond the horizon 1"):
        back.at(3, 1.5)


@pytest.mark.parametrize("step_size", [0.4, lambda k: 0.4])
def test_a_flow_that_would_end_beyond_the_horizon_is_refused_before_it_starts(step_size):
    """Its last step begins before the horizon: no evaluation would be beyond it."""
    F = CrossEntropy(Reversed(Gaussian.example(), Noising(0.5), horizon=1.0))
    with pytest.raises(BadInput, match=r"time 1\.2 is beyond the horizon 1"):
        solve(F, ForwardEuler(), Particles(torch.zeros(2, 2)), step_size=step_size, num_steps=3)
    solve(F, ForwardEuler(), Particles(torch.zeros(2, 2)), step_size=0.5, num_steps=2)


def test_noise_that_leaves_nothing_of_the_law_is_refused():
    with pytest.raises(BadInput, match=r"drift 2 and time 400 .* below 700"):
        Reversed(Gaussian.example(), Noising(0.5, drift=2.0), horizon=400.0)
    assert Reversed(Gaussian.example(), Noising(0.5, drift=2.0), horizon=300.0).law.cov.equal(0.25 * torch.eye(2))


def test_the_noised_standard_normal_is_the_gaussian():
    law = StandardNormal(2, dtype=torch.float64)
    noised, same = (
        law.noised(0.8, 0.5),
        Gaussian(double([0.0, 0.0]), torch.eye(2, dtype=torch.float64)).noised(0.8, 0.5),
    )
    torch.testing.assert_close(noised.cov, same.cov, rtol=1e-15, atol=0)
    assert noised.mean.equal(same.mean)
    with pytest.raises(Unsupported):
        StandardNormal(1, 2, 2).noised(0.8, 0.5)


def test_a_base_whose_noised_law_is_not_known_is_refused():
    with pytest.raises(Unsupported, match="LocalGaussians"):
        Reversed(Particles(torch.zeros(2, 2)), Noising(0.5), 1.0)


def test_a_mixture_in_blocks_is_the_mixture(monkeypatch):
    """Value, score and second derivatives; differences of all points and means at once are never formed."""
    import wgflow.numerics.by_blocks as module

    mixture = GaussianMixture(torch.randn(5, 3, generator=rng(0), dtype=torch.float64), 0.7)
    x = torch.randn(11, 3, generator=rng(1), dtype=torch.float64)

    def found():
        return mixture.log_prob(x), mixture.score(x), mixture.hyvarinen_score(x)

    whole, formed = found(), []
    monkeypatch.setattr(module, "BLOCK", 40)
    monkeypatch.setattr(torch, "logsumexp", lambda t, dim, of=torch.logsumexp: formed.append(t.numel()) or of(t, dim))
    for one, other in zip(whole, found(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)
    assert max(formed) <= 40 // 3


@pytest.mark.parametrize("time", [-1.0, math.nan])
def test_noise_has_no_time_before_its_start(time):
    with pytest.raises(BadInput, match="from 0 up"):
        Noising(0.5)(time)
