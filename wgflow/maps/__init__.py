"""Maps of a space to itself that start at the identity."""

from wgflow.maps.affine import Affine
from wgflow.maps.base import TransportMap
from wgflow.maps.icnn import ICNNGradient
from wgflow.maps.neural_ode import NeuralODE
from wgflow.maps.residual import Residual

__all__ = ["Affine", "ICNNGradient", "NeuralODE", "Residual", "TransportMap"]
