"""Known solutions, to measure discretizations against: Gaussians, Barenblatt profiles, the line, a game on a grid."""

from wgflow.reference.barenblatt import Barenblatt
from wgflow.reference.fit import GaussianFit
from wgflow.reference.gaussian import (
    Moments,
    geodesic,
    kl,
    squared_w2,
    symmetric_kl,
    symmetric_kl_floor,
    symmetric_root,
)
from wgflow.reference.line import w1_flow
from wgflow.reference.mean_field_game import MeanFieldGame
from wgflow.reference.ornstein_uhlenbeck import OrnsteinUhlenbeck

__all__ = [
    "Barenblatt",
    "GaussianFit",
    "MeanFieldGame",
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
