"""Numbers that say how far a measure has come, computed beside the flow and never by it."""

from wgflow.metrics.base import FunctionalValue, Metric
from wgflow.metrics.memorization import Memorization
from wgflow.metrics.memorization_report import COPY_RATIO, MemorizationReport
from wgflow.metrics.moments import Moments
from wgflow.metrics.precision_recall import PrecisionRecall, precision_recall
from wgflow.metrics.sinkhorn import SinkhornMetric
from wgflow.numerics.sinkhorn import MAX_POINTS, sinkhorn_divergence

__all__ = [
    "COPY_RATIO",
    "MAX_POINTS",
    "FunctionalValue",
    "Memorization",
    "MemorizationReport",
    "Metric",
    "Moments",
    "PrecisionRecall",
    "SinkhornMetric",
    "precision_recall",
    "sinkhorn_divergence",
]
