"""The numerical reference on a line, where it is known."""

import math

import numpy as np
import pytest
import torch
from _exact import double

from wgflow import Gaussian, Unnormalised
from wgflow.bench.line import Line
from wgflow.reference import Barenblatt


def test_the_reference_on_a_line_where_it_is_known() -> None:
    """KL to a Gaussian is Ornstein–Uhlenbeck; the flow of χ² to a uniform law is the porous medium equation, m = 2."""
    line = Line(-8.0, 8.0, cells=1000)
    levels = (torch.arange(500).double() + 0.5) / 500
    start, target = Gaussian(double([1.0]), double([[0.49]])), Gaussian(double([0.0]), double([[1.0]]))
    found = line.quantiles(line.flow(start, target, lambda r: r - 1, 0.5), 500)
    exact = math.exp(-0.5) + torch.special.ndtri(levels) * math.sqrt(1 - 0.51 * math.exp(-1))
    # Second order in the cells of 0.016: the error in a variance is some 0.016² / 12, and so is that in a quantile.
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-4)

    profile, t = Barenblatt(1, 2.0, 0.05), 0.02
    box, side = Line(-1.0, 1.0, cells=1000), 0.9
    assert profile.flow(t).radius < side
    # With the density 1/2 a point moves by -d/dx of 2 (r - 1) = 4 rho - 2; in the porous medium it is of 2 rho, half as fast.
    uniform = Unnormalised(lambda x: torch.full_like(x[:, 0], -math.log(2)), 1)
    mass = box.flow(profile, uniform, lambda r: r**2 - 1, t / 2)
    moment = float(mass @ ((box.faces[1:] ** 3 - box.faces[:-1] ** 3) / np.diff(box.faces) / 3))
    assert moment == pytest.approx(profile.flow(t).second_moment, rel=2e-3)
