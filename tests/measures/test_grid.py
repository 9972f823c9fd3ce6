"""Grids: the type that was asked for, and one sentence for densities and boxes that make none."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wgflow import BadInput, Grid

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@DTYPES
@pytest.mark.parametrize("returned", [torch.float32, torch.float64])
def test_masses_have_the_type_that_was_asked_for(dtype: torch.dtype, returned: torch.dtype) -> None:
    """Whatever the callable returns; and float64 masses of a float32 log density do not underflow at e^-104."""
    rho = Grid.of(lambda x: (-200 * x[:, 0].square()).to(returned), [-1.0], [1.0], [20], dtype=dtype)
    assert rho.mass.dtype == dtype
    assert rho.nodes().x.dtype == dtype
    if dtype == torch.float64:
        log_rho = rho.log_rho - rho.log_rho.max()
        exact = -200 * (rho.axes[0].square() - rho.axes[0].square().min())
        torch.testing.assert_close(log_rho, exact, rtol=0, atol=1e-4)


def test_a_density_with_parameters_leaves_no_graph() -> None:
    centre = torch.nn.Parameter(torch.zeros(1))
    assert not Grid.of(lambda x: -(x[:, 0] - centre).square(), [-1.0], [1.0], [4]).mass.requires_grad


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_draws_have_a_density_also_where_they_are_rounded_to_the_edge(offset: float) -> None:
    rho = Grid(torch.ones(10), [offset], [offset + 1])
    p = rho.draw(1000, torch.Generator().manual_seed(0))
    assert rho.log_prob(p.x).isfinite().all()
    edges = torch.tensor([[offset], [offset + 1], [offset - 1], [offset + 2], [torch.nan]])
    assert rho.log_prob(edges).isfinite().tolist() == [True, True, False, False, False]


def test_cells_whose_volume_is_no_number_have_a_density() -> None:
    rho = Grid.of(lambda x: -x.square().sum(1), [0.0] * 3, [1e-150] * 3, [2] * 3)
    assert float(rho.log_rho[0]) == pytest.approx(450 * math.log(10), rel=1e-12)


@pytest.mark.parametrize(
    ("density", "message"),
    [
        (lambda x: torch.full_like(x[:, 0], math.nan), r"it is nan at \[-0.75\]"),
        (lambda x: torch.where(x[:, 0] > 0, math.nan, 0.0), r"it is nan at \[0.25\]"),
        (lambda x: torch.full_like(x[:, 0], -math.inf), "a number at one of them at least: it is -inf"),
        (lambda x: -x[:, 0].log(), "it is nan"),
        (lambda x: x[:, 0] / 0, "it is inf"),
        (lambda x: (-(x[:, 0] ** 2)).long(), "floating-point"),
        (lambda x: -(x**2), r"must map \(4, 1\) to \(4,\)"),
        (3, "density=3"),
    ],
)
def test_densities_that_make_no_grid(density: Callable[[torch.Tensor], torch.Tensor], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Grid.of(density, [-1.0], [1.0], [4])


@pytest.mark.parametrize(
    "box",
    [
        {"low": [1.0], "high": [-1.0]},
        {"low": [1.0], "high": [1.0]},
        {"low": [-math.inf]},
        {"low": [math.nan]},
        {"low": [-1e308], "high": [1e308]},
        {"low": [-1.0, 0.0]},
        {"low": -1.0},
        {"shape": [0]},
        {"shape": [-3]},
        {"shape": [2.5]},
        {"shape": 4},
        {"dtype": torch.int32},
        {"dtype": "float"},
        {"device": "nowhere"},
    ],
)
def test_boxes_that_make_no_grid(box: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Grid.of(lambda x: -x.square().sum(1), **{"low": [-1.0], "high": [1.0], "shape": [4]} | box)
