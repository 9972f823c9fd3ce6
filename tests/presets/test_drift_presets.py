"""Presets of one-step generators: each trains one, of a whole law and of classes, and is the sentence that its paper says."""

import pytest
import torch
from _exact import rng
from torch import nn

from wgflow import (
    BadInput,
    Balanced,
    Dataset,
    GaussianMixture,
    Geometric,
    Labelled,
    MixedNegatives,
    OfEveryClass,
    PerClass,
    StandardNormal,
    presets,
)

DRIFTS = ("w_flow", "mmd_drift", "energy_drift", "drifting")
FAST = {"batch": 64, "lr": 0.05, "ema": 0.95, "num_steps": 120}
CENTRES = torch.tensor([[4.0, 0.0], [-2.0, 3.0]])


def options(name):
    return FAST | ({"floor": 0.0, "temperatures": (0.2, 1.0)} if name == "drifting" else {})


class Labelling(nn.Module):
    """(z, c) -> (G(z, c), c)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)

    def forward(self, z):
        return torch.cat([self.net(z), z[:, 2:]], 1)


@pytest.mark.parametrize("name", DRIFTS)
def test_a_generator_comes_to_the_data(name):
    """Onto N((4, 0), 0.25 I): the mean to 0.2, and the width to 0.2."""
    target = GaussianMixture(CENTRES[:1], 0.5)
    flow = presets.PRESETS[name](target, StandardNormal(2), lambda: nn.Linear(2, 2), **options(name)).solve()
    x = flow.measure.inference().draw(4000, rng(1)).x
    assert float((x.mean(0) - CENTRES[0]).norm()) < 0.2
    assert float((x.std(0) - 0.5).abs().max()) < 0.2


def labelled(n=400):
    labels = torch.arange(n) % 2
    return Labelled(Dataset(CENTRES[labels] + 0.5 * torch.randn(n, 2, generator=rng(3)), labels=labels))


@pytest.mark.parametrize("name", DRIFTS)
def test_every_class_comes_to_its_own(name):
    data = labelled()
    latent = Balanced(data.latent(StandardNormal(2)))
    flow = presets.PRESETS[name](Balanced(data), latent, Labelling, **options(name))
    assert isinstance(flow.functional, PerClass)
    x = flow.solve().measure.inference().draw(2000, rng(1)).x
    for c in (0, 1):
        assert float((x[c::2, :2].mean(0) - CENTRES[c]).norm()) < 0.3
        assert bool((x[c::2, 2 + c] == 1).all())


def test_guidance_pushes_a_class_away_from_the_whole():
    """The classes lie on a line through their middle: guided, both means lie further out."""
    data = labelled()
    latent, whole = Balanced(data.latent(StandardNormal(2))), OfEveryClass(data.base, 2)
    reach = []
    for extra in ({}, {"whole": whole, "guidance": 0.5}):
        flow = presets.w_flow(Balanced(data), latent, Labelling, unit_speed=False, **options("w_flow"), **extra)
        x = flow.solve().measure.inference().draw(2000, rng(1)).x[:, :2]
        reach.append(float((x[0::2].mean(0) - x[1::2].mean(0)).norm()))
    assert reach[1] > 1.2 * reach[0]
    mixed = MixedNegatives(whole, 1.5)
    flow = presets.drifting(Balanced(data), latent, Labelling, negatives=mixed, **options("drifting"))
    x = flow.solve().measure.inference().draw(2000, rng(1)).x[:, :2]
    assert float((x[0::2].mean(0) - x[1::2].mean(0)).norm()) > 1.05 * float((CENTRES[0] - CENTRES[1]).norm())


def test_a_blur_that_shrinks_is_a_preset_as_well():
    flow = presets.w_flow(
        StandardNormal(2), StandardNormal(2), lambda: nn.Linear(2, 2), blur=Geometric(2.0, 0.5, floor=0.2), num_steps=3
    )
    assert [round(flow.functional.at(k, 0.0).term.blur, 3) for k in range(5)] == [2.0, 1.0, 0.5, 0.25, 0.2]
    assert flow.solve().status == "done"


def test_guidance_without_the_whole_is_refused():
    """It was left out without a word."""
    with pytest.raises(BadInput, match=r"guidance=2: .* whole="):
        presets.w_flow(StandardNormal(2), StandardNormal(2), nn.Linear(2, 2), guidance=2.0)
