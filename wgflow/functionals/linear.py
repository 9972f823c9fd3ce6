"""The potential of a functional that is linear in the law."""

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
