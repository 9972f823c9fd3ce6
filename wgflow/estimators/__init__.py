"""Estimators of the first variation."""

from wgflow.estimators.autograd import Autograd
from wgflow.estimators.base import ESTIMATORS, Estimator, register_estimator
from wgflow.estimators.critic import R1, Critic, CriticState
from wgflow.estimators.entropic import Blob, EntropyEstimator, KDEScore, LearnedScore, ProximalScore
from wgflow.estimators.evaluation_noise import EvaluationNoise
from wgflow.estimators.probe import velocity_at
from wgflow.estimators.stein import Stein

__all__ = [
    "ESTIMATORS",
    "R1",
    "Autograd",
    "Blob",
    "Critic",
    "CriticState",
    "EntropyEstimator",
    "Estimator",
    "EvaluationNoise",
    "KDEScore",
    "LearnedScore",
    "ProximalScore",
    "Stein",
    "register_estimator",
    "velocity_at",
]
