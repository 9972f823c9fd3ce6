"""Numbers that say how far a measure has come, computed beside the flow and never by it."""

from wgflow.metrics.base import FunctionalValue, Metric
from wgflow.metrics.moments import Moments
from wgflow.metrics.sinkhorn import SinkhornMetric
from wgflow.numerics.sinkhorn import MAX_POINTS, sinkhorn_divergence

__all__ = ["MAX_POINTS", "FunctionalValue", "Metric", "Moments", "SinkhornMetric", "sinkhorn_divergence"]
