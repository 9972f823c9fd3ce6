"""The features of a network of the user that was trained on CIFAR-10."""

import os
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.generative.data._array_files import existing_file, member, open_arrays
from wgflow.generative.metrics.features import FrozenFeatures, sha256


class CifarResNetFeatures(FrozenFeatures):
    r"""The 64 features before the linear layer of a CIFAR-10 ResNet (He et al. 2016, Section 4.2).

    Depth 6n + 2 with n basic blocks in each of three stages of widths 16, 32, 64; shortcuts of type A (every second
    pixel, zero channels), global mean. Input is scaled to [0, 1] and normalized by the ImageNet means
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

    Examples
    --------
    There is no file of that name here, and none is fetched:

    >>> from wgflow.generative.metrics import CifarResNetFeatures
    >>> CifarResNetFeatures("resnet20.npz")
    Traceback (most recent call last):
        ...
    wgflow.DataNotFound: ...
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
