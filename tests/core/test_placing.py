"""Parts of a flow on another device and in another precision: all that they hold moves, and what they are made of stays whole."""

import functools

import pytest
import torch
from torch import nn

import wgflow as wg
from wgflow import ESTIMATORS, FUNCTIONALS, KERNELS, MEASURES, SOLVERS, BadInput
from wgflow.core.placing import tensors_in
from wgflow.measures import MovingMeasure

PARTS = {
    **{f"functional {n}": lambda n=n: FUNCTIONALS[n].example() for n in FUNCTIONALS},
    **{f"measure {n}": lambda n=n: MEASURES[n].example() for n in MEASURES},
    **{f"estimator {n}": lambda n=n: ESTIMATORS[n].example() for n in ESTIMATORS},
    **{f"kernel {n}": lambda n=n: KERNELS[n].example() for n in KERNELS},
    **{f"solver {n}": lambda n=n: SOLVERS[n].example(wg.Autograd()) for n in SOLVERS},
    "flow": lambda: wg.presets.ula(wg.StandardNormal(2), wg.Particles(torch.zeros(3, 2))),
    "sum": lambda: wg.EnergyDistance(MEASURES["dataset"].example()) + 0.5 * wg.KL(MEASURES["gaussian"].example()),
}


def floating(part):
    return [t for t in tensors_in(part) if t.is_floating_point()]


STAY = {"measure streamed"}
"""Parts whose tensors belong on the host; their draws move."""


@pytest.mark.parametrize("name", PARTS)
def test_a_part_moves_as_a_whole_and_the_one_it_was_stays(name):
    part = PARTS[name]()
    before = [t.clone() for t in tensors_in(part)]
    double = part.double()
    assert type(double) is type(part)
    assert all(t.dtype == torch.float64 for t in floating(double))
    place = "cpu" if name in STAY else "meta"
    assert all(t.device.type == place for t in tensors_in(part.to("meta")))
    back = double.to(torch.float32)
    for mine, old, same in zip(before, tensors_in(part), tensors_in(back), strict=True):
        assert torch.equal(mine, old)
        assert torch.equal(mine, same)


@pytest.mark.parametrize(
    "name", [n for n in PARTS if n not in ("measure chain", "measure pushforward", "estimator critic")]
)
def test_a_part_that_is_there_already_is_itself(name):
    """Networks are always copied: they are trained in place."""
    part = PARTS[name]().double()
    assert part.double() is part
    assert part.to("cpu") is part


@pytest.mark.parametrize("name", [n for n in MEASURES if MEASURES[n].example().can_draw])
def test_a_measure_draws_in_its_new_precision(name):
    measure = MEASURES[name].example()
    if isinstance(measure, MovingMeasure):
        measure = measure.start(torch.Generator().manual_seed(0))
    measure = measure.double()
    drawn = measure.draw(5, torch.Generator().manual_seed(0))
    assert drawn.x.dtype == torch.float64
    if measure.has_density:
        assert measure.log_prob(drawn.x).dtype == torch.float64


def test_what_was_computed_in_low_precision_is_computed_again():
    """The root of a covariance is kept: a copy of the float32 one would leave single precision behind."""
    cov = torch.tensor([[2.0, 0.3], [0.3, 1.0]])
    normal = wg.Gaussian(torch.zeros(2), cov)
    x = torch.ones(1, 2, dtype=torch.float64)
    normal.log_prob(x.float())
    exact = torch.distributions.MultivariateNormal(torch.zeros(2).double(), cov.double()).log_prob(x)
    torch.testing.assert_close(normal.double().log_prob(x), exact, rtol=1e-14, atol=0)


def test_methods_and_partials_of_parts_move_and_other_functions_stay():
    normal, function = wg.Gaussian(torch.zeros(2), torch.eye(2)), lambda x: x.square().sum(1)
    scaled = functools.partial(_scaled, torch.tensor(2.0))
    V = (wg.PotentialEnergy(normal.log_prob) + wg.PotentialEnergy(scaled) + wg.PotentialEnergy(function)).double()
    assert V.terms[0].potential.__self__.mean.dtype == torch.float64
    assert V.terms[1].potential.args[0].dtype == torch.float64
    assert V.terms[2].potential is function
    assert normal.mean.dtype == torch.float32


def _scaled(c, x):
    return c * x.square().sum(1)


@pytest.mark.parametrize("wrong", ["gpu", torch.int64, 3, "float64"])
def test_another_place_is_refused(wrong):
    with pytest.raises(BadInput, match="expected"):
        wg.StandardNormal(2).to(wrong)
    with pytest.raises(BadInput, match="one dtype"):
        wg.StandardNormal(2).to(torch.float32, torch.float64)


# --- states and solutions ---------------------------------------------------------------------------------------------


def net():
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))


FLOWS = {
    "momentum": lambda: (
        wg.KL(wg.Gaussian(torch.ones(2), torch.eye(2))),
        wg.Accelerated(wg.Blob(wg.KernelDensity(wg.RBF(1.0)))),
        wg.Particles(torch.randn(20, 2, generator=torch.Generator().manual_seed(0))),
    ),
    "generator and critic": lambda: (
        wg.Softplus(wg.Particles(torch.linspace(-1, 1, 40).view(20, 2))),
        wg.JKO(wg.Critic(lambda: nn.Linear(2, 1)), iters=3, batch=20),
        wg.Pushforward(wg.Particles(torch.linspace(1, 2, 40).view(20, 2)), net(), ema=0.5),
    ),
    "regression": lambda: (
        wg.EnergyDistance(wg.Particles(torch.linspace(-1, 1, 40).view(20, 2))),
        wg.ForwardEuler(),
        wg.Pushforward(
            wg.Particles(torch.linspace(1, 2, 40).view(20, 2)), net(), regression=wg.Regression(wg.Adam(1e-2), batch=20)
        ),
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_goes_on_in_another_precision(name):
    """Two steps in float32 and three in float64 end where five in float32 end, up to rounding; moments of optimizers go along."""
    F, solver, initial = FLOWS[name]()
    run = lambda F, initial, n, **more: wg.solve(F, solver, initial, step_size=0.2, num_steps=n, **more)  # noqa: E731
    whole, half = run(F, initial, 5), run(F, initial, 2)
    moved = half.double()
    assert moved.state.measure is moved.measure
    assert all(t.dtype == torch.float64 for t in floating(moved.measure))
    ended = run(F.double(), initial.double(), 5, state=moved.state)
    draw = lambda m: m.draw(20, torch.Generator().manual_seed(1)).x.double()  # noqa: E731
    torch.testing.assert_close(draw(ended.measure), draw(whole.measure), rtol=1e-4, atol=1e-5)
    assert draw(half.measure).sub(draw(ended.measure)).abs().max() > 1e-3
    assert run(F, initial, 2).history[-1].keys() == half.history[-1].keys()
    torch.testing.assert_close(
        draw(run(F, initial, 5, state=half.state).measure), draw(whole.measure)
    )  # it is untouched


def test_an_optimizer_trains_the_moved_network():
    F, solver, initial = FLOWS["generator and critic"]()
    state = wg.solve(F, solver, initial, step_size=0.2, num_steps=2).double().state
    for network, descent in ((state.estimator.net, state.estimator.descent), (state.successor.net, state.descent)):
        weights = list(network.parameters())
        held = descent.optimizer.param_groups[0]["params"]
        assert all(a is b is c for a, b, c in zip(weights, held, descent.parameters, strict=True))
        assert all(isinstance(w, nn.Parameter) and w.requires_grad for w in weights)
        assert all(descent.optimizer.state[w]["exp_avg"].dtype == torch.float64 for w in weights)
