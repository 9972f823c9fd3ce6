"""Spaces in which images are trained as codes, and the linear one: their principal components."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from wgflow import Particles, Streamed
from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, NonNegative, checked
from wgflow.core.imports import require
from wgflow.core.placing import Placed
from wgflow.core.typing import Points
from wgflow.generative.data import ImageData, to_unit
from wgflow.generative.folder import write_tensors
from wgflow.measures import Derived

LATENT_SPACE = "latent_space.safetensors"
_LARGEST, _CHUNK = 4096, 512
_AGAIN = "remove it, and the training that is started again with the same options fits it anew"


class Space(Checked, Placed, ABC):
    """A space of codes of images, in which a flow may live."""

    @property
    @abstractmethod
    def event_shape(self) -> torch.Size:
        """Shape of a code."""

    @abstractmethod
    def encode(self, x: Points) -> Points:
        """Return the codes (n, *event) of images (n, c, h, w) in [-1, 1]."""

    @abstractmethod
    def decode(self, z: Points) -> Points:
        """Return the images (n, c, h, w) of codes, cut to [-1, 1]."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write what a run needs to decode as safetensors."""


@dataclass(frozen=True, eq=False)
class LatentSpace(Space):
    r"""Codes :math:`z=\Lambda^{-1/2}V^\top(x-m)` of images, of mean 0 and unit covariance over the training images.

    So :math:`N(0,I)` decodes to the Gaussian with the mean and, in these directions, the covariance of the images.

    Parameters
    ----------
    mean : Tensor, shape (c, height, width)
        :math:`m`.
    directions : Tensor, shape (k, c, height, width)
        :math:`V`, orthonormal.
    std : Tensor, shape (k,)
        Square roots of :math:`\Lambda`, the variances along them, largest first.
    explained : float
        The part of the variance of the images that they hold.

    Examples
    --------
    Images that are multiples of one another have one component, which holds all of their variance:

    >>> import torch
    >>> from wgflow.generative import ImageData, LatentSpace
    >>> levels = torch.arange(0, 250, 10, dtype=torch.uint8)[:, None, None, None]
    >>> space = LatentSpace.fit(ImageData(levels.expand(-1, 1, 4, 4).contiguous()), dim=1)
    >>> round(space.explained, 3)
    1.0
    """

    mean: Tensor
    directions: Tensor
    std: Tensor
    explained: NonNegative = 1.0

    @classmethod
    @checked
    def fit(cls, data: ImageData, dim: Count) -> Self:
        """Return the space, on the CPU, of the first ``dim`` principal components of images and, for ``flip``, of mirrored ones.

        Raises
        ------
        BadInput
            When the images have fewer directions, or more than 4096 numbers each, whose covariance is too large.
        """
        shape, size = tuple(data.event_shape), data.event_shape.numel()
        if size > _LARGEST:
            raise BadInput(
                f"pca={dim}: images {shape} have {size} numbers each, and principal components take at most {_LARGEST}: resize "
                "them with image_size"
            )
        mean, second, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64), 0
        for part in data.images.cpu().split(_CHUNK):
            for side in (part, part.flip(-1)) if data.flip else (part,):
                x = to_unit(side).flatten(1).double()
                mean, second, count = mean + x.sum(0), second + x.T @ x, count + len(x)
        mean = mean / count
        variances, vectors = torch.linalg.eigh(second / count - torch.outer(mean, mean))
        variances, vectors = variances.flip(0), vectors.flip(1)
        rounding = float(second.trace()) / count * torch.finfo(second.dtype).eps
        rank = int((variances > max(1e-10 * float(variances[0]), 10 * rounding)).sum())
        if dim > rank:
            raise BadInput(f"pca={dim}: the images vary in {rank} directions only, ask for no more")
        directions = vectors[:, :dim].T.reshape(dim, *shape).float().contiguous()
        explained = float(variances[:dim].sum() / variances.clamp(min=0).sum())
        return cls(mean.reshape(shape).float(), directions, variances[:dim].sqrt().float(), explained)

    @property
    def dim(self) -> int:
        """Number of components."""
        return len(self.std)

    @property
    def event_shape(self) -> torch.Size:
        """Shape (k,) of a code."""
        return torch.Size([self.dim])

    def encode(self, x: Points) -> Points:
        """Return the codes (n, k) of images (n, c, h, w) in [-1, 1]."""
        return (x - self.mean).flatten(1) @ self.directions.flatten(1).T / self.std

    def decode(self, z: Points) -> Points:
        """Return the images (n, c, h, w) of codes, cut to [-1, 1]."""
        x = (z * self.std) @ self.directions.flatten(1) + self.mean.flatten()
        return x.clamp(-1, 1).unflatten(1, self.mean.shape)

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        held = {"mean": self.mean, "directions": self.directions, "std": self.std}
        held["explained"] = torch.tensor(self.explained, dtype=torch.float64)
        write_tensors(path, held)

    @classmethod
    def load(cls, path: Path, dim: int, image_shape: tuple[int, ...]) -> Self:
        """Return the space of a run, as :meth:`save` wrote it; raises ``BadInput`` for a file that is damaged or of another run."""
        load_file = require("safetensors.torch", extra="image").load_file
        try:
            held = load_file(path) if path.is_file() else {}
        except Exception as error:  # safetensors has classes of its own
            raise BadInput(f"{path} cannot be read as safetensors ({str(error)[:100]}): {_AGAIN}") from error
        wanted = {"mean": tuple(image_shape), "directions": (dim, *image_shape), "std": (dim,), "explained": ()}
        found = {name: tuple(t.shape) for name, t in held.items() if t.is_floating_point() and t.isfinite().all()}
        if found != wanted or not bool((held["std"] > 0).all()):
            raise BadInput(
                f"{path} is not the latent space of {dim} components of images {tuple(image_shape)}: {_AGAIN}"
            )
        return cls(held["mean"], held["directions"], held["std"], float(held["explained"]))


@dataclass(frozen=True, eq=False)
class Encoded(Derived):
    """The law of the codes of images."""

    base: ImageData | Streamed
    space: Space

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of a code."""
        return self.space.event_shape

    @property
    def num_atoms(self) -> int | None:
        """Number of the images, mirrored ones not counted."""
        return self.base.num_atoms

    @property
    def labels(self) -> Tensor | None:  # type: ignore[override]
        """Classes of the images."""
        return self.base.labels

    def take(self, index: Tensor, rng: torch.Generator) -> Particles:
        """Return the codes of the images of these numbers."""
        return Particles(self.space.encode(self.base.take(index, rng).x))

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return the codes of ``n`` images drawn with replacement."""
        return Particles(self.space.encode(self.base.draw(n, rng).x))


class Decoded(nn.Module):
    """A network whose outputs are codes, followed by their images."""

    def __init__(self, net: nn.Module, space: Space) -> None:
        super().__init__()
        self.net, self.space = net, space

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return images."""
        return self.space.decode(self.net(*inputs))
