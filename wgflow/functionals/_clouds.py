"""What functionals of two clouds of points share."""

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.functionals.base import drawn
from wgflow.measures import Measure, Particles


def comparable(rho: Particles, target: Measure) -> Particles:
    """Return the drawn target.

    Raises
    ------
    Unsupported
        Before ``freeze`` has drawn it.
    BadInput
        Unless its points are like the particles, in float32 or float64.
    """
    nu = drawn(target)
    for what, ours, theirs in (
        ("points of shape", tuple(rho.event_shape), tuple(nu.event_shape)),
        ("dtype", rho.x.dtype, nu.x.dtype),
        ("device", rho.device, nu.device),
    ):
        if ours != theirs:
            raise BadInput(
                f"particles and target cannot be compared: {what} {ours} against {theirs}; convert one of them"
            )
    if rho.x.dtype not in (torch.float32, torch.float64):
        raise BadInput(f"transport needs float32 or float64 points, got {rho.x.dtype}: convert with .float()")
    return nu


def weights(rho: Particles) -> Tensor | None:
    """Return the weights, None for equal ones."""
    return None if rho.log_w is None else rho.w
