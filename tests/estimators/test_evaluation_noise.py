"""Velocities that are looked up at perturbed points."""

import math

import pytest
import torch
from _exact import double, rng

from wgflow import (
    RBF,
    Autograd,
    BadInput,
    Dataset,
    ForwardEuler,
    Halving,
    Labelled,
    Particles,
    PerClass,
    PotentialEnergy,
    SquaredMMD,
    solve,
)
from wgflow.estimators.evaluation_noise import EvaluationNoise
from wgflow.solvers.explicit import RK4
from wgflow.storage.state import load_state, state_dict

V = PotentialEnergy(lambda x: x.pow(4).sum(1) / 4)


def test_without_noise_it_is_the_other_estimator():
    x = Particles(torch.randn(20, 2, generator=rng(1), dtype=torch.float64))
    F = 0.5 * SquaredMMD(Particles(x.x + 1), RBF(1.0))
    one, two = (
        solve(F, ForwardEuler(e), x, step_size=0.1, num_steps=3).measure.x
        for e in (Autograd(), EvaluationNoise(Autograd(), 0.0))
    )
    assert torch.equal(one, two)


def test_its_mean_is_the_velocity_smoothed_by_the_noise():
    """One place and one target atom: the mean force is that of the kernel convolved with N(0, β²), in closed form."""
    s, beta, n, x = 1.0, 0.7, 1000, 1.3
    F = 0.5 * SquaredMMD(Particles(double([[0.0]])), RBF(s))
    rho, noise = Particles(torch.full((n, 1), x, dtype=torch.float64)), EvaluationNoise(Autograd(), beta)
    es = noise.init(F, rng(2))
    noise.refine(F, lambda rng: rho, es, rng(3))
    v = noise.velocity(F.freeze(rng(4)), rho, es)[:, 0]
    smooth = s**2 + beta**2
    force = lambda r: s / math.sqrt(smooth) * math.exp(-(r**2) / (2 * smooth)) * r / smooth  # noqa: E731
    expected = force(0.0) - force(x)  # repelled by itself, here at distance βu, and attracted by the target
    assert float(v.mean()) == pytest.approx(
        expected, abs=5 * float(v.std()) / math.sqrt(n) + 2e-3
    )  # probes weigh 0.001


def test_the_noise_is_that_of_the_step_at_all_its_stages():
    """A potential's velocity is -(x + βu)³: within a step u is fixed, over steps it is not, and its level is the schedule's."""
    x = Particles(torch.full((4000, 1), 2.0, dtype=torch.float64))
    noise = EvaluationNoise(Autograd(), Halving(0.2, every=1))
    es = noise.init(V, rng(1))
    levels, seen = [], []
    for _ in range(3):
        noise.refine(V, lambda rng: x, es, rng(2))
        v = noise.velocity(V, x, es)
        assert torch.equal(v, noise.velocity(V, x, es))
        u = -v.sign() * v.abs() ** (1 / 3) - 2
        levels.append(float(u.std()))
        seen.append(u / levels[-1])
    assert levels == pytest.approx([0.2, 0.1, 0.05], rel=5 / math.sqrt(8000))
    assert abs(float((seen[0] * seen[1]).mean())) < 5 / math.sqrt(4000)


def test_resume_is_exact():
    x, solver = (
        Particles(torch.randn(8, 2, generator=rng(1), dtype=torch.float64)),
        RK4(EvaluationNoise(Autograd(), 0.3)),
    )
    state = solver.init(V, x, rng(0))
    state, _ = solver.update(V, state, 0.1)
    resumed = load_state(solver.init(V, x, rng(99)), state_dict(state))
    ends = [solver.update(V, s, 0.1)[0].measure.x for s in (state, resumed)]
    assert torch.equal(*ends)


def test_bad_levels():
    for std in (-1.0, math.inf, math.nan, lambda k: -1.0):
        with pytest.raises(BadInput, match="standard deviation"):
            EvaluationNoise(Autograd(), std)


def test_noise_is_in_points_and_not_in_what_is_behind_them():
    """A label with noise would be that of the other class, of none, or of both: the velocity is that of the own class, by hand."""
    data = Labelled(Dataset(double([[10.0], [90.0]]), labels=torch.tensor([0, 1])))
    start = Particles(double([[0.0, 1.0, 0.0]] * 40 + [[100.0, 0.0, 1.0]] * 40))
    F, noisy = 1250.0 * PerClass(SquaredMMD(data, RBF(50.0))), EvaluationNoise(Autograd(), 1.0)
    moved = solve(F, ForwardEuler(noisy), start, step_size=1.0, num_steps=1).measure.x - start.x
    toward = 10 * math.exp(-(10**2) / (2 * 50**2))
    # Where the particles are: within 4 of that, where the noise puts them, it changes by less than 0.4.
    assert float((moved[:40, 0] - toward).abs().max()) < 0.5
    assert float((moved[40:, 0] + toward).abs().max()) < 0.5
    assert not moved[:, 1:].any()
