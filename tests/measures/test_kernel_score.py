"""The kernel score model as a measure that moves: its precisions, its bounds, its flow."""

import math

import pytest
import torch
from _exact import double, rng
from torch import nn

from wgflow import JKO, KL, Adam, BadInput, Evaluate, Gaussian, Incompatible, KernelScoreModel, solve

CENTRES = torch.randn(12, 3, generator=rng(1), dtype=torch.float64)


class Fixed(nn.Module):
    """A network that returns one row of numbers for every centre."""

    def __init__(self, row: torch.Tensor) -> None:
        super().__init__()
        self.row = nn.Parameter(row.double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.row.expand(len(x), -1)


def inverse_softplus(y: float) -> float:
    return math.log(math.expm1(y))


def test_a_full_precision_is_the_product_of_triangles_with_a_floor():
    """Rows of the triangle in order; without a ceiling to speak of, Γ = (L Lᵀ + ε)/unit²."""
    one = inverse_softplus(1.0)
    diagonal = [inverse_softplus(v) - one for v in (1.5, 0.7, 2.0)]
    row = torch.tensor([diagonal[0], 0.3, diagonal[1], -0.2, 0.4, diagonal[2]])
    L = double([[1.5, 0, 0], [0.3, 0.7, 0], [-0.2, 0.4, 2.0]])
    model = KernelScoreModel(CENTRES, Fixed(row), floor=0.05, ceiling=1e12).start(rng())
    expected = (L @ L.T + 0.05 * torch.eye(3)) / model.unit**2
    found = torch.linalg.inv(model.law.precision.covariance)
    torch.testing.assert_close(found, expected.expand(12, 3, 3), rtol=1e-6, atol=1e-6)


def test_a_low_rank_one_is_a_diagonal_and_columns():
    row = torch.cat([torch.zeros(3), torch.tensor([1.0, 2.0, 0.0, 0.5, -1.0, 0.3])])
    V = double([[1.0, 2.0], [0.0, 0.5], [-1.0, 0.3]])
    model = KernelScoreModel(CENTRES, Fixed(row), rank=2, floor=1e-9, ceiling=1e12).start(rng())
    expected = (torch.eye(3) + V @ V.T) * model.unit**2
    torch.testing.assert_close(model.law.precision.covariance, expected.expand(12, 3, 3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rank", ["full", 2])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_units_of_the_data_do_not_matter(rank, scale):
    one = KernelScoreModel(CENTRES, rank=rank).start(rng())
    other = KernelScoreModel(scale * CENTRES + 5 * scale, rank=rank).start(rng())
    x = one.draw(20, rng(2)).x
    expected = one.log_prob(x) - 3 * math.log(scale)
    torch.testing.assert_close(other.log_prob(scale * x + 5 * scale), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("size", [-30.0, 30.0])
def test_precisions_stay_within_their_bounds(size):
    model = KernelScoreModel(CENTRES, Fixed(torch.full((6,), size)), floor=0.1, ceiling=50.0).start(rng())
    eigenvalues = model.unit**2 / torch.linalg.eigvalsh(model.law.precision.covariance)
    assert eigenvalues.min() > 0.1 / (1 + 0.1 / 50) - 1e-6
    assert eigenvalues.max() < 50


@pytest.mark.parametrize(("d", "columns"), [(16, None), (17, 8)])
def test_many_dimensions_have_a_low_rank(d, columns):
    model = KernelScoreModel(torch.randn(3, d, generator=rng(3)))
    assert model.columns == columns
    assert model.start(rng()).draw(2, rng()).x.shape == (2, d)


def test_it_flows_at_a_finite_step_size_like_any_measure():
    """KL to a wide Gaussian falls step by step: kernels widen, in the geometry of their couplings."""
    target = Gaussian(double([0.0, 0.0, 0.0]), 2 * torch.eye(3, dtype=torch.float64))

    def divergence(rho, rng):
        x = rho.draw(4000, rng).x
        return {"kl": float((rho.log_prob(x) - target.log_prob(x)).mean())}

    watch = Evaluate([divergence])
    model = KernelScoreModel(CENTRES, rank="full", floor=0.01)
    flow = solve(
        KL(target),
        JKO(optim=Adam(5e-3), iters=30, batch=200),
        model,
        step_size=0.3,
        num_steps=4,
        callbacks=[watch],
    )
    _, values = flow.curve("kl")
    assert watch.initial["kl"] > values[0] > values[1] > values[-1]
    assert values[-1] < 0.6 * watch.initial["kl"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KernelScoreModel(torch.zeros(1, 2)), "at least 2 centers"),
        (lambda: KernelScoreModel(torch.zeros(5)), "at least 2 centers"),
        (lambda: KernelScoreModel(torch.ones(5, 2)), "one point"),
        (lambda: KernelScoreModel(torch.full((5, 2), math.nan)), "finite"),
        (lambda: KernelScoreModel(CENTRES, floor=2.0, ceiling=1.0), "floor below"),
        (lambda: KernelScoreModel(CENTRES, floor=0.0), "floor=0"),
        (lambda: KernelScoreModel(CENTRES, rank="diagonal"), "rank="),
        (lambda: KernelScoreModel(CENTRES).law, "not built"),
        (lambda: KernelScoreModel(CENTRES, nn.Linear(3, 4).double()).start(rng()).law, r"expected \(12, 6\)"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_a_solver_of_points_is_told_what_else_to_use():
    from wgflow import Langevin

    with pytest.raises(Incompatible, match="KernelScoreModel"):
        solve(KL(Gaussian.example()), Langevin(), KernelScoreModel(CENTRES[:, :2]), step_size=0.1, num_steps=1)


def test_a_network_that_is_not_built_is_named():
    model = KernelScoreModel(CENTRES)
    for act in (model.snapshot, model.state_dict, lambda: model.propose(rng()), lambda: model.law):
        with pytest.raises(BadInput, match="not built yet"):
            act()
