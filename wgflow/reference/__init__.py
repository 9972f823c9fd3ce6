"""Solutions in closed form, to measure discretizations against: Gaussians, Barenblatt profiles, transport on the line."""

from wgflow.reference.barenblatt import Barenblatt
from wgflow.reference.fit import GaussianFit
from wgflow.reference.gaussian import (
    Moments,
    OrnsteinUhlenbeck,
    geodesic,
    kl,
    squared_w2,
    symmetric_kl,
    symmetric_kl_floor,
    symmetric_root,
)
from wgflow.reference.line import w1_flow

__all__ = [
    "Barenblatt",
    "GaussianFit",
    "Moments",
    "OrnsteinUhlenbeck",
    "geodesic",
    "kl",
    "squared_w2",
    "symmetric_kl",
    "symmetric_kl_floor",
    "symmetric_root",
    "w1_flow",
]
