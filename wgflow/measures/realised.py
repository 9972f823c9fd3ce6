"""How many points of a target one realization of a functional uses: the one place where that is decided."""

import torch

from wgflow.core.errors import BadInput
from wgflow.measures.base import Measure

DRAWS = 256
"""Fresh points of a target with infinitely many, where nobody has said how many."""
WHOLE = 10_000
"""Points up to which a finite target is used whole, where nobody has said how many."""


def realised(target: Measure, batch: int | None, rng: torch.Generator) -> Measure:
    """Return the fixed points that stand for a target: ``batch`` draws, or what :func:`realised_size` says; densities stay."""
    if not target.can_draw:
        return target
    if batch is not None:
        return target.draw(batch, rng)
    size = realised_size(target, None)
    return target.draw(size, rng) if target.num_points is None else target.whole(rng)


def realised_size(target: Measure, batch: int | None) -> int:
    """Return how many points a realization has: ``batch``, else all of a finite target, else :data:`DRAWS` fresh ones.

    Raises
    ------
    BadInput
        For a finite target of more than :data:`WHOLE` points where ``batch`` is None: whole or in minibatches must be said then.
        For a ``batch`` in which parts of the target, such as classes, would always be missing.
    """
    if batch is not None:
        if batch < target.parts_in_turn:
            raise BadInput(
                f"batch={batch} is less than the {target.parts_in_turn} parts of the target (its classes) that a draw takes "
                f"in turn, and the last ones would never be seen: give it batch={target.parts_in_turn} or more"
            )
        return batch
    n = target.num_points
    if n is None:
        return DRAWS
    if n > WHOLE:
        raise BadInput(
            f"the target has {n} points, and without a batch it would be compared with whole in every step, which is done up to {WHOLE} "
            f"points. Give its functional batch={DRAWS}, say, for a fresh minibatch a step, or batch={n} for as many as there are"
        )
    return n
