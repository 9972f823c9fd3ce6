"""Transport steps at equal accuracy: Sinkhorn divergences against geomloss, exact transport against POT and scipy."""

import random
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import wgflow as wg
from benchmarks._record import Clock
from benchmarks.particles._peers import absent

Evaluate = Callable[[], tuple[Tensor, Tensor]]
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SCALINGS = (0.5, 0.8, 0.9, 0.97, 0.99)
TARGETS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)


def clouds(n: int, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return two clouds of different shapes."""
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, d, generator=rng) for _ in range(2))
    return x.to(device), (0.5 * y + 1.0).to(device)


def evaluated(F: wg.Functional, x: Tensor) -> Evaluate:
    """Return an evaluation of the library, with what depends on the target alone already done."""
    F.value(wg.Particles(x))

    def evaluate() -> tuple[Tensor, Tensor]:
        z = x.detach().requires_grad_(True)
        v = F.value(wg.Particles(z))
        return v.detach(), torch.autograd.grad(v, z)[0]

    return evaluate


def geomloss(x: Tensor, y: Tensor, blur: float, scaling: float) -> Evaluate:
    from geomloss import SamplesLoss

    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, backend="tensorized")

    def evaluate() -> tuple[Tensor, Tensor]:
        z = x.detach().requires_grad_(True)
        v = loss(z, y)
        return v.detach(), torch.autograd.grad(v, z)[0]

    return evaluate


def sinkhorn(n: int, d: int, blur: float, enough: float, device: torch.device) -> dict[str, Any]:
    """Measure time and error of both over their settings, and compare times at equal error of the gradient."""
    x, y = clouds(n, d, device)
    exact = wg.SinkhornDivergence(wg.Particles(y.double()), blur=blur, tol=1e-9, max_iters=20_000)
    report = exact.report(wg.Particles(x.double()))
    v, g = report.value, report.gradient / n
    settings: dict[tuple[str, float], Evaluate] = {
        ("wgflow", tol): evaluated(wg.SinkhornDivergence(wg.Particles(y), blur=blur, tol=tol), x) for tol in TOLERANCES
    }
    if absent("geomloss") is None:
        settings |= {("geomloss", s): geomloss(x, y, blur, s) for s in SCALINGS}
    seconds, found = timed(settings, enough, device)
    runs: dict[str, list[dict[str, float]]] = {}
    for (name, setting), (value, gradient) in found.items():
        errors = {
            "value_error": float((value.double() - v).abs() / v.abs()),
            "gradient_error": float((gradient.double() - g).norm() / g.norm()),
        }
        run = {"setting": setting, "seconds": statistics.median(seconds[name, setting])} | errors
        runs.setdefault(name, []).append(run)
    equal = []
    for target in TARGETS:
        best = {
            m: min((r["seconds"] for r in rs if r["gradient_error"] <= target), default=None) for m, rs in runs.items()
        }
        ours, theirs = best["wgflow"], best.get("geomloss")
        # None where one of the two never is that accurate.
        equal.append({"gradient_error": target, **best, "ratio": theirs / ours if ours and theirs else None})
    kept = {"n": n, "d": d, "blur": blur, "reference_converged": report.converged}
    return kept | {"geomloss_absent": absent("geomloss"), "runs": runs, "at_equal_error": equal}


def exact(n: int, d: int, enough: float, device: torch.device) -> dict[str, Any]:
    """Measure the exact squared W2, value and gradient, against POT and the bare assignment of scipy."""
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    x, y = clouds(n, d, device)
    costs = torch.cdist(x.double(), y.double()).square()
    rows, columns = linear_sum_assignment(costs.cpu().numpy())
    v = costs[rows, columns].mean()
    g = 2 * (x.double() - y.double()[torch.as_tensor(np.asarray(columns), device=device)]) / n

    def pot() -> tuple[Tensor, Tensor]:
        import ot

        z = x.detach().requires_grad_(True)
        weights = x.new_full((n,), 1 / n)
        value = ot.emd2(weights, weights, ot.dist(z, y), numItermax=10_000_000)
        return value.detach(), torch.autograd.grad(value, z)[0]

    def scipy() -> tuple[Tensor, Tensor]:
        pairs = linear_sum_assignment(torch.cdist(x, y).square().cpu().numpy())[1]
        gap = x - y[torch.as_tensor(pairs, device=device)]
        return gap.square().sum(1).mean(), 2 * gap / n

    settings: dict[Any, Evaluate] = {"wgflow": evaluated(wg.SquaredW2(wg.Particles(y)), x), "scipy": scipy}
    if absent("pot") is None:
        settings["pot"] = pot
    seconds, found = timed(settings, enough, device)
    methods = {
        name: {
            "seconds": statistics.median(seconds[name]),
            "value_error": float((value.double() - v).abs() / v),
            "gradient_error": float((gradient.double() - g).norm() / g.norm()),
        }
        for name, (value, gradient) in found.items()
    }
    ours = methods["wgflow"]["seconds"]
    ratios = {name: m["seconds"] / ours for name, m in methods.items() if name != "wgflow"}
    return {"n": n, "d": d, "pot_absent": absent("pot"), "methods": methods, "ratio": ratios}


def timed(
    steps: dict[Any, Callable[[], Any]], enough: float, device: torch.device, most: int = 30
) -> tuple[dict[Any, list[float]], dict[Any, Any]]:
    """Time steps side by side in random order, each until it had ``enough`` seconds; return seconds and first results.

    The first evaluation is a warm-up, unless it alone took enough.
    """
    clock, order = Clock(device), random.Random(0)
    seconds: dict[Any, list[float]] = {name: [] for name in steps}
    results = {}
    due = list(steps)
    while due:
        for name in order.sample(due, len(due)):
            begun = clock()[0]
            result = steps[name]()
            seconds[name].append(clock()[0] - begun)
            results.setdefault(name, result)
        due = [n for n in due if sum(seconds[n]) < enough and len(seconds[n]) < most]
    return {name: s[1:] or s for name, s in seconds.items()}, {name: results[name] for name in steps}
