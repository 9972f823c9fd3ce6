"""Networks that stand for functions of one point: what makes them functions of the batch is said."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from wgflow import KL, R1, Critic, Estimator, LearnedScore, StandardNormal


def network(norm: nn.Module, out: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(2, 4), norm, nn.SiLU(), nn.Linear(4, out))


def build(estimator: Estimator) -> None:
    estimator.init(KL(StandardNormal(2)), torch.Generator())


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4), nn.LazyBatchNorm1d()], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("r1", [None, R1(0.1)])
def test_batch_normalization_in_a_critic_is_said(norm: nn.Module, r1: R1 | None) -> None:
    if isinstance(norm, nn.LazyBatchNorm1d):
        norm(torch.zeros(2, 4))
    with pytest.warns(
        UserWarning, match=f"the critic has {type(norm).__name__}: its value at a point depends on the rest"
    ):
        build(Critic(network(norm, 1), r1=r1))


def test_batch_normalization_in_a_score_network_is_said() -> None:
    with pytest.warns(UserWarning, match="the score network has BatchNorm1d"):
        build(LearnedScore(network(nn.BatchNorm1d(4), 2)))


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))]
)
def test_other_normalizations_are_fine(norm: nn.Module) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        build(Critic(network(norm, 1), r1=R1(0.1)))
    assert not said
