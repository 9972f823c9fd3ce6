"""Long implicit steps of spacing energies by a line search: particles on a line must not pass each other."""

import math

import numpy as np
import pytest
import torch
from _exact import double, rng
from scipy.stats import norm
from torch import nn

from wgflow import (
    JKO,
    KL,
    SGD,
    BadInput,
    ForwardEuler,
    Gaussian,
    Heun,
    NotConverged,
    Particles,
    PotentialEnergy,
    Spacings,
    solve,
)
from wgflow.estimators import Autograd
from wgflow.estimators.entropic import Blob
from wgflow.functionals.energies import Entropy, PowerEntropy
from wgflow.optim import LBFGS, TridiagonalNewton

N, TOLERANCE = 24, 1e-6
X = double(norm.ppf((np.arange(N) + 0.5) / N))[:, None]
HARMONIC = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
CASES = {
    "KL, from wide": (KL(Gaussian(double([0]), double([[1]]))), Blob(Spacings()), 2.0, 100.0),
    "KL, from narrow": (KL(Gaussian(double([0]), double([[1]]))), Blob(Spacings()), 0.01, 1.0),
    "entropy": (Entropy(), Blob(Spacings()), 2.0, 100.0),
    "porous medium": (PowerEntropy(Spacings(), m=2.0), Autograd(), 0.01, 1.0),
    "fast diffusion": (HARMONIC + PowerEntropy(Spacings(), m=0.5), Autograd(), 0.01, 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_a_line_search_finds_the_step_of_quantiles(case):
    """The objective is 1-strongly convex in L2(rho) among ordered particles: the gradient left bounds the error."""
    F, estimator, scale, h = CASES[case]
    start = Particles(scale * X)
    ends = [
        solve(F, JKO(estimator, optim, iters=1), start, step_size=h, num_steps=1).measure.x
        for optim in (LBFGS(1000, TOLERANCE), TridiagonalNewton())
    ]
    assert bool((ends[0].diff(dim=0) > 0).all())
    steepest = estimator.velocity(F, start, None).abs().max()
    torch.testing.assert_close(*ends, rtol=0, atol=float(2 * math.sqrt(N) * TOLERANCE * h * steepest))


def test_first_order_minimisers_and_fresh_evaluations_see_any_order():
    """Only a minimiser that evaluates one function again can be turned back; a step that has been made is not undone."""
    crossed, F = Particles(X.flip(0)), Entropy(Spacings())
    assert float(F.fit(Particles(X)).value(crossed)) == float(F.value(crossed)) == float(F.value(Particles(X)))
    held = F.fit(Particles(X))
    held.value(Particles(X))
    assert float(held.value(crossed)) == math.inf
    rough = JKO(Blob(Spacings()), SGD(1.0), iters=3)  # some of its steps exchange neighbours
    assert solve(Entropy(), rough, Particles(X), step_size=1.0, num_steps=1).measure.x.isfinite().all()


@pytest.mark.parametrize(
    ("F", "estimator"),
    [
        (KL(Gaussian(double([0]), double([[1]]))), Blob(Spacings())),
        (HARMONIC + Entropy(Spacings()), Autograd()),
        (HARMONIC + 0.5 * PowerEntropy(Spacings(), m=2.0), Autograd()),
    ],
)
def test_explicit_steps_past_each_other_are_not_called_done(F, estimator):
    """A step of .1 is far above the square of the least gap of 24 normal draws, 1e-4; one of 1e-9 is below."""
    start = Particles(torch.randn(N, 1, dtype=torch.float64, generator=rng(1)))
    for solver in (ForwardEuler(estimator), Heun(estimator)):
        with pytest.warns(NotConverged, match="passed each other"):
            flow = solve(F, solver, start, step_size=0.1, num_steps=3)
        assert flow.status == "unconverged"
        assert max(row["spacings/residual"] for row in flow.history) > 0
        assert solve(F, solver, start, step_size=1e-9, num_steps=3).status == "done"


@pytest.mark.parametrize(
    "solver", [ForwardEuler(Blob(Spacings())), JKO(Blob(Spacings()), LBFGS(), iters=1)], ids=["euler", "jko"]
)
def test_duplicates_on_a_line_are_named(solver):
    x = X.clone()
    x[5] = x[3]
    with pytest.raises(BadInput, match=r"particles (3 and 5|5 and 3) are at the same place"):
        solve(Entropy(), solver, Particles(x), step_size=1e-4, num_steps=1)
    assert float(Entropy(Spacings()).value(Particles(x))) == math.inf


@pytest.mark.parametrize("outside", [math.inf, math.nan])
def test_a_line_search_turns_back_at_the_end_of_the_domain(outside):
    """The first trial, a step of 1 from 1, is where the logarithm ends; the minimum of cw - log w is 1/c."""
    w = nn.Parameter(double([1.0]))
    objective = lambda: torch.where(w > 0, 50 * w - w.clamp(min=1e-300).log(), outside).sum()  # noqa: E731
    report = LBFGS(tolerance=1e-6).build([w]).minimise(objective)
    assert report["residual"] <= 1e-6
    # The gradient, at first 49, is the error times c^2 = 2500.
    assert w.item() == pytest.approx(1 / 50, abs=1.01 * 49e-6 / 2500)
