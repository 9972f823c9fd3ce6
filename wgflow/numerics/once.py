"""Backward passes in closed form, which can be differentiated once and must say so."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from wgflow.core.errors import Unsupported

Derivatives = tuple[Tensor | None, ...]


class _Refusal(torch.autograd.Function):
    """The identity on a derivative; it connects it to what it depends on, and refuses to be differentiated."""

    @staticmethod
    def forward(ctx: Any, derivative: Tensor, *inputs: Tensor) -> Tensor:
        return derivative.view_as(derivative)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Derivatives:
        raise Unsupported(
            "this can be differentiated once only, and a second derivative was asked for. Write the term in plain torch, "
            "dense, where you need one."
        )


def differentiable_once(backward: Callable[..., Derivatives]) -> Callable[..., Derivatives]:
    """Make a ``backward`` refuse a second differentiation; the inputs must be among the saved tensors.

    PyTorch's ``once_differentiable`` refuses only where the incoming gradient is itself differentiated. Otherwise it hands
    out constants, and a penalty on a gradient would vanish without a word.
    """

    @wraps(backward)
    def refusing(ctx: Any, g: Tensor) -> Derivatives:
        with torch.no_grad():
            found = backward(ctx, g)
        if not torch.is_grad_enabled():
            return found
        held = [t for t in (g, *ctx.saved_tensors) if t is not None and t.requires_grad]
        return tuple(None if t is None else _Refusal.apply(t, *held) for t in found)

    return refusing


def known_slope(x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """Return numbers (n,) with their slopes (n, *event) at points ``x`` (n, *event), differentiable once."""
    return _KnownSlope.apply(x, value, slope)


class _KnownSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return value.view_as(value)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        _, slope = ctx.saved_tensors
        return g.view(-1, *[1] * (slope.dim() - 1)) * slope, None, None
