"""What a kernel with finitely many features is: sums over pairs of points become sums over points."""

from abc import abstractmethod
from copy import copy
from typing import Annotated, Self

import torch
from torch import Tensor

from wgflow.core.context import full_precision
from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import checked
from wgflow.core.rules import REFUSED, Rule
from wgflow.core.typing import Points
from wgflow.kernels.base import Kernel, refuse_gradients, terms_of
from wgflow.numerics.distances import check_same_points, readable


class FeatureKernel(Kernel):
    r"""A kernel of features, :math:`k(x,y)=\langle\varphi(x),\varphi(y)\rangle`, that stands for a radial one up to an error.

    It goes where kernels are summed over pairs of points: :class:`SquaredMMD`, :class:`MMD`, :class:`InteractionEnergy`,
    :class:`KALE`. With m features n² kernel values become n m numbers, formed block by block. It is no function of the distance, and
    what needs one (``Stein``, kernel densities, mean shifts) refuses it.

    A subclass is a dataclass with a field ``kernel``, the radial one, and gives :meth:`features`, :meth:`embedding` and :meth:`at`.

    Raises
    ------
    BadInput
        For a ``kernel`` that is not positive definite.

    Examples
    --------
    The Gaussian on the line to second order in the distance, by the features :math:`e^{-x^2/2}(1,x,x^2/\sqrt2)`:

    >>> from dataclasses import dataclass
    >>> import torch
    >>> import wgflow as wg
    >>> @dataclass(frozen=True)
    ... class Taylor(wg.FeatureKernel):
    ...     kernel: wg.Kernel = wg.RBF(1.0)
    ...
    ...     def features(self, x):
    ...         return (-x.square() / 2).exp() * torch.cat([torch.ones_like(x), x, x.square() / 2**0.5], 1)
    ...
    ...     def embedding(self, x, a):
    ...         return (a @ self.features(x)).double()
    ...
    ...     def at(self, x, u):
    ...         return self.features(x) @ u.to(x.dtype)
    >>> x, y = torch.tensor([[0.5]]), torch.tensor([[-0.5]])
    >>> Taylor()(x, y), wg.RBF(1.0)(x, y)
    (tensor([[0.6084]]), tensor([[0.6065]]))
    >>> wg.SquaredMMD(wg.Particles(x), Taylor()).value(wg.Particles(y))  # 2 k(x, x) - 2 k(x, y)
    tensor(0.7788)
    """

    kernel: "RadialKernel"
    goes_to = "a kernel of features, for sums over pairs: SquaredMMD, MMD, InteractionEnergy, KALE"

    def __post_init__(self) -> None:
        check_positive_definite(
            type(self), self.kernel, " For the energy distance of many points use SlicedEnergyDistance"
        )

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        """Whether the kernel that it stands for is."""
        return self.kernel.smooth

    @property
    def characteristic(self) -> bool:  # type: ignore[override]
        """Whether the kernel that it stands for is: with finitely many features the MMD is 0 for some laws that differ."""
        return self.kernel.characteristic

    @abstractmethod
    def features(self, x: Points) -> Tensor:
        r"""Return :math:`\varphi(x_i)`, shape (n, m), without gradient; memory n m."""

    @abstractmethod
    def embedding(self, x: Points, a: Tensor) -> Tensor:
        r"""Return :math:`\sum_ia_i\varphi(x_i)`, shape (m,), in double precision; differentiable once in ``x`` and ``a``."""

    @abstractmethod
    def at(self, x: Points, u: Tensor) -> Tensor:
        r"""Return :math:`\langle\varphi(x_i),u\rangle`, shape (n,), for ``u`` (m,); differentiable once in ``x`` and ``u``."""

    @checked
    def __call__(self, x: Points, y: Points) -> Tensor:
        """Return the dense matrix of products of features, shape (n, m), without gradient.

        Raises
        ------
        BadInput
            For points of other shapes, dtypes or devices.
        Unsupported
            For points that require gradient: it would be lost.
        """
        check_same_points(x, y)
        refuse_gradients(x, y, "take a sum over pairs, such as SquaredMMD")
        with torch.no_grad(), full_precision(x.device):
            return self.features(x) @ self.features(y).T

    def fit(self, x: Points, log_w: Tensor | None = None) -> Self:
        """Return the one of the fitted kernel; itself where that has no rule."""
        kernel = self.kernel.fit(x, log_w)
        if kernel is self.kernel:
            return self
        fitted = copy(self)  # not replace(): its checks of the kernel would wait for the device in every step
        object.__setattr__(fitted, "kernel", kernel)
        return fitted

    def profile(self, s: Tensor) -> Tensor:
        """Raise: the kernel is no function of the distance."""
        raise Unsupported(f"{self} is {self.goes_to}. It is no function of the distance, as {self.kernel} is")

    slope = profile


def by_features(kernel: Kernel) -> bool:
    """Whether a kernel is one of features, or a sum with one among its terms."""
    return any(isinstance(k, FeatureKernel) for _, k in terms_of(kernel))


def at_one_place(kernel: Kernel) -> Kernel:
    """Return the kernel, a rule with some bandwidth."""
    return kernel.fit(torch.zeros(1, 1))


def check_positive_definite(owner: type, kernel: Kernel, otherwise: str = "") -> None:
    r"""Refuse a kernel that is positive definite among measures of mass 0 only, as :math:`-r` is, or not at all.

    Every term of a sum must be characteristic, have a positive factor and be positive at 0. A value that is on another device than the
    CPU is not looked at.

    Raises
    ------
    BadInput
        In the name of the class ``owner``; ``otherwise`` is added to what it says.
    """
    zero = torch.zeros((), dtype=torch.float64)
    own = [k.profile(zero) for _, k in terms_of(at_one_place(kernel)) if not by_features(k)]
    if not kernel.characteristic or not all(value > 0 for value in own if readable(value)):
        raise BadInput(
            f"{owner.__name__}(kernel={kernel}): expected a positive definite kernel, such as RBF, Laplace or Matern.{otherwise}"
        )


def check_positive_at_zero(owner: type, kernel: Kernel) -> None:
    """Refuse a kernel that is not positive where points coincide, as none is that is positive definite: ``Riesz``, or -1 times one.

    A value that is on another device than the CPU is not looked at.

    Raises
    ------
    BadInput
        In the name of the class ``owner``.
    """
    value = at_one_place(kernel).profile(torch.zeros((), dtype=torch.float64))
    if readable(value) and not value > 0:
        raise BadInput(
            f"{owner.__name__}(kernel={kernel}): expected a positive definite kernel, such as RBF, Laplace or Matern, and this one is "
            f"{float(value):g} where points coincide"
        )


RadialKernel = Annotated[
    Kernel,
    Rule(
        lambda v: v if isinstance(v, Kernel) and not by_features(v) else REFUSED,
        "a Kernel that is a function of the distance",
        (Kernel,),
    ),
]
"""Where values and slopes are asked for, not sums over pairs alone."""
