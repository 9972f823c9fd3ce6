"""A latent space that a person brings: a frozen encoder and decoder of images, such as the autoencoder of a diffusion model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Device, checked
from wgflow.core.imports import require
from wgflow.core.instead import shown
from wgflow.core.networks import called
from wgflow.core.ranks import shares, together
from wgflow.core.typing import Points
from wgflow.generative.data import ImageData, to_unit
from wgflow.generative.folder import write_tensors
from wgflow.generative.latent_space import Space
from wgflow.generative.pairs import named_object

LATENTS = "latents.safetensors"
_CHUNK = 16


@dataclass(frozen=True, eq=False)
class AutoencoderSpace(Space):
    r"""Codes :math:`z=(E(x)-m)/s` of images by a frozen encoder :math:`E`, and their images :math:`D(sz+m)` by its decoder.

    :math:`E(x)` is the mode of what the encoder returns. Middle :math:`m` and half-width :math:`s` of every channel are those of
    the training images, whose codes fill [-1, 1]: networks for images, which end in tanh, reach all of them. A scaling factor of
    the pair itself would cancel and is not asked for.

    Parameters
    ----------
    pair : nn.Module
        With ``encode(x).latent_dist.mode()`` and ``decode(z).sample`` for images in [-1, 1], as diffusers' ``AutoencoderKL``.
    middle, reach : Tensor, shape (c, 1, 1)
        :math:`m` and :math:`s`.
    code_shape : (int, int, int)
        Of a code, (c, height, width).

    Raises
    ------
    BadInput
        For a pair without these methods, and for one that returns something else or numbers that are not finite.

    Examples
    --------
    A pair that halves an image keeps every second pixel, and a decoder that repeats it:

    >>> import torch
    >>> from types import SimpleNamespace
    >>> from wgflow.generative import AutoencoderSpace, ImageData
    >>> class Halves(torch.nn.Module):
    ...     def encode(self, x):
    ...         return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: 3 * x[..., ::2, ::2]))
    ...     def decode(self, z):
    ...         return SimpleNamespace(sample=(z / 3).repeat_interleave(2, -1).repeat_interleave(2, -2))
    >>> images = torch.arange(0, 256, dtype=torch.uint8).view(16, 1, 4, 4)
    >>> space, codes = AutoencoderSpace.fit(Halves(), ImageData(images))
    >>> codes.shape, codes.min(), codes.max()
    (torch.Size([16, 1, 2, 2]), tensor(-1.), tensor(1.))
    >>> space.decode(codes).shape
    torch.Size([16, 1, 4, 4])
    """

    pair: nn.Module
    middle: Tensor
    reach: Tensor
    code_shape: tuple[Count, Count, Count]

    @classmethod
    @checked
    def fit(cls, pair: nn.Module, data: ImageData, device: Device | None = None) -> tuple[Self, Tensor]:
        """Return the space and the codes of all images and, for ``flip``, of the mirrored ones behind them.

        The pair is frozen, put into evaluation mode and moved to ``device``, that of the images without one, where it computes.
        Within :func:`wgflow.shared_sums` the processes encode a part of the images each, and all get the same codes.
        """
        place = data.device if device is None else torch.device(device)
        pair = _frozen(pair).to(place)
        codes = _codes(pair, data, place)
        low, high = (edge[0] for edge in (codes.amin((0, 2, 3), keepdim=True), codes.amax((0, 2, 3), keepdim=True)))
        middle, reach = (high + low) / 2, (high - low) / 2
        if not bool((middle.isfinite() & reach.isfinite()).all()):
            raise BadInput(
                "the encoder returned codes that are not finite: is the pair in half precision? Take pair.float()"
            )
        reach = torch.where(reach > 0, reach, 1.0)
        _, c, height, width = codes.shape
        return cls(pair, middle, reach, (c, height, width)), codes.sub_(middle).div_(reach)

    @property
    def event_shape(self) -> torch.Size:
        """Shape (c, height, width) of a code."""
        return torch.Size(self.code_shape)

    def encode(self, x: Points) -> Points:
        """Return the codes (n, c, height, width) of images in [-1, 1], without gradient."""
        return torch.cat([(_encoded(self.pair, part) - self.middle) / self.reach for part in x.split(_CHUNK)])

    @torch.no_grad()
    def decode(self, z: Points) -> Points:
        """Return the images of codes, cut to [-1, 1], without gradient."""
        parts = [called(self.pair.decode, "the decoder", part * self.reach + self.middle) for part in z.split(_CHUNK)]
        if not all(isinstance(getattr(part, "sample", None), Tensor) for part in parts):
            raise BadInput(f"the decoder returned {shown(parts[0])}: expected an object with the images as .sample")
        return torch.cat([part.sample for part in parts]).clamp(-1, 1)

    def save(self, path: Path) -> None:
        """Write middle, half-width and shape as safetensors; the pair stays where the person has it."""
        held = {"middle": self.middle, "reach": self.reach, "code_shape": torch.tensor(self.code_shape)}
        write_tensors(path, held)

    @classmethod
    def load(cls, path: Path, pair: nn.Module) -> Self:
        """Return the space of a run, as :meth:`save` wrote it; raises ``BadInput`` for a file that is damaged or of another space."""
        held = read_tensors(path)
        if held.keys() != {"middle", "reach", "code_shape"} or held["code_shape"].shape != (3,):
            raise BadInput(f"{path} is not the latent space of an autoencoder: {_AGAIN}")
        return cls(_frozen(pair), held["middle"], held["reach"], tuple(held["code_shape"].tolist()))


_AGAIN = "remove it, and the training that is started again with the same options makes it anew"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, none where there is none; raises ``BadInput`` for one that is damaged."""
    load_file = require("safetensors.torch", extra="image").load_file
    try:
        held: dict[str, Tensor] = load_file(path) if path.is_file() else {}
    except Exception as error:  # safetensors has classes of its own
        raise BadInput(f"{path} cannot be read as safetensors ({str(error)[:100]}): {_AGAIN}") from error
    return held


def autoencoder(name: str) -> nn.Module:
    """Return the pair that the function at ``package.module:NAME`` returns; raises ``BadInput`` where there is none."""
    if ":" not in name:
        raise BadInput(f"autoencoder={name!r}: expected package.module:NAME of a function that returns the pair")
    make = named_object(name, "autoencoder")
    try:
        return _frozen(make())
    except TypeError as error:
        raise BadInput(
            f"autoencoder={name!r} is not a function without arguments that returns a pair: {error}"
        ) from error


def _frozen(pair: Any) -> nn.Module:
    if not isinstance(pair, nn.Module) or not all(callable(getattr(pair, name, None)) for name in ("encode", "decode")):
        raise BadInput(
            f"an autoencoder is an nn.Module with encode(x).latent_dist and decode(z).sample, as diffusers' AutoencoderKL; got "
            f"{shown(pair)}"
        )
    return pair.requires_grad_(False).eval()


def _codes(pair: nn.Module, data: ImageData, place: torch.device) -> Tensor:
    """Return the codes of all images and of the mirrored ones behind them, those of every process put together."""
    how, n = shares(), len(data.images)
    begins = [(m, k) for m in range(1 + data.flip) for k in range(0, n, _CHUNK)]

    def code(m: int, k: int) -> Tensor:
        part = data.images[k : k + _CHUNK]
        return _encoded(pair, to_unit((part.flip(-1) if m else part).to(place)))

    def mine() -> dict[tuple[int, int], Tensor]:
        return {begin: code(*begin) for begin in how.of(begins)}

    found = mine() if how.world == 1 else together(mine)
    like = next(iter(found.values())) if found else code(0, 0)  # there are fewer parts than processes
    codes = like.new_zeros((1 + data.flip) * n, *like.shape[1:])
    for (m, k), part in found.items():
        codes[m * n + k :][: len(part)] = part
    return how.added(codes)


@torch.no_grad()
def _encoded(pair: Any, x: Points) -> Points:
    found = called(pair.encode, "the encoder", x)
    mode = getattr(getattr(found, "latent_dist", None), "mode", None)
    code = mode() if callable(mode) else None
    if not isinstance(code, Tensor) or code.dim() != 4 or len(code) != len(x):
        raise BadInput(
            f"the encoder returned {shown(found if code is None else code)}: expected an object with latent_dist.mode(), codes "
            "(n, c, height, width)"
        )
    return code.float()
