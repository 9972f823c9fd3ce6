"""Clouds that metrics compare: all points of a finite measure, and clouds made comparable."""

from collections.abc import Callable

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.finite import first_nonfinite_index, require_log_weights
from wgflow.core.networks import called
from wgflow.measures.base import Measure
from wgflow.measures.particles import Particles
from wgflow.measures.weighed import distinct, drawn, require_weights

_SMALLEST = 1e-150
"""Below it, and above its inverse, squares of distances are 0 or infinite in float64, and every point a neighbor of every other."""
_BATCH = 500
"""Points whose features are found at a time."""


def all_points(law: Measure | Tensor, rng: torch.Generator) -> Particles | None:
    """Return the points of a finite measure, flat and with their weights, without those of no mass; None for another measure."""
    if isinstance(law, Tensor):
        law = Particles(law)
    x, log_w = (getattr(law, name, None) for name in ("x", "log_w"))
    if isinstance(x, Tensor) and x.shape[1:] == law.event_shape:
        cloud = Particles(x.detach(), log_w)
    elif law.num_atoms is not None:
        cloud = law.take(torch.arange(law.num_atoms, device=rng.device), rng)
    else:
        return None
    return with_mass(cloud)


def some_points(law: Measure, n: int, rng: torch.Generator) -> Particles:
    """Return ``n`` draws of a law; of finitely many points all, where they are no more, or distinct ones.

    Of points with weights each that is drawn comes once, its draws being its weight: copies would be each other's neighbors.
    """
    if law.num_points is not None and law.num_points <= n:
        require_weights(law)
        return law.whole(rng)
    if law.num_points is None or law.num_atoms is not None:
        return distinct(law, n, rng)
    p = drawn(law, n, rng)
    x, place = torch.unique(p.x.detach(), dim=0, return_inverse=True)
    return Particles(x, torch.zeros(len(x), dtype=torch.float64, device=x.device).index_add_(0, place, masses(p)).log())


def with_mass(cloud: Particles) -> Particles:
    """Return the particles of a cloud that weigh something; raises ``BadInput`` for weights that are no numbers."""
    if cloud.log_w is None:
        return cloud
    require_log_weights(cloud.log_w, "these particles")
    held = masses(cloud) > 0
    if bool(held.all()):
        return cloud
    return Particles(cloud.x[held], cloud.log_w[held])


def masses(cloud: Particles) -> Tensor:
    """Return weights that need not sum to 1, float64 (n,): ones where all are equal, so that a mean of ones is 1."""
    if cloud.log_w is None:
        return torch.ones(len(cloud), dtype=torch.float64, device=cloud.device)
    log_w = cloud.log_w.detach().double()
    return (log_w - log_w.max()).exp()


def mean(w: Tensor, f: Tensor) -> float:
    """Return the mean of ``f`` (n,) with weights ``w`` (n,); of ones it is 1, since both sums are added up in one order."""
    return float((w * f.to(w)).sum()) / float(w.sum())


def same_kind(**clouds: Particles | Tensor) -> tuple[Particles, ...]:
    """Return clouds with flat points of one floating-point type and on the device of the last one.

    Raises
    ------
    BadInput
        When points are of other shapes, not finite, or so large or small that their squared distances are no numbers: the message
        has the name of the cloud.
    """
    held = {name: with_mass(c if isinstance(c, Particles) else Particles(c)) for name, c in clouds.items()}
    shapes = {name: tuple(c.event_shape) for name, c in held.items()}
    if len(set(shapes.values())) > 1:
        raise BadInput("points must have one shape, got " + ", ".join(f"{s} of {name}" for name, s in shapes.items()))
    dtype = torch.float32
    for name, c in held.items():
        dtype = torch.promote_types(dtype, c.x.dtype)
        if not bool(torch.isfinite(c.x).all()):
            raise BadInput(
                f"{name} has points that are not finite: the first is number {first_nonfinite_index(c.x)[0]} of {len(c)}"
            )
        largest = float(c.x.detach().abs().max())
        if largest and not _SMALLEST < largest < 1 / _SMALLEST:
            raise BadInput(
                f"{name} has coordinates up to {largest:g}, whose squares are no numbers of float64: change the unit of the points"
            )
    device = c.x.device
    return tuple(
        Particles(c.x.detach().flatten(1).to(device, dtype), None if c.log_w is None else c.log_w.detach().to(device))
        for c in held.values()
    )


def embedded(cloud: Particles, features: Callable[[Tensor], Tensor] | None, who: str) -> Particles:
    """Return the features of a cloud, or its points, flat.

    Raises
    ------
    BadInput
        For points or features that are not finite, or that are no vectors, one a point.
    """
    (flat,) = same_kind(**{who: cloud})
    if features is None:
        return flat
    parts = [called(features, "features", part) for part in cloud.x.detach().split(_BATCH)]
    if not all(isinstance(part, Tensor) and part.dim() >= 2 for part in parts):
        raise BadInput(f"features must return vectors (n, D), got {parts[0]!r:.80} of {who}")
    found = torch.cat(parts)
    if len(found) != len(cloud):
        raise BadInput(f"features must return a vector a point, got {len(found)} of {len(cloud)} points of {who}")
    return same_kind(**{f"the features of {who}": Particles(found, cloud.log_w)})[0]
