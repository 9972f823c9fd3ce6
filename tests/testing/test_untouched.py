"""What counts as a change of what a part is given."""

import pytest
import torch
from torch import nn

import wgflow as wg
from wgflow.testing._worlds import global_state_kept, untouched


def network():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


CHANGES = {
    "a weight": lambda m: m.net[0].weight.data.add_(1.0),
    "a running mean": lambda m: m.net(torch.randn(4, 2)),
    "its mode": lambda m: m.net.eval(),
    "whether it is trained": lambda m: m.net[0].weight.requires_grad_(False),
    "a gradient": lambda m: m.net[0](torch.randn(4, 2)).sum().backward(),
    "points": lambda m: m.latent.x.add_(1.0),
    "what points are noted for": lambda m: m.latent.x.requires_grad_(True),
    "a setting": lambda m: setattr(m, "ema", 0.5),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen(what):
    held = wg.Pushforward(wg.Particles(torch.randn(5, 2)), network())
    with pytest.raises(AssertionError, match="it changes: "):
        untouched({"measure": held}, lambda: CHANGES[what](held), "it changes")


def test_a_draw_is_no_change():
    held = wg.Pushforward(wg.Particles(torch.randn(5, 2)), network().eval())
    drawn = []
    untouched(
        {"measure": held},
        lambda: drawn.append(held.start(torch.Generator()).draw(3, torch.Generator())),
        "it changes",
    )
    assert len(drawn[0]) == 3


def test_the_global_generator_is_watched_and_put_back():
    before = torch.get_rng_state()
    with pytest.raises(AssertionError, match="noise: it drew from the global generator"):
        global_state_kept(lambda: torch.randn(3), "noise")
    assert torch.equal(torch.get_rng_state(), before)
