"""Fréchet and kernel distances between images in the features of a network: FID and KID, and their stand-ins."""

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wgflow._imports import require
from wgflow.errors import BadInput, DataNotFound
from wgflow.generative.data import ImageSet, to_uint8
from wgflow.generative.features import FeatureExtractor, device_of, embed
from wgflow.generative.inception import InceptionFeatures
from wgflow.measures.base import Measure

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
"""Subsets over which the kernel distance is averaged, and their size; less where there are fewer images."""


@dataclass(frozen=True, eq=False)
class ReferenceStats:
    r"""Mean and covariance of the features of a set of images.

    Parameters
    ----------
    mu : Tensor, float64, shape (D,)
        Mean.
    sigma : Tensor, float64, shape (D, D)
        Covariance with the factor 1/(n - 1).
    n : int
        Number of images.
    id : str
        Protocol: the ``id`` of the extractor.
    source : str
        Which images, for people.

    Raises
    ------
    BadInput
        For wrong shapes or dtypes, values that are not finite, fewer than two images or an empty ``id``.
    """

    mu: Tensor = field(repr=False)
    sigma: Tensor = field(repr=False)
    n: int
    id: str
    source: str = ""

    def __post_init__(self) -> None:
        if self.n < 2 or not self.id:
            raise BadInput(f"feature statistics need n >= 2 images and a protocol id, got n={self.n}, id={self.id!r}")
        d = self.mu.shape[0] if self.mu.dim() == 1 else -1
        if self.sigma.shape != (d, d):
            got = f"{tuple(self.mu.shape)} and {tuple(self.sigma.shape)}"
            raise BadInput(f"feature statistics need mu (D,) and sigma (D, D), got {got}")
        for name, value in (("mu", self.mu), ("sigma", self.sigma)):
            if value.dtype != torch.float64 or not bool(torch.isfinite(value).all()):
                raise BadInput(
                    f"{name} must be finite and float64 (float32 sums give wrong distances), got {value.dtype}"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` file: under a temporary name first, so that no half-written file can be read."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            np.savez(file, mu=self.mu.cpu(), sigma=self.sigma.cpu(), n=self.n, id=self.id, source=self.source)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ReferenceStats":
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataNotFound
            When there is no such file.
        BadInput
            When it is not such a file. One of another tool lacks the protocol: if you know it, build
            ``ReferenceStats(mu, sigma, n, id)`` yourself.
        """
        if not Path(path).is_file():
            raise DataNotFound(f"there are no feature statistics at {path}; make them with reference_stats(...).save")
        try:
            with np.load(path, allow_pickle=False) as z:
                mu, sigma = torch.from_numpy(z["mu"]), torch.from_numpy(z["sigma"])
                return cls(mu, sigma, int(z["n"]), str(z["id"]), str(z["source"]))
        except Exception as error:  # numpy, zipfile and zlib each have their own
            raise BadInput(f"{path} does not hold feature statistics written by wgflow: {error}") from error


def frechet_distance(a: ReferenceStats, b: ReferenceStats) -> float:
    r"""Squared Bures–Wasserstein distance between the Gaussians with the moments of ``a`` and ``b``.

    .. math::
        d^2 = \lVert\mu_a-\mu_b\rVert^2 + \mathrm{tr}\,\Sigma_a + \mathrm{tr}\,\Sigma_b
        - 2\,\mathrm{tr}\,(\Sigma_a^{1/2}\Sigma_b\Sigma_a^{1/2})^{1/2} .

    It is the square, summed over the features, as in every published FID. The last trace is the sum of the singular
    values of :math:`\Sigma_a^{1/2}\Sigma_b^{1/2}`: exact to rounding also for singular covariances, where roots of
    the eigenvalues of the product are good to half the digits only.

    Raises
    ------
    BadInput
        When the protocols differ.

    Notes
    -----
    Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, *GANs trained by a two time-scale update rule converge to a
    local Nash equilibrium*, NeurIPS 2017, equation (6).

    Examples
    --------
    >>> import torch
    >>> one = torch.eye(3, dtype=torch.float64)
    >>> a = ReferenceStats(torch.zeros(3, dtype=torch.float64), one, 10, "toy")
    >>> b = ReferenceStats(torch.ones(3, dtype=torch.float64), 4 * one, 10, "toy")
    >>> round(frechet_distance(a, b), 12)  # 3 · 1² + 3 · (2 - 1)²
    6.0
    """
    if a.id != b.id:
        raise BadInput(f"features of different protocols cannot be compared: {a.id!r} and {b.id!r}")
    mean = (a.mu - b.mu).square().sum()
    overlap = torch.linalg.svdvals(_factor(a.sigma).T @ _factor(b.sigma)).sum()
    return float(mean + a.sigma.trace() + b.sigma.trace() - 2 * overlap)


def _factor(sigma: Tensor) -> Tensor:
    """Return L with L Lᵀ = sigma."""
    values, vectors = torch.linalg.eigh(sigma)
    return vectors * values.clamp(min=0).sqrt()


def reference_stats(features: FeatureExtractor, images: Tensor | ImageSet, batch: int = 100) -> ReferenceStats:
    """Return the statistics of a set of uint8 images (n, c, h, w), computed on the device of the extractor."""
    source = images.name if isinstance(images, ImageSet) else ""
    images = images.images if isinstance(images, ImageSet) else images
    return _statistics(features, images.split(batch), source)


class _Given(nn.Module):
    """Lets torchmetrics take features for images: one pass of the extractor then serves both of its metrics."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


def _statistics(
    features: FeatureExtractor, batches: Iterable[Tensor], source: str = "", kernel: Any = None, real: bool = True
) -> ReferenceStats:
    """Sum up the features of all batches; ``kernel``, the KID of torchmetrics, gets them too."""
    fid = require("torchmetrics.image.fid", extra="metrics").FrechetInceptionDistance
    sums = fid(feature=_Given(features.num_features)).to(device_of(features))
    for found in embed(features, batches):
        sums.update(found, real=True)
        if kernel is not None:
            kernel.update(found, real=real)
    n = int(sums.real_features_num_samples)
    mu = sums.real_features_sum.cpu() / n
    sigma = (sums.real_features_cov_sum.cpu() - n * torch.outer(mu, mu)) / max(n - 1, 1)
    return ReferenceStats(mu, sigma, n, features.id, source)


@dataclass(frozen=True, eq=False)
class FID:
    r"""Fréchet distance of a generative model to real images in the features of a network, and the kernel distance.

    The model's images in [-1, 1] are rounded to 8 bits, :math:`\mathrm{round}(127.5\,(x+1))`, as if saved without loss.
    Sums are in float64.

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
    reference : Tensor uint8 (n, c, h, w), ImageSet or ReferenceStats
        Real images, all of which are used, or saved statistics of them. Images are passed through the network once,
        at the first call.
    n : int
        Images drawn from the model; 50000 in most papers.
    kid : bool
        Return the kernel distance too; it needs images as ``reference`` and keeps all features in memory.
    batch : int
        Images drawn and embedded at a time.

    Raises
    ------
    BadInput
        On construction for bad sizes, statistics of another protocol, or ``kid`` with statistics; in a call for draws
        that are not equally weighted finite images.

    Notes
    -----
    KID: Bińkowski, Sutherland, Arbel and Gretton, *Demystifying MMD GANs*, ICLR 2018, Section 4.
    """

    features: FeatureExtractor
    reference: Tensor | ImageSet | ReferenceStats
    n: int = 50_000
    kid: bool = False
    batch: int = 100

    def __post_init__(self) -> None:
        if self.n < 2 or self.batch < 1:
            raise BadInput(f"expected n >= 2 and batch >= 1, got n={self.n} and batch={self.batch}")
        if isinstance(self.reference, ReferenceStats):
            if self.reference.id != self.features.id:
                raise BadInput(
                    f"the reference statistics are of {self.reference.id!r}, the network of {self.features.id!r}"
                )
            if self.kid:
                raise BadInput(
                    "the kernel distance needs the real images; statistics hold their mean and covariance only"
                )
        elif self._num_real < 2:
            raise BadInput(f"the reference needs at least two images, got {self._num_real}")

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
        kernel = f" kernel subsets={KID_SUBSETS}x{self._subset_size}" if self.kid else ""
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
        images = self.reference.images if isinstance(self.reference, ImageSet) else self.reference
        kernel = self._kernel() if self.kid else None
        return _statistics(self.features, images.split(self.batch), self._source, kernel), kernel

    def _kernel(self) -> Any:
        module = require("torchmetrics.image.kid", extra="metrics")
        with warnings.catch_warnings():  # that it keeps the features is said above
            warnings.simplefilter("ignore", UserWarning)
            return module.KernelInceptionDistance(
                feature=_Given(self.features.num_features),
                subsets=KID_SUBSETS,
                subset_size=self._subset_size,
                reset_real_features=False,
                sync_on_compute=False,  # the other processes of a distributed run do not evaluate
            ).to(device_of(self.features))

    def _draws(self, rho: Measure, rng: torch.Generator) -> Iterator[Tensor]:
        missing = self.n
        while missing:
            with torch.no_grad():
                drawn = rho.draw(min(self.batch, missing), rng)
            if drawn.log_w is not None and float(drawn.log_w.max() - drawn.log_w.min()) > 1e-6:
                raise BadInput("the distance counts every image once: resample the weighted draws first")
            if not bool(torch.isfinite(drawn.x).all()):
                raise BadInput("the model drew images that are not finite")
            missing -= len(drawn)
            yield to_uint8(drawn.x)


def _seeded_compute(kernel: Any, rng: torch.Generator) -> tuple[float, float]:
    """Compute the KID. torchmetrics takes its subsets from the global generator: seeded from ``rng``, then put back."""
    seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPU generators too
        mean, std = kernel.compute()
    return float(mean), float(std)
