"""Maps of a space to itself that start at the identity."""

from wgflow.maps.affine import Affine
from wgflow.maps.base import MAPS, TransportMap, register_map
from wgflow.maps.icnn import ICNNGradient
from wgflow.maps.neural_ode import NeuralODE
from wgflow.maps.residual import Residual

__all__ = ["MAPS", "Affine", "ICNNGradient", "NeuralODE", "Residual", "TransportMap", "register_map"]
