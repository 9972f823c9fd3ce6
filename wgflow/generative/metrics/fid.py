"""Fréchet and kernel distances between images in the features of a network: FID and KID, and their stand-ins."""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, checked
from wgflow.core.finite import first_nonfinite_index
from wgflow.core.imports import require
from wgflow.generative.data import ImageSet, to_uint8
from wgflow.generative.data._images import check_images, in_other_range, other_range
from wgflow.generative.metrics.features import FeatureExtractor, check_extractor, device_of, embed
from wgflow.generative.metrics.frechet import MomentSums, ReferenceStats, Several, frechet_distance
from wgflow.generative.metrics.inception import InceptionFeatures
from wgflow.measures._by_weight import picks
from wgflow.measures.base import Measure
from wgflow.measures.particles import Particles
from wgflow.measures.weighed import drawn, require_weights

__all__ = ["FID", "ReferenceStats", "frechet_distance", "reference_stats"]

KID_SUBSETS = 100
"""Published number of subsets over which the kernel distance is averaged."""
KID_SUBSET_SIZE = 1000
"""Their size; less where there are fewer images."""


@checked
def reference_stats(features: FeatureExtractor, images: Tensor | ImageSet, batch: Count = 100) -> ReferenceStats:
    """Return the statistics of a set of uint8 images (n, c, h, w), computed on the device of the extractor.

    Parameters
    ----------
    features : FeatureExtractor
        The network.
    images : Tensor, uint8, shape (n, c, h, w)
        The images.
    batch : int
        Images in one pass.

    Returns
    -------
    ReferenceStats
        Mean, covariance and protocol.

    Raises
    ------
    BadInput
        For images that are not uint8 (n, c, h, w), fewer than two of them, or features that are not finite.

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative.metrics import RandomConvFeatures, reference_stats
    >>> images = torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8)
    >>> reference_stats(RandomConvFeatures(), images).mu.shape
    torch.Size([256])
    """
    check_extractor(features)
    source = images.name if isinstance(images, ImageSet) else ""
    return _statistics(features, _pictures(images).split(batch), source)


def _pictures(images: Tensor | ImageSet) -> Tensor:
    held = images.images if isinstance(images, ImageSet) else images
    check_images(held)
    return held


class _Given(nn.Module):
    """Lets torchmetrics take features for images: one pass of the extractor then serves both distances."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def _statistics(
    features: FeatureExtractor, batches: Iterable[Tensor], source: str = "", kernel: Any = None, real: bool = True
) -> ReferenceStats:
    """Sum up the features of all batches; ``kernel``, the KID of torchmetrics, gets them too."""
    sums = MomentSums()
    for found in embed(features, batches):
        sums.add(found)
        if kernel is not None:
            kernel.update(found, real=real)
    return sums.stats(features.id, source)


@dataclass(frozen=True, eq=False)
class FID(Checked):
    r"""Fréchet distance of a generative model to real images in the features of a network, and the kernel distance.

    The model's images in [-1, 1] are rounded to 8 bits, :math:`\mathrm{round}(127.5\,(x+1))`, as if saved without loss.
    A model in another range is told so by a warning, once. Moments are in float64.

    ======================  =================================  ===========================================
    key, Inception network  key, any other network
    ======================  =================================  ===========================================
    ``fid``                 ``frechet``                        :func:`frechet_distance`
    ``kid``                 ``kernel``                         unbiased MMD², kernel :math:`(x\cdot y/D+1)^3`
    ``kid_std``             ``kernel_std``                     its standard deviation over subsets
    ======================  =================================  ===========================================

    Only the first column may be set beside published numbers, and that at the same protocol and sizes: the Fréchet
    distance between samples is biased upwards, the more the fewer images. The second compares one's own runs.

    Parameters
    ----------
    features : FeatureExtractor
        The network, on the device where it shall compute.
    reference : Tensor uint8 (n, c, height, width), ImageSet or ReferenceStats
        Real images, all of which are used, or saved statistics of them. Images are passed through the network once,
        at the first call.
    n : int
        Images drawn from the model; 50000 in most papers. Of particles and data, as many distinct ones as there are.
    kid : bool
        Return the kernel distance too; it needs images as ``reference`` and keeps all features in memory.
    batch : int
        Images drawn and embedded at a time.
    subsets : int
        Of the kernel distance. Published values have 100; along a training 10 save most of its time.

    Raises
    ------
    BadInput
        On construction for bad sizes, a reference that is not uint8, statistics of another protocol, or ``kid`` with
        statistics; in a call for draws that are not finite images, and weights that are no numbers.

    Notes
    -----
    KID: Bińkowski, Sutherland, Arbel and Gretton, *Demystifying MMD GANs*, ICLR 2018, Section 4.

    Examples
    --------
    In the features of a random network, which compares one's own runs at most:

    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative.metrics import FID, RandomConvFeatures
    >>> real = torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    >>> metric = FID(RandomConvFeatures(), real, n=20)
    >>> sorted(metric(wg.Particles(torch.zeros(20, 1, 16, 16)), torch.Generator()))
    ['frechet']
    """

    features: FeatureExtractor
    reference: Tensor | ImageSet | ReferenceStats
    n: Several = 50_000
    kid: bool = False
    batch: Count = 100
    subsets: Count = KID_SUBSETS
    _range: list[float] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        check_extractor(self.features)
        if isinstance(self.reference, ReferenceStats):
            if self.reference.id != self.features.id:
                raise BadInput(
                    f"the reference statistics are of {self.reference.id!r}, the network of {self.features.id!r}"
                )
            if self.kid:
                raise BadInput(
                    "the kernel distance needs the real images; statistics hold their mean and covariance only"
                )
        elif len(_pictures(self.reference)) < 2:
            raise BadInput(f"the reference needs at least two images, got {self._num_real}")

    @checked
    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        """Draw ``n`` images from ``rho`` and return the distances."""
        real, kernel = self._real
        if kernel is not None:
            kernel.reset()
        fake = _statistics(self.features, self._draws(rho, rng), kernel=kernel, real=False)
        published = isinstance(self.features, InceptionFeatures)
        values = {"fid" if published else "frechet": frechet_distance(real, fake)}
        if kernel is not None:
            mean, std = _seeded_compute(kernel, rng)
            name = "kid" if published else "kernel"
            values |= {name: mean, f"{name}_std": std}
        return values

    @property
    def protocol(self) -> str:
        """All that is needed to compare the numbers with others."""
        kind = "FID" if isinstance(self.features, InceptionFeatures) else "Fréchet distance (not FID)"
        source = f" real={self._source!r}" if self._source else ""
        kernel = f" kernel subsets={self.subsets}x{self._subset_size}" if self.kid else ""
        return f"{kind}: {self.features.id} n_real={self._num_real} n_fake={self.n}{source} uint8 float64{kernel}"

    @property
    def stats(self) -> ReferenceStats:
        """Statistics of the real images, to save and use again."""
        return self._real[0]

    @property
    def _source(self) -> str:
        if isinstance(self.reference, ReferenceStats):
            return self.reference.source
        return self.reference.name if isinstance(self.reference, ImageSet) else ""

    @property
    def _num_real(self) -> int:
        return self.reference.n if isinstance(self.reference, ReferenceStats) else len(self.reference)

    @property
    def _subset_size(self) -> int:
        return min(KID_SUBSET_SIZE, self._num_real, self.n)

    @cached_property
    def _real(self) -> tuple[ReferenceStats, Any]:
        if isinstance(self.reference, ReferenceStats):
            return self.reference, None
        kernel = self._kernel() if self.kid else None
        return _statistics(self.features, _pictures(self.reference).split(self.batch), self._source, kernel), kernel

    def _kernel(self) -> Any:
        module = require("torchmetrics.image.kid", extra="metrics")
        with warnings.catch_warnings():  # that it keeps the features is said above
            warnings.simplefilter("ignore", UserWarning)
            return module.KernelInceptionDistance(
                feature=_Given(self.features.num_features),
                subsets=self.subsets,
                subset_size=self._subset_size,
                reset_real_features=False,
                sync_on_compute=False,  # the other processes of a distributed run do not evaluate
            ).to(device_of(self.features))

    def _draws(self, rho: Measure, rng: torch.Generator) -> Iterator[Tensor]:
        seen, lowest, highest = 0, torch.inf, -torch.inf
        for x in self._clouds(rho, rng):
            if not bool(torch.isfinite(x).all()):
                index = first_nonfinite_index(x)
                raise BadInput(
                    f"the model drew images that are not finite: {float(x[index])} in image {seen + index[0]}, first at {index[1:]}"
                )
            seen += len(x)
            low, high = (float(edge) for edge in x.aminmax())
            lowest, highest = min(lowest, low), max(highest, high)
            yield to_uint8(x)
        self._say_range(lowest, highest)

    def _clouds(self, rho: Measure, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield ``n`` draws in batches, all of equal weight."""
        atoms = len(rho) if isinstance(rho, Particles) else rho.num_atoms
        if atoms is not None:  # their numbers are drawn at once: a second batch would repeat images of the first
            require_weights(rho)
            log_w = rho.log_w if isinstance(rho, Particles) else None
            whole = log_w is None and atoms == self.n
            index = torch.arange(self.n) if whole else picks(log_w, atoms, self.n, rng)
            yield from (rho.take(some, rng).x for some in index.split(self.batch))
            return
        missing = self.n
        while missing:
            with torch.no_grad():
                some = drawn(rho, min(self.batch, missing), rng)
            if some.log_w is not None:  # the distance counts every image once
                some = some.resampled(min(self.batch, missing), rng)
            missing -= len(some)
            yield some.x

    def _say_range(self, low: float, high: float) -> None:
        """Warn, once, about images that were made for another range than [-1, 1]."""
        if not self._range and in_other_range(low, high):
            self._range.extend((low, high))
            warnings.warn(other_range(low, high), stacklevel=2)


def _seeded_compute(kernel: Any, rng: torch.Generator) -> tuple[float, float]:
    """Compute the KID. torchmetrics takes its subsets from the global generator: seeded from ``rng``, then put back."""
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPU generators too
        mean, std = kernel.compute()
    return float(mean), float(std)
