"""Stratified draws of a mixture: every component as equally often as can be, and no component more often than others on average."""

import torch

from wgflow import GaussianMixture

LAW = GaussianMixture(torch.arange(5.0)[:, None], 1e-3, stratified=True)


def counts(n: int, seed: int) -> torch.Tensor:
    x = LAW.draw(n, torch.Generator().manual_seed(seed)).x
    return x[:, 0].round().long().bincount(minlength=5)


def test_every_component_is_drawn_as_often_as_n_allows() -> None:
    assert counts(20, 0).tolist() == [4] * 5
    for n in (3, 23):
        assert set((counts(n, 1) - n // 5).tolist()) == {0, 1}


def test_no_component_has_more_points_on_average() -> None:
    """Of 3 points each of 5 components has 0.6: the standard error of a mean over 600 draws is 0.02."""
    mean = torch.stack([counts(3, seed) for seed in range(600)]).double().mean(0)
    assert float((mean - 0.6).abs().max()) < 4 * 0.02
