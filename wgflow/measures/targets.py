"""Static measures: targets and latents."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Count, Device, FloatingPoint, NonNegative, Positive, Whole, checked
from wgflow.core.finite import require_finite
from wgflow.core.outputs import number_of_step
from wgflow.core.typing import Points
from wgflow.measures.base import Measure, register_measure
from wgflow.measures.derived import Derived
from wgflow.measures.particles import Particles
from wgflow.numerics.cache import Kept


@register_measure("standard_normal")
class StandardNormal(Measure):
    r"""The standard normal :math:`N(0, I)` on any event shape; the usual latent measure.

    Parameters
    ----------
    \*event_shape : int
        Shape of one point, for example ``StandardNormal(3, 32, 32)``.
    device, dtype
        Of the draws.

    Raises
    ------
    BadInput
        For no size.

    Examples
    --------
    >>> import torch
    >>> StandardNormal(2).draw(5, torch.Generator().manual_seed(0)).x.shape
    torch.Size([5, 2])
    """

    @checked
    def __init__(self, *event_shape: Count, device: Device = "cpu", dtype: FloatingPoint | None = None):
        if not event_shape:
            raise BadInput("StandardNormal(): expected the sizes of one point, such as StandardNormal(2)")
        self.event_shape = torch.Size(event_shape)
        self.dtype = dtype or torch.get_default_dtype()
        self._device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0", as tensors say it

    @classmethod
    def example(cls) -> "StandardNormal":
        """Return a tiny instance."""
        return cls(2)

    @property
    def device(self) -> torch.device:
        """Where draws live."""
        return self._device

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` independent points."""
        shape = (n, *self.event_shape)
        return Particles(torch.randn(shape, generator=rng, device=self._device, dtype=self.dtype), source=self)

    def log_prob(self, x: Points) -> Tensor:
        r"""Return :math:`-\tfrac12|x|^2-\tfrac d2\log 2\pi`, shape (n,)."""
        d = math.prod(self.event_shape)
        return -0.5 * x.flatten(1).square().sum(1) - 0.5 * d * math.log(2 * math.pi)

    @checked
    def noised(self, scale: Positive, variance: NonNegative) -> Measure:
        r"""Return :math:`N(0, (a^2+v)I)` on vectors; points of another shape raise ``Unsupported``."""
        if len(self.event_shape) != 1:
            return super().noised(scale, variance)
        unit = torch.eye(*self.event_shape, device=self._device, dtype=self.dtype)
        return Gaussian(torch.zeros_like(unit[0]), (scale**2 + variance) * unit)


@register_measure("gaussian")
class Gaussian(Measure):
    r"""The Gaussian :math:`N(m, C)` on vectors.

    Parameters
    ----------
    mean : Tensor, shape (d,)
        :math:`m`.
    cov : Tensor, shape (d, d)
        :math:`C`, a covariance (not a standard deviation), symmetric positive definite.

    Raises
    ------
    BadInput
        For mismatched shapes or dtypes, entries that are not finite, or a matrix that is not symmetric (up to the root of the
        machine precision) and positive definite.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> wg.Gaussian(torch.zeros(1), torch.tensor([[4.0]])).score(torch.tensor([[2.0]]))  # -x / 4
    tensor([[-0.5000]])
    """

    @checked
    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        if mean.dim() != 1 or len(mean) == 0 or cov.shape != (len(mean), len(mean)):
            raise BadInput(f"Gaussian: expected mean (d,) and cov (d, d), got {tuple(mean.shape)}, {tuple(cov.shape)}")
        require_finite("Gaussian", mean=mean, cov=cov)
        off = (cov - cov.mT).abs()
        if bool(off.max() > torch.finfo(cov.dtype).eps ** 0.5 * cov.abs().max()):
            i, j = divmod(int(off.argmax()), len(mean))
            raise BadInput(
                f"Gaussian: cov is not symmetric, cov[{i}, {j}] = {float(cov[i, j]):g} and cov[{j}, {i}] = {float(cov[j, i]):g}. "
                "Give a covariance, such as A @ A.T, not a factor of one"
            )
        self.mean, self.cov, self._root = mean, cov, Kept(torch.linalg.cholesky)
        _, failed = torch.linalg.cholesky_ex(cov)
        if failed:
            raise BadInput(f"Gaussian: cov is not positive definite:\n{cov}")
        self.event_shape = mean.shape

    @classmethod
    def example(cls) -> "Gaussian":
        """Return a tiny instance."""
        return cls(torch.tensor([1.0, -0.5]), torch.tensor([[1.0, 0.3], [0.3, 0.5]]))

    @property
    def _chol(self) -> Tensor:
        return self._root.of(self.cov)

    @property
    def device(self) -> torch.device:
        """Where draws live."""
        return self.mean.device

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` independent points."""
        z = torch.randn(n, len(self.mean), generator=rng, device=self.device, dtype=self.mean.dtype)
        return Particles(self.mean + z @ self._chol.T, source=self)

    def log_prob(self, x: Points) -> Tensor:
        """Normalized log density, shape (n,)."""
        r = torch.linalg.solve_triangular(self._chol, (x - self.mean).T, upper=False)
        d = len(self.mean)
        return -0.5 * r.square().sum(0) - self._chol.diagonal().log().sum() - 0.5 * d * math.log(2 * math.pi)

    @checked
    def noised(self, scale: Positive, variance: NonNegative) -> "Gaussian":
        r"""Return :math:`N(am, a^2C+vI)`."""
        return Gaussian(scale * self.mean, scale**2 * self.cov + variance * torch.eye(len(self.mean)).to(self.cov))


@register_measure("smoothed")
@dataclass(frozen=True, eq=False)
class Smoothed(Derived):
    r"""The convolution :math:`\nu * N(0, \varepsilon_k^2 I)` at time step :math:`k`: instance noise, said as a measure.

    What is behind the points of the base, such as a label, gets no noise.

    Parameters
    ----------
    base : Measure
        :math:`\nu`.
    std : callable
        :math:`k \mapsto \varepsilon_k`, a standard deviation per coordinate. The public S-JKO code uses
        :math:`\varepsilon_k = 1/(32(k+1))` (:func:`instance_noise`).
    k : int
        The time step in force; :meth:`at` sets it.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> law = wg.Smoothed(wg.Dataset(torch.zeros(1, 1)), std=lambda k: 2.0 / (k + 1))
    >>> round(law.at(1, 0.0).draw(10_000, torch.Generator().manual_seed(0)).x.std().item(), 1)
    1.0
    """

    std: Callable[[int], float]
    k: Whole = 0

    @classmethod
    def example(cls) -> "Smoothed":
        """Return a tiny instance."""
        return cls(StandardNormal(2), instance_noise)

    def at(self, k: int, t: float) -> Self:
        """Return the measure of step ``k``."""
        return replace(super().at(k, t), k=k)

    @property
    def num_atoms(self) -> int | None:
        """Number of the atoms that are smoothed."""
        return self.base.num_atoms

    @property
    def num_points(self) -> int | None:
        """Number of the points that are smoothed."""
        return self.base.num_points

    def whole(self, rng: torch.Generator) -> Particles:
        """Return all points of the base, with independent noise on each."""
        return self._blurred(self.base.whole(rng), rng)

    @property
    def labels(self) -> Tensor | None:  # type: ignore[override]
        """Classes of the atoms that are smoothed."""
        return self.base.labels

    def take(self, index: Tensor, rng: torch.Generator) -> Particles:
        """Return the atoms of these numbers plus independent noise."""
        return self._blurred(self.base.take(index, rng), rng)

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points of the base measure plus independent noise."""
        return self._blurred(self.base.draw(n, rng), rng)

    def _blurred(self, p: Particles, rng: torch.Generator) -> Particles:
        noise = self.base.normals(p.x, rng)
        if self.behind:
            noise[:, -self.behind :] = 0
        std = number_of_step(self.std, self.k, NonNegative, "Smoothed: standard deviation")
        return Particles(p.x + std * noise, log_w=p.log_w)


@checked
def instance_noise(k: Whole) -> float:
    """Standard deviation 1 / (32 (k + 1)) of the noise that the public S-JKO code puts on real data in phase ``k``.

    Parameters
    ----------
    k : int
        The phase, from 0.

    Returns
    -------
    float
        A standard deviation.

    Examples
    --------
    >>> import wgflow as wg
    >>> wg.instance_noise(0), wg.instance_noise(1)
    (0.03125, 0.015625)
    """
    return 1 / (32 * (k + 1))


@register_measure("unnormalised")
class Unnormalised(Measure):
    r"""A density known up to a constant, :math:`\pi \propto e^{-V}`; it cannot be drawn from.

    Parameters
    ----------
    log_prob : callable
        :math:`x \mapsto -V(x)`, from (n, \*event) to (n,).
    \*event_shape : int
        Shape of one point.

    Raises
    ------
    BadInput
        For no size of a point.

    Examples
    --------
    A density :math:`\propto e^{-x^4/4}`, whose score is :math:`-x^3`:

    >>> import torch
    >>> import wgflow as wg
    >>> wg.Unnormalised(lambda x: -x.pow(4).sum(1) / 4, 1).score(torch.tensor([[2.0]]))
    tensor([[-8.]])
    """

    can_draw = False

    @checked
    def __init__(self, log_prob: Callable[[Points], Tensor], *event_shape: Count) -> None:
        if not event_shape:
            raise BadInput(
                "Unnormalised(log_prob): expected the sizes of one point as well, such as Unnormalised(log_prob, 2)"
            )
        self._log_prob = log_prob
        self.event_shape = torch.Size(event_shape)

    @classmethod
    def example(cls) -> "Unnormalised":
        """Return a tiny instance."""
        return cls(lambda x: -x.square().sum(1), 2)

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Raise ``Unsupported``: there is no sampler."""
        raise Unsupported(
            "an Unnormalised target cannot be drawn from; use a functional that needs its log density only"
        )

    def log_prob(self, x: Points) -> Tensor:
        """Log density up to a constant, shape (n,)."""
        return self._log_prob(x)
