"""Minimizers of implicit steps and of critics."""

from wgflow.optim.descent import Descent
from wgflow.optim.minimizers import LBFGS, SGD, Adam, Cosine, Optim, update_average
from wgflow.optim.tridiagonal import TridiagonalNewton

__all__ = ["LBFGS", "SGD", "Adam", "Cosine", "Descent", "Optim", "TridiagonalNewton", "update_average"]
