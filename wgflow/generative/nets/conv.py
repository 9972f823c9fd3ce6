"""Plain strided convolutions: the smallest pair that draws recognizable 28×28 images, made for a CPU."""

from torch import Tensor, nn

from wgflow.generative.nets import _precise
from wgflow.generative.nets._common import check_batch, check_image_shape, check_sizes
from wgflow.generative.nets._layout import laid_for
from wgflow.generative.nets.small import BicubicEmbedding, factorise


class ConvGenerator(nn.Module):
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

    def __init__(
        self, *, image_shape: tuple[int, int, int] = (1, 28, 28), channels: int = 32, latent_dim: int = 64
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, latent_dim=latent_dim)
        self.data_shape = check_image_shape(image_shape, smallest=8)
        c, size, _ = self.data_shape
        start, doublings = factorise(size)
        self.source_shape = (latent_dim,)
        self.noise_shape = None
        widths = [channels * 2**j for j in reversed(range(doublings))]
        self.dense = nn.Sequential(
            nn.Linear(latent_dim, widths[0] * start * start, bias=False), nn.Unflatten(1, (widths[0], start, start))
        )
        layers: list[nn.Module] = []
        *inner, last = zip(widths, [*widths[1:], c], strict=True)
        for width, following in inner:
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.ConvTranspose2d(width, following, 4, 2, 1)]
        layers += [nn.BatchNorm2d(last[0]), nn.ReLU(), _precise.ConvTranspose2d(*last, 4, 2, 1)]
        self.head = nn.Sequential(*layers, nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        """Map latents ``x`` (n, latent_dim) to images (n, c, size, size); BadInput on other shapes."""
        check_batch("x", x, self.source_shape)
        return self.head(laid_for(self.dense(x), self.head[-2]))

    def reference(self) -> nn.Module:
        r"""Return the fixed map :math:`Q` to blurry images, as that of :class:`SmallGenerator`."""
        return BicubicEmbedding(self.source_shape[0], self.data_shape)


class ConvCritic(nn.Module):
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

    def __init__(
        self, *, image_shape: tuple[int, int, int] = (1, 28, 28), channels: int = 32, outputs: int = 1
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs)
        self.data_shape = check_image_shape(image_shape, smallest=8)
        width, size, _ = self.data_shape
        start, halvings = factorise(size)
        layers: list[nn.Module] = []
        for j in range(halvings):
            layers += [nn.Conv2d(width, channels * 2**j, 4, 2, 1), nn.LeakyReLU(0.2)]
            width = channels * 2**j
        layers += [nn.Conv2d(width, 2 * width, 3, 1, 1), nn.LeakyReLU(0.2)]
        width *= 2
        self.body = nn.Sequential(*layers, nn.Flatten(), _precise.Linear(width * start * start, outputs))

    def forward(self, y: Tensor) -> Tensor:
        """Map images ``y`` (n, c, size, size) to values (n,), or (n, outputs); BadInput on other shapes."""
        check_batch("y", y, self.data_shape)
        return self.body(y).squeeze(-1)
