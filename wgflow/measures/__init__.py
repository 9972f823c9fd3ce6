"""Measures: what a flow moves (particles, pushforwards) and where it goes (targets)."""

from wgflow.measures.base import MEASURES, Derived, Measure, MovingMeasure, Successor, register_measure
from wgflow.measures.by_class import Balanced, OfEveryClass
from wgflow.measures.chain import Chain
from wgflow.measures.dataset import Dataset
from wgflow.measures.grid import Grid
from wgflow.measures.kernel_score import KernelScoreModel
from wgflow.measures.labelled import Labelled, LabelledLatent, Paired
from wgflow.measures.local_gaussians import LocalGaussians
from wgflow.measures.noising import Noising, Reversed
from wgflow.measures.particles import Particles
from wgflow.measures.precisions import FactorCovariance, FullPrecision, LocalPrecision
from wgflow.measures.pushforward import Pushforward, Regression, ema_decay
from wgflow.measures.stack import Stack
from wgflow.measures.targets import (
    Gaussian,
    GaussianMixture,
    Smoothed,
    StandardNormal,
    Unnormalised,
    instance_noise,
    twenty_five_gaussians,
)

__all__ = [
    "MEASURES",
    "Balanced",
    "Chain",
    "Dataset",
    "Derived",
    "FactorCovariance",
    "FullPrecision",
    "Gaussian",
    "GaussianMixture",
    "Grid",
    "KernelScoreModel",
    "Labelled",
    "LabelledLatent",
    "LocalGaussians",
    "LocalPrecision",
    "Measure",
    "MovingMeasure",
    "Noising",
    "OfEveryClass",
    "Paired",
    "Particles",
    "Pushforward",
    "Regression",
    "Reversed",
    "Smoothed",
    "Stack",
    "StandardNormal",
    "Successor",
    "Unnormalised",
    "ema_decay",
    "instance_noise",
    "register_measure",
    "twenty_five_gaussians",
]
