"""A start where the density is 0, or the potential infinite, is refused before work starts; nobody is left behind in silence."""

import math
import warnings

import pytest
import torch
from _exact import rng
from torch import nn

import wgflow as wg

SQUARE = wg.Unnormalised(lambda x: (x.log() + (1 - x).log()).sum(1), 2)  # nan outside of the unit square
WALL = wg.Unnormalised(lambda x: torch.where((x.abs() < 1).all(1), -x.square().sum(1), -math.inf), 2)
BESIDE = torch.tensor([[0.5, 0.5], [0.25, 0.5], [0.5, 1.5], [0.9, 0.9], [-2.0, 0.5]])
BLOB = wg.Blob(wg.KernelDensity(wg.RBF(1.0)))
KL = {"nan": wg.KL(SQUARE), "-inf": wg.KL(WALL)}
SOLVERS = {
    "mala": wg.MetropolisLangevin(),
    "langevin": wg.Langevin(),
    "svgd": wg.ForwardEuler(wg.Stein(wg.RBF(1.0))),
    "blob": wg.Heun(BLOB),
    "implicit": wg.JKO(BLOB, iters=1),
    "forward and backward": wg.ForwardBackward(),
    "reaction": wg.WithReaction(wg.Langevin(), wg.BirthDeath(), BLOB),
    "reaction of mala": wg.WithReaction(wg.MetropolisLangevin(), wg.BirthDeath(), BLOB),
}


def start(F: wg.Functional, solver: wg.Solver, x: torch.Tensor = BESIDE, **options) -> wg.Solution:
    return wg.solve(F, solver, wg.Particles(x), step_size=1e-3, num_steps=2, **options)


@pytest.mark.parametrize("log_prob", KL)
@pytest.mark.parametrize("name", SOLVERS)
def test_particles_outside_of_the_support_are_counted_and_the_first_is_named(name: str, log_prob: str) -> None:
    with pytest.raises(wg.BadInput, match=r"2 of the 5 starting particles, first at number 2, x = \[0\.5, 1\.5\]"):
        start(KL[log_prob], SOLVERS[name])
    assert start(KL[log_prob], SOLVERS[name], BESIDE[:2]).status in ("done", "unconverged")


@pytest.mark.parametrize(
    "F",
    [
        wg.PotentialEnergy(lambda x: torch.where(x[:, 1] < 1, 0.0 * x[:, 0], math.inf)),
        0.5 * wg.PotentialEnergy(lambda x: (1 - x[:, 1]).log()) + wg.InteractionEnergy(wg.PowerLaw(2)),
        wg.SquaredKSD(WALL, wg.RBF(1.0)),
    ],
)
def test_so_are_those_of_other_functionals_that_go_by_values(F: wg.Functional) -> None:
    with pytest.raises(wg.BadInput, match=r"of the 5 starting particles, first at number"):
        start(F, wg.ForwardEuler())


def test_samples_alone_may_start_anywhere() -> None:
    """A critic never asks for the density, and a closed form leads in from outside of a wall."""
    box = wg.Particles(torch.rand(20, 2, generator=rng()))
    critic = wg.Critic(lambda: nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 1)))
    assert start(wg.KL(box), wg.ForwardEuler(critic)).status == "done"
    wall = wg.PotentialEnergy(
        lambda x: torch.where(x[:, 1] <= 1, 0.0, math.inf), lambda x, h: torch.minimum(x, torch.ones(2))
    )
    assert float(start(wall, wg.Proximal()).measure.x[:, 1].max()) == 1.0


def test_a_gradient_that_is_not_a_number_at_the_start_is_named() -> None:
    """MALA would refuse every proposal from there, without a word."""
    norm = wg.KL(wg.Unnormalised(lambda x: -x.square().sum(1).sqrt(), 2))
    with pytest.raises(wg.BadInput, match=r"the gradient of log_prob .* first at particle 1, x = \[0, 0\]"):
        start(norm, wg.MetropolisLangevin(), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_a_generator_that_starts_outside_is_told_so_before_it_is_trained() -> None:
    chain = wg.Chain(wg.StandardNormal(2), lambda: wg.maps.Affine(2))
    with pytest.raises(wg.BadInput, match=r"of the 256 draws of this Chain"):
        wg.solve(KL["-inf"], wg.JKO(iters=1), chain, step_size=0.1, num_steps=1)


def test_nothing_is_drawn_where_no_function_is_looked_at() -> None:
    class Counted(wg.StandardNormal):
        drawn = 0

        def draw(self, n, rng):
            Counted.drawn = max(Counted.drawn, n)
            return super().draw(n, rng)

    law = wg.Pushforward(Counted(2), lambda: nn.Linear(2, 2))
    solver = wg.JKO(wg.Critic(lambda: nn.Linear(2, 1)), iters=1, batch=8)
    wg.solve(wg.KL(wg.StandardNormal(2), batch=8), solver, law, step_size=0.1, num_steps=1)
    assert Counted.drawn == 8


def test_a_wall_of_a_grid_is_one() -> None:
    grid = wg.Grid.of(lambda x: -x.square().sum(1), [-2.0, -2.0], [2.0, 2.0], [16, 16])
    flow = wg.solve(KL["-inf"], wg.EntropicJKO(blur=0.5), grid, step_size=0.1, num_steps=1)
    assert torch.isfinite(flow.measure.mass).all()


def test_particles_without_any_mass_are_refused() -> None:
    nobody = wg.Particles(torch.zeros(3, 1), torch.full((3,), -math.inf))
    V = wg.PotentialEnergy(lambda x: x.square().sum(1))
    for F, initial, name in (
        (V, nobody, "initial"),
        (wg.EnergyDistance(nobody), wg.Particles(torch.zeros(3, 1)), "F.target"),
    ):
        with pytest.raises(wg.BadInput, match=f"every entry of {name}.log_w is not finite"):
            wg.solve(F, wg.ForwardEuler(), initial, step_size=0.1, num_steps=1)
    for log_w in (nobody.log_w, torch.tensor([0.0, math.nan, 0.0]), torch.tensor([0.0, math.inf, 0.0])):
        with pytest.raises(wg.BadInput, match="log_w of this Dataset"):
            wg.Dataset(torch.zeros(3, 1), log_w)


def test_looking_at_the_start_uses_up_no_random_numbers() -> None:
    noisy = wg.PotentialEnergy(lambda x: (x * torch.randn(x.shape[1:])).sum(1))
    flow = wg.solve(noisy, wg.ForwardEuler(), wg.Particles(torch.ones(1, 2)), step_size=1.0, num_steps=1, seed=4)
    torch.manual_seed(4)
    assert torch.equal(flow.measure.x[0], 1 - torch.randn(2))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: wg.WithReaction(s, wg.BirthDeath(0.0), BLOB)])
def test_a_run_in_which_nothing_is_accepted_says_so(wrap) -> None:
    normal = wg.KL(wg.Unnormalised(lambda x: -x.square().sum(1) / 2, 2))
    with pytest.warns(RuntimeWarning, match=r"accepted 0\.00% of the proposals of 5 steps"):
        wg.solve(normal, wrap(wg.MetropolisLangevin()), wg.Particles(torch.rand(50, 2)), step_size=1e4, num_steps=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wg.solve(normal, wrap(wg.MetropolisLangevin()), wg.Particles(torch.rand(50, 2)), step_size=0.1, num_steps=5)
