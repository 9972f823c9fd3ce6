"""Why a number is not one: looked for when a flow cannot start, or has stopped being finite, and at no other time."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from wgflow._finite import first_nonfinite
from wgflow._rng import generator
from wgflow._typing import Points
from wgflow.estimators import Estimator
from wgflow.functionals import Functional, InteractionEnergy, PotentialEnergy, Scaled, Sum
from wgflow.kernels import Kernel
from wgflow.measures import Dataset, Measure, MovingMeasure, Particles

_GROWN = 1e4
"""Particles that are so many times as far out as at the start have grown: a smaller step helps."""


def nonfinite_entry(part: Any, where: str) -> str | None:
    """Name the first entry of a tensor held by a part of a flow that is not finite, such as ``"F.target.x[3, 0] = nan"``."""
    for name, t in _tensors(part, where):
        allowed = (t == -torch.inf) if name.rpartition(".")[2] in ("log_w", "log_rho") else torch.zeros_like(t) > 0
        if not bool((torch.isfinite(t) | allowed).all()):
            return first_nonfinite(name, t.masked_fill(allowed, 0.0))
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
        owner = getattr(getattr(F.potential, "__self__", None), "target", None)
        what = (
            "the potential of this PotentialEnergy"
            if owner is None
            else f"log_prob of the target, {type(owner).__name__},"
        )
        return _of_function(F.potential, rho.x, what)
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
    point = ", ".join(f"{c:.4g}" for c in x[i].detach().flatten()[:4].tolist())
    more = ", ..." if x[i].numel() > 4 else ""
    slope = "gradient" in what or "velocity" in what
    kind = "a square root, a norm or a power at 0" if slope else "a logarithm or a root outside of its domain"
    return (
        f"{what} is nan at a finite point, first at particle {i}, x = [{point}{more}] ({int(bad.sum())} of {len(x)} particles); a "
        f"smaller step size does not help where the function is not defined, such as {kind}. Define it there, or start "
        "elsewhere."
    )
