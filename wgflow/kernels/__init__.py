r"""Radial kernels :math:`k(x,y)=\kappa(|x-y|^2)`, with named bandwidths, that add and multiply.

Distances are Euclidean over the flattened event. A length is a length: nothing here is a squared bandwidth, and nothing
is inferred unless a class says so (:class:`MedianRBF`, :class:`NearestRBF`). Kernels of features stand for a radial one up to an
error, at a cost linear in the points (:class:`RandomFourierFeatures`, :class:`Nystrom`).
"""

from wgflow.kernels.base import KERNELS, Kernel, KernelSum, register_kernel
from wgflow.kernels.features import FeatureKernel
from wgflow.kernels.fourier import RandomFourierFeatures
from wgflow.kernels.gaussian import RBF
from wgflow.kernels.nystrom import Nystrom
from wgflow.kernels.potentials import Logarithmic, Morse, PowerLaw
from wgflow.kernels.radial import InverseMultiquadric, Laplace, Matern, Riesz
from wgflow.kernels.rules import MOST_FOR_A_RULE, MedianRBF, NearestRBF

__all__ = [
    "KERNELS",
    "MOST_FOR_A_RULE",
    "RBF",
    "FeatureKernel",
    "InverseMultiquadric",
    "Kernel",
    "KernelSum",
    "Laplace",
    "Logarithmic",
    "Matern",
    "MedianRBF",
    "Morse",
    "NearestRBF",
    "Nystrom",
    "PowerLaw",
    "RandomFourierFeatures",
    "Riesz",
    "register_kernel",
]
