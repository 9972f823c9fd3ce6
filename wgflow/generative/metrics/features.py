"""Networks whose features Fréchet and kernel distances compare; each says in its ``id`` what it is."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Whole, checked
from wgflow.core.finite import first_nonfinite_index
from wgflow.core.instead import shown
from wgflow.core.networks import called, copied, trainable
from wgflow.core.rng import generator


class FeatureExtractor(Protocol):
    """A fixed function from images to vectors.

    Attributes
    ----------
    num_features : int
        Length D of a vector.
    id : str
        Network, hash of its weights, resize and scale: two sets of features may be compared only if their ids agree.

    Examples
    --------
    The mean color of an image:

    >>> import torch
    >>> from wgflow.generative.metrics import FID
    >>> class MeanColor:
    ...     num_features, id = 3, "mean color"
    ...
    ...     def __call__(self, images):
    ...         return images.float().expand(-1, 3, -1, -1).mean((2, 3))
    >>> metric = FID(MeanColor(), torch.zeros(10, 1, 8, 8, dtype=torch.uint8), n=10)
    """

    num_features: int
    id: str

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 images (n, 1 or 3, h, w) to floating-point features (n, D); gray is repeated to RGB."""
        ...


def check_extractor(features: FeatureExtractor) -> None:
    """Raise ``BadInput`` for a function that does not say what its features are."""
    for name, kind in (("num_features", int), ("id", str)):
        if not isinstance(getattr(features, name, None), kind):
            raise BadInput(
                f"features={shown(features)} has no {name}: ModuleFeatures(net, num_features, id=...) makes a FeatureExtractor of "
                "any network"
            )


class FrozenFeatures(nn.Module, ABC):
    """Shared parts: evaluation mode for good, no gradients, checked input."""

    num_features: int
    id: str

    def train(self, mode: bool = True) -> "FrozenFeatures":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (n, 1 or 3, h, w) to features (n, D)."""
        return self._features(as_rgb(images))

    @abstractmethod
    def _features(self, rgb: Tensor) -> Tensor:
        """Map uint8 images (n, 3, h, w) to features."""


def as_rgb(images: Tensor) -> Tensor:
    """Return uint8 images (n, 1 or 3, h, w) with three channels, gray repeated.

    Raises
    ------
    BadInput
        For another dtype or shape.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        got = f"{tuple(images.shape)} of {images.dtype}"
        raise BadInput(f"feature networks take uint8 images (n, 1 or 3, h, w), got {got}")
    return images.expand(-1, 3, -1, -1)


def device_of(features: FeatureExtractor) -> torch.device:
    """Return where an extractor computes: the device of its first parameter or buffer, the CPU without any."""
    if isinstance(features, nn.Module):
        for tensor in (*features.parameters(), *features.buffers()):
            return tensor.device
    return torch.device("cpu")


def embed(features: FeatureExtractor, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the features of each batch of uint8 images, float64 (n, D), on the device of the extractor.

    Raises
    ------
    BadInput
        When the extractor does not return (n, ``num_features``) finite floating-point numbers; the message has the number
        of the image and of the feature.
    """
    device, seen = device_of(features), 0
    for images in batches:
        with torch.no_grad():
            found = features(images.to(device))
        expected = (len(images), features.num_features)
        if not isinstance(found, Tensor) or not found.is_floating_point():
            got = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise BadInput(f"{features.id} must return a floating-point tensor of features, got {got}")
        if tuple(found.shape) != expected:
            raise BadInput(f"{features.id} must return features of shape {expected}, got {tuple(found.shape)}")
        if not bool(torch.isfinite(found).all()):
            image, feature = first_nonfinite_index(found)
            raise BadInput(
                f"{features.id} returned features that are not finite, the first for image {seen + image}: feature {feature} "
                f"is {float(found[image, feature])}"
            )
        seen += len(images)
        yield found.double()


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class RandomConvFeatures(FrozenFeatures):
    """A seeded random convolutional network: works everywhere, means little; a proxy for smoke tests.

    Three 3x3 convolutions of stride 2 (widths 64, 128, 256) with Kaiming-normal weights and ReLU, global mean.
    Its ``id`` begins ``proxy-random-conv``.

    Parameters
    ----------
    seed : int
        Of the weights, which are drawn on the CPU.

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative.metrics import RandomConvFeatures
    >>> RandomConvFeatures()(torch.zeros(2, 1, 16, 16, dtype=torch.uint8)).shape
    torch.Size([2, 256])
    """

    num_features = 256

    @checked
    def __init__(self, seed: Whole = 0) -> None:
        super().__init__()
        rng, widths, digest = generator(seed), (3, 64, 128, 256), hashlib.sha256()
        for i, (before, after) in enumerate(pairwise(widths)):
            weight = torch.randn(after, before, 3, 3, generator=rng) * (2 / (9 * before)) ** 0.5
            digest.update(weight.numpy().tobytes())
            self.register_buffer(f"weight{i}", weight)
        self.id = f"proxy-random-conv seed={seed} sha256:{digest.hexdigest()[:12]}"
        self.eval()

    def _features(self, rgb: Tensor) -> Tensor:
        x = rgb.float() / 127.5 - 1
        for weight in self.buffers():
            x = F.conv2d(x, weight, stride=2, padding=1).relu()
        return x.mean((2, 3))


class ModuleFeatures(FrozenFeatures):
    """Any network of the user as an extractor; a private copy in evaluation mode.

    Parameters
    ----------
    module : nn.Module
        Returns features (n, ``num_features``).
    num_features : int
        D.
    id : str
        Name the network, its weights and the preprocessing: equal ids are taken to be comparable.
    preprocess : callable, optional
        From uint8 RGB images (n, 3, h, w) to what ``module`` takes; scaling to [-1, 1] when None.

    Raises
    ------
    BadInput
        For fewer than one feature or an empty ``id``; when called, for images or features of another kind.

    Examples
    --------
    >>> import torch
    >>> pixels = ModuleFeatures(torch.nn.Flatten(), num_features=12, id="pixels in [-1, 1]")
    >>> pixels(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).unique()
    tensor([1.])
    """

    @checked
    def __init__(
        self,
        module: nn.Module,
        num_features: Count,
        id: str,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not id:
            raise BadInput("ModuleFeatures needs an id that names the network, its weights and the preprocessing")
        self.module = copied(trainable(module)).requires_grad_(False).eval()
        self.num_features, self.id, self.preprocess = num_features, id, preprocess

    def _features(self, rgb: Tensor) -> Tensor:
        x = self.preprocess(rgb) if self.preprocess else rgb.float() / 127.5 - 1
        return called(self.module, f"the network of {self.id}", x)
