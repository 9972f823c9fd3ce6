"""What functions of the user return, checked at one door: one number a point, points, a scalar, a number of a step."""

import types
import weakref
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.instead import shown
from wgflow.core.networks import called
from wgflow.core.rules import REFUSED, Rule, rule_of
from wgflow.core.typing import Points

_SEEN: "weakref.WeakSet[Any]" = weakref.WeakSet()


def per_point(f: Callable[[Points], Any], x: Points, who: str, axes: int = 1) -> Tensor:
    """Return ``f(x)``, one number a point, shape (n,), differentiable wherever ``x`` requires gradient.

    With ``axes=2`` the points are differences (n, m, *event) of pairs, and the result is (n, m). A constant gets the
    gradient 0.

    Raises
    ------
    BadInput
        For anything but a floating-point tensor of that shape on the device of ``x``; for a result that was detached.
    """
    value, shape = called(f, who, x), x.shape
    event = shape[axes:]
    if not isinstance(value, Tensor) or value.shape != shape[:axes]:
        raise _wrong_shape(value, x, who, axes)
    if (shape[0] in event or shape[axes - 1] in event) and _first_seen(f):
        # A sum over the wrong axis has the right shape where there are as many points as coordinates; not for more.
        more = max(x.shape) + 1
        several = x.detach()[(slice(1),) * axes].expand(*range(more, more + axes), *x.shape[axes:])
        again = called(f, who, several)
        if not isinstance(again, Tensor) or again.shape != several.shape[:axes]:
            raise _wrong_shape(again, several, who, axes)
    return differentiable(value, x, who)


def _first_seen(f: Any) -> bool:
    """Whether a function or method is seen for the first time; an object that is called may count its calls."""
    if not isinstance(f, (types.FunctionType, types.MethodType)):
        return False
    owner = getattr(f, "__self__", f)
    try:
        new = owner not in _SEEN
        _SEEN.add(owner)
    except TypeError:  # it cannot be remembered
        return False
    return new


def _wrong_shape(value: Any, x: Points, who: str, axes: int) -> BadInput:
    got = tuple(value.shape) if isinstance(value, Tensor) else shown(value)
    each = "point" if axes == 1 else "pair"
    return BadInput(
        f"{who} must map {tuple(x.shape)} to {tuple(x.shape[:axes])}, one number a {each}; it returned {got}. {_axis(value, x, axes)}"
    )


def _axis(value: Any, x: Points, axes: int) -> str:
    """Say what a wrong shape may come from."""
    if not isinstance(value, Tensor):
        return "Return a tensor"
    shape, wanted, inside = (
        value.shape,
        x.shape[:axes],
        f"over the coordinates: sum({axes if x.dim() == axes + 1 else -1})",
    )
    if shape == (*wanted, 1):
        return "Take off the last axis: squeeze(-1)"
    if not shape or shape in (x.shape[axes:], x.shape[1:]):
        return f"Sum {inside}, not over the points"
    return f"Reduce {tuple(x.shape[axes:])}, the axes of a point, and no other: sum {inside}"


def differentiable(value: Tensor, x: Tensor, who: str) -> Tensor:
    """Return a value that has a gradient in ``x`` where that requires one; raises ``BadInput`` where it was lost."""
    if not value.is_floating_point():
        raise BadInput(f"{who} must return floating-point numbers, got {value.dtype}")
    if value.device != x.device:
        raise BadInput(f"{who} returned values on {value.device} for points on {x.device}")
    if value.requires_grad or not x.requires_grad or not torch.is_grad_enabled():
        return value
    if value.dim() and bool((value == value.flatten()[:1]).all()):
        return value + 0 * x.sum()  # a constant; that of a scalar is not told from one that was detached
    raise BadInput(
        f"{who} does not depend on the points differentiably: they or it were detached, rounded, or went through NumPy. Compute "
        "it with torch, from the tensor that it is given"
    )


def same_shape(value: Any, x: Points, who: str) -> Tensor:
    """Return what a map of points gave, of the shape of ``x``; raises ``BadInput`` for another."""
    if not isinstance(value, Tensor) or value.shape != x.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else shown(value)
        raise BadInput(f"{who} must keep the shape {tuple(x.shape)}; it returned {got}")
    return value


def counted(y: Any, n: int, who: str) -> Tensor:
    """Return what a network made of ``n`` inputs; raises ``BadInput`` unless it is a tensor of as many points."""
    if not isinstance(y, Tensor) or y.dim() == 0 or len(y) != n:
        got = tuple(y.shape) if isinstance(y, Tensor) else shown(y)
        raise BadInput(f"{who} must map {n} inputs to as many points (n, *event); it returned {got}")
    return y


def with_logdets(pair: Any, x: Points, who: str) -> tuple[Points, Tensor]:
    """Return points (n, *event) and log-determinants (n,) of a map at ``x``; raises ``BadInput`` for other shapes."""
    y, logdet = pair
    if y.shape != x.shape or logdet.shape != x.shape[:1]:
        raise BadInput(
            f"{who} must map {tuple(x.shape)} to the same shape, with log-determinants ({len(x)},); it returned {tuple(y.shape)} and "
            f"{tuple(logdet.shape)}"
        )
    return y, logdet


def scalar(value: Any, x: Tensor, who: str) -> Tensor:
    """Return what a functional gave, a 0-d tensor with a gradient in ``x``; raises ``BadInput`` for anything else."""
    if not isinstance(value, Tensor) or value.dim():
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
        raise BadInput(f"{who} must return a 0-d tensor; got {got}")
    return differentiable(value, x, who)


def numbers(found: Any, who: str) -> dict[str, float]:
    """Return what a metric reports; raises ``BadInput`` unless it is a dictionary of numbers by name."""
    try:
        if not all(isinstance(name, str) for name in found):
            raise TypeError
        return {name: found[name] if type(found[name]) is float else float(found[name]) for name in found}
    except (TypeError, ValueError, IndexError, KeyError, RuntimeError, OverflowError):
        raise BadInput(
            f"the metric {who} must return a dictionary of numbers by name; it returned {shown(found)}"
        ) from None


def number(value: Any, who: str) -> float:
    """Return what a function of the user gave as a plain number; raises ``BadInput`` for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise BadInput(f"{who} must return a number; it returned {shown(value)}") from None


def number_of_step(f: Any, k: int, declared: Any, name: str) -> float:
    """Return ``f`` at step ``k``, or ``f`` itself where it is a number; raises ``BadInput`` unless it is what an annotation declares."""
    rule = cast(Rule, rule_of(declared))
    try:
        value = f(k) if callable(f) else f
    except Exception as error:
        raise BadInput(f"{name} at step {k}: the function given has failed, {type(error).__name__}: {error}") from error
    plain = rule.accept(value)
    if plain is REFUSED:
        raise BadInput(f"{name}={shown(value)} at step {k}: expected {rule.expected}")
    return float(plain)
