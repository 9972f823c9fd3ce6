"""A feature network as a function of images in [-1, 1]."""

import torch
from torch import Tensor

from wgflow.core.fields import checked
from wgflow.generative.data import to_uint8
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
        For one that does not say what its features are.

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

    def __call__(self, images: Tensor) -> Tensor:
        r"""Return float32 features (n, D) of images (n, c, h, w)."""
        return torch.cat([part.float() for part in embed(self.extractor, to_uint8(images).split(_BATCH))])
