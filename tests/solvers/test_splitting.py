"""Forward-backward splitting against exact Gaussian steps; solvers inside solvers; ODE methods; one resume for all."""

import io
import math
from dataclasses import replace

import pytest
import torch
from _exact import double, rng, trapezoid
from _gaussians import ExactScore, cloud, jko_step, kl_to, moments, quadratic

from wgflow import (
    JKO,
    KL,
    RBF,
    SGD,
    BadInput,
    Blob,
    Diverged,
    Entropy,
    KernelDensity,
    Particles,
    PotentialEnergy,
    Spacings,
    SquaredMMD,
    StandardNormal,
    solve,
    why_not,
)
from wgflow.optim import LBFGS, Adam
from wgflow.solvers.accelerated import Accelerated
from wgflow.solvers.explicit import RK4, Heun
from wgflow.solvers.langevin import Langevin, MetropolisLangevin
from wgflow.solvers.ode import ODE
from wgflow.solvers.reaction import BirthDeath, Reweight
from wgflow.solvers.splitting import ForwardBackward, WithReaction
from wgflow.storage.state import load_state, state_dict, tensors

A, CENTRE = double([[2.0, 0.5], [0.5, 1.0]]), double([1.0, -1.0])
MEAN, COV = double([-1.0, 2.0]), double([[1.0, -0.3], [-0.3, 2.0]])
EXACT = ForwardBackward(backward=JKO(ExactScore(), LBFGS(), iters=1))


def test_a_forward_backward_step_of_kl():
    """A gradient step on the potential, an exact proximal step on the entropy; digits of G C G and its proximal map."""
    flow = solve(kl_to(A, CENTRE), EXACT, cloud(MEAN, COV), step_size=0.25, num_steps=1)
    m, C = moments(flow.measure)
    torch.testing.assert_close(m, double([-0.375, 1.5]), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        C.flatten()[[0, 1, 3]], double([0.7190170606, -0.3907563672, 1.6535067557]), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("T", [1.0, 0.3])
def test_it_has_no_bias_up_to_the_inverse_curvature(T):
    """Where Langevin ends at T [A (I - hA/2)]⁻¹; λ_max = 2.21, and (1 - hλ_min)^(2 steps) leaves less than 1e-5."""
    F = quadratic(A, CENTRE) + T * Entropy()
    for h, steps in ((0.2, 35), (0.45, 15)):
        m, C = moments(solve(F, EXACT, cloud(CENTRE, COV, 12), step_size=h, num_steps=steps).measure)
        torch.testing.assert_close(m, CENTRE, rtol=0, atol=1e-4)
        torch.testing.assert_close(C, T * torch.linalg.inv(A), rtol=0, atol=1e-4)


def test_beyond_the_inverse_curvature_it_settles_elsewhere():
    """s⁺ - hT/s⁺ = |1 - ha| s: s² = T/a for ha <= 1, and hT/(2 - ha) from there on."""
    for h, variance in ((0.9, 1.0), (1.5, 3.0)):
        flow = solve(kl_to([[1.0]], [0.0]), EXACT, cloud(0.0, 2.0, 12), step_size=h, num_steps=20)
        assert float(moments(flow.measure)[1]) == pytest.approx(variance, abs=1e-5)


def test_an_entropy_alone_is_its_proximal_step():
    m, C = moments(solve(0.5 * Entropy(), EXACT, cloud(MEAN, COV), step_size=0.4, num_steps=1).measure)
    _, expected = jko_step(MEAN, COV, 0.2, torch.zeros(2, 2, dtype=torch.float64), MEAN)
    torch.testing.assert_close(C, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(m, MEAN, rtol=0, atol=1e-6)


def test_spacings_have_the_stationary_variance_of_the_target():
    """Dilation by λ changes -Σ m log(gap) by -log λ exactly, so the variance at rest is 1 for any number of particles.

    The step is small enough that particles keep their order: a line search can carry them over the barrier of a gap.
    """
    u = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
    start = Particles(1.2 * (2**0.5 * torch.erfinv(2 * u - 1))[:, None])
    solver = ForwardBackward(backward=JKO(Blob(Spacings()), LBFGS(), iters=1))
    flow = solve(kl_to([[1.0]], [0.0]), solver, start, step_size=0.3, num_steps=22)
    assert float(flow.measure.x.square().mean()) == pytest.approx(1, abs=1e-4)


def test_a_blob_keeps_its_stationary_variance():
    """Blob of variance ε²: q - ε², q = (1 + sqrt(1 + 4ε²))/2, also when the scheme is implicit in it."""
    eps = 0.5
    solver = ForwardBackward(backward=JKO(Blob(KernelDensity(RBF(eps))), LBFGS(), iters=1))
    q = (1 + math.sqrt(1 + 4 * eps**2)) / 2
    flow = solve(
        KL(StandardNormal(1, dtype=torch.float64)),
        solver,
        trapezoid(0.0, 1.0, step=0.2, half=5.0),
        step_size=0.8,
        num_steps=8,
    )
    assert float(moments(flow.measure)[1]) == pytest.approx(q - eps**2, abs=3e-3)


def test_the_forward_half_is_looked_at_by_the_backward_one():
    """Inside a step the present law is the one in training; between steps the accepted one."""
    F, solver = kl_to(A, CENTRE), ForwardBackward(backward=JKO(ExactScore(), SGD(0.1), iters=3))
    state = solver.init(F, cloud(MEAN, COV), rng())
    assert solver.updates(0) == 3
    for _ in range(2):
        state, info = solver.update(F, state, 0.1)
        assert state.k == 0
        assert not torch.equal(state.present.x, state.measure.x)
    assert "forward/drift" not in info
    state, _ = solver.update(F, state, 0.1)
    assert (state.k, state.t, state.present) == (1, 0.1, state.measure)


# --- ODE ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "bosh3"])
def test_an_adaptive_method_is_as_good_as_its_tolerance_at_any_step_size(method):
    V, x, T = PotentialEnergy(lambda x: x.pow(4).sum(1) / 4), double([[2.0], [0.5]]), 2.0
    exact = x / (1 + 2 * x * x * T).sqrt()
    for rtol in (1e-4, 1e-8):
        flow = solve(V, ODE(method=method, rtol=rtol, atol=rtol), Particles(x), step_size=T, num_steps=1)
        assert float((flow.measure.x - exact).norm()) < 10 * rtol
    assert ODE(method=method).order is None


def test_substeps_divide_the_step():
    V, x = quadratic(A, CENTRE), cloud(MEAN, COV)
    one = solve(V, ODE(method="rk4", substeps=3), x, step_size=0.3, num_steps=2)
    two = solve(V, ODE(method="rk4"), x, step_size=0.1, num_steps=6)
    torch.testing.assert_close(one.measure.x, two.measure.x, rtol=0, atol=1e-13)
    assert [row["ode/evaluations"] for row in one.history] == [12, 12]


def test_one_realisation_holds_for_the_whole_step():
    """A target drawn anew at every call would make an adaptive method shrink its step for ever."""
    F = 0.5 * SquaredMMD(StandardNormal(2, dtype=torch.float64), RBF(1.0))
    flow = solve(F, ODE(method="dopri5"), cloud(MEAN, COV), step_size=0.5, num_steps=2)
    assert all(row["ode/evaluations"] < 40 for row in flow.history)


def test_failures_of_the_library_are_explained():
    kink = PotentialEnergy(lambda x: (x[:, 0].abs() + 1e-9).sqrt())
    with pytest.raises(Diverged, match=r"gave up in time step 0.*fixed method such as ODE\(method='rk4'\)"):
        solve(
            kink,
            ODE(method="dopri5", rtol=1e-10, atol=1e-12, max_substeps=50),
            Particles(double([[0.5]])),
            step_size=2.0,
            num_steps=1,
        )
    for bad in ({"method": "explicit_adams"}, {"method": "lsoda"}, {"rtol": 0.0}, {"substeps": 0}):
        with pytest.raises(BadInput, match=r"ODE\("):
            ODE(**bad)
    with pytest.raises(BadInput, match="diverges where"):
        ODE(method="explicit_adams")


# --- every new solver ---------------------------------------------------------------------------------------------

F = kl_to(A, CENTRE)
SOLVERS = {
    "heun": Heun(ExactScore()),
    "rk4": RK4(ExactScore()),
    "ode": ODE(ExactScore(), method="dopri5"),
    "langevin": Langevin(),
    "mala": MetropolisLangevin(),
    "accelerated": Accelerated(ExactScore(), friction=None, restart=True),
    "jko, lbfgs": JKO(ExactScore(), LBFGS(), iters=1),
    "jko, lbfgs twice": JKO(ExactScore(), LBFGS(max_iter=3, tolerance=1e-3), iters=2),
    "forward-backward": ForwardBackward(backward=JKO(ExactScore(), Adam(0.01), iters=3)),
    "weights": WithReaction(Langevin(), Reweight(order=2, resample_below=0.99), ExactScore(), strang=True),
    "births": WithReaction(Accelerated(ExactScore()), BirthDeath(3.0, jitter=0.1)),
    "implicit, weights": WithReaction(JKO(ExactScore(), Adam(0.01), iters=3), strang=True),
    "split, births": WithReaction(
        replace(EXACT, backward=JKO(ExactScore(), SGD(0.1), iters=2)), BirthDeath(3.0), ExactScore()
    ),
    "reactions in reactions": WithReaction(WithReaction(Accelerated(ExactScore()), BirthDeath(2.0)), BirthDeath(1.0)),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_resume_is_exact_after_every_update(name):
    solver, start = SOLVERS[name], cloud(MEAN, COV, 12)
    total = sum(solver.updates(k) for k in range(3))
    state, files = solver.init(F, start, rng(0)), []
    for _ in range(total):
        file = io.BytesIO()
        torch.save(state_dict(state), file)
        files.append(file)
        state, _ = solver.update(F, state, 0.1)
    assert (state.k, round(state.t, 12)) == (3, 0.3)
    for done, file in enumerate(files):
        file.seek(0)
        resumed = load_state(solver.init(F, start, rng(99)), torch.load(file, weights_only=True))
        for _ in range(total - done):
            resumed, _ = solver.update(F, resumed, 0.1)
        ours, theirs = tensors(state_dict(resumed)), tensors(state_dict(state))
        assert len(ours) == len(theirs)
        assert all(map(torch.equal, ours, theirs))


# The path of a few quasi-Newton iterations in single precision is one of rounding errors.
@pytest.mark.parametrize("name", [n for n in SOLVERS if n != "jko, lbfgs twice"])
def test_images_in_single_precision(name):
    """Points of shape (1, 2, 1) are moved like vectors, and stay in their precision."""
    solver = SOLVERS[name]
    x = cloud(MEAN, COV, 12).x.float()
    flat, image = Particles(x), Particles(x.view(12, 1, 2, 1))
    V = PotentialEnergy(lambda x: x.flatten(1).square().sum(1) / 2) + Entropy()
    swap = FlatScore()
    ends = [
        solve(V, with_estimator(solver, swap), p, step_size=0.1, num_steps=2, seed=1).measure for p in (flat, image)
    ]
    assert ends[1].x.shape[1:] == (1, 2, 1)
    assert ends[1].x.dtype == torch.float32
    torch.testing.assert_close(ends[1].x.flatten(1), ends[0].x, rtol=1e-4, atol=1e-5)


class FlatScore(ExactScore):
    def entropy(self, rho, es):
        return super().entropy(replace(rho, x=rho.x.flatten(1)), es)


def with_estimator(solver, estimator):
    """Replace the exact score wherever a solver has it."""
    changed = {}
    for name in ("estimator", "backward", "transport"):
        part = getattr(solver, name, None)
        if isinstance(part, ExactScore):
            changed[name] = estimator
        elif hasattr(part, "estimator"):
            changed[name] = with_estimator(part, estimator)
    return replace(solver, **changed)


def test_refusals():
    rho = Particles(torch.zeros(3, 2, dtype=torch.float64))
    assert "Use ForwardEuler(Autograd" in why_not(quadratic(A, CENTRE), ForwardBackward(), rho)
    assert "JKO(estimator=Blob" in why_not(F, ForwardBackward(backward=JKO()), rho)
    assert why_not(F, ForwardBackward(), rho) is None
    with pytest.raises(BadInput, match="batch=0"):
        ForwardBackward(batch=0)
