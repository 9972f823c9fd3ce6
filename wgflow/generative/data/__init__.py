"""Image data: named sets, folders and arrays as uint8 tensors, and the target measure made of them.

Examples
--------
>>> import torch
>>> from wgflow.generative.data import ImageData, load_images
>>> fashion = load_images("fashion-mnist-10k")
>>> target = ImageData(fashion.images, flip=True)
>>> target.draw(64, torch.Generator().manual_seed(0)).x.shape
torch.Size([64, 1, 28, 28])
"""

from wgflow.generative.data._images import ImageSet, to_uint8, to_unit
from wgflow.generative.data._load import IMAGE_SETS, load_images
from wgflow.generative.data._measure import ImageData

__all__ = ["IMAGE_SETS", "ImageData", "ImageSet", "load_images", "to_uint8", "to_unit"]
