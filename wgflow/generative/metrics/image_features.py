"""A feature network as a function of images in [-1, 1]."""

import warnings

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import checked
from wgflow.core.finite import first_nonfinite_index
from wgflow.generative.data import to_uint8
from wgflow.generative.data._images import in_other_range, other_range
from wgflow.generative.metrics.features import FeatureExtractor, check_extractor, embed

_BATCH = 100


class ImageFeatures:
    """From images in [-1, 1], rounded to 8 bits, to the vectors of a feature network: for :class:`wgflow.metrics.Memorization`.

    Parameters
    ----------
    extractor : FeatureExtractor
        The network.

    Raises
    ------
    BadInput
        For one that does not say what its features are; in a call, for images that are not finite, or not of a floating-point type.

    Notes
    -----
    Images in another range than [-1, 1] are told so by a warning, once.

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative.metrics import RandomConvFeatures
    >>> ImageFeatures(RandomConvFeatures(0))(torch.zeros(3, 1, 28, 28)).shape
    torch.Size([3, 256])
    """

    @checked
    def __init__(self, extractor: FeatureExtractor) -> None:
        check_extractor(extractor)
        self.extractor, self.id = extractor, extractor.id
        self._told = False

    @checked
    def __call__(self, images: Tensor) -> Tensor:
        r"""Return float32 features (n, D) of images (n, c, h, w)."""
        levels = to_uint8(images)
        if not bool(torch.isfinite(images).all()):
            index = first_nonfinite_index(images)
            raise BadInput(f"images are not finite: {float(images[index])} in image {index[0]}, first at {index[1:]}")
        self._say_range(images)
        return torch.cat([part.float() for part in embed(self.extractor, levels.split(_BATCH))])

    def _say_range(self, images: Tensor) -> None:
        if not self._told and images.numel():
            low, high = (float(edge) for edge in images.aminmax())
            if in_other_range(low, high):
                self._told = True
                warnings.warn(other_range(low, high, "images"), stacklevel=3)
