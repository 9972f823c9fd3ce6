"""Measures: what a flow moves (particles, pushforwards) and where it goes (targets)."""

from wgflow.measures.base import MEASURES, Measure, MovingMeasure, register_measure
from wgflow.measures.by_class import Balanced, OfEveryClass
from wgflow.measures.chain import Chain
from wgflow.measures.dataset import Dataset
from wgflow.measures.derived import Derived
from wgflow.measures.factor_covariance import FactorCovariance
from wgflow.measures.grid import Grid
from wgflow.measures.kernel_score import KernelScoreModel
from wgflow.measures.labelled import Labelled, LabelledLatent, Paired
from wgflow.measures.laplace_normalizer import LaplaceNormalizer
from wgflow.measures.local_gaussians import LocalGaussians
from wgflow.measures.mixture import GaussianMixture, twenty_five_gaussians
from wgflow.measures.noising import Noising, Reversed
from wgflow.measures.normalizers import MonteCarloNormalizer, Normalizer, QuadratureNormalizer
from wgflow.measures.particles import Particles
from wgflow.measures.potentials import ExactPotential, L1Potential, QuadraticPotential
from wgflow.measures.precisions import FullPrecision, LocalPrecision
from wgflow.measures.proximal_mixture import ProximalMixture
from wgflow.measures.pushforward import Pushforward, Regression, ema_decay
from wgflow.measures.separable_potential import SeparablePotential
from wgflow.measures.stack import Stack
from wgflow.measures.streamed import Streamed
from wgflow.measures.successor import Successor
from wgflow.measures.targets import Gaussian, Smoothed, StandardNormal, Unnormalised, instance_noise
from wgflow.measures.wasserstein_proximal import WassersteinProximal, rwpo

__all__ = [
    "MEASURES",
    "Balanced",
    "Chain",
    "Dataset",
    "Derived",
    "ExactPotential",
    "FactorCovariance",
    "FullPrecision",
    "Gaussian",
    "GaussianMixture",
    "Grid",
    "KernelScoreModel",
    "L1Potential",
    "Labelled",
    "LabelledLatent",
    "LaplaceNormalizer",
    "LocalGaussians",
    "LocalPrecision",
    "Measure",
    "MonteCarloNormalizer",
    "MovingMeasure",
    "Noising",
    "Normalizer",
    "OfEveryClass",
    "Paired",
    "Particles",
    "ProximalMixture",
    "Pushforward",
    "QuadraticPotential",
    "QuadratureNormalizer",
    "Regression",
    "Reversed",
    "SeparablePotential",
    "Smoothed",
    "Stack",
    "StandardNormal",
    "Streamed",
    "Successor",
    "Unnormalised",
    "WassersteinProximal",
    "ema_decay",
    "instance_noise",
    "register_measure",
    "rwpo",
    "twenty_five_gaussians",
]
