"""The energy distance by sorting on lines against that over all pairs, which it is in one dimension and on average."""

import math

import pytest
import torch
from torch import Tensor

import wgflow as wg


def points(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def weighted(n: int, d: int, seed: int) -> wg.Particles:
    return wg.Particles(points(n, d, seed) + seed, points(n, 1, seed + 10)[:, 0])


LINE = torch.ones(1, 1, dtype=torch.float64)


def circle(L: int) -> Tensor:
    """Directions at equal angles: means over them of smooth functions are those over all directions."""
    angle = math.pi * (torch.arange(L, dtype=torch.float64) + 0.5) / L
    return torch.stack([angle.cos(), angle.sin()], 1)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_in_one_dimension_it_is_the_energy_distance(scale):
    """Value, velocity and first variation; a value of 1e-6 of the squared size keeps its digits."""
    rho, nu = (wg.Particles(p.x * scale, p.log_w) for p in (weighted(60, 1, 0), weighted(45, 1, 1)))
    fast, exact = wg.SlicedEnergyDistance(nu, LINE), wg.EnergyDistance(nu)
    torch.testing.assert_close(fast.value(rho), exact.value(rho), rtol=1e-12, atol=0)
    for ours, theirs in zip(
        wg.Autograd().gradient(fast, rho, None), wg.Autograd().gradient(exact, rho, None), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))


def test_over_all_directions_it_is_the_energy_distance_in_the_plane():
    rho, nu = weighted(40, 2, 0), weighted(50, 2, 1)
    fast, exact = wg.SlicedEnergyDistance(nu, circle(20_000)), wg.EnergyDistance(nu)
    assert float(fast.value(rho)) == pytest.approx(float(exact.value(rho)), rel=1e-5)
    ours, theirs = (wg.Autograd().velocity(F, rho, None) for F in (fast, exact))
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()


@pytest.mark.parametrize("d", [2, 10, 100])
@pytest.mark.parametrize("directions", [10, 100])
def test_the_force_is_right_on_average_and_its_error_within_the_bound(d, directions):
    rho, nu = wg.Particles(points(30, d, 0)), wg.Particles(points(40, d, 1) + 1)
    exact = wg.Autograd().velocity(0.5 * wg.EnergyDistance(nu), rho, None)
    F, rng = 0.5 * wg.SlicedEnergyDistance(nu, directions), torch.Generator().manual_seed(0)
    errors = torch.stack([wg.Autograd().velocity(F.freeze(rng), rho, None) - exact for _ in range(200)])
    size = errors.square().sum(2).mean().sqrt()
    bound = 2 * math.sqrt(math.pi * d / (2 * directions))
    assert bound / 20 < size < bound
    assert errors.mean(0).square().sum(1).mean().sqrt() < 1.5 * size / math.sqrt(200)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 2, 10])
def test_coincident_points_exert_no_force_on_each_other(d, dtype):
    """Their projections differed in the last digit, by the sign of the direction: 10 particles at one place parted at once."""
    places, at = points(3, d, 0, dtype), torch.arange(40) % 3
    rho = wg.Particles(places[at], points(40, 1, 1, dtype)[:, 0])
    nu = wg.Particles(torch.cat([places[at[:20]], places + 3]))
    L = 1 if d == 1 else 2000
    F = wg.SlicedEnergyDistance(nu, LINE if d == 1 else L).freeze(torch.Generator().manual_seed(2))
    ours, theirs = (wg.Autograd().velocity(0.5 * G, rho, None) for G in (F, wg.EnergyDistance(nu)))
    error = (ours - theirs).norm(dim=1)
    assert error.max() < (1e-6 if d == 1 else 2 * math.sqrt(math.pi * d / (2 * L)))
    for place in range(3):
        assert (ours[at == place] - ours[place]).norm(dim=1).max() < 1e-6


def test_the_error_of_a_law_far_from_the_origin_is_that_of_its_points():
    rho, nu = points(200, 2, 0, torch.float32), points(200, 2, 1, torch.float32) + 1
    near, far = (
        float(wg.SlicedEnergyDistance(wg.Particles(nu + c), circle(20)).value(wg.Particles(rho + c)))
        for c in (0.0, 1024.0)
    )
    assert far == pytest.approx(near, rel=1e-3)


def test_forces_between_many_points_keep_the_digits_of_single_precision():
    """They were differences of squares that differ by 1/n: two digits were left at a million points."""
    even = 2 * torch.arange(100_000, dtype=torch.float64)[:, None]
    single, exact = (
        wg.Autograd().velocity(
            wg.SlicedEnergyDistance(wg.Particles(even.to(t) + 50_001), LINE), wg.Particles(even.to(t)), None
        )
        for t in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=1e-9)


def test_a_flow_arrives_where_all_pairs_lead():
    nu = wg.Particles(points(300, 2, 1) * 0.5 + 3)
    start, options = wg.Particles(points(200, 2, 0)), {"step_size": lambda k: 2.0 / (1 + k / 10), "num_steps": 60}
    ends = [
        wg.solve(0.5 * F, wg.ForwardEuler(), start, **options).measure
        for F in (wg.SlicedEnergyDistance(nu, 30), wg.EnergyDistance(nu))
    ]
    begun, ours, theirs = (float(wg.EnergyDistance(nu).value(p)) for p in (start, *ends))
    assert ours < 3 * theirs + 1e-3 * begun < 0.1 * begun


def test_bad_directions_and_a_missing_draw_are_refused():
    nu = wg.Particles(points(10, 3, 0))
    with pytest.raises(wg.BadInput, match=r"directions must be a float tensor \(L, 3\)"):
        wg.SlicedEnergyDistance(nu, circle(4))
    with pytest.raises(wg.BadInput, match="unit vectors"):
        wg.SlicedEnergyDistance(nu, 2 * torch.eye(3))
    with pytest.raises(wg.BadInput):
        wg.SlicedEnergyDistance(nu, 0)
    with pytest.raises(wg.Unsupported, match="draw the directions first"):
        wg.SlicedEnergyDistance(nu, 5).value(nu)
