"""The images that come with the package: the 10,000 test images of Fashion-MNIST."""

import hashlib
import zipfile
from lzma import LZMAError
from pathlib import Path

import numpy as np
import torch

from wgflow.core.errors import BadInput, DataNotFound
from wgflow.generative.data._images import ImageSet

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_FILE = Path(__file__).with_name("fashion_mnist_10k.npz")
_SHA256 = {
    "images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "labels": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}


def load_fashion_mnist_10k() -> ImageSet:
    """Return the bundled images; a missing, truncated or altered package file is an error."""
    arrays = {}
    try:
        with _FILE.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            for key, expected in _SHA256.items():
                arrays[key] = file[key]
                if hashlib.sha256(arrays[key]).hexdigest() != expected:
                    raise ValueError(f"the SHA-256 of its {key} is not {expected}")
    except FileNotFoundError:
        raise DataNotFound(f"{_FILE} is missing although it is part of wgflow: install wgflow again") from None
    except (ValueError, KeyError, OSError, EOFError, LZMAError, zipfile.BadZipFile) as error:
        raise BadInput(f"{_FILE}, a part of wgflow, is damaged ({error}): install wgflow again") from error
    return ImageSet(
        torch.from_numpy(arrays["images"]).unsqueeze(1),
        torch.from_numpy(arrays["labels"]).long(),
        "fashion-mnist-10k",
        FASHION_CLASSES,
    )
