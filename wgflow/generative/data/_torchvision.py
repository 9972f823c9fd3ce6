"""CIFAR-10, MNIST, Fashion-MNIST and CelebA through torchvision's readers, in torchvision's folder layout."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from wgflow.core.errors import DataNotFound
from wgflow.core.imports import require
from wgflow.generative.data._bundled import FASHION_CLASSES
from wgflow.generative.data._files import decode_images
from wgflow.generative.data._images import ImageSet

CELEBA_CROP = 140  # of 178 x 218 pixels: the face, as in most papers that use 64 x 64
CELEBA_SIZE = 64

_IDX = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"


@dataclass(frozen=True)
class Known:
    """How torchvision reads a set, and what to tell somebody who does not have it."""

    dataset: str
    folder: str
    files: str
    page: str
    convert: Callable[[Any, int | None], ImageSet]

    def options(self, split: str) -> dict[str, Any]:
        """Return the keyword arguments by which torchvision selects a split."""
        return {"split": split} if self.dataset == "CelebA" else {"train": split == "train"}


def _mnist(data: Any, size: int | None) -> ImageSet:
    return ImageSet(data.data.unsqueeze(1), data.targets.long(), "mnist", tuple("0123456789"))


def _fashion_mnist(data: Any, size: int | None) -> ImageSet:
    return ImageSet(data.data.unsqueeze(1), data.targets.long(), "fashion-mnist", FASHION_CLASSES)


def _cifar10(data: Any, size: int | None) -> ImageSet:
    # torchvision shows its (n, c, h, w) block as (n, h, w, c); showing it back copies nothing.
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(data.targets), "cifar10", tuple(data.classes))


def _celeba(data: Any, size: int | None) -> ImageSet:
    folder = Path(data.root) / data.base_folder / "img_align_celeba"
    images = decode_images([folder / name for name in data.filename], size or CELEBA_SIZE, CELEBA_CROP)
    return ImageSet(images, None, "celeba")


KNOWN = {
    "cifar10": Known(
        "CIFAR10",
        "cifar-10-batches-py",
        "data_batch_1 to data_batch_5, test_batch, batches.meta",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        _cifar10,
    ),
    "mnist": Known("MNIST", "MNIST/raw", _IDX, "http://yann.lecun.com/exdb/mnist", _mnist),
    "fashion-mnist": Known(
        "FashionMNIST",
        "FashionMNIST/raw",
        _IDX,
        "https://github.com/zalandoresearch/fashion-mnist",
        _fashion_mnist,
    ),
    "celeba": Known(
        "CelebA",
        "celeba",
        "img_align_celeba/*.jpg, list_attr_celeba.txt, identity_CelebA.txt, list_bbox_celeba.txt, "
        "list_landmarks_align_celeba.txt, list_eval_partition.txt",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        _celeba,
    ),
}


def load_known(name: str, root: Path, origin: str, split: str, size: int | None, download: bool) -> ImageSet:
    """Return a set that torchvision knows; ``origin`` says where ``root`` came from.

    Raises
    ------
    DataNotFound
        When the files are absent, damaged or cannot be downloaded: where it looked, for what, how to get it.
    """
    known = KNOWN[name]
    dataset = getattr(require("torchvision.datasets", extra="image"), known.dataset)
    options = known.options(split)
    try:
        data = dataset(root, download=False, **options)
    except Exception as error:  # torchvision's readers raise many classes for absent and for damaged files
        if not download:
            raise DataNotFound(_how_to_get(name, root, origin, error)) from error
        data = _download(name, dataset, root, origin, options)
    return known.convert(data, size)


def _download(name: str, dataset: Callable[..., Any], root: Path, origin: str, options: dict[str, Any]) -> Any:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):  # the processes of one torchrun would write the same files
            return dataset(root, download=True, **options)
    except Exception as error:
        raise DataNotFound(_how_to_get(name, root, origin, error, tried=True)) from error


def _how_to_get(name: str, root: Path, origin: str, error: Exception, tried: bool = False) -> str:
    known = KNOWN[name]
    folder = root / known.folder
    state = "exists" if os.path.isdir(folder) else "does not exist"
    get = "the download failed" if tried else "pass download=True (on the command line: --download true)"
    return (
        f"{name} is not there or is damaged.\n"
        f"  looked in: {folder} ({state}; {origin})\n"
        f"  expected:  {known.files}\n"
        f"  to get it: {get}, or fetch it by hand from {known.page} and unpack it there; "
        "remove damaged files first\n"
        f"  torchvision says: {error}"
    )
