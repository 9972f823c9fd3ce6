"""Which methods can be trained on images: every preset is composed once with a few small ones."""

import functools

import torch

from wgflow.core.errors import WgflowError
from wgflow.generative.data import ImageData
from wgflow.generative.methods import Method, methods
from wgflow.generative.recipe import Recipe
from wgflow.generative.runtime import Runtime

_SMALL = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)


@functools.cache
def image_methods() -> tuple[Method, ...]:
    """Return the methods whose flow can be solved on images, without solving any; others need a density, say.

    Returns
    -------
    tuple of Method
        By name.

    Examples
    --------
    >>> from wgflow.generative import image_methods
    >>> {"s_jko", "w_flow", "sinkhorn_flow"} <= {method.name for method in image_methods()}
    True
    """
    return tuple(m for m in methods() if _composes(m))


def _composes(m: Method) -> bool:
    needed = {o.name: o.tried for o in m.options.values() if o.needed and m.defaults[o.name] is None}
    try:
        recipe = Recipe(method=m.name, channels=4 if m.trains else None, **needed)
        recipe.flow(ImageData(_SMALL), Runtime(torch.device("cpu")))
    except WgflowError:
        return False
    return True
