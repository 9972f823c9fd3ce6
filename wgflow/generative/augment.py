"""Differentiable augmentation of images, for critics of few data."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as nnf

from wgflow import Augmentation
from wgflow.core.errors import BadInput
from wgflow.core.typing import Points

POLICIES = ("color", "translation", "cutout")


@dataclass(frozen=True)
class DiffAugment(Augmentation):
    r"""Random color, shift and cut-out square of images (n, c, h, w), the same kind for real and generated ones.

    ``color``
        Brightness :math:`+u-\frac12`; the distance to the mean of the channels times :math:`2u`; the distance to the mean of the
        image times :math:`u+\frac12`.
    ``translation``
        By up to an eighth of the side in whole pixels, with zeros (gray) behind.
    ``cutout``
        A square of half the side, at any place, becomes zero.

    Parameters
    ----------
    policy : str
        Which of these, with commas between them; they are applied in the order above.

    Raises
    ------
    BadInput
        For another name; in a call for points that are no images.

    References
    ----------
    Zhao, Liu, Lin, Zhu and Han, *Differentiable augmentation for data-efficient GAN training*, NeurIPS 2020.

    Examples
    --------
    >>> import torch
    >>> T = DiffAugment("cutout")
    >>> T(torch.ones(1, 1, 8, 8), torch.full((1, 7), 0.5)).sum()  # 64 pixels without 16
    tensor(48.)
    """

    policy: str = "color,translation,cutout"

    numbers: ClassVar[int] = 7

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in POLICIES]
        if unknown:
            raise BadInput(f"policy={self.policy!r}: {unknown[0]!r} is none of {', '.join(POLICIES)}")

    @property
    def names(self) -> list[str]:
        """What is applied."""
        return [name.strip() for name in self.policy.split(",")]

    def __call__(self, x: Points, u: Tensor) -> Points:
        """Return changed images; ``u`` (n, 7) is uniform on (0, 1)."""
        if x.dim() != 4:
            raise BadInput(f"DiffAugment changes images (n, c, h, w), got points of shape {tuple(x.shape[1:])}")
        light, saturation, contrast, *places = u.to(x.dtype)[:, :, None, None, None].unbind(1)
        if "color" in self.names:
            x = x + light - 0.5
            x = torch.lerp(x.mean(1, keepdim=True), x, 2 * saturation)
            x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, contrast + 0.5)
        down, right, top, left = (place.flatten() for place in places)
        if "translation" in self.names:
            x = _translated(x, down, right)
        return x * _kept(x, top, left) if "cutout" in self.names else x


def _translated(x: Points, down: Tensor, right: Tensor) -> Points:
    h, w = x.shape[2:]
    far = [int(side / 8 + 0.5) for side in (h, w)]
    rows, columns = (
        torch.arange(side, device=x.device) - (u * (2 * most + 1)).floor().long()[:, None] + 2 * most
        for side, most, u in ((h, far[0], down), (w, far[1], right))
    )
    padded = nnf.pad(x, (far[1], far[1], far[0], far[0]))
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return padded.movedim(1, 3)[image, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def _kept(x: Points, top: Tensor, left: Tensor) -> Tensor:
    """Return the pixels (n, 1, h, w) that are kept: 0 in a square of half the side, whose middle is any pixel."""
    outside = []
    for side, u in zip(x.shape[2:], (top, left), strict=True):
        size = int(side / 2 + 0.5)
        first = (u * (side + 1 - size % 2)).floor() - size // 2
        place = torch.arange(side, device=x.device) - first[:, None]
        outside.append((place < 0) | (place >= size))
    return (outside[0][:, None, :, None] | outside[1][:, None, None, :]).to(x.dtype)
