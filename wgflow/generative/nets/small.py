r"""Small image networks, for 28×28 to 64×64 images ("Small" in the S-JKO paper, "OTM" in its code).

References: Rout, Korotin and Burnaev, "Generative Modeling with Optimal Transport Maps", ICLR 2022; Choi,
Choi and Kang, "Scalable Wasserstein Gradient Flow for Generative Modeling through Unbalanced Optimal
Transport", ICML 2024.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from wgflow.core.errors import BadInput
from wgflow.generative.nets import _precise
from wgflow.generative.nets._common import SumPoolHead, check_batch, check_image_shape, check_sizes
from wgflow.generative.nets._layout import laid_for


class SmallGenerator(nn.Module):
    r"""Generator from a dense Gaussian latent to images in [-1, 1], without auxiliary noise.

    A dense layer to ``(channels, s, s)``, then b residual blocks that each double the size, then BatchNorm,
    ReLU, a 3×3 convolution and tanh. The image size is :math:`s\,2^b` with s from 4 to 7: 32 = 4·8, 28 = 7·4.
    A block is :math:`u(h) + B(h)` with :math:`u` nearest-neighbor upsampling and :math:`B` = BN, ReLU,
    :math:`u`, 3×3 convolution, BN, ReLU, 3×3 convolution.

    Departs from the public S-JKO code, whose skip path applies the same stack a second time (its block
    computes :math:`B(h) + B(h)`); here the skip path carries the upsampled input. The number of parameters is
    the same, 0.42 M at the defaults.

    BatchNorm couples the images of a batch in training mode; in evaluation mode each depends on its own
    latent only.

    Parameters
    ----------
    image_shape : tuple of int
        ``(c, size, size)`` of the data.
    channels : int
        Features of every convolution (64 in S-JKO, 256 in "Generative Wasserstein Flows").
    latent_dim : int
        Dimension of the source, at least ``c``. See :meth:`reference` for how many coordinates the first law
        uses.

    Raises
    ------
    BadInput
        When a size is not a positive integer, the images are not square, or their size is not :math:`s\,2^b`.

    Examples
    --------
    >>> import torch
    >>> net = SmallGenerator(image_shape=(1, 28, 28), channels=8)
    >>> net(torch.zeros(5, 192)).shape
    torch.Size([5, 1, 28, 28])
    >>> net.reference()(torch.zeros(5, 192)).shape
    torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        channels: int = 64,
        latent_dim: int = 192,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, latent_dim=latent_dim)
        self.data_shape = check_image_shape(image_shape, smallest=8)
        c, size, _ = self.data_shape
        if latent_dim < c:
            raise BadInput(f"latent_dim={latent_dim}: expected at least one coordinate for each of {c} channels")
        start, doublings = factorise(size)
        self.source_shape = (latent_dim,)
        self.noise_shape = None
        self.dense = nn.Linear(latent_dim, channels * start * start)
        self.unflatten = nn.Unflatten(1, (channels, start, start))
        self.blocks = nn.Sequential(*(_UpBlock(channels) for _ in range(doublings)))
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(), _precise.Conv2d(channels, c, 3, padding=1), nn.Tanh()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map latents ``x`` (n, latent_dim) to images (n, c, size, size); BadInput on other shapes."""
        check_batch("x", x, self.source_shape)
        h = laid_for(self.unflatten(self.dense(x)), self.head[2])
        return self.head(self.blocks(h))

    def reference(self) -> nn.Module:
        r"""Return the fixed map :math:`Q` from latents to blurry images, the law before the first step.

        The first :math:`c\,s'^2` coordinates are reshaped to ``(c, s', s')``, with the largest :math:`s'`
        that fits into ``latent_dim`` (and into the image), and enlarged by bicubic interpolation. From 192
        coordinates this is 8×8 for three channels, where every coordinate is used, and 13×13 for one channel,
        where the last 23 are not. :math:`Q` has no parameters and is not clipped to [-1, 1].
        """
        return BicubicEmbedding(self.source_shape[0], self.data_shape)


class SmallCritic(nn.Module):
    r"""Critic on images: four residual blocks of two 3×3 convolutions, ReLU, sum over pixels, linear.

    The first two blocks halve the size by average pooling. LeakyReLU(0.2), no normalization, so that the
    value of an image depends on that image alone and a gradient penalty can be differentiated (second
    derivatives in ``y`` vanish almost everywhere, mixed ones with the parameters do not).

    Parameters
    ----------
    image_shape : tuple of int
        ``(c, size, size)`` of the data.
    channels : int
        Features of every convolution.
    outputs : int
        Values of a point: one for a critic, several for the features of a learned kernel.

    Raises
    ------
    BadInput
        When a size is not a positive integer or the images are not square or below 4×4.

    Examples
    --------
    >>> import torch
    >>> SmallCritic(image_shape=(1, 28, 28), channels=8)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5])
    """

    def __init__(
        self, *, image_shape: tuple[int, int, int] = (3, 32, 32), channels: int = 64, outputs: int = 1
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs)
        self.data_shape = check_image_shape(image_shape, smallest=4)
        self.blocks = nn.Sequential(
            _CriticBlock(self.data_shape[0], channels, down=True, first=True),
            _CriticBlock(channels, channels, down=True),
            _CriticBlock(channels, channels, down=False),
            _CriticBlock(channels, channels, down=False),
        )
        self.head = SumPoolHead(channels, outputs)

    def forward(self, y: Tensor) -> Tensor:
        """Map images ``y`` (n, c, size, size) to values (n,), or (n, outputs); BadInput on other shapes."""
        check_batch("y", y, self.data_shape)
        return self.head(torch.relu(self.blocks(y)))


class _UpBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.stack = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            self.upsample,
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        return self.upsample(h) + self.stack(h)


class _CriticBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, down: bool, first: bool = False) -> None:
        super().__init__()
        self.stack = nn.Sequential(
            # An image is not activated: its negative half would be damped before anything has looked at it.
            nn.Identity() if first else nn.LeakyReLU(0.2),
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.pool = nn.AvgPool2d(2) if down else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return self.pool(self.stack(h)) + self.skip(self.pool(h))


class BicubicEmbedding(nn.Module):
    """The map Q: the first coordinates of a latent as a small image, enlarged."""

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        c, size, _ = image_shape
        side = min(math.isqrt(latent_dim // c), size)
        self.latent_dim, self.size = latent_dim, size
        self.small_shape = (c, side, side)

    def forward(self, x: Tensor) -> Tensor:
        """Map latents (n, latent_dim) to images."""
        check_batch("x", x, (self.latent_dim,))
        small = x[:, : math.prod(self.small_shape)].unflatten(1, self.small_shape)
        return nnf.interpolate(small, size=(self.size, self.size), mode="bicubic", align_corners=False)


def factorise(size: int) -> tuple[int, int]:
    """Return (s, b) with size = s 2^b and 4 <= s <= 7."""
    doublings = max(size.bit_length() - 3, 0)
    if size % 2**doublings:
        below = size >> doublings << doublings
        raise BadInput(
            f"image_shape has size {size}: this network reaches s * 2^b with s from 4 to 7; "
            f"resize or pad the images to {below} or {below + 2**doublings}"
        )
    return size >> doublings, doublings
