"""Convolutions up to the size of the image, over interpolated features: clean 28×28 images in minutes on a CPU."""

import torch
from torch import Tensor, nn

from wgflow.generative.nets import _precise
from wgflow.generative.nets._convolutional import DenseToImages, ImagesToValues
from wgflow.generative.nets._layout import channels_last


class Doubled(nn.Module):
    """Bilinear interpolation to twice the size, as ``interpolate(scale_factor=2, mode="bilinear")``.

    Every pixel makes two, at a quarter of the way to its neighbor on either side. The gradient of this is the same in every run
    on a GPU, too, which that of ``interpolate`` is not.

    Examples
    --------
    >>> import torch
    >>> Doubled()(torch.tensor([[[[0.0, 4.0]]]]))[0, 0, 0]
    tensor([0., 1., 3., 4.])
    """

    def forward(self, h: Tensor) -> Tensor:
        """Map (n, c, h, w) to (n, c, 2h, 2w)."""
        if channels_last(h):
            return _doubled(_doubled(h.permute(0, 2, 3, 1), 1), 2).permute(0, 3, 1, 2)
        return _doubled(_doubled(h, 2), 3)


def _doubled(h: Tensor, axis: int) -> Tensor:
    n = h.shape[axis]
    before = torch.cat([h.narrow(axis, 0, 1), h.narrow(axis, 0, n - 1)], axis)
    after = torch.cat([h.narrow(axis, 1, n - 1), h.narrow(axis, n - 1, 1)], axis)
    pairs = torch.stack([torch.lerp(before, h, 0.75), torch.lerp(after, h, 0.75)], axis + 1)
    return pairs.flatten(axis, axis + 1)


class FineGenerator(DenseToImages):
    r"""Generator from a dense Gaussian latent to images in [-1, 1], whose layers imprint no grid.

    A dense layer to ``(2**(b-1) * channels, s, s)``, then ``b`` times BatchNorm, ReLU, bilinear interpolation to twice the size
    and a 3×3 convolution to half of the width; BatchNorm, ReLU, a 3×3 convolution and tanh at the size of the image, which is
    :math:`s\,2^b` with s from 4 to 7. A transposed convolution to the image, as in :class:`ConvGenerator`, has separate weights
    for even and for odd pixels. After some thousand updates its images still show that as a checkerboard (Odena, Dumoulin and
    Olah 2016).

    Parameters
    ----------
    image_shape : tuple of int
        ``(c, size, size)`` of the data.
    channels : int
        Twice the width of the layer at the size of the image.
    latent_dim : int
        Dimension of the source.

    Raises
    ------
    BadInput
        When a size is not a positive integer, the images are not square, or their size is not :math:`s\,2^b`.

    Examples
    --------
    >>> import torch
    >>> FineGenerator(image_shape=(1, 28, 28), channels=8)(torch.zeros(5, 64)).shape
    torch.Size([5, 1, 28, 28])
    """

    def layers(self, width: int, doublings: int, c: int) -> list[nn.Module]:
        """Return interpolations and convolutions."""
        layers: list[nn.Module] = []
        for _ in range(doublings):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), Doubled()]
            layers += [nn.Conv2d(width, max(width // 2, 1), 3, padding=1, bias=False)]
            width = max(width // 2, 1)
        return [*layers, nn.BatchNorm2d(width), nn.ReLU(), _precise.Conv2d(width, c, 3, padding=1)]


class FineCritic(ImagesToValues):
    r"""Critic on images: a 3×3 convolution at their size, 4×4 ones of stride 2 down to size 4 to 7, one 3×3, linear.

    LeakyReLU(0.2), no normalization. The first layer compares every pixel with all of its neighbors; one of stride 2, as in
    :class:`ConvCritic`, tells even pixels from odd ones.

    Parameters
    ----------
    image_shape : tuple of int
        ``(c, size, size)`` of the data, with size :math:`s\,2^b`, s from 4 to 7.
    channels : int
        Twice the width of the first layer; every further one doubles it.
    outputs : int
        Values of a point: one for a critic, several for the features of a learned kernel.

    Raises
    ------
    BadInput
        As for :class:`FineGenerator`.

    Examples
    --------
    >>> import torch
    >>> FineCritic(image_shape=(1, 28, 28), channels=8)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5])
    """

    def first(self, c: int, channels: int) -> nn.Conv2d:
        """Return one at the size of the image."""
        return nn.Conv2d(c, max(channels // 2, 1), 3, 1, 1)
