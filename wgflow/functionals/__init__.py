"""Functionals: what decreases along a flow."""

from wgflow.functionals.algebra import Scaled, Sum
from wgflow.functionals.base import FUNCTIONALS, Functional, register_functional
from wgflow.functionals.divergences import (
    KL,
    Chi2,
    Chi2Signed,
    Chi2Tight,
    FDivergence,
    Identity,
    KLDonskerVaradhan,
    KLUncentred,
    entropy,
)
from wgflow.functionals.energies import PotentialEnergy
from wgflow.functionals.jensen_shannon import JSExact, JSNonSaturating, Softplus

__all__ = [
    "FUNCTIONALS",
    "KL",
    "Chi2",
    "Chi2Signed",
    "Chi2Tight",
    "FDivergence",
    "Functional",
    "Identity",
    "JSExact",
    "JSNonSaturating",
    "KLDonskerVaradhan",
    "KLUncentred",
    "PotentialEnergy",
    "Scaled",
    "Softplus",
    "Sum",
    "entropy",
    "register_functional",
]
