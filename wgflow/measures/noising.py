r"""A law that is made noise, and the same noise backwards in time: what a reverse process is pulled by."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from wgflow.core.clock import ROUNDING
from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, NonNegative, Positive
from wgflow.core.typing import Points
from wgflow.measures.base import Measure, register_measure
from wgflow.measures.particles import Particles
from wgflow.measures.targets import Gaussian


@dataclass(frozen=True)
class Noising(Checked):
    r"""The noise :math:`dY=-bY\,ds+\sqrt{2\beta}\,dW`: the heat equation for :math:`b=0`, Ornstein–Uhlenbeck otherwise.

    .. math:: Y_s\sim e^{-bs}Y_0+\sqrt{v_s}\,\xi,\qquad v_s=\frac\beta b\bigl(1-e^{-2bs}\bigr)\quad(2\beta s\text{ for }b=0).

    Parameters
    ----------
    beta : float
        :math:`\beta`, a temperature: the variance grows by :math:`2\beta` a unit of time.
    drift : float
        :math:`b`.

    Examples
    --------
    >>> Noising(0.5)(2.0)
    (1.0, 2.0)
    """

    beta: Positive
    drift: NonNegative = 0.0

    def __call__(self, s: float) -> tuple[float, float]:
        """Return the scale :math:`e^{-bs}` and the variance :math:`v_s` at time ``s``.

        Raises ``BadInput`` for a negative time, and for one so late that the scale is 0 in floating point.
        """
        if not s >= 0:
            raise BadInput(f"Noising: time {s} is before the start of the noise, expected one from 0 up")
        b = self.drift
        if b == 0:
            return 1.0, 2 * self.beta * s
        scale = math.exp(-b * s)
        if scale == 0:
            raise BadInput(
                f"Noising: at drift {b:g} and time {s:g} the scale exp(-{b * s:g}) is 0 in floating point, and nothing is left of the "
                "law: take a drift or a horizon whose product is below 700"
            )
        return scale, -self.beta / b * math.expm1(-2 * b * s)


@register_measure("reversed")
@dataclass(frozen=True, eq=False)
class Reversed(Measure):
    r"""The noised law of a measure run backwards: at time :math:`t` it is :math:`\eta_{T-t}`, noise first and the measure at :math:`t=T`.

    A target that changes in time, for any flow: ``at(k, t)`` sets the time in force, also at the stages inside of a step.

    Parameters
    ----------
    base : Measure
        :math:`\eta_0`, with :meth:`~Measure.noised`: ``StandardNormal``, ``Gaussian``, ``GaussianMixture``, ``LocalGaussians``.
    noising : Noising
        What makes it noise.
    horizon : float
        :math:`T`.
    time : float
        :math:`t` in force.

    Raises
    ------
    BadInput
        For a time beyond the horizon; a flow that would end beyond it is refused before it starts, where its step sizes are known.
        For a horizon at which nothing is left of the base.
    Unsupported
        For a base whose noised law is not known.

    Examples
    --------
    >>> import torch
    >>> eta = Reversed(Gaussian(torch.zeros(1), torch.eye(1)), Noising(0.5), horizon=3.0)
    >>> eta.law.cov, eta.at(0, 2.0).law.cov
    (tensor([[4.]]), tensor([[2.]]))
    """

    base: Measure
    noising: Noising
    horizon: Positive
    time: NonNegative = 0.0

    def __post_init__(self) -> None:
        if not self.base.supports("noised"):
            self.base.noised(1.0, 0.0)  # which says what to use instead
        self.noising(self.horizon)  # which refuses one that is too late
        if self.time > self.horizon * (1 + ROUNDING):
            raise BadInput(
                f"Reversed: time {self.time:g} is beyond the horizon {self.horizon:g}, where there is no noise left: take fewer or "
                "smaller steps"
            )

    @classmethod
    def example(cls) -> "Reversed":
        """Return a tiny instance."""
        return cls(Gaussian.example(), Noising(0.5), 2.0)

    @property
    def law(self) -> Measure:
        """The law in force."""
        return self.base.noised(*self.noising(max(self.horizon - self.time, 0.0)))

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape of one point."""
        return self.base.event_shape

    @property
    def device(self) -> torch.device:
        """Where draws live."""
        return self.base.device

    def at(self, k: int, t: float) -> Self:
        """Return the measure with the time ``t`` in force."""
        return replace(self, time=float(t))

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` points of the law in force."""
        return self.law.draw(n, rng)

    def log_prob(self, x: Points) -> Tensor:
        """Log density of the law in force, shape (n,)."""
        return self.law.log_prob(x)

    def score(self, x: Points) -> Points:
        """Score of the law in force."""
        return self.law.score(x)
