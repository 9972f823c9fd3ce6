r"""Distances between Gaussian laws, and the moments that they are computed from.

Everything is a formula in a mean and a covariance, float64 unless the tensors say otherwise.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Finite, checked
from wgflow.core.instead import shown
from wgflow.core.typing import Scalar
from wgflow.measures import Gaussian, Particles


class _Moments(NamedTuple):
    mean: Tensor
    cov: Tensor


class Moments(_Moments):
    r"""Mean (d,) and covariance (d, d) of a law; the covariance may be singular (a Dirac has 0).

    Attributes
    ----------
    mean : Tensor, shape (d,)
        The mean.
    cov : Tensor, shape (d, d)
        The covariance; 0 for a Dirac.

    Raises
    ------
    BadInput
        For other shapes, another type than a floating-point one or two of them, and a covariance that is not symmetric or has a
        negative eigenvalue, beyond rounding. Numbers that are not finite, as of a flow that has diverged, are not looked at.

    Examples
    --------
    The empirical covariance divides by n:

    >>> import torch
    >>> import wgflow as wg
    >>> Moments.of(wg.Particles(torch.tensor([[-1.0], [1.0]]))).cov
    tensor([[1.]])
    """

    __slots__ = ()

    def __new__(cls, mean: Tensor, cov: Tensor) -> "Moments":
        """Check that these are a mean and a covariance."""
        if not (
            isinstance(mean, Tensor)
            and isinstance(cov, Tensor)
            and mean.dim() == 1
            and cov.shape == (*mean.shape, *mean.shape)
        ):
            got = " and ".join(str(tuple(t.shape)) if isinstance(t, Tensor) else shown(t) for t in (mean, cov))
            raise BadInput(f"Moments needs tensors, a mean (d,) and a covariance (d, d), got {got}")
        if not cov.is_floating_point() or mean.dtype != cov.dtype or mean.device != cov.device:
            raise BadInput(
                f"Moments needs a mean and a covariance of one floating-point type on one device, got {mean.dtype} on {mean.device} "
                f"and {cov.dtype} on {cov.device}"
            )
        held = cov.detach()
        if len(held) and bool(held.isfinite().all()):
            rounding = _rounding(held) * float(held.abs().max())
            least, off = float(_eigenvalues(held)[0]), float((held - held.mT).abs().max())
            if least < -rounding or off > rounding:
                raise BadInput(
                    f"Moments needs a covariance, symmetric and without negative eigenvalues: the least is {least:g}, and entries "
                    f"differ from their mirror images by up to {off:g}"
                )
        return super().__new__(cls, mean, cov)

    @classmethod
    def of(cls, rho: Particles) -> "Moments":
        r"""Return the moments of weighted particles, with events flattened and the covariance divided by the mass, not by n-1."""
        x = rho.x.flatten(1)
        mean = rho.w @ x
        r = x - mean
        off = rho.w @ r  # the mean of points far from 0 is rounded, perhaps by more than they differ
        r = r - off
        # A covariance by how it is made: no eigenvalues of it are asked for.
        return cls._make((mean + off, (r * rho.w[:, None]).T @ r))

    def gaussian(self) -> Gaussian:
        """Return the Gaussian with these moments; raises ``BadInput`` for a singular covariance."""
        return Gaussian(self.mean, self.cov)


@checked
def symmetric_root(matrix: Tensor) -> Tensor:
    r"""Return :math:`M^{1/2}` of a symmetric positive semidefinite matrix; rounding below zero counts as zero.

    Parameters
    ----------
    matrix : Tensor, shape (..., d, d)
        M.

    Returns
    -------
    Tensor, shape (..., d, d)
        The symmetric positive semidefinite root.

    Examples
    --------
    >>> import torch
    >>> symmetric_root(torch.tensor([[4.0, 0.0], [0.0, 9.0]]))
    tensor([[2., 0.],
            [0., 3.]])
    """
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def _eigenvalues(matrix: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(matrix.to(torch.promote_types(matrix.dtype, torch.float32)))


def _rounding(matrix: Tensor) -> float:
    """Return what a product of some matrices may be off, as a part of its largest entry; at least as in float32, which is converted."""
    return 100 * len(matrix) * max(torch.finfo(dtype).eps for dtype in (matrix.dtype, torch.float32))


def _correlation(cov: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Return scales and correlations, so that units of coordinates do not count, and whether these are positive definite to rounding."""
    scale = cov.diagonal().clamp(min=0).sqrt()
    correlation = cov / scale[:, None] / scale
    least = float(torch.linalg.eigvalsh(correlation)[0]) if bool(correlation.isfinite().all()) else 0.0
    return scale, correlation, least > len(cov) * torch.finfo(cov.dtype).eps


def inverse(cov: Tensor, who: str) -> Tensor:
    """Return the inverse of a covariance; raises ``BadInput`` unless it is positive definite to the precision of its numbers."""
    scale, correlation, definite = _correlation(cov)
    if not definite:
        raise BadInput(
            f"{who} needs a positive definite covariance, got {cov.tolist() if len(cov) < 4 else 'one that is not'}"
        )
    return torch.linalg.inv(correlation) / scale[:, None] / scale


def log_det(cov: Tensor) -> Scalar:
    """Return the log determinant of a covariance; minus infinity where it is singular to the precision of its numbers.

    A determinant that is 0 but for rounding has any logarithm, or none.
    """
    return torch.logdet(cov) if _correlation(cov)[2] or not bool(cov.isfinite().all()) else cov.new_tensor(-torch.inf)


def _alike(p: Moments, q: Moments, who: str) -> None:
    if p.cov.shape != q.cov.shape or p.cov.dtype != q.cov.dtype or p.cov.device != q.cov.device:
        raise BadInput(
            f"{who} compares Gaussians of one dimension and type, got {tuple(p.mean.shape)} {p.mean.dtype} on {p.mean.device} and "
            f"{tuple(q.mean.shape)} {q.mean.dtype} on {q.mean.device}: convert one of them"
        )


@checked
def squared_w2(p: Moments, q: Moments) -> Scalar:
    r"""Return :math:`W_2^2` between Gaussians (Bures): :math:`|m-m'|^2+\operatorname{tr}(C+C'-2(C^{1/2}C'C^{1/2})^{1/2})`.

    Parameters
    ----------
    p, q : Moments or Gaussian
        Mean and covariance; both may be singular.

    Returns
    -------
    Tensor, 0-d
        The square of the distance.

    Raises
    ------
    BadInput
        For Gaussians of other dimensions or types.

    Examples
    --------
    On a line it is :math:`(m-m')^2+(\sigma-\sigma')^2`, here 9 + 4:

    >>> import torch
    >>> p, q = Moments(torch.zeros(1), torch.eye(1)), Moments(torch.tensor([3.0]), torch.tensor([[9.0]]))
    >>> squared_w2(p, q)
    tensor(13.)
    """
    _alike(p, q, "squared_w2")
    # tr(C + C' - 2 (...)^{1/2}) as a least square over rotations: the difference of traces would lose half of the digits.
    ours, theirs = symmetric_root(p.cov), symmetric_root(q.cov)
    U, _, Vh = torch.linalg.svd(ours @ theirs)
    return (p.mean - q.mean).square().sum() + (ours - theirs @ (U @ Vh).mT).square().sum()


@checked
def kl(p: Moments, q: Moments) -> Scalar:
    r"""Return :math:`\mathrm{KL}(N(p)|N(q))`, infinite for a singular p.

    Parameters
    ----------
    p, q : Moments or Gaussian
        Mean and covariance.

    Returns
    -------
    Tensor, 0-d
        In nats.

    Raises
    ------
    BadInput
        For a singular q, and Gaussians of other dimensions or types.

    Examples
    --------
    :math:`\mathrm{KL}(N(1,1)|N(0,1))=\tfrac12`:

    >>> import torch
    >>> p, q = (Moments(torch.tensor([m]), torch.eye(1)) for m in (1.0, 0.0))
    >>> kl(p, q)
    tensor(0.5000)
    """
    _alike(p, q, "kl")
    r = p.mean - q.mean
    trace = (inverse(q.cov, "KL to a Gaussian") @ (p.cov + torch.outer(r, r))).trace()
    return 0.5 * (trace - len(r) + torch.logdet(q.cov) - log_det(p.cov))


@checked
def symmetric_kl(p: Moments, q: Moments) -> Scalar:
    r"""Return :math:`\mathrm{KL}(p|q)+\mathrm{KL}(q|p)`, the score of the Ornstein–Uhlenbeck suite of Mokrov et al. (2021).

    Parameters
    ----------
    p, q : Moments or Gaussian
        Mean and covariance.

    Returns
    -------
    Tensor, 0-d
        In nats.

    Examples
    --------
    >>> import torch
    >>> p, q = (Moments(torch.tensor([m]), torch.eye(1)) for m in (1.0, 0.0))
    >>> symmetric_kl(p, q)
    tensor(1.)
    """
    return kl(p, q) + kl(q, p)


@checked
def symmetric_kl_floor(d: Count, n: Count) -> float:
    r"""Return :math:`d(d+3)/(2n)`: the mean symmetric KL between a d-dimensional Gaussian and a fit to n of its points.

    Parameters
    ----------
    d : int
        Dimension.
    n : int
        Points.

    Returns
    -------
    float
        To first order in 1/n.

    Examples
    --------
    >>> symmetric_kl_floor(2, 1000)
    0.005
    """
    return d * (d + 3) / (2 * n)


@checked
def geodesic(p: Moments, q: Moments, s: Finite) -> Moments:
    r"""Return the point at fraction ``s`` of the :math:`W_2` geodesic from p to q; p must have a positive definite covariance.

    The flow of :math:`\tfrac12W_2^2(\cdot,q)` is at :math:`s=1-e^{-t}`, its JKO step at :math:`s=h/(1+h)`, its forward Euler step at
    :math:`s=h`.

    Parameters
    ----------
    p : Moments or Gaussian
        The end at ``s = 0``, with a positive definite covariance.
    q : Moments or Gaussian
        The end at ``s = 1``.
    s : float
        Where on the way; values outside of [0, 1] extrapolate.

    Returns
    -------
    Moments
        Mean and covariance.

    Raises
    ------
    BadInput
        When the covariance of p is not positive definite; for Gaussians of other dimensions or types.

    Examples
    --------
    Standard deviations are interpolated, not variances: between N(0, 1) and N(0, 9) is N(0, 4).

    >>> import torch
    >>> p, q = (Moments(torch.zeros(1), torch.tensor([[v]])) for v in (1.0, 9.0))
    >>> geodesic(p, q, 0.5).cov
    tensor([[4.]])
    """
    _alike(p, q, "geodesic")
    root = symmetric_root(p.cov)
    back = inverse(root, "a geodesic from a Gaussian")
    G = (1 - s) * torch.eye(len(p.mean)).to(p.cov) + s * back @ symmetric_root(root @ q.cov @ root) @ back
    return Moments((1 - s) * p.mean + s * q.mean, G @ p.cov @ G)
