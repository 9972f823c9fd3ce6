"""Plain strided convolutions: the smallest pair that draws recognizable 28×28 images, made for a CPU."""

from torch import nn

from wgflow.generative.nets import _precise
from wgflow.generative.nets._convolutional import DenseToImages, ImagesToValues


class ConvGenerator(DenseToImages):
    r"""Generator from a dense Gaussian latent to images in [-1, 1], in the manner of DCGAN.

    A dense layer to ``(2**(b-1) * channels, s, s)``, then ``b`` transposed 4×4 convolutions of stride 2 that each double
    the size and halve the width, the last one to the image and tanh; BatchNorm and ReLU before each. The size of the
    image is :math:`s\,2^b` with s from 4 to 7.

    Parameters
    ----------
    image_shape : tuple of int
        ``(c, size, size)`` of the data.
    channels : int
        Width of the finest hidden layer.
    latent_dim : int
        Dimension of the source.

    Raises
    ------
    BadInput
        When a size is not a positive integer, the images are not square, or their size is not :math:`s\,2^b`.

    Examples
    --------
    >>> import torch
    >>> ConvGenerator(image_shape=(1, 28, 28), channels=8)(torch.zeros(5, 64)).shape
    torch.Size([5, 1, 28, 28])
    """

    def layers(self, width: int, doublings: int, c: int) -> list[nn.Module]:
        """Return the transposed convolutions."""
        widths = [width // 2**j for j in range(doublings)]
        layers: list[nn.Module] = []
        *inner, last = zip(widths, [*widths[1:], c], strict=True)
        for wide, following in inner:
            layers += [nn.BatchNorm2d(wide), nn.ReLU(), nn.ConvTranspose2d(wide, following, 4, 2, 1)]
        return [*layers, nn.BatchNorm2d(last[0]), nn.ReLU(), _precise.ConvTranspose2d(*last, 4, 2, 1)]


class ConvCritic(ImagesToValues):
    r"""Critic on images: 4×4 convolutions of stride 2 down to size 4 to 7, one 3×3 convolution, linear.

    LeakyReLU(0.2), no normalization. The last convolution, at the coarsest size, is cheap and lets the critic relate
    distant parts of an image.

    Parameters
    ----------
    image_shape : tuple of int
        ``(c, size, size)`` of the data, with size :math:`s\,2^b`, s from 4 to 7.
    channels : int
        Width of the first layer; doubled by every further one.
    outputs : int
        Values of a point: one for a critic, several for the features of a learned kernel.

    Examples
    --------
    >>> import torch
    >>> ConvCritic(image_shape=(1, 28, 28), channels=8)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5])
    """

    def first(self, c: int, channels: int) -> nn.Conv2d:
        """Return one of stride 2."""
        return nn.Conv2d(c, channels, 4, 2, 1)
