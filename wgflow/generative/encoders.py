"""Frozen features of images that a drift may compare: differentiable in the images, never trained."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.fields import Whole, checked
from wgflow.core.registry import near_misses
from wgflow.core.rng import generator
from wgflow.generative.pairs import named_object


class RandomConvEncoder(nn.Module):
    """Features of a seeded random convolutional network, at the places of its last layer and their mean, and the pixels.

    3x3 convolutions of stride 2 (widths 32, 64, 128) with Kaiming-normal weights and ReLU. Untrained: it sees edges and
    textures at several scales, and no classes.

    Parameters
    ----------
    channels : int
        Of the images.
    seed : int
        Of the weights, which are drawn on the CPU.

    Examples
    --------
    >>> import torch
    >>> [tuple(f.shape) for f in RandomConvEncoder(1)(torch.zeros(5, 1, 28, 28))]
    [(5, 784), (5, 16, 128), (5, 128)]
    """

    @checked
    def __init__(self, channels: int, seed: Whole = 0) -> None:
        super().__init__()
        rng = generator(seed)
        for i, (before, after) in enumerate(pairwise((channels, 32, 64, 128))):
            self.register_buffer(
                f"weight{i}", torch.randn(after, before, 3, 3, generator=rng) * (2 / (9 * before)) ** 0.5
            )
        self.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return features of images (n, c, h, w) in [-1, 1]: pixels (n, chw), places (n, L, 128) and their mean (n, 128)."""
        h = x
        for weight in self.buffers():
            h = nnf.conv2d(h, weight, stride=2, padding=1).relu()
        return [x.flatten(1), h.flatten(2).mT, h.mean((2, 3))]


ENCODERS: dict[str, Callable[[int], nn.Module]] = {"random-conv": RandomConvEncoder}


def encoder(name: str, channels: int) -> Any:
    """Return the encoder called ``name`` for images of so many channels, or what the function at ``package.module:NAME`` returns.

    Raises
    ------
    BadInput
        With near misses, or when there is no such function without arguments.
    """
    if name in ENCODERS:
        return ENCODERS[name](channels)
    if ":" not in name:
        raise BadInput(f"no encoder is called {name!r}: {near_misses(name, sorted(ENCODERS))}, or package.module:NAME")
    make = named_object(name, "encoder")
    try:
        return make()
    except TypeError as error:
        raise BadInput(
            f"encoder={name!r} is not a function without arguments that returns a frozen network: {error}"
        ) from error
