"""What the pairs of plain convolutions share: sizes, a dense layer at the coarse end, and the way through."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from wgflow.generative.nets import _precise
from wgflow.generative.nets._common import check_batch, check_image_shape, check_sizes
from wgflow.generative.nets._layout import laid_for
from wgflow.generative.nets.small import BicubicEmbedding, factorise


class DenseToImages(nn.Module, ABC):
    """A dense layer to the coarsest size, :meth:`layers` to that of the image, which is 4 to 7 times a power of two, and tanh."""

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
        width = channels * 2 ** (doublings - 1)
        self.dense = nn.Sequential(
            nn.Linear(latent_dim, width * start * start, bias=False), nn.Unflatten(1, (width, start, start))
        )
        self.head = nn.Sequential(*self.layers(width, doublings, c), nn.Tanh())

    @abstractmethod
    def layers(self, width: int, doublings: int, c: int) -> list[nn.Module]:
        """Return layers from ``width`` channels at the coarsest size to the ``c`` of the image."""

    def forward(self, x: Tensor) -> Tensor:
        """Map latents ``x`` (n, latent_dim) to images (n, c, size, size); BadInput on other shapes."""
        check_batch("x", x, self.source_shape)
        return self.head(laid_for(self.dense(x), self.head[-2]))

    def reference(self) -> nn.Module:
        r"""Return the fixed map :math:`Q` to blurry images, as that of :class:`SmallGenerator`."""
        return BicubicEmbedding(self.source_shape[0], self.data_shape)


class ImagesToValues(nn.Module, ABC):
    """A :meth:`first` layer, 4×4 convolutions of stride 2 that double the width down to size 4 to 7, one 3×3, linear."""

    def __init__(
        self, *, image_shape: tuple[int, int, int] = (1, 28, 28), channels: int = 32, outputs: int = 1
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs)
        self.data_shape = check_image_shape(image_shape, smallest=8)
        c, size, _ = self.data_shape
        start, halvings = factorise(size)
        first = self.first(c, channels)
        width = first.out_channels
        layers: list[nn.Module] = [first, nn.LeakyReLU(0.2)]
        for _ in range(halvings if first.stride == (1, 1) else halvings - 1):
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2)]
            width *= 2
        layers += [nn.Conv2d(width, 2 * width, 3, 1, 1), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Flatten(), _precise.Linear(2 * width * start * start, outputs))

    @abstractmethod
    def first(self, c: int, channels: int) -> nn.Conv2d:
        """Return the layer that looks at the image."""

    def forward(self, y: Tensor) -> Tensor:
        """Map images ``y`` (n, c, size, size) to values (n,), or (n, outputs); BadInput on other shapes."""
        check_batch("y", y, self.data_shape)
        return self.body(y).squeeze(-1)
