"""The terms of a functional, and the potential of one that is linear in the law."""

import torch

from wgflow.functionals.base import Functional, Potential


def linear_part(term: Functional) -> Potential | None:
    r"""Return :math:`V` when the functional is a potential energy :math:`\int V\,d\rho`, a multiple or a sum of some; else None."""
    from wgflow.functionals.algebra import Scaled, Sum
    from wgflow.functionals.energies import PotentialEnergy

    if isinstance(term, PotentialEnergy):
        return term.at_points
    if isinstance(term, Scaled):
        inner = linear_part(term.term)
        return None if inner is None else lambda y: term.c * inner(y)
    if isinstance(term, Sum):
        parts = [linear_part(t) for t in term.terms]
        known = [p for p in parts if p is not None]
        return None if len(known) < len(parts) else lambda y: torch.stack([p(y) for p in known]).sum(0)
    return None


def terms_of(F: Functional | None) -> list[Functional]:
    """Return the terms of a sum, of multiples of sums too, in order: functionals of which no one is a sum; none of None."""
    from wgflow.functionals.algebra import Scaled, Sum

    if isinstance(F, Sum):
        return [t for term in F.terms for t in terms_of(term)]
    if isinstance(F, Scaled) and isinstance(F.term, Scaled | Sum):
        return [Scaled(F.c, t) for t in terms_of(F.term)]
    return [] if F is None else [F]
