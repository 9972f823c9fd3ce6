"""Methods that are asked at points: what is none of the points of their object is refused before they compute."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.instead import shown
from wgflow.core.networks import called


def at_points(method: Callable[..., Any]) -> Callable[..., Any]:
    r"""Return a method of points ``x`` (n, \*event_shape) that raises ``BadInput`` for anything else, and where PyTorch refuses it."""

    @functools.wraps(method)
    def asked(self: Any, x: Any) -> Any:
        who = f"{type(self).__name__}.{method.__name__}"
        event = getattr(self, "event_shape", None)  # of a class of the user's that has not said it
        wanted = "points (n, *event)" if event is None else f"points ({', '.join(map(str, ('n', *event)))})"
        if not isinstance(x, Tensor):
            raise BadInput(f"{who} takes a tensor of {wanted}, got {shown(x)}")
        if not x.is_floating_point() or not x.dim() or (event is not None and x.shape[1:] != event):
            raise BadInput(f"{who} takes {wanted} of floating point, got {tuple(x.shape)} {x.dtype}")
        return called(functools.partial(method, self), who, x)

    asked.asked_at_points = True  # type: ignore[attr-defined]
    return asked
