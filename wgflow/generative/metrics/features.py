"""Networks whose features Fréchet and kernel distances compare; each says in its ``id`` what it is."""

import hashlib
import os
import re
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
from wgflow.generative.data._array_files import existing_file, member, open_arrays


class FeatureExtractor(Protocol):
    """A fixed function from images to vectors.

    Attributes
    ----------
    num_features : int
        Length D of a vector.
    id : str
        Network, hash of its weights, resize and scale: two sets of features may be compared only if their ids agree.
    """

    num_features: int
    id: str

    def __call__(self, images: Tensor) -> Tensor:
        """Map uint8 images (n, 1 or 3, h, w) to floating-point features (n, D); grey is repeated to RGB."""
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
    """Return uint8 images (n, 1 or 3, h, w) with three channels, grey repeated.

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


class CifarResNetFeatures(FrozenFeatures):
    r"""The 64 features before the linear layer of a CIFAR-10 ResNet (He et al. 2016, Section 4.2).

    Depth 6n + 2 with n basic blocks in each of three stages of widths 16, 32, 64; shortcuts of type A (every second
    pixel, zero channels), global mean. Input is scaled to [0, 1] and normalised by the ImageNet means
    (0.485, 0.456, 0.406) and deviations (0.229, 0.224, 0.225); there is no resize.

    A Fréchet distance in these features compares runs with each other. It is not a FID.

    Parameters
    ----------
    path : path
        ``.npz`` file that holds the state dictionary as arrays, named ``conv1.weight``, ``layer1.0.conv1.weight``, …,
        ``linear.bias``. The depth is read off.

    Raises
    ------
    DataNotFound
        When there is no such file.
    BadInput
        When it does not hold such a network; for images that are not 32 x 32.
    """

    num_features = 64
    mean: Tensor
    std: Tensor

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        state = _load_arrays(path)
        blocks = len({m[1] for name in state if (m := re.match(r"layer1\.(\d+)\.", name))})
        if not blocks or "linear.bias" not in state:
            raise BadInput(f"{path} does not hold a CIFAR ResNet: its arrays are {', '.join(sorted(state)[:4])} ...")
        self.conv1 = nn.utils.skip_init(nn.Conv2d, 3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks)
        self.layer2 = _stage(16, 32, blocks)
        self.layer3 = _stage(32, 64, blocks)
        self.linear = nn.utils.skip_init(nn.Linear, 64, len(state["linear.bias"]))
        try:
            missing, unknown = self.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise BadInput(f"{path} does not hold a CIFAR ResNet: {error}") from error
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or unknown:
            raise BadInput(f"{path} does not hold a CIFAR ResNet: without {missing[:3]}, with unknown {unknown[:3]}")
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()
        self.id = f"cifar-resnet{6 * blocks + 2}-features sha256:{sha256(path)[:12]}"

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Class scores (n, 10) before the softmax, in the order of the CIFAR-10 labels."""
        return self.linear(self.forward(images))

    def _features(self, rgb: Tensor) -> Tensor:
        if rgb.shape[-2:] != (32, 32):
            raise BadInput(f"{self.id} takes images of 32 x 32, got {tuple(rgb.shape[-2:])}; use another extractor")
        x = (rgb.float() / 255 - self.mean) / self.std
        x = self.bn1(self.conv1(x)).relu()
        return self.layer3(self.layer2(self.layer1(x))).mean((2, 3))


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.stride, self.padding = width // width_in, (width - width_in) // 2
        self.conv1 = nn.utils.skip_init(nn.Conv2d, width_in, width, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.utils.skip_init(nn.Conv2d, width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return (y + shortcut).relu()


def _stage(width_in: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(width if i else width_in, width) for i in range(blocks)))


def _load_arrays(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    file = existing_file(path, "is no file of network weights")
    try:
        with open_arrays(file) as arrays:
            return {name: torch.from_numpy(member(arrays, name)) for name in arrays.files}
    except Exception as error:  # numpy, zipfile and zlib each have their own
        raise BadInput(f"{path} is not an .npz file of arrays: {str(error)[:200]}") from error


class RandomConvFeatures(FrozenFeatures):
    """A seeded random convolutional network: works everywhere, means little; a proxy for smoke tests.

    Three 3x3 convolutions of stride 2 (widths 64, 128, 256) with Kaiming-normal weights and ReLU, global mean.
    Its ``id`` begins ``proxy-random-conv``.

    Parameters
    ----------
    seed : int
        Of the weights, which are drawn on the CPU.
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
