r"""Noisy discretizations: the entropy part of :math:`F=E+T\int\rho\log\rho` is Brownian motion, never estimated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wgflow.core.typing import Info, Points
from wgflow.estimators import Autograd, Estimator
from wgflow.functionals import Functional
from wgflow.functionals.base import Potential
from wgflow.functionals.linear import linear_part
from wgflow.measures import MovingMeasure, Particles
from wgflow.solvers.base import Solver, State, advance, register_solver
from wgflow.solvers.explicit import Explicit, squared_speed

_FEW = 0.01


@register_solver("langevin")
@dataclass(frozen=True)
class Langevin(Explicit):
    r"""The Euler-Maruyama scheme of the flow of :math:`F=E+T\int\rho\log\rho`, taken apart by ``split_entropy``.

    .. math:: x\leftarrow x-h\,\nabla\frac{\delta E}{\delta\rho}(x)+\sqrt{2hT}\,\xi,\qquad\xi\sim N(0,I).

    With KL to an unnormalized density this is the unadjusted Langevin algorithm; with an interaction energy the
    McKean-Vlasov particle system. Without an entropy part (T = 0) it is forward Euler, to the last bit. Order 1 in law.

    Parameters
    ----------
    estimator : Estimator
        How the first variation of E is found; the entropy is left to the noise.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    Cost: one gradient of E and n d normal numbers a step. The stationary law is biased: for a quadratic potential with
    Hessian A it has covariance :math:`T[A(I-hA/2)]^{-1}`. Stable for :math:`h\lambda_{max}(A)<2`. ``MetropolisLangevin`` has no bias.

    Examples
    --------
    For N(0, 1) the stationary variance is :math:`1/(1-h/2)`, 4/3 at :math:`h=\tfrac12`:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.zeros(20_000, 1))
    >>> flow = wg.solve(wg.KL(wg.StandardNormal(1)), wg.Langevin(), start, step_size=0.5, num_steps=20)
    >>> round(flow.measure.x.var().item(), 1)
    1.3
    """

    order = 1
    needs_tracked_points = True
    splits_entropy = True
    reference = ("roberts1996exponential",)

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> State:
        """Return the state before the first step; the estimator is made for E."""
        energy, _ = F.split_entropy()
        es = None if energy is None else self.estimator.init(energy, rng)
        return State(measure.start(rng), 0, 0.0, rng, es)

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        r"""Complete one time step; reports the mean squared drift :math:`E|\nabla\frac{\delta E}{\delta\rho}|^2`."""
        energy, temperature = F.at(state.k, state.t).split_entropy()
        info: Info = {}
        if energy is not None:
            energy, info = self.realise(energy, state)

        def move(p: Particles) -> Points:
            x = p.x
            if energy is not None:
                v = self.estimator.velocity(energy, p, state.estimator)
                info["langevin/drift"] = squared_speed(p, v)
                x = (h * v).add_(x)
            return normal_like(x, state.rng).mul_(math.sqrt(2 * h * temperature)).add_(x) if temperature else x

        return advance(state, state.measure.follow(move, state.rng), h), info


@register_solver("mala")
@dataclass(frozen=True)
class MetropolisLangevin(Solver):
    r"""The Metropolis-adjusted Langevin algorithm: exact for :math:`\pi\propto e^{-V/T}` at every step size.

    For :math:`F=\int V\,d\rho+T\int\rho\log\rho`, such as KL to a target with ``log_prob``. Every particle proposes a Langevin
    step :math:`y=x-h\nabla V(x)+\sqrt{2hT}\,\xi` and takes it with probability

    .. math:: \min\Bigl\{1,\exp\Bigl(\frac{V(x)-V(y)}T+\frac{|y-x+h\nabla V(x)|^2-|x-y+h\nabla V(y)|^2}{4hT}\Bigr)\Bigr\}.

    Parameters
    ----------
    estimator : Estimator
        Only ``Autograd`` will do: the proposal must be the gradient of V itself, whatever the other particles.

    Notes
    -----
    Cost: two gradients and two values of V a step. Where the proposal or its density is not finite it is refused. An acceptance rate of
    0.57 is best in many dimensions (Roberts and Rosenthal 1998); a run that ends below 0.01 on average gives a
    ``RuntimeWarning``. A flow in time only as h goes to 0. Particles must start where the density is positive.

    Examples
    --------
    For N(0, 1) the variance is 1 whatever the step size, where ``Langevin`` has 4/3:

    >>> import torch
    >>> import wgflow as wg
    >>> start = wg.Particles(torch.zeros(20_000, 1))
    >>> flow = wg.solve(wg.KL(wg.StandardNormal(1)), wg.MetropolisLangevin(), start, step_size=0.5, num_steps=20)
    >>> round(flow.measure.x.var().item(), 1)
    1.0
    """

    estimator: Estimator = field(default_factory=Autograd)

    needs_tracked_points = True
    splits_entropy = True
    reference = ("roberts1996exponential", "roberts1998optimal")

    def refuses(self, F: Functional) -> str | None:
        """Refuse what is not a potential energy with an entropy, and an estimator that goes by the other particles."""
        if _potential(F)[0] is None:
            return (
                f"MetropolisLangevin needs a potential energy plus an entropy, such as KL to a target with log_prob, and "
                f"{type(F).__name__} is not one. Use Langevin({type(self.estimator).__name__}(...))."
            )
        if "value" not in self.estimator.needs or not self.estimator.gives_potential:
            return (
                f"MetropolisLangevin proposes by the gradient of the potential itself, and {type(self.estimator).__name__} "
                "estimates another one. Use MetropolisLangevin(Autograd())."
            )
        return None

    def remark(self, history: Sequence[dict[str, Any]]) -> str | None:
        """Warn of a run in which hardly any proposal was accepted."""
        shares = [row["mala/acceptance"] for row in history if "mala/acceptance" in row]
        mean = sum(shares) / max(len(shares), 1)
        if not shares or mean >= _FEW:
            return None
        return (
            f"MetropolisLangevin accepted {mean:.2%} of the proposals of {len(shares)} steps: the particles have hardly moved. Take "
            "a smaller step_size; an acceptance (mala/acceptance) of 0.57 is best in many dimensions."
        )

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Complete one time step; reports the share of the mass that accepted its proposal (``mala/acceptance``)."""
        potential, temperature = _potential(F.at(state.k, state.t), state.rng)
        assert potential is not None, "why_not() asks for one"
        info: Info = {}

        def move(p: Particles) -> Points:
            v0, slope0 = value_and_slope(potential, p.x)
            y = p.x - h * slope0 + math.sqrt(2 * h * temperature) * normal_like(p.x, state.rng)
            v1, slope1 = value_and_slope(potential, y)
            forth, back = (y - p.x + h * slope0), (p.x - y + h * slope1)
            gap = (forth.square() - back.square()).flatten(1).sum(1)
            log_ratio = (v0 - v1) / temperature + gap / (4 * h * temperature)
            u = torch.rand(len(p), generator=state.rng, device=p.device, dtype=p.x.dtype)
            # False where the ratio is not a number; from an infinite density there would be no way back.
            accept = (u.log() < log_ratio) & (v1 > -math.inf)
            info["mala/acceptance"] = p.mean(accept.to(p.x.dtype))
            return torch.where(accept.view(-1, *[1] * (p.x.dim() - 1)), y, p.x)

        return advance(state, state.measure.follow(move, state.rng), h), info


def normal_like(x: Tensor, rng: torch.Generator) -> Tensor:
    """Draw standard normal numbers of the shape and dtype of ``x``."""
    return torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)


def _potential(F: Functional, rng: torch.Generator | None = None) -> tuple[Potential | None, float]:
    """Return V, of one realization where ``rng`` is given, and T; None for V where F is not a potential energy plus an entropy."""
    energy, temperature = F.split_entropy()
    if energy is None or temperature == 0:
        return None, temperature
    return linear_part(energy if rng is None else energy.freeze(rng)), temperature


def value_and_slope(potential: Potential, x: Points) -> tuple[Tensor, Points]:
    """Return a potential at points, (n,), and its gradient there, (n, *event)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        v = potential(x)
        (slope,) = torch.autograd.grad(v.sum(), x)
    return v.detach(), slope
