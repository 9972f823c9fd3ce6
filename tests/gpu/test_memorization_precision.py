"""The memorization report on the device under test, in float32, against that on a CPU in float64."""

import pytest
import torch

from wgflow.measures import Particles
from wgflow.metrics import Memorization

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("d", [3, 40])
@pytest.mark.parametrize("held_out", [True, False])
def test_numbers_are_those_of_float64_on_a_cpu(d, held_out, device):
    train, real, x = (torch.randn(600, d, generator=torch.Generator().manual_seed(s)) for s in range(3))
    x[:40] = train[:40]
    x[40:80] = train[40:80] + 1e-3

    def found(device, dtype):
        others = Particles(real.to(device, dtype)) if held_out else None
        # All real points are taken, so that their choice by the generator of the device does not matter.
        metric = Memorization(train.to(device, dtype), others, n=600)
        return metric(Particles(x.to(device, dtype)), torch.Generator(device))

    here = found(device, torch.float32)
    assert here["memorized"] >= 80 / 600
    assert here == pytest.approx(found(torch.device("cpu"), torch.float64), rel=1e-4)
