"""Estimators of the first variation."""

from wgflow.estimators.autograd import Autograd
from wgflow.estimators.base import ESTIMATORS, Estimator, register_estimator
from wgflow.estimators.critic import R1, Critic, CriticState

__all__ = ["ESTIMATORS", "R1", "Autograd", "Critic", "CriticState", "Estimator", "register_estimator"]
