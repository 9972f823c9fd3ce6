"""How the first variation of a functional is estimated."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wgflow.core.fields import Checked
from wgflow.core.instead import suggest
from wgflow.core.outputs import scalar
from wgflow.core.placing import Placed
from wgflow.core.registry import Registry
from wgflow.core.rng import build
from wgflow.core.typing import Info, NetSource, Points, Scalar
from wgflow.functionals import Functional
from wgflow.functionals.base import View, views_of
from wgflow.kernels import Kernel
from wgflow.kernels.densities import DensityModel
from wgflow.measures import Particles
from wgflow.measures.asked import take_points

ESTIMATORS: "Registry[Estimator]" = Registry("estimator")
register_estimator = ESTIMATORS.register
Draw = Callable[[torch.Generator], Particles]


class Estimator(Checked, Placed, ABC):
    r"""A scalar :math:`s(\rho)` with the derivatives of :math:`F`.

    :math:`\partial s/\partial w_i=\varphi_i` and :math:`\partial s/\partial x_i=w_i\nabla\varphi(x_i)`, where
    :math:`\varphi=\delta F/\delta\rho`. Configuration only; what changes is the state that :meth:`init` returns and the others are handed.

    Examples
    --------
    An estimator gives a surrogate; here the value itself, as :class:`Autograd` does.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> import wgflow as wg
    >>> @dataclass(frozen=True)
    ... class Value(wg.Estimator):
    ...     def surrogate(self, F, rho, es):
    ...         return F.value(rho)
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> Value().velocity(F, wg.Particles(torch.tensor([[1.0], [3.0]])), None).flatten()
    tensor([-1., -3.])
    """

    goes_to = "an estimator: give it to a solver, ForwardEuler(estimator)"
    needs: ClassVar[tuple[str, ...]] = ()
    """Methods of a functional, any one of which it relies on."""
    needs_samples: ClassVar[bool] = False
    """It can only use targets that can be drawn from."""
    splits_entropy: ClassVar[bool] = False
    """It takes :math:`F=E+T\\int\\rho\\log\\rho` apart and treats the entropy itself; of E it needs the value."""
    gives_potential: ClassVar[bool] = True
    """:meth:`gradient` returns a first variation as well as its gradient; False where only the gradient is known."""
    shows_law: ClassVar[bool] = False
    """Its surrogate asks a functional about the points as they come, with the law that they are drawn from."""
    is_function: ClassVar[bool] = True
    """The surrogate's gradient is the slope of its values, as a minimizer that searches along lines needs it."""
    needs_fresh_points: ClassVar[bool] = False
    """It compares with a second batch of the moving law, independent of the first."""
    pointwise: ClassVar[bool] = False
    """The velocity at a point depends on that point and the estimator's state alone."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        take_points(cls, Estimator)

    @classmethod
    def example(cls) -> "Estimator":
        """Return a tiny instance for the docs table, for points with two coordinates."""
        return cls()

    def refuses(self, F: Functional) -> str | None:
        """Return why this estimator cannot serve ``F`` and what to use instead, beyond what the class declares; or None."""
        return None

    def init(self, F: Functional, rng: torch.Generator) -> Any:
        """Return what changes: networks and optimizers; None for an estimator without any."""
        return None

    def refine(self, F: Functional, draw: Draw, es: Any, rng: torch.Generator) -> Info:
        r"""Improve the estimate at the current law, of which ``draw(rng)`` returns fresh batches."""
        return {}

    def imbalance(self, F: Functional, draw: Draw, es: Any, rng: torch.Generator) -> Tensor | None:
        """Return how far :meth:`refine` is from its end at the current law, from 0 (there) to 1; None with nothing to refine."""
        return None

    def sees(self, F: Functional) -> int | None:
        """Return how many points of the moving law :meth:`refine` must be shown; None where any number will do."""
        return None

    def velocities(self, F: Functional, rho: Particles, es: Any) -> list[tuple[View, Points]]:
        r"""Return the parts that ``F`` looks at separately (features, classes, terms), each with the velocity there, (B, n, \*event).

        Cloud by cloud, without gradient; an estimator that can overrides it to take all clouds at once.
        """
        parts = views_of(F, rho)
        return [(view, torch.stack([self.velocity(*one, es) for one in _clouds(view)])) for view in parts]

    def fit(self, rho: Particles) -> "Estimator":
        """Return the estimator with rules (a bandwidth) applied to ``rho`` and then held: a step minimizes one function."""
        return self

    @abstractmethod
    def surrogate(self, F: Functional, rho: Particles, es: Any) -> Scalar:
        """Return :math:`s`, a 0-d tensor differentiable in ``rho.x`` and ``rho.log_w``; ``F`` is frozen."""

    def gradient(self, F: Functional, rho: Particles, es: Any) -> tuple[Tensor, Points]:
        r"""Return :math:`\varphi` (n,), centered so that :math:`\sum_i w_i\varphi_i=0`, and :math:`\nabla\varphi` (n, \*event)."""
        rho = with_mass(rho)
        x = rho.x.detach().requires_grad_(True)
        log_w = (torch.zeros_like(rho.w) if rho.log_w is None else rho.log_w).detach().requires_grad_(True)
        s = self.surrogate(F, replace(rho, x=x, log_w=log_w), es)
        d_w, d_x = torch.autograd.grad(s, (log_w, x), materialize_grads=True)
        return _per_mass(d_w, rho), _per_mass(d_x, rho)

    def velocity(self, F: Functional, rho: Particles, es: Any) -> Points:
        r"""Return :math:`-\nabla\varphi` at the particles, shape (n, \*event)."""
        rho = with_mass(rho)
        x = rho.x.detach().requires_grad_(True)
        return _slope(self.surrogate(F, replace(rho, x=x), es), x, rho, -1.0)


take_points(Estimator, Estimator)
suggest(
    Estimator,
    (Kernel, "Wrap the kernel: Stein(kernel), KDEScore(kernel) or Blob(KernelDensity(kernel))"),
    (DensityModel, "Wrap the density model: Blob(density)"),
    (nn.Module, "Wrap the network: Critic(net)"),
    (Functional, "The functional goes first: solve(F, solver, initial, ...)"),
)


def _clouds(view: View) -> Iterator[tuple[Functional, Particles]]:
    for b in range(len(view.clouds)):
        F = view.functional.with_measures(lambda m, b=b: m[b])  # type: ignore[misc, index]
        p = view.clouds[b]
        yield F, replace(p, x=p.x.detach())


def pulled_back(parts: list[tuple[View, Points]]) -> Scalar:
    r"""Return a scalar whose Wasserstein gradient is minus the given velocities, each carried back to the points it is of."""
    total = []
    for view, v in parts:
        moved = ((view.clouds.x - view.clouds.x.detach()) * v.detach()).flatten(2).sum(2)
        total.append(-(view.weight * (view.clouds.w.detach() * moved).sum(1)).sum())
    return torch.stack(total).sum()


def with_mass(rho: Particles) -> Particles:
    r"""Return the particles with weights far enough from 0 that derivatives by a particle can be divided by its weight.

    Weights below :math:`\sqrt{\text{tiny}}` of the largest (1e-19 in float32, 1e-154 in float64) are raised to that. All of
    them together change no sum over particles, so the light ones see the law as it is, and every first variation at them
    keeps its digits. A weight of 0 stays.
    """
    if rho.log_w is None:
        return rho
    log_w = rho.log_w.detach()
    least = log_w.max() + math.log(torch.finfo(log_w.dtype).tiny) / 2
    return replace(rho, log_w=torch.where(log_w > -torch.inf, log_w.maximum(least), log_w))


def energy_slope(energy: Functional | None, rho: Particles) -> Points:
    r"""Return :math:`\nabla\frac{\delta E}{\delta\rho}` at the particles, (n, \*event), without gradient; 0 for no energy."""
    if energy is None:
        return torch.zeros_like(rho.x)
    rho = with_mass(rho)
    with torch.enable_grad():
        x = rho.x.detach().requires_grad_(True)
        value = scalar(energy.value(replace(rho, x=x)), x, f"{type(energy).__name__}.value")
    return _slope(value, x, rho, unused=True)


def linear(rho: Particles, slope: Points) -> Scalar:
    r"""Return a scalar whose Wasserstein gradient at the particles is ``slope`` (n, \*event), held fixed; its value is 0."""
    moved = rho.x - rho.x.detach()
    return (rho.w.detach() * (moved * slope.detach()).flatten(1).sum(1)).sum()


def _slope(s: Scalar, x: Points, rho: Particles, sign: float = 1.0, unused: bool = False) -> Points:
    """Differentiate in the points and divide by their weights; 0 where ``unused`` and nothing depends on them."""
    if rho.log_w is not None:
        return _per_mass(torch.autograd.grad(s, x, materialize_grads=unused)[0], rho, sign)
    # Equal weights are a factor of the scalar: large clouds are not gone through once more.
    (d_x,) = torch.autograd.grad(s, x, torch.full_like(s, sign * len(rho)), materialize_grads=unused)
    return d_x.contiguous()  # that of a sum is one number, seen everywhere


def _per_mass(derivative: Tensor, rho: Particles, sign: float = 1.0) -> Tensor:
    """Divide by the weights, in one pass; a particle without mass has no first variation here and gets 0."""
    if rho.log_w is None:
        return derivative * (sign * len(rho))
    w = rho.w.detach()
    inverse = torch.where(w > 0, sign / w, 0.0)
    return derivative * inverse.view(-1, *[1] * (derivative.dim() - 1))


class SlopeEstimator(Estimator):
    r"""An estimator that computes what stands for :math:`\nabla\frac{\delta F}{\delta\rho}` itself, and no scalar.

    Its surrogate is the linear function with that slope, and nothing is differentiated for a velocity.

    Examples
    --------
    Of :math:`\tfrac12E|x|^2` the slope is :math:`x`:

    >>> from dataclasses import dataclass
    >>> import torch
    >>> import wgflow as wg
    >>> @dataclass(frozen=True)
    ... class Position(wg.estimators.SlopeEstimator):
    ...     def slope(self, F, rho, es):
    ...         return rho.x
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> Position().velocity(F, wg.Particles(torch.tensor([[1.0], [3.0]])), None).flatten()
    tensor([-1., -3.])
    """

    gives_potential = False
    is_function = False

    @abstractmethod
    def slope(self, F: Functional, rho: Particles, es: Any) -> Points:
        r"""Return what stands for :math:`\nabla\frac{\delta F}{\delta\rho}` at the particles, (n, \*event), without gradient."""

    def surrogate(self, F: Functional, rho: Particles, es: Any) -> Scalar:
        """Return the linear function with this slope; its value is 0."""
        return linear(rho, self.slope(F, rho, es))

    def velocity(self, F: Functional, rho: Particles, es: Any) -> Points:
        r"""Return minus the slope, shape (n, \*event), in the bits that differentiating the surrogate has; 0 without mass."""
        rho = replace(with_mass(rho), x=rho.x.detach())
        slope = self.slope(F, rho, es).contiguous()
        if rho.log_w is None:
            return slope * (rho.w[:1] * -len(rho))
        return _per_mass(slope * rho.w.detach().view(-1, *[1] * (slope.dim() - 1)), rho, -1.0)


def build_pointwise(net: NetSource, rng: torch.Generator, what: str) -> nn.Module:
    """Build a network that stands for a function of one point; warns of batch normalization, which makes it one of the batch."""
    built = build(net, rng)
    names = {type(m).__name__ for m in built.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    if names:
        warnings.warn(
            f"the {what} has {', '.join(sorted(names))}: its value at a point depends on the rest of the batch, so that it is no "
            "function of points, and penalties and derivatives in them mean something else. Use LayerNorm, GroupNorm or "
            "spectral normalization",
            stacklevel=2,
        )
    return built
