"""Squared speeds are summed column by column where points have few coordinates, and stored histories do not notice."""

import pytest
import torch

from wgflow import Particles
from wgflow.solvers.explicit import squared_speed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("event", [(1,), (2,), (3,), (4,), (5,), (2, 2), (64,)])
def test_it_is_the_mean_of_sums_over_coordinates_to_the_last_bit(event: tuple[int, ...], dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    for n in (1, 7, 1000, 30_000):
        v = torch.randn(n, *event, generator=rng, dtype=dtype) * 10 ** torch.randn(event, generator=rng, dtype=dtype)
        sums = v.square().flatten(1).sum(1)
        assert torch.equal(squared_speed(Particles(v), v), sums.mean())
        heavy = Particles(v, torch.randn(n, generator=rng, dtype=dtype))
        assert torch.equal(squared_speed(heavy, v), (heavy.w * sums).sum())
