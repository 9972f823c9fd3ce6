"""Where the numbers stop."""

import torch
from torch import Tensor

from wgflow.core.errors import BadInput


def first_nonfinite_index(x: Tensor) -> tuple[int, ...]:
    """Return the index of the first entry of ``x`` that is NaN or infinite; there must be one. Waits for the device."""
    flat = int((~torch.isfinite(x)).flatten().int().argmax())
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), x.shape))


def first_nonfinite(name: str, x: Tensor) -> str:
    """Name the first entry of ``x`` that is not finite, such as ``"x[3, 0] = nan"``; there must be one. Waits for the device."""
    where = first_nonfinite_index(x)
    return f"{name}{list(where) if where else ''} = {float(x[where])}"


def require_log_weights(log_w: Tensor, who: str) -> None:
    """Raise ``BadInput`` unless these are logarithms of weights, of which some may be 0 and not all. Waits for the device."""
    if not bool(torch.isfinite(log_w.logsumexp(0))):
        raise BadInput(f"log_w of {who} must be finite, or -inf for some points, not for all")


def require_finite(who: str, **tensors: Tensor) -> None:
    """Raise ``BadInput`` unless these are floating-point tensors of one dtype and device with finite entries. Waits for the device."""
    for name, x in tensors.items():
        if not x.is_floating_point():
            raise BadInput(f"{who}: {name} must be of a floating-point dtype, got {x.dtype}: convert with .float()")
        if not bool(torch.isfinite(x).all()):
            raise BadInput(f"{who}: {name} must be finite, and {first_nonfinite(name, x)}")
    for what in ("dtype", "device"):
        found = {name: getattr(x, what) for name, x in tensors.items()}
        if len(set(found.values())) > 1:
            raise BadInput(
                f"{who}: " + ", ".join(f"{name} is {v}" for name, v in found.items()) + ": convert one of them"
            )
