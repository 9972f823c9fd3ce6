"""Draws of a law whose weights are numbers: by others a draw hides that it has no law."""

from dataclasses import Field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from wgflow.core.finite import require_log_weights
from wgflow.measures._by_weight import picks
from wgflow.measures.base import Measure
from wgflow.measures.particles import Particles


def require_weights(law: Measure) -> None:
    """Raise ``BadInput`` for a law with weights that are no numbers, its own or those of what it is made from: draws would hide it."""
    log_w = getattr(law, "log_w", None)
    if isinstance(log_w, Tensor):
        require_log_weights(log_w, f"this {type(law).__name__}")
    parts: tuple[Field[Any], ...] = fields(law) if is_dataclass(law) else ()
    for part in parts:
        if isinstance(inner := getattr(law, part.name, None), Measure):
            require_weights(inner)


def drawn(law: Measure, n: int, rng: torch.Generator) -> Particles:
    """Return ``n`` draws of a law; raises ``BadInput`` for weights that are no numbers, its own or those of the draws."""
    require_weights(law)
    p = law.draw(n, rng)
    if p.log_w is not None:
        require_log_weights(p.log_w, f"draws of this {type(law).__name__}")
    return p


def distinct(law: Measure, n: int, rng: torch.Generator) -> Particles:
    """Return ``n`` draws of a law, of finitely many equal points distinct ones, or all of them equally often.

    For metrics that are biased by repetitions: of as many draws with replacement a third of the data is missing, and the rest is there
    more than once. Raises ``BadInput`` as :func:`drawn`.
    """
    if law.num_atoms is None or isinstance(law, Particles):  # whose draws are distinct
        return drawn(law, n, rng)
    require_weights(law)
    return law.take(picks(None, law.num_atoms, n, rng), rng)
