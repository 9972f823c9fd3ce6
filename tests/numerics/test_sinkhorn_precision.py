"""Sinkhorn divergences mean what was asked for, whatever the units, the precision and the weights, or say that they do not."""

import math
import warnings

import pytest
import torch
from _exact import double, rng

import wgflow as wg
from wgflow import Autograd, ForwardEuler, NotConverged, Particles
from wgflow.functionals import SinkhornDivergence, SquaredW2
from wgflow.numerics.sinkhorn import annealing_error, sinkhorn_divergence
from wgflow.numerics.sinkhorn_problem import Regularisation
from wgflow.numerics.sinkhorn_solver import Dual, dual_value, solve

DTYPES = [torch.float32, torch.float64]


def histograms() -> tuple[torch.Tensor, ...]:
    """Two Gaussians on [-1, 2], whose weights fall to 1e-20 and 1e-21: points and log weights."""
    x, y = (torch.linspace(-1, 2, n, dtype=torch.float64)[:, None] for n in (59, 57))
    logs = (-(((z - m) / s) ** 2) / 2 for z, m, s in ((x, 0.27, 0.18), (y, 0.04, 0.20)))
    log_a, log_b = (t[:, 0].log_softmax(0) for t in logs)
    return x, log_a, y, log_b


def plan(x: torch.Tensor, log_a: torch.Tensor, y: torch.Tensor, log_b: torch.Tensor, g: torch.Tensor, eps: float):
    """Costs, logarithm of the plan's density and the plan, by hand, from the potential on y alone."""
    cost = (x.double()[:, :, None] - y.double()[:, None]).square().sum(3) / 2
    exponents = log_b[:, None] + (g[:, None] - cost) / eps
    log_density = exponents - exponents.logsumexp(2, keepdim=True) - log_b[:, None]
    return cost, log_density, (log_a[:, :, None] + log_b[:, None] + log_density).exp()


def marginal_error(x, log_a, y, log_b, dual: Dual, eps: float) -> float:
    return float((plan(x, log_a, y, log_b, dual.g, eps)[2].sum(1) - log_b.exp()).abs().sum())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("blur", [0.1, 0.02, 0.014, 0.005, 0.001, 1e-4])
def test_weights_of_many_orders_of_magnitude(blur: float, dtype: torch.dtype) -> None:
    """The cost of the plan, with its entropy, is the value of the dual: both are the minimum, to the marginals' error."""
    x, log_a, y, log_b = (t[None] for t in histograms())
    reg = Regularisation(blur**2)
    dual = solve(x.to(dtype), log_a, y.to(dtype), log_b, reg)
    assert dual.converged
    cost, log_density, P = plan(x.to(dtype), log_a, y.to(dtype), log_b, dual.g, reg.eps)
    assert float((P.sum(1) - log_b.exp()).abs().sum()) < 1e-6
    primal = (P * (cost + reg.eps * log_density)).sum()
    assert float(dual_value(dual, log_a, log_b, reg)) == pytest.approx(float(primal), rel=1e-6)


def test_a_fine_blur_between_histograms_is_exact_transport() -> None:
    x, log_a, y, log_b = histograms()
    F = SinkhornDivergence(Particles(y, log_b), blur=1e-4)
    exact = float(SquaredW2(Particles(y, log_b)).value(Particles(x, log_a))) / 2
    assert float(F.value(Particles(x, log_a))) == pytest.approx(exact, abs=8 * 1e-8)  # entropies of some 4 eps a term


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["normal", "fine", "shifted", "pixels", "cauchy", "far"])
def test_the_reported_error_is_the_error(case: str, dtype: torch.dtype, tol: float) -> None:
    """Of the plan that the potentials make, computed from differences in float64."""
    d, blur = {"pixels": (400, 8.0), "cauchy": (5, 0.5), "fine": (2, 0.05)}.get(case, (2, 0.5))
    x, y = (torch.randn(1, n, d, generator=rng(n)) for n in (60, 50))
    y = 0.7 * y + 0.5
    if case == "cauchy":
        x, y = (z / torch.randn(z.shape, generator=rng(5)) for z in (x, y))
    elif case == "far":
        x[0, 0], y[0, 3] = 1e4, -1e5
    else:
        x, y = ({"shifted": 1e3}.get(case, 0) + {"pixels": 255}.get(case, 1) * z for z in (x, y))
    log_a, log_b = (torch.randn(1, n, generator=rng(n)).double().log_softmax(1) for n in (60, 50))
    reg = Regularisation(blur**2, tol=tol)
    dual = solve(x.to(dtype), log_a, y.to(dtype), log_b, reg)
    assert dual.converged
    assert float(dual.error) <= tol
    # That of the last potentials; the one that was tested is of those before, which a sweep may have improved.
    assert marginal_error(x, log_a, y, log_b, dual, reg.eps) <= 2 * float(dual.error)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-3, 1e3, 1e6, 1e12])
def test_values_scale_with_the_square_of_the_unit(scale: float, dtype: torch.dtype) -> None:
    x, y = (torch.randn(n, 3, generator=rng(n), dtype=torch.float64).to(dtype) for n in (30, 40))
    for kind in ({}, {"reach": 1.0}, {"debias": False}):
        reach = {k: v * scale if k == "reach" else v for k, v in kind.items()}
        one = SinkhornDivergence(Particles(y), blur=0.3, **kind)
        other = SinkhornDivergence(Particles(scale * y), blur=0.3 * scale, **reach)
        ours, theirs = (F.report(Particles(z)) for F, z in ((one, x), (other, scale * x)))
        assert ours.converged
        assert theirs.converged
        close = 4 * torch.finfo(dtype).eps if dtype == torch.float32 else 1e-10
        assert float(theirs.value) / scale**2 == pytest.approx(float(ours.value), rel=close + 1e-9)
        torch.testing.assert_close(theirs.gradient / scale, ours.gradient, rtol=0, atol=1e-5)


@pytest.mark.parametrize("blur", [0.003, 0.05, 1.0])
def test_single_precision_keeps_the_exact_cost_of_a_translation(blur: float) -> None:
    """Also at a blur of 1/1000 of the size, where exponents are of the order of 1e6."""
    x = torch.randn(60, 2, generator=rng())
    y = x + torch.tensor([1.0, -2.0])
    t = (y - x).double()
    F = SinkhornDivergence(Particles(y), blur=blur)
    assert float(F.value(Particles(x))) == pytest.approx(float(t.square().sum(1).mean()) / 2, rel=1e-5)
    torch.testing.assert_close(Autograd().velocity(F, Particles(x), None).double(), t, rtol=0, atol=1e-5)


def test_single_precision_agrees_with_double_on_pixels_to_255() -> None:
    """With the tolerance raised to what float32 exponents resolve velocities were 42 % off."""
    x, y = (255 * torch.rand(40, 784, generator=rng(k)) ** 3 for k in (0, 1))
    v, w = (
        Autograd().velocity(SinkhornDivergence(Particles(y.to(t)), blur=10.0), Particles(x.to(t)), None).double()
        for t in DTYPES
    )
    assert float((v - w).norm() / w.norm()) < 1e-5


def test_one_far_particle_changes_nothing_for_the_others() -> None:
    """It meets its equal on the other side: the others' velocities are those without both, up to the masses."""
    x, y = (torch.randn(50, 2, generator=rng(k)) for k in (0, 1))
    far = torch.tensor([[3e4, -1e4]])
    alone = SinkhornDivergence(Particles(y), blur=0.3)
    both = SinkhornDivergence(Particles(torch.cat([y, far])), blur=0.3)
    v, w = (Autograd().velocity(F, Particles(z), None) for F, z in ((alone, x), (both, torch.cat([x, far]))))
    torch.testing.assert_close(w[:-1], v, rtol=0, atol=1e-4)
    assert float(w[-1].norm()) < 1e-2  # a float32 at 3e4 is good to 2e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [{}, {"reach": 0.8}])
def test_degenerate_clouds(kind: dict[str, float], dtype: torch.dtype) -> None:
    """One point, equal points, no mass: the values that one atom has."""
    shift, blur = torch.tensor([3.0, 4.0], dtype=dtype), 0.1
    one, many, massless = (
        Particles(torch.zeros(1, 2, dtype=dtype)),
        Particles(torch.zeros(7, 2, dtype=dtype)),
        Particles(torch.tensor([[0.0, 0.0], [50.0, 1.0]], dtype=dtype), torch.tensor([0.0, -math.inf], dtype=dtype)),
    )
    value = 12.5 if not kind else (scale := 2 * 0.64 + 0.01) * -math.expm1(-12.5 / scale)
    F = SinkhornDivergence(Particles(shift[None]), blur=blur, **kind)
    for rho in (one, many, massless):
        phi, slope = Autograd().gradient(F, rho, None)
        assert float(F.value(rho)) == pytest.approx(value, rel=1e-6)
        assert bool(phi.isfinite().all())
        assert bool(slope.isfinite().all())


@pytest.mark.parametrize("reach", [10.0, 1e3, 1e5])
def test_a_long_reach_is_reached_in_few_sweeps(reach: float) -> None:
    """Plain sweeps find the best constant in (reach / blur)² of them; far-reaching marginals are as good as hard ones."""
    x, y = (torch.randn(n, 2, generator=rng(n), dtype=torch.float64) for n in (30, 40))
    hard, soft = (SinkhornDivergence(Particles(y), blur=0.3, reach=r).report(Particles(x)) for r in (None, reach))
    assert soft.converged
    assert soft.cross.iterations <= 2 * hard.cross.iterations
    assert float(soft.value) == pytest.approx(float(hard.value), rel=10 / reach**2, abs=1e-9)


@pytest.mark.parametrize("blur", [20.0, 300.0])
def test_a_wide_blur_leaves_the_digits_of_single_precision(blur: float) -> None:
    """There values are small differences of numbers of the order of blur²."""
    x, y = (torch.randn(n, 2, generator=rng(n)) for n in (30, 40))
    single, exact = (float(SinkhornDivergence(Particles(y.to(t)), blur=blur).value(Particles(x.to(t)))) for t in DTYPES)
    assert single == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tolerance_that_the_numbers_cannot_resolve_is_not_met(dtype: torch.dtype) -> None:
    """At a blur of 1e-9 exponents are of the order of 1e18, and float64 leaves errors of 1e2 in them."""
    x, y = (torch.randn(10, 2, generator=rng(k)).to(dtype) for k in (0, 1))
    F = SinkhornDivergence(Particles(y), blur=1e-9, max_iters=100)
    report = F.report(Particles(x))
    assert not report.converged
    assert float(report.error) > 1
    with pytest.warns(NotConverged, match="sinkhorn has not converged"):
        F.value(Particles(x))


def test_a_flow_that_rests_on_unconverged_plans_says_so() -> None:
    """In its history, with the residual, and in its status; the target's own term, which is remembered, counts every time."""
    x, y = (torch.randn(n, 2, generator=rng(n)) for n in (20, 25))
    F = SinkhornDivergence(Particles(y), blur=0.02, max_iters=3)
    with pytest.warns(NotConverged, match=r"sinkhorn missed its tolerance in 100% of the steps"):
        flow = wg.solve(F, ForwardEuler(), Particles(x), step_size=0.1, num_steps=3)
    assert flow.status == "unconverged"
    assert [row["sinkhorn/unconverged"] for row in flow.history[1:]] == [1.0] * 3 or flow.history[-1][
        "sinkhorn/unconverged"
    ] == 1.0
    assert flow.history[-1]["sinkhorn/residual"] > 1e-6


def test_a_flow_that_converges_says_nothing() -> None:
    x, y = (torch.randn(n, 2, generator=rng(n)) for n in (20, 25))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow = wg.solve(
            SinkhornDivergence(Particles(y), blur=0.2), ForwardEuler(), Particles(x), step_size=0.1, num_steps=3
        )
    assert flow.status == "done"
    assert flow.history[-1]["sinkhorn/residual"] <= 1e-6


def test_over_relaxation_that_diverges_is_taken_back() -> None:
    """Heavy tails at a fine blur: sweeps relaxed by the rate of others overflow; the best potentials so far are kept."""
    x, y = (torch.randn(n, 5, generator=rng(n), dtype=torch.float64) for n in (90, 60))
    x, y = (z / torch.randn(z.shape, generator=rng(7), dtype=torch.float64) for z in (x, y))
    logs = [torch.randn(1, n, generator=rng(n)).double().log_softmax(1) for n in (90, 60)]
    errors = [
        float(solve(x[None], logs[0], y[None], logs[1], Regularisation(0.01, max_iters=k)).error) for k in (40, 80, 119)
    ]
    assert all(math.isfinite(e) for e in errors)
    assert errors == sorted(errors, reverse=True)


def test_lengths_without_a_square_are_refused() -> None:
    for lengths in ({"blur": 1e-170}, {"blur": 1e170}, {"blur": 1.0, "reach": 1e-200}):
        with pytest.raises(wg.BadInput, match="a length whose square is a number"):
            SinkhornDivergence(Particles(double([[0.0]])), **lengths)


@pytest.mark.parametrize(("d", "blur"), [(2, 0.1), (2, 0.5), (2, 1.0), (16, 1.0), (16, 2.0), (64, 3.0)])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_annealed_values_are_closer_than_their_marginal_error(d, blur, shift):
    r = rng(0)
    x = torch.randn(200, d, generator=r, dtype=torch.float64)
    y = 1.3 * torch.randn(200, d, generator=r, dtype=torch.float64) + shift / d**0.5
    exact = SinkhornDivergence(wg.Dataset(y), blur=blur, tol=1e-7, max_iters=20_000).freeze(r).value(Particles(x))
    assert sinkhorn_divergence(x, y, blur=blur) == pytest.approx(
        float(exact), rel=float(annealing_error(x, y, blur=blur))
    )
