"""What a user of particle flows gets wrong, and what is said; what a diverging flow leaves behind."""

import pytest
import torch
from _exact import rng

import wgflow as wg
from wgflow import BadInput, Diverged, Incompatible

X = torch.randn(4, 2, generator=rng(1))
GAUSSIAN = wg.StandardNormal(2)
DENSITY = wg.Unnormalised(lambda x: -0.5 * x.square().sum(1), 2)


@pytest.mark.parametrize(
    ("w", "says"),
    [
        ([0.5, 0.5, 0.5, -0.5], "the least is -0.5"),
        ([0.5, 0.5, 0.5, 0.5], "their sum 2"),
        ([0.5, 0.5], r"shape \(4,\)"),
        ([float("nan"), 0.5, 0.25, 0.25], "nonnegative and sum to 1"),
    ],
)
def test_weights_are_checked(w, says):
    with pytest.raises(BadInput, match=says):
        wg.Particles.weighted(X, torch.tensor(w))


def test_weights_by_value_and_by_logarithm_are_the_same():
    w = torch.tensor([0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(wg.Particles.weighted(X, w).w, w)


def test_a_particle_without_mass_does_not_move_and_moves_nobody():
    w = torch.tensor([0.5, 0.5, 0.0, 0.0])
    F = 0.5 * wg.EnergyDistance(wg.Particles(X + 1))
    v = wg.Autograd().velocity(F, wg.Particles.weighted(X, w), None)
    alone = wg.Autograd().velocity(F, wg.Particles(X[:2]), None)
    torch.testing.assert_close(v, torch.cat([alone, torch.zeros(2, 2)]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: wg.RBF(0.0), "bandwidth=0.0"),
        (lambda: wg.Laplace(-1.0), "length=-1.0"),
        (lambda: wg.Riesz(2.0), "between 0 and 2"),
        (lambda: wg.Matern(1.0, nu=2.0), "1.5 or 2.5"),
        (lambda: wg.SquaredMMD(GAUSSIAN, wg.PowerLaw(2)), "not a distance"),
        (lambda: wg.SquaredMMD(GAUSSIAN, wg.RBF(1.0) + (-1.0) * wg.RBF(2.0)), "not a distance"),
        (lambda: wg.SquaredMMD(GAUSSIAN, wg.RBF(1.0), batch=0), "batch=0"),
        (lambda: wg.SquaredKSD(wg.Dataset(X), wg.RBF(1.0)), "needs log_prob"),
        (lambda: wg.KALE(GAUSSIAN, wg.RBF(1.0), penalty=0.0), "penalty=0.0"),
        (lambda: wg.PowerEntropy(m=1.0), "other than 1"),
        (lambda: wg.ProximalScore(0.0), "time=0.0"),
        (lambda: wg.LearnedScore(torch.nn.Linear(2, 2), noise=0.0), "noise=0.0"),
    ],
)
def test_parameters_are_checked_where_they_are_given(make, says):
    with pytest.raises(BadInput, match=says):
        make()


@pytest.mark.parametrize(
    ("F", "solver", "says"),
    [
        (wg.SquaredMMD(DENSITY, wg.RBF(1.0)), wg.ForwardEuler(), "needs draws of the target"),
        (wg.Entropy(), wg.ForwardEuler(), "Use an estimator that treats the entropy itself"),
        (wg.PowerEntropy(), wg.Heun(), r"density=KernelDensity\(RBF\(bandwidth\)\)"),
        (wg.KL(wg.Dataset(X)), wg.Langevin(), r"estimator=Critic\(net\)"),
        (wg.EnergyDistance(GAUSSIAN), wg.ForwardEuler(wg.Blob(wg.KernelDensity(wg.RBF(1.0)))), "Use Autograd"),
        (wg.EnergyDistance(wg.StandardNormal(3)), wg.ForwardEuler(), r"points of shape \(2,\)"),
        (wg.EnergyDistance(GAUSSIAN) + wg.EnergyDistance(wg.StandardNormal(3)), wg.ForwardEuler(), "must be equal"),
        (wg.EnergyDistance(wg.Dataset(X.double())), wg.ForwardEuler(), "convert one"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_step(F, solver, says):
    with pytest.raises(Incompatible, match=says):
        wg.solve(F, solver, wg.Particles(X), step_size=0.1, num_steps=1)


def test_a_potential_and_an_interaction_must_return_one_number():
    p = wg.Particles(X)
    with pytest.raises(BadInput, match="a potential must map"):
        wg.PotentialEnergy(lambda x: x).value(p)
    with pytest.raises(BadInput, match="an interaction must map"):
        wg.InteractionEnergy(lambda z: z).value(p)


def test_a_diverged_flow_keeps_its_last_finite_law_with_its_time():
    """x -> x + h x^3 from 1 explodes: 1, 2, 10, 1010, 1e9, 1e27, then infinity in single precision."""
    F = wg.PotentialEnergy(lambda x: -x.square().square().sum(1) / 4)
    start = wg.Particles(torch.ones(1, 1))
    flow = wg.solve(F, wg.ForwardEuler(), start, step_size=1.0, num_steps=20, throw=False)
    assert flow.status == "diverged"
    assert bool(torch.isfinite(flow.measure.x).all())
    assert flow.measure.x.item() == flow.saved[-1].x.item() == pytest.approx(1010.0**3 + 1010)
    with pytest.raises(Diverged, match="last finite law is that of time 4") as error:
        wg.solve(F, wg.ForwardEuler(), start, step_size=1.0, num_steps=20)
    assert (error.value.step, error.value.time) == (4, 4.0)
    assert torch.equal(error.value.solution.measure.x, flow.measure.x)


def test_a_velocity_that_is_not_a_number_stops_the_flow_where_it_appears():
    F = wg.PotentialEnergy(lambda x: (x.sum(1) - 2.9).sqrt())
    with pytest.raises(Diverged, match="in time step 1"):
        wg.solve(F, wg.ForwardEuler(), wg.Particles(torch.full((2, 2), 1.5)), step_size=0.1, num_steps=3)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in wg.FUNCTIONALS
        if wg.FUNCTIONALS[n].example().can("value") and not wg.FUNCTIONALS[n].example().reads_law and n != "identity"
    ],
)
def test_single_precision_stays_single(name):
    F = wg.FUNCTIONALS[name].example().freeze(rng(0))
    x = (0.3 * X).requires_grad_(True)
    value = F.value(wg.Particles(x, log_rho=GAUSSIAN.log_prob(0.3 * X)))
    assert value.dtype == torch.float32
    if value.requires_grad:
        assert torch.autograd.grad(value, x)[0].dtype == torch.float32
