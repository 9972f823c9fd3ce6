"""Estimators of the first variation."""

from wgflow.estimators.augmentation import Augmentation
from wgflow.estimators.autograd import Autograd
from wgflow.estimators.base import ESTIMATORS, Estimator, SlopeEstimator, register_estimator
from wgflow.estimators.bounded import Clipped, spectral_norm
from wgflow.estimators.combined import Total, UnitSpeed
from wgflow.estimators.critic import Critic, CriticState
from wgflow.estimators.entropic import Blob, EntropyEstimator, KDEScore, LearnedScore
from wgflow.estimators.evaluation_noise import EvaluationNoise
from wgflow.estimators.kernel_critic import KernelCritic
from wgflow.estimators.mean_shift import MeanShift
from wgflow.estimators.opposed import MixedNegatives
from wgflow.estimators.probe import velocity_at
from wgflow.estimators.proximal_score import ProximalScore
from wgflow.estimators.stein import Stein
from wgflow.estimators.two_batch import TwoBatch
from wgflow.functionals.penalties import R1, GradientPenalty, Penalty

__all__ = [
    "ESTIMATORS",
    "R1",
    "Augmentation",
    "Autograd",
    "Blob",
    "Clipped",
    "Critic",
    "CriticState",
    "EntropyEstimator",
    "Estimator",
    "EvaluationNoise",
    "GradientPenalty",
    "KDEScore",
    "KernelCritic",
    "LearnedScore",
    "MeanShift",
    "MixedNegatives",
    "Penalty",
    "ProximalScore",
    "SlopeEstimator",
    "Stein",
    "Total",
    "TwoBatch",
    "UnitSpeed",
    "register_estimator",
    "spectral_norm",
    "velocity_at",
]
