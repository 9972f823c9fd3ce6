"""What a functional with a dual form owes: Fenchel and Young, and the pieces of an f-divergence."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from wgflow import FDivergence, Functional, Particles
from wgflow.core.rng import generator
from wgflow.functionals.base import Potential
from wgflow.testing._checks import applies, at_most, close
from wgflow.testing._functionals import FUNCTIONAL, FunctionalCase
from wgflow.testing._worlds import Atoms, critic, nearest

NU, RHO = (0.25, 0.35, 0.4), (0.3, 0.5, 0.2)


def _atoms() -> tuple[Tensor, Tensor, Tensor]:
    """Return three points with two laws on them, whose ratio stays below 2."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    return x, torch.tensor(NU, dtype=torch.float64), torch.tensor(RHO, dtype=torch.float64)


def _on_atoms(F: Functional) -> bool:
    """Whether the functional compares densities with one target, so that it is known exactly on common atoms."""
    return F.needs_density and is_dataclass(F) and "target" in {f.name for f in fields(F)}


def _pairs(case: FunctionalCase) -> tuple[Tensor, Functional, Particles, list[Potential]]:
    """Return the value, a realization, the law and random critics, on common atoms for what compares densities."""
    scales = (2.0, 0.1)  # far from the best critic, and near the one that knows nothing
    if not _on_atoms(case.F):
        held = [critic(tuple(case.p.event_shape), seed) for seed in range(20)]
        nets: list[Potential] = [lambda y, net=net, c=c: c * net(y) for net in held for c in scales]  # type: ignore[misc]
        F = case.frozen()
        return F.value(case.p), F, case.p, nets
    x, nu, rho = _atoms()
    F = replace(case.F, target=Atoms(x, nu))  # type: ignore[type-var]
    drawn = replace(case.F, target=Particles(x, nu.log()))  # type: ignore[type-var]
    tables = [torch.randn(3, generator=generator(seed), dtype=torch.float64) for seed in range(20)]
    nets = [lambda y, v=v, c=c: c * v[nearest(y, x)] for v in tables for c in scales]  # type: ignore[misc]
    return F.value(Particles(x, rho.log(), rho.log())), drawn, Particles(x, rho.log()), nets


def _bounded(F: Functional) -> None:
    penalised = type(F).critic_penalty is not Functional.critic_penalty
    applies(not penalised, "its critics are kept in their class by a penalty only")


@FUNCTIONAL.check
def fenchel_young(case: FunctionalCase) -> None:
    """No potential exceeds the value: E_rho[phi] - F*(phi) <= F(rho)."""
    applies(case.F.can("value") and case.F.can("conjugate"), "it does not have both a value and a conjugate")
    _bounded(case.F)
    value, F, rho, nets = _pairs(case)
    for net in nets:
        phi = lambda y, net=net: F.witness(net(y))  # noqa: E731
        at_most(rho.mean(phi(rho.x)) - F.conjugate(phi), value, "E_rho[phi] - F*(phi) is above F(rho)", 1e-12)


@FUNCTIONAL.check
def no_critic_exceeds_the_value(case: FunctionalCase) -> None:
    """What a critic ascends is never more than the value."""
    dual = case.F.can("conjugate") or case.F.can("variational")
    applies(case.F.can("value") and dual, "it does not have both a value and a dual form")
    _bounded(case.F)
    value, F, rho, nets = _pairs(case)
    for net in nets:
        at_most(F.variational(net, rho), value, "what a critic ascends is above F(rho)", 1e-12)


@FUNCTIONAL.check
def the_best_critic_attains_the_value(case: FunctionalCase) -> None:
    """The supremum of what a critic ascends is the value, with one free output an atom."""
    applies(_on_atoms(case.F), "it does not compare densities with one target")
    value, F, rho, _ = _pairs(case)
    applies(bool(torch.isfinite(value)), "its value is infinite")
    from scipy.optimize import minimize

    def below(outputs: Any) -> tuple[float, Any]:
        v = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
        s = -F.variational(lambda y: v[nearest(y, rho.x)], rho)
        (slope,) = torch.autograd.grad(s, v)
        return float(s.detach()), slope.numpy()

    best = minimize(
        below, 0.1 * torch.randn(3, generator=generator(0), dtype=torch.float64).numpy(), jac=True, tol=1e-9
    )
    close(-best.fun, value, "the best critic does not attain F(rho)", rtol=1e-6, atol=1e-8)


@FUNCTIONAL.check
def critics_are_high_on_data_and_low_on_the_model(case: FunctionalCase) -> None:
    """A critic that knows nothing is drawn up at every point of the data and down at every particle."""
    applies(case.F.can("conjugate") or case.F.can("variational"), "it has no conjugate or variational")
    F, p = case.frozen(), case.p
    data = F.data()
    applies(isinstance(data, Particles), "it has no data that could be drawn")
    assert isinstance(data, Particles)
    every = torch.cat([data.x, p.x])
    v = torch.zeros(len(every), dtype=torch.float64, requires_grad=True)
    objective = F.variational(lambda y: v[nearest(y, every)], p)
    (slope,) = torch.autograd.grad(objective, v, materialize_grads=True)
    applies(bool((slope.abs() > 1e-12).any()), "its dual form is flat at a constant critic")
    slope[nearest(every, every) != torch.arange(len(every))] = (
        torch.nan
    )  # a twin, whose slope is with the first of them
    for where, sign, part in (("point of the data", 1, slope[: len(data)]), ("particle", -1, slope[len(data) :])):
        worst = int((sign * part).nan_to_num(torch.inf).argmin())
        assert sign * float(part[worst]) > 0, (
            f"critics are to be high on data and low on the model, and at {where} {worst} what a critic ascends has the slope "
            f"{float(part[worst]):.3g}"
        )


@FUNCTIONAL.check
def vanishes_at_the_target_and_nowhere_else(case: FunctionalCase) -> None:
    """An f-divergence is 0 at its target and positive elsewhere."""
    applies(isinstance(case.F, FDivergence), "it is no f-divergence")
    x, nu, rho = _atoms()
    F = replace(case.F, target=Atoms(x, nu))  # type: ignore[type-var]
    close(
        F.value(Particles(x, nu.log(), nu.log())), 0.0, "the divergence of the target from itself is not 0", atol=1e-15
    )
    at_most(0.01, F.value(Particles(x, rho.log(), rho.log())), "the divergence of another law is not positive")


def _divergence(case: FunctionalCase) -> tuple[FDivergence, Tensor]:
    """Return an f-divergence and potentials phi of its domain."""
    applies(isinstance(case.F, FDivergence), "it is no f-divergence")
    assert isinstance(case.F, FDivergence)
    applies(type(case.F).f_star is not FDivergence.f_star, "it has no f_star")
    return case.F, case.F.witness(torch.linspace(-3, 3, 61, dtype=torch.float64))


@FUNCTIONAL.check
def f_star_is_the_conjugate_of_f(case: FunctionalCase) -> None:
    """f*(u) >= p u - f(p) for every ratio p, with equality at p = ratio(u)."""
    F, u = _divergence(case)
    p, best, conjugate = torch.linspace(0, 40, 401, dtype=torch.float64), F.ratio(u), F.f_star(u)
    above = (p[:, None] * u - F.f(p)[:, None] - conjugate).amax(0)
    at_most(above.max(), 0.0, f"p u - f(p) is above f*(u) at u = {float(u[above.argmax()]):.3g}", 1e-12)
    claim = "f*(u) is not p u - f(p) at p = ratio(u)"
    close(conjugate, best * u - F.f(best), claim, rtol=1e-9, atol=1e-12)


@FUNCTIONAL.check
def ratio_is_the_slope_of_f_star(case: FunctionalCase) -> None:
    """ratio(u) is the derivative of f*(u)."""
    F, u = _divergence(case)
    h = 1e-6
    close(
        F.ratio(u),
        (F.f_star(u + h) - F.f_star(u - h)) / (2 * h),
        "ratio(u) is not the slope of f*(u)",
        rtol=1e-6,
        atol=1e-6,
    )


@FUNCTIONAL.check
def perspective_has_the_mean_of_f(case: FunctionalCase) -> None:
    """The mean of perspective(log r) under rho is that of f(r) under nu."""
    applies(isinstance(case.F, FDivergence), "it is no f-divergence")
    assert isinstance(case.F, FDivergence)
    _, nu, rho = _atoms()
    r = rho / nu
    mean = (rho * case.F.perspective(r.log())).sum()
    close(mean, (nu * case.F.f(r)).sum(), "the mean of perspective(log r) is not that of f(r)", rtol=1e-12, atol=1e-12)
