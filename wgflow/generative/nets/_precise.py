"""Layers that compute in the precision of their weights also under autocast: the last ones of a network.

An image has 256 levels, and bfloat16 has 128 numbers between 1/2 and 1; values of a critic enter exponentials. The layers have the
names of their bases: descriptions by which runs are told apart, and stored weights, are those of before.
"""

from typing import Any

from torch import Tensor, nn

from wgflow.core.context import without_autocast


class _Precise:
    weight: Tensor

    def forward(self, h: Tensor) -> Tensor:
        """Apply the layer without autocast."""
        layer: Any = super()
        with without_autocast():
            return layer.forward(h.to(self.weight.dtype))


class Linear(_Precise, nn.Linear):
    """``nn.Linear`` outside autocast."""


class Conv2d(_Precise, nn.Conv2d):
    """``nn.Conv2d`` outside autocast."""


class ConvTranspose2d(_Precise, nn.ConvTranspose2d):  # type: ignore[misc]
    """``nn.ConvTranspose2d`` outside autocast."""


def precise(conv: nn.Conv2d) -> Conv2d:
    """Return the same convolution, with the same weights, outside autocast."""
    sizes: Any = {"kernel_size": conv.kernel_size, "padding": conv.padding}
    twin = Conv2d(conv.in_channels, conv.out_channels, **sizes, device="meta")
    twin.weight, twin.bias = conv.weight, conv.bias
    return twin
