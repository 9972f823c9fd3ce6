"""Layers that keep the memory layout ``channels_last``, for which convolutions on a GPU have their fast kernels.

They have the names of their bases, as those of :mod:`_precise`: descriptions and stored weights are those of before.
"""

from typing import Any

import torch
from torch import Tensor, nn


def channels_last(h: Tensor) -> bool:
    """Whether images lie in memory pixel by pixel; those of one channel or one pixel lie in both ways, and count as plain."""
    return h.dim() == 4 and h.is_contiguous(memory_format=torch.channels_last) and not h.is_contiguous()


def laid_for(h: Tensor, conv: Any) -> Tensor:
    """Return images in the layout of a convolution's weights: converted once, where they are small."""
    return h.contiguous(memory_format=torch.channels_last) if channels_last(conv.weight) else h


def kernel_keeps(h: Tensor) -> bool:
    """Whether PyTorch's group normalization returns the layout that it is given: on a CPU it does, on a GPU it makes it plain."""
    return h.is_cpu or not channels_last(h)


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` in any layout: where the kernel would change it, statistics and one pass over the images."""

    def forward(self, h: Tensor) -> Tensor:
        """Normalize (n, c, h, w) by the mean and variance of groups of channels."""
        if kernel_keeps(h):
            return super().forward(h)
        x = h.to(self.weight.dtype)  # under autocast, too, it is in the precision of the weights
        var, mean = torch.var_mean(x.unflatten(1, (self.num_groups, -1)), (2, 3, 4), correction=0)
        each = x.shape[1] // self.num_groups
        scale = (var + self.eps).rsqrt().repeat_interleave(each, 1) * self.weight
        shift = self.bias - mean.repeat_interleave(each, 1) * scale
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])


class ResnetBlock2D(nn.Module):
    """diffusers' block of this name in the U-Net of :class:`LargeGenerator`, without its conversions to the plain layout."""

    def forward(self, h: Tensor, temb: Tensor) -> Tensor:
        """Map features (n, c, h, w) and an embedding (n, m)."""
        block: Any = self
        resample = block.upsample or block.downsample or nn.Identity()
        branch = block.conv1(resample(block.nonlinearity(block.norm1(h))))
        scale, shift = block.time_emb_proj(block.nonlinearity(temb))[:, :, None, None].chunk(2, 1)
        branch = block.norm2(branch) * (1 + scale) + shift
        branch = block.conv2(block.dropout(block.nonlinearity(branch)))
        skip = resample(h) if block.conv_shortcut is None else block.conv_shortcut(resample(h))
        return (skip + branch) / block.output_scale_factor


def keep_layout(unet: nn.Module) -> None:
    """Give a U-Net of diffusers the layers above in the place of those with their names, with all that they hold."""
    for module in unet.modules():
        for kept in (GroupNorm, ResnetBlock2D):
            if type(module).__name__ == kept.__name__:
                module.__class__ = kept
