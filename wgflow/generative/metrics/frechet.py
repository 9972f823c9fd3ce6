"""The Fréchet distance between sets of features: their moments, summed up without cancellation, and its closed form."""

import os
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Range, checked
from wgflow.core.finite import first_nonfinite_index
from wgflow.generative.data._array_files import existing_file, member, open_arrays
from wgflow.storage.files import replacing

Several = Annotated[int, Range("a whole number from 2 up", 2, 2**63, "[)")]
_ROUNDING = 1e-6  # of the largest entry: covariances of other tools come from float32 sums


@dataclass(frozen=True, eq=False)
class ReferenceStats(Checked):
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
        For wrong shapes or dtypes, values that are not finite, a ``sigma`` that is not symmetric, fewer than two images
        or an empty ``id``.

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative.metrics import ReferenceStats
    >>> stats = ReferenceStats(torch.zeros(3).double(), torch.eye(3).double(), n=100, id="toy")
    >>> stats.n
    100
    """

    mu: Tensor = field(repr=False)
    sigma: Tensor = field(repr=False)
    n: Several
    id: str
    source: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            raise BadInput("feature statistics need a protocol id, got an empty one")
        d = self.mu.shape[0] if self.mu.dim() == 1 and len(self.mu) else -1
        if self.sigma.shape != (d, d):
            got = f"{tuple(self.mu.shape)} and {tuple(self.sigma.shape)}"
            raise BadInput(f"feature statistics need mu (D,) and sigma (D, D), got {got}")
        for name, value in (("mu", self.mu), ("sigma", self.sigma)):
            if value.dtype != torch.float64:
                raise BadInput(f"{name} must be float64 (float32 sums give wrong distances), got {value.dtype}")
            if not bool(torch.isfinite(value).all()):
                raise BadInput(f"{name} has entries that are not finite, the first at {first_nonfinite_index(value)}")
        if not torch.allclose(self.sigma, self.sigma.T, rtol=0, atol=_ROUNDING * float(self.sigma.abs().max())):
            raise BadInput("sigma must be symmetric: a covariance is")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` file: under a temporary name first, so that no half-written file can be read.

        Raises
        ------
        CannotWrite
            When the file system refuses.
        """
        with replacing(os.fspath(path)) as beside, open(beside, "wb") as file:
            np.savez(file, mu=self.mu.cpu(), sigma=self.sigma.cpu(), n=self.n, id=self.id, source=self.source)

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
        file = existing_file(path, "are no feature statistics", "; make them with reference_stats(...).save")
        try:
            with open_arrays(file) as z:
                mu, sigma = (torch.from_numpy(member(z, name)) for name in ("mu", "sigma"))
                return cls(mu, sigma, int(z["n"]), str(z["id"]), str(z["source"]))
        except Exception as error:  # numpy, zipfile and zlib each have their own
            raise BadInput(f"{path} does not hold feature statistics written by wgflow: {str(error)[:200]}") from error


@checked
def frechet_distance(a: ReferenceStats, b: ReferenceStats) -> float:
    r"""Squared Bures–Wasserstein distance between the Gaussians with the moments of ``a`` and ``b``.

    .. math::
        d^2 = \lVert\mu_a-\mu_b\rVert^2 + \mathrm{tr}\,\Sigma_a + \mathrm{tr}\,\Sigma_b
        - 2\,\mathrm{tr}\,(\Sigma_a^{1/2}\Sigma_b\Sigma_a^{1/2})^{1/2} .

    It is the square, summed over the features, as in every published FID. With factors
    :math:`\Sigma=LL^\top` the covariance part is :math:`\min_R\lVert L_a-L_bR\rVert_F^2` over orthogonal R, reached at the
    polar factor of :math:`L_a^\top L_b`. A sum of squares is never negative, and exact to rounding also for singular
    covariances, where roots of the eigenvalues of the product are good to half the digits only.

    Parameters
    ----------
    a, b : ReferenceStats
        Moments of the same features.

    Returns
    -------
    float
        The squared distance.

    Raises
    ------
    BadInput
        When the protocols or the lengths of the features differ, or a ``sigma`` has a negative eigenvalue.

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
    if a.mu.shape != b.mu.shape:
        raise BadInput(f"features of {len(a.mu)} and of {len(b.mu)} numbers cannot be compared, both called {a.id!r}")
    mean, left, right = (a.mu - b.mu).square().sum(), _factor(a.sigma), _factor(b.sigma)
    u, _, vh = torch.linalg.svd(left.T @ right)
    return float(mean + (left - right @ (u @ vh).T).square().sum())


def _factor(sigma: Tensor) -> Tensor:
    """Return L with L Lᵀ = sigma; what rounding leaves of a singular direction is 0."""
    values, vectors = torch.linalg.eigh(sigma)
    largest = float(values[-1])
    if float(values[0]) < -_ROUNDING * max(largest, 0.0):
        raise BadInput(f"sigma is not a covariance: its eigenvalues go from {float(values[0]):g} to {largest:g}")
    negligible = values < len(values) * torch.finfo(values.dtype).eps * largest
    return vectors * values.masked_fill(negligible, 0).sqrt()


class MomentSums:
    r"""Mean and covariance of rows that come in batches, in float64.

    Every batch is centered by itself and the batches are then combined: sums of :math:`xx^\top` would lose a covariance
    that is small beside the square of the mean.

    Notes
    -----
    Chan, Golub and LeVeque, *Algorithms for computing the sample variance*, The American Statistician 37 (1983).
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Take in the rows of ``x`` (n, D), which is float64."""
        n, mean = len(x), x.mean(0)
        scatter = (x - mean).T @ (x - mean)
        if self.mean is None or self.scatter is None:
            self.n, self.mean, self.scatter = n, mean, scatter
            return
        total, apart = self.n + n, mean - self.mean
        self.mean = self.mean + apart * (n / total)
        self.scatter = self.scatter + scatter + torch.outer(apart, apart) * (self.n * n / total)
        self.n = total

    def stats(self, id: str, source: str = "") -> ReferenceStats:
        """Return the moments of all rows, on the CPU."""
        if self.n < 2 or self.mean is None or self.scatter is None:
            raise BadInput(f"feature statistics need n >= 2 images, got n={self.n}")
        if not bool(torch.isfinite(self.scatter).all()):
            raise BadInput(f"the features of {id} are too large: their squares are beyond float64")
        return ReferenceStats(self.mean.cpu(), self.scatter.cpu() / (self.n - 1), self.n, id, source)
