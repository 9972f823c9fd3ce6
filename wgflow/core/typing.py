"""Plain aliases: shapes stand in the docstrings and are checked at the public borders.

``Points`` is a tensor of shape ``(n, *event)``, ``Scalar`` a 0-d tensor, ``Info`` a flat dictionary of 0-d tensors
or floats that a step reports but does not need next time.
"""

from collections.abc import Callable
from typing import Annotated, Any

from torch import Tensor, nn

from wgflow.core.rules import Says

Points = Tensor
Scalar = Tensor
Info = dict[str, Any]
NetSource = Annotated[
    nn.Module | Callable[[], nn.Module], Says("a network (nn.Module), or a function without arguments that makes one")
]
