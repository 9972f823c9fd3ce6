"""Methods that are asked at points: what is none of the points of their object is refused before they compute."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.instead import shown
from wgflow.core.networks import REFUSALS, cannot_take


def at_points(method: Callable[..., Any]) -> Callable[..., Any]:
    r"""Return a method of points ``x`` (n, \*event_shape) that raises ``BadInput`` for anything else, and where PyTorch refuses it."""

    @functools.wraps(method)
    def asked(self: Any, x: Any) -> Any:
        event = getattr(self, "event_shape", None)  # of a class of the user's that has not said it
        if (
            not isinstance(x, Tensor)
            or not x.is_floating_point()
            or not x.dim()
            or x.shape[1:] != (event or x.shape[1:])
        ):
            raise _no_points(f"{type(self).__name__}.{method.__name__}", event, x)
        try:
            return method(self, x)
        except (WgflowError, torch.OutOfMemoryError):
            raise
        except REFUSALS as error:
            raise cannot_take(f"{type(self).__name__}.{method.__name__}", (x,), error) from error

    asked.asked_at_points = True  # type: ignore[attr-defined]
    return asked


def _no_points(who: str, event: Any, x: Any) -> BadInput:
    wanted = f"points ({', '.join(map(str, ('n', *event)))})" if event else "points (n, *event)"
    got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else shown(x)
    return BadInput(f"{who} takes a floating-point tensor of {wanted}, got {got}")
