"""Why a number is not one: looked for when a flow cannot start, or has stopped being finite, and at no other time."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from wgflow.core.finite import first_nonfinite
from wgflow.core.outputs import per_point
from wgflow.core.rng import generator, global_generators
from wgflow.core.typing import Points
from wgflow.estimators import Estimator
from wgflow.functionals import FDivergence, Functional, InteractionEnergy, PotentialEnergy, Scaled, SquaredKSD, Sum
from wgflow.kernels import Kernel
from wgflow.measures import Dataset, Grid, Measure, MovingMeasure, Particles
from wgflow.solvers import Proximal, Solver

_GROWN = 1e4
"""Particles that are so many times as far out as at the start have grown: a smaller step helps."""


def nonfinite_entry(part: Any, where: str) -> str | None:
    """Name the first entry of a tensor held by a part of a flow that is not finite, such as ``"F.target.x[3, 0] = nan"``."""
    for name, t in _tensors(part, where):
        allowed = (t == -torch.inf) if name.rpartition(".")[2] in ("log_w", "log_rho") else torch.zeros_like(t) > 0
        if not bool((torch.isfinite(t) | allowed).all()):
            return first_nonfinite(name, t.masked_fill(allowed, 0.0))
        if name.endswith(".log_w") and bool(allowed.all()):
            return f"every entry of {name}"
    return None


def _tensors(part: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(part, Tensor):
        if part.is_floating_point():
            yield where, part
    elif isinstance(part, (list, tuple)):
        for i, entry in enumerate(part):
            yield from _tensors(entry, f"{where}[{i}]")
    elif isinstance(part, (nn.Module, type, Dataset)):  # a Dataset has been looked at where it was made
        return
    elif dataclasses.is_dataclass(part) or isinstance(part, Measure):
        names = [f.name for f in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else list(vars(part))
        for name in names:
            if not name.startswith("_") and name != "source":
                yield from _tensors(getattr(part, name), f"{where}.{name}")


def outside(F: Functional, solver: Solver, measure: MovingMeasure) -> str | None:
    """Say at which points of the start a function that the flow goes by has no finite value; None where it has one at all.

    Looked at are potentials, and log densities of targets that take part with their values, at the particles or, of a
    measure that makes new points, at 256 draws. A potential may be infinite on a grid, where it is a wall.
    """
    looked_at = [] if isinstance(measure, Grid) else list(_by_value(F, solver))
    if not looked_at:
        return None
    device = measure.device
    with global_generators(0, device):  # here and below, so that the flow's own numbers are not used up
        rho = measure if isinstance(measure, Particles) else measure.inference().draw(256, generator(0, device))
    who = "starting particles" if rho is measure else f"draws of this {type(measure).__name__}"
    for f, what in looked_at:
        with global_generators(0, device), torch.enable_grad():
            x = rho.x.detach().requires_grad_(True)
            v = per_point(f, x, what.rstrip(","))
            slope = (
                torch.autograd.grad(v.sum(), x, materialize_grads=True)[0] if v.requires_grad else torch.zeros_like(x)
            )
        bad = ~torch.isfinite(v.detach())
        if bool(bad.any()):
            i = int(bad.int().argmax())
            return (
                f"{what} is not finite at {int(bad.sum())} of the {len(rho)} {who}, first at number {i}, x = {_point(rho.x[i])}. "
                "No step leads on from there: start inside of the support."
            )
        found = _first(f"the gradient of {what}", slope, rho.x)
        if found is not None:
            return found
    return None


def _by_value(F: Functional, solver: Solver) -> Iterator[tuple[Callable[[Points], Tensor], str]]:
    """Functions of one point whose values or slopes a solver goes by, each with its name."""
    estimator = solver.estimator
    splits = estimator.splits_entropy or solver.splits_entropy
    for term in _parts(F.split_entropy()[0] if splits else F):
        if isinstance(solver, Proximal) and term.can("prox"):  # its closed form leads in from outside
            continue
        if isinstance(term, PotentialEnergy):
            yield term.potential, _name(term)
        elif isinstance(term, SquaredKSD) or (isinstance(term, FDivergence) and "value" in estimator.needs):
            yield term.target.log_prob, f"log_prob of the target, {type(term.target).__name__},"
    for G, part in solver.parts(F):
        yield from _by_value(G, part)


def _parts(F: Functional | None) -> Iterator[Functional]:
    """Terms of sums and multiples."""
    if isinstance(F, Sum):
        for term in F.terms:
            yield from _parts(term)
    elif isinstance(F, Scaled):
        yield from _parts(F.term)
    elif F is not None:
        yield F


def _name(F: PotentialEnergy) -> str:
    owner = getattr(getattr(F.potential, "__self__", None), "target", None)
    if owner is None:
        return "the potential of this PotentialEnergy"
    return f"log_prob of the target, {type(owner).__name__},"


def undefined(
    F: Functional, estimator: Estimator, es: Any, rho: MovingMeasure, initial: MovingMeasure | None
) -> str | None:
    """Say which part of ``F`` is not a number at particles that are finite, and at which; None where none is, or it cannot be told.

    None also for particles that have grown out of all proportion: every function overflows there.
    """
    if not isinstance(rho, Particles) or not bool(torch.isfinite(rho.x).all()):
        return None
    if isinstance(initial, Particles) and float(rho.x.abs().max()) > _GROWN * (1 + float(initial.x.abs().max())):
        return None
    for term in _terms(F):
        with suppress(Exception):  # what fails in another way has said so before
            found = _of_term(term, rho)
            if found is not None:
                return found
    with suppress(Exception):
        v = estimator.velocity(F.freeze(generator(0, rho.device)), rho, es)
        return _first(f"the velocity of {type(estimator).__name__}", v, rho.x)
    return None


def _terms(F: Functional) -> Iterator[Functional]:
    if isinstance(F, Scaled):
        yield from _terms(F.term)
    elif isinstance(F, Sum):
        for term in F.terms:
            yield from _terms(term)
    else:
        energy = F.split_entropy()[0]
        yield from (F,) if energy is F or energy is None else (F, *_terms(energy))


def _of_term(F: Functional, rho: Particles) -> str | None:
    name = type(F).__name__
    if isinstance(F, PotentialEnergy):
        return _of_function(F.potential, rho.x, _name(F))
    if isinstance(F, InteractionEnergy) and not isinstance(F.potential, Kernel):
        with torch.enable_grad():
            z = rho.x.new_zeros(1, 1, *rho.x.shape[1:]).requires_grad_(True)
            (slope,) = torch.autograd.grad(F.potential(z).sum(), z)
        if not bool(torch.isfinite(slope).all()):
            return (
                "the potential W(z) of this InteractionEnergy has a gradient that is not finite at z = 0, where every particle meets "
                "itself; a smaller step size does not help. Make it smooth there, such as (z² + ε).sqrt() for a distance, or use a "
                "kernel, which has no force at z = 0: PowerLaw(1), Riesz, Logarithmic, Morse."
            )
    for field, part in vars(F).items():
        found = nonfinite_entry(part.fit(rho.x), f"{name}.{field}") if isinstance(part, Kernel) else None
        if found is not None:
            return f"{found} for these particles; a smaller step size does not help. Give a bandwidth of your own."
    if F.needs_density or not F.can("value"):
        return None
    frozen = F.freeze(generator(0, rho.device))
    return _of_function(lambda x: frozen.value(dataclasses.replace(rho, x=x))[None], rho.x, f"{name}.value")


def _of_function(f: Callable[[Points], Tensor], x: Points, what: str) -> str | None:
    """Look at the value and the gradient of a function at points."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        v = f(x)
        (slope,) = torch.autograd.grad(v.sum(), x, materialize_grads=True)
    if bool(torch.isnan(v).any()) and len(v) == len(x):
        return _first(what, v, x)
    return None if bool(torch.isinf(v).any()) else _first(f"the gradient of {what}", slope, x)


def _first(what: str, values: Tensor, x: Points) -> str | None:
    """Name the first point at which a value is not a number."""
    bad = torch.isnan(values.detach()).flatten(1).any(1) if values.dim() > 1 else torch.isnan(values.detach())
    if not bool(bad.any()):
        return None
    i = int(bad.int().argmax())
    slope = "gradient" in what or "velocity" in what
    kind = "a square root, a norm or a power at 0" if slope else "a logarithm or a root outside of its domain"
    return (
        f"{what} is nan at a finite point, first at particle {i}, x = {_point(x[i])} ({int(bad.sum())} of {len(x)} particles); a "
        f"smaller step size does not help where the function is not defined, such as {kind}. Define it there, or start "
        "elsewhere."
    )


def _point(x: Tensor) -> str:
    """Return the first coordinates of a point."""
    shown = ", ".join(f"{c:.4g}" for c in x.detach().flatten()[:4].tolist())
    return f"[{shown}{', ...' if x.numel() > 4 else ''}]"
