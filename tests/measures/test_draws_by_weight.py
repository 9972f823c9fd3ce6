"""A weighted cloud larger than a batch: every draw is unbiased, and equal weights draw what no weights do."""

import math

import pytest
import torch
from _exact import rng

import wgflow as wg
from wgflow.generative import Sharded
from wgflow.measures._by_weight import picks, systematic
from wgflow.metrics import FunctionalValue, Moments

N, BATCH, DRAWS = 1000, 40, 400
W = torch.rand(N, generator=rng(1), dtype=torch.float64) ** 4 + 1e-3
W[7] = W.sum() - W[7]  # half of the mass, at 10
X = torch.randn(N, 1, generator=rng(2), dtype=torch.float64)
X[7] = 10.0
CLOUD = wg.Particles(X, W.log() + 3)  # unnormalised
P = CLOUD.w
MEAN = float(P @ X[:, 0])
VARIANCE = float(P @ (X[:, 0] - MEAN).square())  # of one independent draw


def means(measure: wg.Measure, n: int = BATCH) -> torch.Tensor:
    drawn = [measure.draw(n, rng(seed)) for seed in range(DRAWS)]
    return torch.stack([p.mean(p.x[:, 0]) for p in drawn])


def z_score(found: torch.Tensor, n: int = BATCH) -> float:
    """Distance from the exact mean in standard errors of independent draws, which no draw here may exceed."""
    return abs(float(found.mean()) - MEAN) / math.sqrt(VARIANCE / n / DRAWS)


class Identity(torch.nn.Module):
    def forward(self, x):
        return x


MEASURES = {
    "particles": CLOUD,
    "data set": wg.Dataset(X, W.log()),
    "latents": wg.Pushforward(CLOUD, Identity()),
    "base of a chain": wg.Chain(CLOUD, lambda: wg.maps.Affine(1)),
    "cached base": wg.Chain(CLOUD, lambda: wg.maps.Affine(1), cached=N).start(rng()),
    "smoothed": wg.Smoothed(CLOUD, lambda k: 0.0),
    "one of four ranks": Sharded(CLOUD, 2, 4),
}


@pytest.mark.parametrize("name", MEASURES)
def test_means_of_draws_are_unbiased(name: str) -> None:
    assert z_score(means(MEASURES[name])) < 4


def test_batches_of_a_functional_are_unbiased() -> None:
    F = wg.EnergyDistance(CLOUD, batch=BATCH)
    drawn = [F.freeze(rng(s)).target for s in range(DRAWS)]
    assert z_score(torch.stack([p.mean(p.x[:, 0]) for p in drawn])) < 4


def test_a_draw_varies_less_than_independent_points() -> None:
    """Within its half of the mass the heavy point comes 20 or 21 times in 40: only the light ones are left to chance."""
    found = means(CLOUD)
    light = P.clone()
    light[7] = 0
    m = float(light @ X[:, 0]) / float(light.sum())
    within = float(light @ (X[:, 0] - m).square())
    assert float(found.var()) < 1.3 * within / BATCH
    assert float(found.var()) < VARIANCE / BATCH / 10


@pytest.mark.parametrize("n", [1, 7, 999])
def test_every_point_comes_as_often_as_its_weight_says(n: int) -> None:
    index = torch.arange(N, dtype=torch.float64)[:, None]
    counts = torch.bincount(wg.Particles(index, W.log()).resampled(n, rng(n)).x[:, 0].long(), minlength=N)
    assert counts.sum() == n
    assert ((counts - n * P).abs() < 1).all()


def test_every_place_of_a_draw_has_the_same_law() -> None:
    """So that draws of two clouds may be paired: the heavy point is first as often as last or in the middle."""
    heavy = torch.stack([CLOUD.draw(BATCH, rng(s)).x[:, 0] == 10 for s in range(DRAWS)]).double().mean(0)
    assert (heavy - 0.5).abs().max() < 5 * 0.5 / math.sqrt(DRAWS)


@pytest.mark.parametrize("log_w", [None, torch.zeros(N), torch.full((N,), -7.3)])
def test_equal_weights_draw_the_permutation_and_use_no_other_numbers(log_w: torch.Tensor | None) -> None:
    ours, theirs = rng(5), rng(5)
    drawn = wg.Particles(X, log_w).draw(BATCH, ours)
    assert torch.equal(drawn.x, X[torch.randperm(N, generator=theirs)[:BATCH]])
    assert torch.equal(drawn.w, torch.full_like(drawn.w, 1 / BATCH))
    assert torch.equal(torch.rand(3, generator=ours), torch.rand(3, generator=theirs))


def test_unequal_weights_leave_the_generator_where_equal_ones_do() -> None:
    ours, theirs = rng(5), rng(5)
    CLOUD.draw(BATCH, ours)
    wg.Particles(X).draw(BATCH, theirs)
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_all_points_come_with_their_weights() -> None:
    drawn = CLOUD.draw(N, rng())
    assert torch.equal(drawn.w, CLOUD.w)


@pytest.mark.parametrize("seed", range(20))
def test_points_without_mass_are_never_drawn(seed: int) -> None:
    w = torch.tensor([0.0, 1.0, 0.0, 0.0, 2.0, 0.0])
    x = torch.arange(6.0)[:, None]
    assert set(wg.Particles.weighted(x, w / 3).resampled(5, rng(seed)).x.flatten().tolist()) <= {1.0, 4.0}
    assert set(wg.Dataset(x, w.log()).draw(50, rng(seed)).x.flatten().tolist()) == {1.0, 4.0}
    assert set(systematic(w, 1 - 2**-53, 4).tolist()) == {1, 4}


def test_sums_over_a_million_float32_weights_do_not_drift() -> None:
    n = 10**6
    index = systematic(torch.full((n,), 1 / n).softmax(0), 0.5, n)
    assert torch.equal(index, torch.arange(n))


def test_the_log_density_goes_with_its_point() -> None:
    drawn = wg.Particles(X, W.log(), log_rho=2 * X[:, 0]).draw(BATCH, rng())
    assert torch.equal(drawn.log_rho, 2 * drawn.x[:, 0])


def test_a_draw_of_more_points_than_there_are_repeats_them_evenly() -> None:
    counts = torch.bincount(picks(None, 3, 10, rng()), minlength=3)
    assert sorted(counts.tolist()) == [3, 3, 4]


def test_a_flow_brings_half_of_the_mass_to_the_heavy_point() -> None:
    target = wg.Particles(
        torch.cat([torch.zeros(999, 1), torch.tensor([[10.0]])]), torch.tensor([0.0] * 999 + [math.log(999)])
    )
    start = wg.Particles(torch.randn(100, 1, generator=rng()))
    F = 0.5 * wg.EnergyDistance(target, batch=100)
    flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=80)
    assert float((flow.measure.x > 5).float().mean()) == pytest.approx(0.5, abs=0.1)  # some are still on their way


def test_metrics_of_a_weighted_law_see_all_of_its_mass() -> None:
    """15 of 40 values of a functional were 0 when the heavy point was drawn as rarely as the others."""
    second = wg.PotentialEnergy(lambda x: x[:, 0].square())
    exact = float(P @ X[:, 0].square())
    for seed in range(20):
        assert FunctionalValue(second, n=100)(CLOUD, rng(seed))["functional"] == pytest.approx(exact, rel=0.05)
        assert Moments(n=100)(CLOUD, rng(seed))["mean_norm"] == pytest.approx(MEAN, rel=0.1)


@pytest.mark.parametrize("latent", ["shared", "independent"])
def test_weighted_latents_and_weighted_noise_are_independent(latent: str) -> None:
    """Two nodes each, three quarters of the mass at 1: E[x z] = E[x] E[z], as no pairing in order has it."""
    nodes = wg.Particles(torch.tensor([[0.0], [1.0]]), torch.tensor([0.25, 0.75]).log())

    class Product(torch.nn.Module):
        def forward(self, x, z):
            return x * z

    rho = wg.Pushforward(nodes, Product(), noise=nodes).start(rng())
    successor, found = rho.propose(rng()), []
    for seed in range(DRAWS):
        for p in (rho.draw(16, rng(seed)), *successor.couple(rho, 16, rng(seed), latent)):
            found.append(p.mean(p.x[:, 0]))
    assert float(torch.stack(found).mean()) == pytest.approx(9 / 16, abs=0.05)


def test_parts_of_all_ranks_together_have_the_weights_of_the_whole() -> None:
    base = wg.Particles(torch.arange(3.0)[:, None], torch.tensor([0.5, 0.25, 0.25]).log())
    parts = [Sharded(base, r, 4).draw(2, rng(3)) for r in range(4)]
    assert [len(p) for p in parts] == [2] * 4
    assert sorted(torch.cat([p.x for p in parts])[:, 0].tolist()) == [0.0] * 4 + [1.0] * 2 + [2.0] * 2


def test_a_float32_grid_is_drawn_by_its_masses() -> None:
    """Two million cells with all of the mass in the first half: float32 sums would end in the last, empty one."""
    mass = torch.ones(2_000_000)
    mass[1_000_000:] = 0
    x = wg.Grid(mass, (0.0,), (1.0,)).draw(4000, rng()).x[:, 0]
    assert float(x.max()) <= 0.5
    assert float(x.mean()) == pytest.approx(0.25, abs=4 * 0.5 / math.sqrt(12 * 4000))


def test_a_flow_that_is_resumed_draws_what_it_would_have_drawn() -> None:
    F, start = wg.EnergyDistance(CLOUD, batch=BATCH), wg.Particles(torch.randn(20, 1, generator=rng()).double())

    def go(steps: int, state: wg.State | None = None) -> wg.Solution:
        return wg.solve(F, wg.ForwardEuler(), start, step_size=0.1, num_steps=steps, state=state)

    assert torch.equal(go(6, go(3).state).measure.x, go(6).measure.x)
