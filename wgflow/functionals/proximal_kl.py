"""KL after a regularized Wasserstein proximal step: finite, smooth and convex also for particles."""

from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Count, Positive
from wgflow.core.typing import Points, Scalar
from wgflow.functionals.base import Functional, register_functional
from wgflow.measures import (
    ExactPotential,
    Gaussian,
    Measure,
    Normalizer,
    Particles,
    ProximalMixture,
    QuadraticPotential,
    StandardNormal,
    WassersteinProximal,
)


@register_functional("proximal_kl")
@dataclass(frozen=True, eq=False)
class ProximalKL(Functional):
    r"""The KL to a density, regularized by its own Wasserstein proximal: :math:`F(\rho)=\mathrm{KL}(\mathrm{RWPO}_T\rho\,|\,\pi)`.

    The proximal of temperature 1 for :math:`V=-\log\pi` is linear in :math:`\rho` and turns particles into a mixture, so that F
    has a value on particles and is convex. Its first variation is :math:`y\mapsto\int K(x,y)\log\frac{\rho_T}{\pi}(x)\,dx` up to a
    constant. F is 0 where :math:`\rho_T=\pi`: for a Gaussian target of precision A that is the law :math:`N(c,A^{-1}-T^2A)` at which
    BRWP (``ProximalScore``) rests. BRWP itself moves particles along :math:`-\nabla\log\frac{\rho_T}\pi` where they are, and is the
    flow of no function.

    Parameters
    ----------
    target : Measure
        :math:`\pi`, with ``log_prob`` (up to a constant, which the value is then off by); it is never drawn from.
    time : float
        T. For :math:`e^{-V/\tau}` as the target it is :math:`\tau` times the time of that potential and temperature, and the
        free energy :math:`\int V\rho_T+\tau\int\rho_T\log\rho_T` is :math:`\tau F`.
    normalizer : Normalizer, optional
        How the kernel's normalizer is found; a ``QuadraticPotential``, ``L1Potential`` or ``SeparablePotential`` that is
        :math:`-\log\pi` up to a constant. None takes that of a Gaussian target, and else shares the draws.
    draws : int or Tensor of shape (s, \*event)
        How many standard normal numbers, shared by all particles, a realization takes for means under the kernel; or fixed ones.
        A ``QuadratureNormalizer`` needs none.

    Raises
    ------
    BadInput
        For a target without a log density, or fixed draws of another shape than its points.

    Notes
    -----
    Cost: s n² kernel values and s n values of :math:`\log\pi`, twice that with the gradient; memory O(s n). A quadrature with k nodes costs
    2 k n. Means are exact draws for a ``QuadraticPotential`` and self-normalized ones, with a bias of order 1/s, for others. Differentiable
    once. The kernel formula is by Li, Liu and Osher (2023).

    Examples
    --------
    >>> import torch
    >>> F = ProximalKL(StandardNormal(1), 0.3, QuadraticPotential(torch.eye(1)))
    >>> rho = Particles(torch.tensor([[-1.0], [0.0], [1.0]]))
    >>> F.freeze(torch.Generator().manual_seed(0)).value(rho) < 0.1
    tensor(True)
    """

    target: Measure
    time: Positive
    normalizer: Normalizer | None = None
    draws: Count | Tensor = 32

    reference = ("li2023kernel", "tan2024noise")

    def __post_init__(self) -> None:
        if not self.target.has_density:
            raise BadInput(
                f"target={type(self.target).__name__}: a proximal step needs log_prob. Use Unnormalised or a Gaussian, or "
                "EnergyDistance, which needs samples only."
            )
        if isinstance(self.draws, Tensor) and (
            len(self.draws.shape) < 2 or len(self.draws) == 0 or self.draws.shape[1:] != self.target.event_shape
        ):
            shape = ", ".join(map(str, self.target.event_shape))
            raise BadInput(f"draws must be normal numbers (s, {shape}), s at least 1, got {tuple(self.draws.shape)}")

    @cached_property
    def step(self) -> WassersteinProximal:
        """The operator, of temperature 1."""
        rule = self.normalizer
        if rule is None and isinstance(self.target, Gaussian):
            rule = QuadraticPotential.towards(self.target)
        if isinstance(rule, ExactPotential):
            return WassersteinProximal(rule, self.time, temperature=1.0)
        return WassersteinProximal(_MinusLog(self.target), self.time, temperature=1.0, normalizer=rule)

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`\sum_jw_j\int K(x,x_j)\log\frac{\rho_T}{\pi}(x)\,dx`, differentiable once in ``rho.x`` and ``rho.log_w``."""
        if not isinstance(self.draws, Tensor):
            raise Unsupported("draw the normal numbers first: F.freeze(rng) returns the functional on fixed ones")
        step, noise = self.step, self.draws.to(rho.x)
        law = ProximalMixture(step, rho, step.log_mean(rho.x, noise if step.rule.draws else None))

        def log_ratio(x: Points) -> Tensor:
            return law.log_prob(x) - self.target.log_density(x)

        return rho.mean(step.expect(log_ratio, rho.x, noise))

    def freeze(self, rng: torch.Generator) -> Self:
        """Draw the normal numbers; fixed ones stay. The target is not drawn from."""
        if isinstance(self.draws, Tensor):
            return self
        shape = (self.draws, *self.target.event_shape)
        frozen = copy(self)
        object.__setattr__(frozen, "draws", torch.randn(shape, generator=rng, device=rng.device, dtype=torch.float64))
        return frozen

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "ProximalKL":
        """Return the one to a standard normal."""
        return cls(StandardNormal(*event_shape), 0.3, draws=4)


@dataclass(frozen=True, eq=False)
class _MinusLog:
    """The potential of a target."""

    target: Measure

    def __call__(self, x: Points) -> Tensor:
        return -self.target.log_density(x)
