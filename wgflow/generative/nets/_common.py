"""What the networks share: checks of sizes and batches, and layers that PyTorch lacks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from wgflow.core.context import without_autocast
from wgflow.core.errors import BadInput
from wgflow.generative.nets import _precise

_LARGEST = 2**16


def check_sizes(**sizes: int) -> None:
    """Raise :class:`BadInput` unless every named size is a positive integer of at most 65536."""
    for name, size in sizes.items():
        if not _is_size(size):
            raise BadInput(f"{name}={size!r}: expected a positive integer, at most {_LARGEST}")


def _is_size(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= _LARGEST


def check_image_shape(image_shape: tuple[int, int, int], smallest: int) -> tuple[int, int, int]:
    """Return ``image_shape`` as a tuple, or raise :class:`BadInput` unless it is (channels, size, size)."""
    shape = tuple(image_shape) if isinstance(image_shape, Sequence) else (image_shape,)
    if len(shape) != 3 or not all(map(_is_size, shape)) or shape[1] != shape[2]:
        raise BadInput(f"image_shape={shape}: expected (channels, size, size), three positive integers, square images")
    if shape[1] < smallest:
        raise BadInput(f"image_shape={shape}: expected images of at least {smallest} x {smallest}; enlarge or pad them")
    return shape


def check_batch(name: str, batch: Tensor, event_shape: tuple[int, ...]) -> None:
    """Raise :class:`BadInput` unless ``batch`` has shape ``(n, *event_shape)``."""
    if tuple(batch.shape[1:]) != event_shape:
        expected = ", ".join(("n", *map(str, event_shape)))
        raise BadInput(f"{name} has shape {tuple(batch.shape)}, but this network expects ({expected})")


class SumPoolHead(nn.Module):
    """Sum over all pixels, then a linear layer: features (n, channels, h, w) to values (n,), or (n, outputs) where there are several.

    Computed in the precision of the weights also under autocast: a sum over pixels followed by a value that
    enters an exponential is the wrong place for the 8 bits of bfloat16.
    """

    def __init__(self, channels: int, outputs: int = 1) -> None:
        super().__init__()
        self.linear = _precise.Linear(channels, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return one value per image, shape (n,), or (n, outputs)."""
        return self.linear(features.sum((2, 3), dtype=self.linear.weight.dtype)).squeeze(-1)


class MinibatchDeviation(nn.Module):
    r"""Append one channel that tells a critic how much the images of a batch differ.

    Image i belongs to group :math:`i \bmod m` with :math:`m = \lceil n / \text{group} \rceil`; a batch that
    ``group`` does not divide has smaller groups, their sizes differing by one at most. The channel holds, for
    each group, the mean over features and pixels of :math:`\sqrt{\mathrm{Var} + 10^{-8}}`, variance over the
    group (divided by its size).

    Reference: Karras et al., "Progressive Growing of GANs", ICLR 2018, section 3.

    Parameters
    ----------
    group : int
        Largest number of images in a group.

    Examples
    --------
    >>> import torch
    >>> MinibatchDeviation(4)(torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1))[:, 1].flatten()
    tensor([1., 1.])
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        check_sizes(group=group)
        self.group = group

    def forward(self, h: Tensor) -> Tensor:
        """Map features (n, c, h, w) to (n, c + 1, h, w)."""
        n = h.shape[0]
        groups = -(-n // self.group)
        members = -(-n // groups)
        # Half precision would lose the small differences that this is about.
        values = h.to(torch.promote_types(h.dtype, torch.float32))
        # Zeros of weight 0 fill up the incomplete groups; position k of group j is image k * groups + j.
        values = nnf.pad(values, (0, 0, 0, 0, 0, 0, 0, members * groups - n)).unflatten(0, (members, groups))
        filled = torch.arange(members * groups, device=h.device) < n
        weight = filled.to(values.dtype).reshape(members, groups, 1, 1, 1)
        weight = weight / weight.sum(0)
        mean = (weight * values).sum(0)
        variance = (weight * (values - mean).square()).sum(0)
        deviation = (variance + 1e-8).sqrt().mean((1, 2, 3)).to(h.dtype)
        channel = deviation.repeat(members)[:n].reshape(n, 1, 1, 1).expand(n, 1, *h.shape[2:])
        return torch.cat([h, channel], dim=1)


class FIRResample(nn.Module):
    r"""Halve or double images with the separable FIR filter (1, 3, 3, 1), zeros outside the image.

    Equal to diffusers' ``downsample_2d`` and ``upsample_2d`` with that kernel, as one depthwise convolution
    whose kernel lives on the device; diffusers builds it on the CPU and copies it over in every call, which
    makes the host wait. It computes in the precision of its input, and its derivatives of every order are the filter
    or its transpose.

    Reference: Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019.

    Parameters
    ----------
    up : bool
        Double if True, halve if False.

    Examples
    --------
    >>> import torch
    >>> FIRResample(up=False)(torch.ones(1, 1, 6, 6))[0, 0, 1]
    tensor([0.8750, 1.0000, 0.8750])
    """

    kernel: Tensor

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.up = up
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        # Doubling puts three zeros next to each pixel, hence four times the weight.
        kernel = torch.outer(taps, taps) / (16.0 if up else 64.0)
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, c, 2h, 2w) or to (n, c, h // 2, w // 2)."""
        return _Resampled.apply(h, self.kernel.to(h.dtype), self.up, (0, 0))


class _Resampled(torch.autograd.Function):
    """Every channel convolved with a fixed 4×4 kernel at stride 2, or the transposed map: the derivatives of each other.

    ``odd`` are the rows and columns by which the result of the transposed map exceeds twice the size of ``h``. PyTorch differentiates a
    depthwise convolution twice by one convolution a channel, with a kernel as large as its result: for a derivative in the weights,
    which are fixed here.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, kernel: Tensor, up: bool, odd: tuple[int, int]) -> Tensor:
        each = kernel.expand(h.shape[1], 1, 4, 4)
        with without_autocast():
            if up:
                return nnf.conv_transpose2d(h, each, None, 2, 1, odd, h.shape[1])
            return nnf.conv2d(h, each, None, 2, 1, 1, h.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        h, kernel, ctx.up, _ = inputs
        ctx.odd = (0, 0) if ctx.up else tuple(side % 2 for side in h.shape[2:])
        ctx.save_for_backward(kernel)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (kernel,) = ctx.saved_tensors
        return _Resampled.apply(g, kernel, not ctx.up, ctx.odd), None, None, None
