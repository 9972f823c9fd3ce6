"""Conditional flows that are sharpened away from the whole."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from wgflow.core.fields import NonNegative, Positive, checked
from wgflow.core.typing import Scalar
from wgflow.functionals.base import Functional
from wgflow.functionals.contrast import Contrast
from wgflow.measures import Measure, Particles, Stack


@dataclass(frozen=True)
class Guided(Functional):
    r"""The functional :math:`(1+w)F_c-wF` as one problem; :func:`guided` makes it.

    Parameters
    ----------
    conditional : Functional
        :math:`F_c`.
    whole : Functional
        :math:`F`.
    w : float
        The strength, positive.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> near, far = (wg.EnergyDistance(wg.Particles(torch.tensor([[x]]))) for x in (0.0, 4.0))
    >>> wg.guided(near, far, 1.0).value(wg.Particles(torch.tensor([[1.0]])))  # 2 * 2 - 6
    tensor(-2.)
    """

    conditional: Functional
    whole: Functional
    w: Positive

    @property
    def batch(self) -> int | None:  # type: ignore[override]
        """Target points of the conditional functional."""
        return self.conditional.batch

    def value(self, rho: Particles) -> Scalar:
        """Return the combination of the values."""
        return (1 + self.w) * self.conditional.value(rho) - self.w * self.whole.value(rho)

    def values(self, clouds: Stack) -> Tensor:
        """Return the combinations of the values."""
        return (1 + self.w) * self.conditional.values(clouds) - self.w * self.whole.values(clouds)

    def _each(self, change: Callable[[Functional], Functional]) -> Self:
        """Return the guidance by what is made of both; itself where neither changes."""
        one, two = change(self.conditional), change(self.whole)
        return self if one is self.conditional and two is self.whole else type(self)(one, two, self.w)

    def at(self, k: int, t: float) -> Self:
        """Take both at that step."""
        return self._each(lambda F: F.at(k, t))

    def freeze(self, rng: torch.Generator) -> Self:
        """Freeze both."""
        return self._each(lambda F: F.freeze(rng))

    def matched(self, n: int, only_open: bool = False) -> Self:
        """Match both."""
        return self._each(lambda F: F.matched(n, only_open))

    def fit(self, rho: Particles) -> Self:
        """Fit both."""
        return self._each(lambda F: F.fit(rho))

    def with_measures(self, change: Callable[[Measure], Measure]) -> Self:
        """Change those of both."""
        return self._each(lambda F: F.with_measures(change))

    def contrast(self, other: Particles) -> Functional:
        """Contrast both: against the other sample their factors add up to 1."""
        one, two = self.conditional.contrast(other), self.whole.contrast(other)
        if isinstance(one, Contrast) and isinstance(two, Contrast):
            return Contrast(type(self)(one.term, two.term, self.w), one.other)
        return type(self)(one, two, self.w)

    def data(self) -> Measure | None:
        """Return the data of the condition."""
        return self.conditional.data()

    def targets(self) -> list[Measure]:
        """Return those of both."""
        return self.conditional.targets() + self.whole.targets()

    def samples(self) -> list[Measure]:
        """Return those of both."""
        return self.conditional.samples() + self.whole.samples()

    def can(self, method: str) -> bool:
        """The value, where both have one."""
        return method == "value" and self.conditional.can(method) and self.whole.can(method)


@checked
def guided(conditional: Functional, whole: Functional, w: NonNegative) -> Functional:
    r"""Return :math:`F_c+w\,(F_c-F)`: a conditional flow, sharpened away from the whole by velocity guidance.

    The velocity is :math:`v_c+w(v_c-v)`; for Sinkhorn divergences :math:`(T_{\rho\nu_c}-T_{\rho\rho'})+w(T_{\rho\nu_c}-T_{\rho\nu})`, and
    always feasible. ``w`` is :math:`\alpha-1` of classifier-free guidance, and 0 leaves the functional as it
    is. Both belong inside of ``InFeatures`` and ``PerClass``, which then measure them in one unit.

    Parameters
    ----------
    conditional : Functional
        :math:`F_c`, to the data of a class.
    whole : Functional
        :math:`F`, to all of them.
    w : float
        The strength, :math:`\alpha-1` of classifier-free guidance; 0 leaves :math:`F_c` as it is.

    Returns
    -------
    Functional
        The combination as one problem.

    Notes
    -----
    Source: Han et al. (2026), Eq. 16.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> near, far = (wg.EnergyDistance(wg.Particles(torch.tensor([[x]]))) for x in (0.0, 4.0))
    >>> wg.guided(near, far, 1.0).value(wg.Particles(torch.tensor([[1.0]])))  # 2 * 2 - 6
    tensor(-2.)
    """
    return conditional if w == 0 else Guided(conditional, whole, w)
