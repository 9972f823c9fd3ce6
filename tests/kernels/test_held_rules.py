"""Bandwidth rules in a functional: an implicit step holds them, an explicit one evaluates them where the particles are."""

import pytest
import torch
from _exact import rng

from wgflow import (
    JKO,
    Autograd,
    Entropy,
    ForwardEuler,
    Gaussian,
    KernelDensity,
    Particles,
    PotentialEnergy,
    SquaredMMD,
    solve,
)
from wgflow.functionals.energies import InteractionEnergy
from wgflow.functionals.kale import KALE
from wgflow.functionals.stein import SquaredKSD
from wgflow.kernels import RBF, MedianRBF
from wgflow.optim import LBFGS

X = 3 + 0.5 * torch.randn(16, 2, generator=rng(), dtype=torch.float64)
NU = Particles(torch.randn(12, 2, generator=rng(1), dtype=torch.float64))
HARMONIC = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))

# With step sizes that move the particles by more than a bandwidth.
CASES = {
    "mmd": (lambda k: 0.5 * SquaredMMD(NU, k), 20.0),
    "kale": (lambda k: KALE(NU, k, penalty=1.0), 5.0),
    "ksd": (lambda k: 0.5 * SquaredKSD(Gaussian(NU.x[0], torch.eye(2, dtype=torch.float64)), k), 0.1),
    "interaction": (lambda k: HARMONIC + 2.0 * InteractionEnergy(k), 20.0),
    "entropy": (lambda k: HARMONIC + 0.5 * Entropy(KernelDensity(k)), 20.0),
    "two kernels": (lambda k: SquaredMMD(NU, RBF(1.0) + 2.0 * k), 20.0),
}


@pytest.mark.parametrize("case", CASES)
def test_an_implicit_step_minimises_one_function(case):
    """That of the bandwidth at the start of the step, to the minimiser's tolerance."""
    F, h = CASES[case]
    minimiser = JKO(optim=LBFGS(max_iter=400, tolerance=1e-6), iters=1)
    flows = [solve(F(k), minimiser, Particles(X), step_size=h, num_steps=1) for k in (MedianRBF(), MedianRBF().fit(X))]
    assert torch.equal(*(flow.measure.x for flow in flows))
    assert float(flows[0].history[-1]["jko/residual"]) <= 1e-6
    moved = flows[0].measure.x
    assert abs(float(MedianRBF().fit(moved).bandwidth / MedianRBF().fit(X).bandwidth) - 1) > 0.02, (
        "the rule would follow"
    )


@pytest.mark.parametrize("case", CASES)
def test_an_explicit_step_sees_the_rule_where_the_particles_are(case):
    F, flow = CASES[case][0], []
    for held in (False, True):
        rho = Particles(X)
        for _ in range(2):
            k = MedianRBF().fit(rho.x) if held else MedianRBF()
            rho = solve(F(k), ForwardEuler(), rho, step_size=0.05, num_steps=1).measure
        flow.append(rho.x)
    whole = solve(F(MedianRBF()), ForwardEuler(), Particles(X), step_size=0.05, num_steps=2).measure.x
    torch.testing.assert_close(flow[0], flow[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(whole, flow[1], rtol=0, atol=1e-12)


def test_what_holds_no_rule_stays_what_it_is():
    rho = Particles(X)
    for F in (HARMONIC, SquaredMMD(NU, RBF(1.0)), Entropy()):
        assert F.fit(rho) is F
    sums = (2.0 * SquaredMMD(NU, MedianRBF()) + HARMONIC).fit(rho)
    assert Autograd().surrogate(sums, Particles(X + 1), None) == pytest.approx(
        float(2 * SquaredMMD(NU, MedianRBF().fit(X)).value(Particles(X + 1)) + HARMONIC.value(Particles(X + 1)))
    )
