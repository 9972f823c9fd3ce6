"""Implicit steps in closed form: W1 and W2 to points, kinks, and the proximal gradient method."""

from itertools import permutations

import numpy as np
import pytest
import torch
from _exact import double, rng
from scipy.optimize import minimize_scalar

from wgflow import (
    JKO,
    W1,
    BadInput,
    Gaussian,
    Incompatible,
    Particles,
    PotentialEnergy,
    SquaredW2,
    Unsupported,
    solve,
    transport_cost,
    why_not,
)
from wgflow.optim import LBFGS
from wgflow.reference import w1_flow
from wgflow.solvers.proximal import Proximal

LASSO = PotentialEnergy(lambda x: x.abs().sum(1), lambda x, h: x.sign() * (x.abs() - h).clamp(min=0))


def cloud(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=rng(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 3, 16])
def test_w1_on_a_line_has_no_error_in_time(steps, dtype):
    """Particles arrive on the way and rest there; what is left is rounding, a few ulp a step."""
    x, y = (2 + 1.5 * cloud(50, 1)).to(dtype), cloud(50, 1, 1, dtype)
    end = solve(W1(Particles(y), batch=50), Proximal(), Particles(x), step_size=1.6 / steps, num_steps=steps).measure.x
    exact = w1_flow(x[:, 0].sort()[0], y[:, 0].sort()[0], 1.6)
    torch.testing.assert_close(end[:, 0].sort()[0], exact, rtol=0, atol=8 * steps * torch.finfo(dtype).eps * 6)
    assert torch.equal(end[:, 0].argsort(), x[:, 0].argsort())
    assert 5 < int((exact == y[:, 0].sort()[0]).sum()) < 45


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize(("F", "power", "h"), [(W1, 1, 0.7), (W1, 1, 3.0), (SquaredW2, 2, 0.3)])
def test_steps_minimise_over_all_ways_to_pair(F, power, h, d):
    """The minimum over all 120 pairings, each a sum of problems in one number, the distance gone."""
    x, y = 1.5 * cloud(5, d), cloud(5, d, 1)
    target = F(Particles(y))
    end = Particles(target.prox(Particles(x), h))
    found = float(end.mean(transport_cost(x, end.x)) / h + target.value(end))

    def least(r):
        return minimize_scalar(lambda s: s**2 / (2 * h) + abs(r - s) ** power, (0, r), options={"xtol": 1e-12}).fun

    cost = np.vectorize(least)(torch.cdist(x, y).numpy())
    best = min(sum(cost[i, j] for i, j in enumerate(order)) / 5 for order in permutations(range(5)))
    assert found == pytest.approx(best, abs=1e-9)


def test_multiples_of_the_points_and_factors():
    x, y = cloud(12, 1), cloud(4, 1, 1)
    doubled = Particles(y.repeat(3, 1))
    for F in (W1, SquaredW2):
        one, other = ((2.5 * F(t)).prox(Particles(x), 0.2) for t in (Particles(y), doubled))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        torch.testing.assert_close(one, F(doubled).prox(Particles(x), 0.5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("h", [0.1, 1.0])
def test_the_proximal_gradient_method_ends_at_the_lasso(h):
    """The minimiser of |x - a|²/2 + 0.8 |x|_1 is the shrunk a, whatever the step; for h = 1 after one."""
    a = double([2.0, 0.5])
    F = PotentialEnergy(lambda x: 0.5 * (x - a).square().sum(1)) + 0.8 * LASSO
    end = solve(F, Proximal(), Particles(cloud(6, 2)), step_size=h, num_steps=round(1 / h) ** 2 * 3).measure.x
    expected = double([1.2, 0.0]).expand(6, 2)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-12 if h == 1 else 3 * (1 - h) ** 300 + 1e-12)


def test_a_smooth_step_is_that_of_a_minimiser():
    F, x = 0.5 * SquaredW2(Particles(cloud(8, 2, 1))), Particles(cloud(8, 2))
    ends = [
        solve(F, s, x, step_size=0.05, num_steps=1).measure.x
        for s in (Proximal(), JKO(optim=LBFGS(tolerance=1e-9), iters=1))
    ]
    torch.testing.assert_close(*ends, rtol=0, atol=1e-7)


def test_images():
    x, y = torch.randn(4, 1, 2, 2, generator=rng()), torch.randn(4, 1, 2, 2, generator=rng(1))
    flat = W1(Particles(y.flatten(1))).prox(Particles(x.flatten(1)), 0.5)
    assert torch.equal(W1(Particles(y)).prox(Particles(x), 0.5), flat.view_as(x))


def test_what_has_no_closed_form_is_refused():
    x = Particles(cloud(4, 2))
    target = Gaussian(double([0, 0]), torch.eye(2, dtype=torch.float64))
    plain = PotentialEnergy(lambda x: x.square().sum(1))
    for F, count in ((plain, 0), (W1(target) + LASSO, 2)):
        assert f"has {count}. Such are W1, SquaredW2" in why_not(F, Proximal(), x)
    with pytest.raises(Incompatible, match=r"Use JKO\(optim=LBFGS"):
        solve(plain, Proximal(), x, step_size=0.1, num_steps=1)
    with pytest.raises(Unsupported, match="no implicit step in closed form"):
        plain.prox(x, 0.1)
    with pytest.raises(Unsupported, match="got 4 particles and 3 points"):
        solve(W1(Particles(cloud(3, 2))), Proximal(), x, step_size=0.1, num_steps=1)
    assert "target points of equal weight" in why_not(W1(Particles(x.x, torch.zeros(4).double())), Proximal(), x)
    assert "particles of equal weight" in why_not(W1(target), Proximal(), Particles(x.x, torch.zeros(4).double()))
    with pytest.raises(Unsupported, match="equal weights"):
        W1(x).prox(Particles(x.x, torch.zeros(4).double()), 0.1)
    with pytest.raises(BadInput, match=r"keep the shape \(4, 2\); it returned \(4,\)"):
        PotentialEnergy(lambda x: x.sum(1), lambda x, h: x.sum(1)).prox(x, 0.1)
