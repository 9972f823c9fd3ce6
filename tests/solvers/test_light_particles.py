"""Particles of next to no mass: what they are told does not depend on how little it is, in float32 as in float64."""

import math

import pytest
import torch
from _exact import rng

import wgflow as wg
from wgflow.estimators.probe import velocity_at

LIGHT = [-50.0, -95.0, -103.0, -200.0, -1e4]
HEAVY = [0.0, -1.0, -0.5, -2.0]
Y = torch.randn(7, 2, generator=rng(3), dtype=torch.float64)
B = torch.randn(7, generator=rng(4), dtype=torch.float64)


def functionals(d: int, dtype: torch.dtype) -> dict[str, tuple[wg.Functional, wg.Estimator]]:
    nu = wg.Particles(Y[:, :d].to(dtype), B.to(dtype))
    kl = wg.KL(wg.Unnormalised(lambda x: -x.square().sum(1) / 2, d))
    rbf, kde = wg.RBF(1.0), wg.KernelDensity(wg.RBF(1.0))
    return {
        "potential": (wg.PotentialEnergy(lambda x: x.square().sum(1)), wg.Autograd()),
        "interaction": (wg.InteractionEnergy(wg.PowerLaw(4)), wg.Autograd()),
        "interaction of differences": (wg.InteractionEnergy(lambda z: z.square().sum(-1)), wg.Autograd()),
        "mmd": (wg.SquaredMMD(nu, rbf), wg.Autograd()),
        "energy distance": (wg.EnergyDistance(nu), wg.Autograd()),
        "kale": (wg.KALE(nu, rbf), wg.Autograd()),
        "sliced": (wg.SlicedWasserstein(nu, directions=torch.eye(d, dtype=dtype)), wg.Autograd()),
        "sinkhorn": (wg.SinkhornDivergence(nu, blur=0.5), wg.Autograd()),
        "unbalanced": (wg.SinkhornDivergence(nu, blur=0.5, reach=1.0), wg.Autograd()),
        "w2": (wg.SquaredW2(nu), wg.Autograd()),
        "w1": (wg.W1(nu), wg.Autograd()),
        "ksd": (wg.SquaredKSD(kl.target, rbf), wg.Autograd()),
        "entropy": (wg.Entropy(kde), wg.Autograd()),
        "blob": (kl, wg.Blob(kde)),
        "kde": (kl, wg.KDEScore(rbf)),
        "stein": (kl, wg.Stein(rbf)),
        "proximal": (kl, wg.ProximalScore(0.1, lambda y: y.square().sum(1) / 8)),
    }


def cloud(d: int, dtype: torch.dtype) -> wg.Particles:
    x = torch.randn(len(LIGHT) + len(HEAVY), d, generator=rng(1), dtype=torch.float64)
    return wg.Particles(x.to(dtype), torch.tensor(HEAVY + LIGHT, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("name", functionals(1, torch.float64))
def test_a_light_particle_sees_the_velocity_of_the_law(name: str, d: int, dtype: torch.dtype) -> None:
    F, estimator = functionals(d, dtype)[name]
    rho = cloud(d, dtype)
    v = estimator.velocity(F, rho, estimator.init(F, rng()))[len(HEAVY) :].double()
    law = wg.Particles(rho.x[: len(HEAVY)].double(), torch.tensor(HEAVY, dtype=torch.float64))
    F, estimator = functionals(d, torch.float64)[name]
    exact = velocity_at(estimator, F, law, estimator.init(F, rng()), rho.x[len(HEAVY) :].double(), mass=1e-60)
    assert (v - exact).norm() <= 2e-3 * exact.norm()


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("name", functionals(1, torch.float64))
def test_first_variations_at_light_particles_agree_in_both_precisions(name: str, d: int) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        F, estimator = functionals(d, dtype)[name]
        if not estimator.gives_potential:
            return
        found.append(estimator.gradient(F, cloud(d, dtype), estimator.init(F, rng()))[0].double())
    assert (found[0] - found[1]).abs().max() <= 1e-3 * found[1].abs().max()


@pytest.mark.parametrize("name", [*functionals(1, torch.float64), "spacings"])
def test_particles_without_mass_and_one_with_all_of_it_give_finite_numbers(name: str) -> None:
    both = functionals(1, torch.float32) | {"spacings": (wg.Entropy(wg.Spacings()), wg.Autograd())}
    F, estimator = both[name]
    x = torch.randn(6, 1, generator=rng(2))
    for log_w in ([0.0] + [-math.inf] * 5, [0.0, -math.inf, -1.0, -math.inf, -math.inf, -2.0]):
        rho = wg.Particles(x, torch.tensor(log_w))
        v = estimator.velocity(F, rho, estimator.init(F, rng()))
        assert torch.isfinite(v).all()
        assert (v[torch.isinf(rho.log_w)] == 0).all()


def test_on_a_line_a_light_particle_goes_to_the_target_at_its_own_level() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    rho = wg.Particles(x, torch.tensor([0.0, -103.0, 0.0, -95.0]))
    target = wg.Particles(torch.tensor([[10.0], [20.0], [30.0], [40.0]]))
    v = wg.Autograd().velocity(0.5 * wg.SquaredW2(target), rho, None)
    assert v[1, 0] + x[1, 0] in (20.0, 30.0)  # a jump of the target lies at the level of its half of the mass
    assert v[3, 0] + x[3, 0] == 40


@pytest.mark.parametrize("order", [1, 2])
def test_a_reaction_in_float32_goes_on_where_weights_underflow(order: int) -> None:
    """At two critical points nothing moves, and the logarithm of the ratio of the weights falls by 5 in unit time."""
    depth = wg.PotentialEnergy(lambda x: (x[:, 0].square() - 1).square() + 2.5 * torch.sin(math.pi / 2 * x[:, 0]))
    solver = wg.WithReaction(wg.ForwardEuler(), wg.Reweight(order=order))
    start = wg.Particles(torch.tensor([[-1.0], [1.0], [-1.0]]))
    flow = wg.solve(depth, solver, start, step_size=0.1, num_steps=600)
    log_w = flow.measure.log_w
    assert float(log_w[1] - log_w[0]) == pytest.approx(-300, rel=1e-3)
    assert torch.allclose(flow.measure.x, start.x, atol=1e-5)


def test_a_potential_large_enough_finds_a_light_point_of_the_target() -> None:
    nu = wg.Particles(torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, -110.0]))
    value = wg.KLDonskerVaradhan(nu).conjugate(lambda y: 120 * y[:, 0])
    assert float(value) == pytest.approx(math.log(1 + math.exp(10)), rel=1e-5)


def test_weights_have_the_type_of_the_positions() -> None:
    """Weights in float64 used to make the positions float64 in the first step."""
    rho = wg.Particles(torch.randn(4, 2), torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64))
    assert rho.log_w.dtype == rho.log_rho.dtype == torch.float32
    flow = wg.solve(
        wg.EnergyDistance(rho), wg.WithReaction(), wg.Particles(rho.x, rho.log_w), step_size=0.1, num_steps=2
    )
    assert flow.measure.x.dtype == flow.measure.log_w.dtype == torch.float32
    with pytest.raises(wg.BadInput, match="floating-point logarithms, got"):
        wg.Particles(torch.randn(4, 2), torch.ones(4, dtype=torch.long))
