"""The running average that a pushforward keeps of its network."""

import pytest
import torch
from torch import nn

from wgflow import Pushforward, StandardNormal


def started(ema: float) -> tuple[Pushforward, nn.Linear]:
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(net.weight)
    return Pushforward(StandardNormal(1), net, ema=ema).start(torch.Generator()), net


def drift(rho: Pushforward, net: nn.Linear, updates: int, first: int = 1) -> float:
    """The average after the weight was first, first + 1, ..."""
    for t in range(first, first + updates):
        nn.init.constant_(net.weight, float(t))
        rho.update_average(net)
    return rho.inference().map.weight.item()


@pytest.mark.parametrize("updates", [1, 2, 30, 500])
def test_the_average_of_a_short_run_lags_a_steady_drift_by_a_tenth_of_it(updates: int) -> None:
    # a <- ((1 + t) a + 9 (t + 1)) / (10 + t) is solved by a = 0.9 t: the start at 0 is forgotten in the first update.
    assert drift(*started(0.9999), updates) == pytest.approx(0.9 * updates, rel=1e-12)


def test_the_average_of_a_long_run_lags_by_its_memory() -> None:
    assert drift(*started(0.8), 400) == pytest.approx(400 - 0.8 / (1 - 0.8), rel=1e-12)


def test_the_average_goes_on_where_it_was_saved() -> None:
    rho, net = started(0.99)
    drift(rho, net, 7)
    again, other = started(0.99)
    again.load_state_dict(rho.state_dict())
    assert drift(again, other, 5, first=8) == drift(rho, net, 5, first=8) == pytest.approx(0.9 * 12, rel=1e-12)


def test_a_checkpoint_of_before_the_count_goes_on_at_the_full_decay() -> None:
    rho, net = started(0.75)
    saved = rho.state_dict()
    del saved["averaged"]
    rho.load_state_dict(saved)
    assert drift(rho, net, 1) == 0.25
