"""Compare time discretizations on a flow whose exact law is known: a ready problem, or one of your own.

A :class:`Problem` is a functional, a start and the exact flow; :func:`compare` runs solvers on it and gives a :class:`Result`, which is a
table, a picture and a file.
"""

from wgflow.bench.comparison import compare
from wgflow.bench.order import Order
from wgflow.bench.problem import Method, Problem
from wgflow.bench.ready import (
    PROBLEMS,
    attraction,
    mixture,
    ornstein_uhlenbeck,
    porous_medium,
    sliced_gaussians,
    w1,
)
from wgflow.bench.result import Result, Row, load
from wgflow.bench.scores import moment_error, path_error, w2_error

__all__ = [
    "PROBLEMS",
    "Method",
    "Order",
    "Problem",
    "Result",
    "Row",
    "attraction",
    "compare",
    "load",
    "mixture",
    "moment_error",
    "ornstein_uhlenbeck",
    "path_error",
    "porous_medium",
    "sliced_gaussians",
    "w1",
    "w2_error",
]
