r"""Radial kernels :math:`k(x,y)=\kappa(|x-y|^2)`, with named bandwidths, that add and multiply.

Distances are Euclidean over the flattened event. A length is a length: nothing here is a squared bandwidth, and nothing
is inferred unless a class says so (:class:`MedianRBF`, :class:`NearestRBF`).
"""

from wgflow.kernels.base import KERNELS, Kernel, KernelSum, register_kernel
from wgflow.kernels.gaussian import RBF
from wgflow.kernels.radial import InverseMultiquadric, Laplace, Logarithmic, Matern, Morse, PowerLaw, Riesz
from wgflow.kernels.rules import MOST_FOR_A_RULE, MedianRBF, NearestRBF

__all__ = [
    "KERNELS",
    "MOST_FOR_A_RULE",
    "RBF",
    "InverseMultiquadric",
    "Kernel",
    "KernelSum",
    "Laplace",
    "Logarithmic",
    "Matern",
    "MedianRBF",
    "Morse",
    "NearestRBF",
    "PowerLaw",
    "Riesz",
    "register_kernel",
]
