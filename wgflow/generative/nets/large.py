r"""Large image networks: a U-Net generator driven by a latent, a residual critic with minibatch statistics.

References: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR
2021 (NCSN++); Xiao, Kreis and Vahdat, "Tackling the Generative Learning Trilemma with Denoising Diffusion
GANs", ICLR 2022 (latent mapping, critic); Choi, Choi and Kang, ICML 2024 (S-JKO) uses both at the sizes
below. The U-Net is that of diffusers.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from wgflow.core.errors import BadInput
from wgflow.core.imports import require
from wgflow.generative.nets import _precise
from wgflow.generative.nets._common import (
    FIRResample,
    MinibatchDeviation,
    SumPoolHead,
    check_batch,
    check_image_shape,
    check_sizes,
)
from wgflow.generative.nets._layout import keep_layout, laid_for

_ATTENTION_SIZE = 16
_MAPPING_WIDTH = 256
_MAPPING_LAYERS = 4


class LargeGenerator(nn.Module):
    r"""Generator :math:`T(x, z)` from image-shaped sources to images in [-1, 1], an NCSN++-like U-Net.

    The source is a standard Gaussian of the shape of the images.

    ``x`` enters as an image. ``z`` passes through a mapping network (division by its root mean square, a
    linear layer to 256 features and four more of 256, each followed by SiLU, then a linear layer to
    ``4 * channels``) and sets scale and shift of the group normalization in every residual block. There is no
    time: diffusers' time branch is fed zero and amounts to a learned constant. The output passes through tanh
    and is not residual.

    The U-Net is diffusers' ``UNet2DModel`` with blocks ``SkipDownBlock2D`` and ``SkipUpBlock2D``, and their
    ``Attn`` variants at the first resolution of at most 16×16: BigGAN-type residual blocks rescaled by
    :math:`1/\sqrt2`, FIR (1, 3, 3, 1) resampling, SiLU, single-head attention. These follow NCSN++ except
    that

    * shrunken copies of the input are projected and added to the features of each level (the "input skip" of
      NCSN++ for high resolution), without rescaling, where NCSN++ for CIFAR-10 passes them on from level to
      level ("residual");
    * the image is the sum of the outputs of every level ("output skip"), where NCSN++ for CIFAR-10 uses the
      last only;
    * scale and shift modulate the second group normalization of a block, not both, and the latent passes one
      more SiLU;
    * weights start from PyTorch's defaults; last convolutions are not set to zero.

    Attention is fused by PyTorch and has no second derivative; those of the critic are unaffected.

    Parameters
    ----------
    image_shape : tuple of int
        ``(c, size, size)`` of source and data; ``size`` a multiple of ``2 ** (len(multipliers) - 1)``.
    channels : int
        Features at full resolution, a multiple of 32.
    noise_dim : int
        Dimension of ``z``.
    multipliers : tuple of int
        Features of each level relative to ``channels``; the size halves from level to level. About 43 M
        parameters at the defaults. UOTM uses ``channels=64, multipliers=(1, 1, 2, 2, 4, 4)`` for 256×256.
    blocks_per_level : int
        Residual blocks of each level on the way down; the way up has one more.
    attention : tuple of int, optional
        Sizes of the levels with attention; the first of at most 16 when None.

    Raises
    ------
    BadInput
        When a size is not a positive integer, ``channels`` is not a multiple of 32, the images cannot be
        halved as often as ``multipliers`` asks, or a level with attention is not there.
    MissingDependency
        When diffusers is not installed.

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative.nets import LargeGenerator
    >>> net = LargeGenerator(image_shape=(1, 8, 8), channels=32, noise_dim=4, multipliers=(1,), blocks_per_level=1)
    >>> net(torch.zeros(2, 1, 8, 8), torch.zeros(2, 4)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        channels: int = 128,
        noise_dim: int = 100,
        multipliers: tuple[int, ...] = (1, 2, 2, 2),
        blocks_per_level: int = 2,
        attention: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, noise_dim=noise_dim, blocks_per_level=blocks_per_level)
        self.data_shape = check_image_shape(image_shape, smallest=4)
        if not isinstance(multipliers, Sequence):
            raise BadInput(f"multipliers={multipliers!r}: expected one positive integer per level, as (1, 2, 2)")
        _check_levels(self.data_shape, channels, tuple(multipliers))
        self.source_shape = self.data_shape
        self.noise_shape = (noise_dim,)
        self.mapping = _mapping_network(noise_dim, 4 * channels)
        self.unet = _unet(self.data_shape, channels, tuple(multipliers), blocks_per_level, attention)
        # A tensor that moves with the module: a Python number would be copied to the device in every call.
        self.register_buffer("timestep", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Map ``x`` (n, c, size, size) and noise ``z`` (n, noise_dim) to images; BadInput on other shapes."""
        check_batch("x", x, self.source_shape)
        check_batch("z", z, self.noise_shape)
        x = laid_for(x, self.unet.conv_in)
        return torch.tanh(self.unet(x, self.timestep, class_labels=self.mapping(z), return_dict=False)[0])

    def reference(self) -> nn.Module:
        """Return the identity: the flow starts at image-shaped Gaussian noise."""
        return nn.Identity()

    def recomputable(self) -> list[nn.Module]:
        """Return the blocks whose inner values need not be kept: the residual ones."""
        return [module for module in self.unet.modules() if type(module).__name__ == "ResnetBlock2D"]


class LargeCritic(nn.Module):
    r"""Critic on images: residual blocks down, a minibatch statistic, convolution, sum over pixels, linear.

    A 1×1 convolution to ``channels``, then residual blocks :math:`(S(h) + B(h))/\sqrt2` with :math:`B` =
    LeakyReLU(0.2), 3×3 convolution, LeakyReLU(0.2), FIR halving, 3×3 convolution and :math:`S` = FIR halving,
    1×1 convolution. Features relative to ``channels``: 1, 2, 4, 4 up to 32 pixels, where the first block does
    not halve; 2, 4, 4, 4 up to 64 pixels and 2, 4, 4, 4, 4, 4 beyond, all halving.

    The second convolution of each block and the last one start at :math:`10^{-5}` of PyTorch's default, so
    the untrained critic is nearly constant and each block nearly linear. No normalization and no attention:
    second derivatives exist, as a gradient penalty needs.

    The minibatch statistic (standard deviation over groups of at most 4 images, averaged over features and
    pixels, one number per group) makes the value of an image depend on the other images in its batch: give
    the critic real and generated images in separate calls.

    Parameters
    ----------
    image_shape : tuple of int
        ``(c, size, size)`` of the data, at least 8×8.
    channels : int
        Features at full resolution. About 12 M parameters at the defaults.
    outputs : int
        Values of a point: one for a critic, several for the features of a learned kernel.

    Raises
    ------
    BadInput
        When a size is not a positive integer or the images are not square or too small.

    Examples
    --------
    >>> import torch
    >>> LargeCritic(image_shape=(1, 16, 16), channels=8)(torch.zeros(5, 1, 16, 16)).shape
    torch.Size([5])
    """

    def __init__(
        self, *, image_shape: tuple[int, int, int] = (3, 32, 32), channels: int = 128, outputs: int = 1
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs)
        self.data_shape = check_image_shape(image_shape, smallest=8)
        multipliers = _critic_multipliers(self.data_shape[1])
        widths = [channels, *(channels * multiplier for multiplier in multipliers)]
        keep_first = multipliers[0] == 1
        blocks = [
            _DownBlock(inputs, outputs, down=not (i == 0 and keep_first))
            for i, (inputs, outputs) in enumerate(pairwise(widths))
        ]
        self.lift = nn.Conv2d(self.data_shape[0], channels, 1)
        self.blocks = nn.Sequential(*blocks)
        self.statistic = MinibatchDeviation(4)
        self.last = _near_zero(nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1))
        self.head = SumPoolHead(widths[-1], outputs)

    def forward(self, y: Tensor) -> Tensor:
        """Map images ``y`` (n, c, size, size) to values (n,), or (n, outputs); BadInput on other shapes."""
        check_batch("y", y, self.data_shape)
        h = self.statistic(self.blocks(self.lift(y)))
        return self.head(nnf.leaky_relu(self.last(h), 0.2))

    def recomputable(self) -> list[nn.Module]:
        """Return the blocks whose inner values need not be kept: the residual ones."""
        return list(self.blocks)


class _DownBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, down: bool) -> None:
        super().__init__()
        self.shrink = FIRResample(up=False) if down else nn.Identity()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = _near_zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        branch = nnf.leaky_relu(self.first(nnf.leaky_relu(h, 0.2)), 0.2)
        return (self.second(self.shrink(branch)) + self.skip(self.shrink(h))) / math.sqrt(2)


class _PixelNorm(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def _mapping_network(noise_dim: int, embedding: int) -> nn.Sequential:
    layers: list[nn.Module] = [_PixelNorm()]
    for inputs in (noise_dim, *[_MAPPING_WIDTH] * _MAPPING_LAYERS):
        layers += [nn.Linear(inputs, _MAPPING_WIDTH), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(_MAPPING_WIDTH, embedding))


def _unet(
    image_shape: tuple[int, int, int],
    channels: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attention: tuple[int, ...] | None,
) -> nn.Module:
    c, size, _ = image_shape
    sizes = [size >> i for i in range(len(multipliers))]
    if attention is None:
        attention = tuple(side for side in sizes if side <= _ATTENTION_SIZE)[:1]
    elif not isinstance(attention, Sequence) or not set(attention) <= set(sizes):
        raise BadInput(f"attention={attention!r}: expected sizes of levels, which are {', '.join(map(str, sizes))}")
    prefixes = ["Attn" if side in attention else "" for side in sizes]
    unet = require("diffusers", extra="image").UNet2DModel(
        sample_size=size,
        in_channels=c,
        out_channels=c,
        down_block_types=tuple(f"{prefix}SkipDownBlock2D" for prefix in prefixes),
        up_block_types=tuple(f"{prefix}SkipUpBlock2D" for prefix in reversed(prefixes)),
        block_out_channels=tuple(channels * multiplier for multiplier in multipliers),
        layers_per_block=blocks,
        mid_block_scale_factor=math.sqrt(2),
        attention_head_dim=None,  # one head
        norm_num_groups=None,  # min(features / 4, 32), as in the skip blocks
        attn_norm_num_groups=32,
        norm_eps=1e-6,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )
    _adapt_skip_blocks(unet, c)
    # What the images are the sum of.
    for block in unet.up_blocks:
        if block.skip_conv is not None:
            block.skip_conv = _precise.precise(block.skip_conv)
    unet.conv_out = _precise.precise(unet.conv_out)
    keep_layout(unet)
    return unet


def _adapt_skip_blocks(unet: Any, c: int) -> None:
    """Give the skip blocks our resampling, and ``c`` image channels where diffusers has 3 in the code."""
    for block in (*unet.down_blocks, *unet.up_blocks):
        going_up = hasattr(block, "upsampler")
        if going_up:
            block.upsampler = FIRResample(up=True)
        if block.skip_conv is None:  # the last level on either way, which does not resample
            continue
        if going_up:
            block.resnet_up.upsample = FIRResample(up=True)
        else:
            block.resnet_down.downsample = FIRResample(up=False)
            block.downsamplers = nn.ModuleList([FIRResample(up=False)])
        if c != 3:
            old = block.skip_conv
            inputs, outputs = (old.in_channels, c) if going_up else (c, old.out_channels)
            block.skip_conv = nn.Conv2d(inputs, outputs, old.kernel_size, padding=old.padding)


def _check_levels(image_shape: tuple[int, int, int], channels: int, multipliers: tuple[int, ...]) -> None:
    if not multipliers or not all(isinstance(factor, int) and factor >= 1 for factor in multipliers):
        raise BadInput(f"multipliers={multipliers}: expected one positive integer per level")
    if channels % 32:
        raise BadInput(f"channels={channels}: expected a multiple of 32, which the group normalization needs")
    stride = 2 ** (len(multipliers) - 1)
    if image_shape[1] % stride:
        raise BadInput(
            f"image_shape={image_shape} cannot be halved {len(multipliers) - 1} times: with "
            f"multipliers={multipliers} the size must be a multiple of {stride}. Pass fewer multipliers, "
            f"or resize or pad the images"
        )


def _critic_multipliers(size: int) -> tuple[int, ...]:
    if size <= 32:
        return 1, 2, 4, 4
    return (2, 4, 4, 4) if size <= 64 else (2, 4, 4, 4, 4, 4)


def _near_zero(conv: nn.Conv2d) -> nn.Conv2d:
    """Shrink weights and bias to almost 0; exact zeros would give the features below no gradient."""
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.mul_(1e-5)
    return conv
