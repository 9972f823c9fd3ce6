"""Exact optimal transport to samples: the squared 2-Wasserstein and the 1-Wasserstein distance."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import Unsupported
from wgflow.core.fields import Count
from wgflow.core.typing import Points, Scalar
from wgflow.functionals._clouds import comparable, weights
from wgflow.functionals.base import Functional, Potential, drawn, register_functional
from wgflow.functionals.penalties import GradientPenalty
from wgflow.measures import Measure, Particles, StandardNormal
from wgflow.numerics.cache import remember
from wgflow.numerics.distances import stacked_squares
from wgflow.numerics.exact_transport import Plan, assignment, distances, unit, weighted
from wgflow.numerics.once import Derivatives, differentiable_once
from wgflow.numerics.quantiles import LIGHT, Line, projected_cost

MAX_PAIRS = 2**24
"""Largest product of the counts of the two clouds in two or more dimensions, where costs are a dense matrix."""


@dataclass(frozen=True, eq=False)
class ExactTransport(Functional):
    r"""Exact transport to samples for the cost :math:`|x-y|^p`; see :class:`SquaredW2` and :class:`W1`.

    Parameters
    ----------
    target : Measure
        :math:`\nu`.
    batch : int, optional
        Target points in one realization, drawn anew in every step, by weight. By default all of a finite target and 256 draws of one with
        infinitely many (:class:`Functional`).

    Raises
    ------
    BadInput
        In two or more dimensions, for points or weights that are not finite.
    Unsupported
        In two or more dimensions, for more than 2²⁴ pairs (4096 against 4096).
    MissingDependency
        In two or more dimensions with unequal weights or counts, when POT is not installed (``wgflow[ot]``).
    """

    target: Measure
    batch: Count | None = None

    power: ClassVar[int]
    needs_samples = True
    reference: ClassVar[tuple[str, ...]] = ("peyre2019computational",)

    def value(self, rho: Particles) -> Scalar:
        """Return the cost of the optimal plan, 0-d, differentiable once in ``rho.x`` and ``rho.log_w``."""
        nu = comparable(rho, self.target)
        x, y = rho.x.flatten(1), nu.x.flatten(1)
        if x.shape[1] > 1:
            return _Exact.apply(x, weights(rho), y, weights(nu), self.power)
        target = remember("real line", (nu.x, nu.log_w), lambda: Line(y, weights(nu), torch.ones_like(y[:1])))
        return projected_cost(x, weights(rho), target, self.power, 1)

    @torch.no_grad()
    def remaining(self, rho: Particles) -> Tensor:
        """Return the distance (n,) of every particle to the nearest of its partners in the plan; infinite for one without weight."""
        nu = comparable(rho, self.target)
        x, y = rho.x.flatten(1), nu.x.flatten(1)
        rows, columns, mass = _pairs(x, weights(rho), y, weights(nu), self.power)
        whole = mass.new_zeros(len(x)).index_add_(0, rows, mass)
        rounding = (1e-6 * whole[rows]).clamp(max=1e-12)  # of a light particle all is little
        far = (x[rows] - y[columns]).norm(dim=1).masked_fill(mass <= rounding, torch.inf)
        return torch.full_like(x[:, 0], torch.inf).scatter_reduce(0, rows, far, "amin")

    @torch.no_grad()
    def prox(self, rho: Particles, h: float) -> Points:
        r"""Return :math:`y+s(x-y)` at the partners y of the plan that is optimal for the cost after the step.

        That cost is :math:`e(x,y)=\min_z|x-z|^2/2h+|z-y|^p`, for p = 1 Huber's function of the distance. On a line partners are
        quantiles, and for p = 1 the step is :math:`y+\operatorname{sgn}(x-y)(|x-y|-h)_+`.

        Raises
        ------
        Unsupported
            For weights, or unless the particles are as many as the target's points or a multiple of them: mass would split.
        """
        nu = comparable(rho, self.target)
        x, y = rho.x.flatten(1), nu.x.flatten(1)
        if rho.log_w is not None or nu.log_w is not None or len(x) % len(y):
            raise Unsupported(
                f"the implicit step of {type(self).__name__} keeps particles whole only for equal weights and a multiple of the "
                f"target's points: got {len(x)} particles and {len(y)} points. Use JKO(optim=LBFGS(), iters=1)."
            )
        if len(x) * len(x) > MAX_PAIRS and x.shape[1] > 1:
            raise Unsupported(f"an assignment of {len(x)} points is out of reach (at most {MAX_PAIRS} pairs)")
        y = y.repeat_interleave(len(x) // len(y), 0)
        if x.shape[1] == 1:
            partner = torch.empty_like(y).scatter_(0, x.argsort(0), y.sort(0)[0])
        else:
            u = unit(x, y)
            r, g = distances(x, y, u), h / u
            cost = r**2 if self.power == 2 else np.where(r <= g, r**2 / 2, g * (r - g / 2))
            partner = y[torch.from_numpy(assignment(cost, x.shape[1]).columns).to(y.device)]
        d = x - partner
        tiny = torch.finfo(d.dtype).tiny
        scale = (
            1 / (1 + 2 * h) if self.power == 2 else (1 - h / d.norm(dim=1, keepdim=True).clamp(min=tiny)).clamp(min=0)
        )
        return (partner + scale * d).view_as(rho.x)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> Self:
        """Return the distance to a standard normal."""
        return cls(StandardNormal(*event_shape), batch=16)


@register_functional("w2")
@dataclass(frozen=True, eq=False)
class SquaredW2(ExactTransport):
    r"""The squared 2-Wasserstein distance :math:`W_2^2(\rho,\nu)=\min_\pi\int|x-y|^2\,d\pi`, computed exactly.

    **No 1/2**: the usual flow is that of ``0.5 * SquaredW2(target)``. It follows the geodesic, an Euler step of size h going
    the fraction h of the way. Squares are summed over the coordinates of the flattened points.

    Parameters
    ----------
    target : Measure
        :math:`\nu`.
    batch : int, optional
        Target points in one realization, drawn anew in every step, by weight. By default all of a finite target and 256 draws of one with
        infinitely many (:class:`Functional`).

    Raises
    ------
    BadInput
        In two or more dimensions, for points or weights that are not finite.
    Unsupported
        In two or more dimensions, for more than 2²⁴ pairs (4096 against 4096).
    MissingDependency
        In two or more dimensions with unequal weights or counts, when POT is not installed (``wgflow[ot]``).

    Notes
    -----
    One dimension: quantiles, O((n + m) log(n + m)), any size. Otherwise on the CPU, to which points are copied: an
    assignment for equal weights and counts (below 8 coordinates by POT where installed, else by scipy, which is slower in few and
    faster in many), else a network simplex (POT); O(n³) and a dense (n, m) matrix, good up to some 2000 points. Costs are float64,
    in a unit of their own, and solved again where one far point has hidden the rest; a duality gap above 1e-6 of the value gives
    ``NotConverged``.

    Derivatives are those of the envelope theorem. In positions: :math:`w_i\nabla\varphi(x_i)=2\int(x_i-y)\,\pi(x_i,dy)` at the
    optimal plan; where there are several, at the one that the algorithm returns. In weights: a Kantorovich potential, which
    for equal weights and counts is not unique in more than one dimension; any of them is a subgradient.

    Peyré and Cuturi (2019), chapters 2 and 3.

    **By a critic** (W2-FE, Huang and Malik 2024) of any number of points in batches: :math:`E_\rho\varphi+E_\nu\varphi^c` with
    :math:`\varphi=-v` and the c-transform :math:`\varphi^c(y)=\min_z|z-y|^2-\varphi(z)` over the points of both batches. Its supremum
    is the exact value between the batches, whatever the critic; no second network and no penalty. Between batches the distance is
    larger than between the laws, by what a batch of points misses of them: a test bounds the error of the velocity between Gaussians
    in the plane by 15 % at batches of 64. The authors of W2-FE train two potentials with penalties.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> SquaredW2(Particles(x.flip(0) + 2.0)).value(Particles(x))
    tensor(8.)
    """

    power = 2
    reference = ("peyre2019computational", "huang2024generative")

    def variational(self, net: Potential, rho: Particles) -> Scalar:
        r"""Return :math:`E_\rho\varphi+E_\nu\varphi^c`, with the c-transform over the points of both batches."""
        nu = comparable(rho, self.target)
        y, least = nu.x.flatten(1)[None], []
        for p in (rho, nu):
            cost = stacked_squares(p.x.flatten(1)[None], y)[0]
            least.append((cost - self.witness(net(p.x))[:, None]).amin(0))
        return self.surrogate(net, rho) + nu.mean(torch.stack(least).amin(0))


@register_functional("w1")
@dataclass(frozen=True, eq=False)
class W1(ExactTransport):
    r"""The 1-Wasserstein distance :math:`W_1(\rho,\nu)=\min_\pi\int|x-y|\,d\pi`, computed exactly; Euclidean norm.

    Its flow moves mass along transport rays at unit speed and arrives in finite time. A particle that coincides with its
    partner gets no force, so that one that lands on it stays; a step of size h stops within h of it.

    Two ways to estimate it: ``Autograd`` goes by the optimal plan between batches, ``Critic`` trains a potential with
    :math:`W_1=\sup\{E_\nu v-E_\rho v:v\ \text{1-Lipschitz}\}`. A network obeys that by a penalty (``GradientPenalty()`` unless the critic
    says otherwise). With a ``Pushforward`` under ``ForwardEuler`` the second is W1-FE (Malik and Huang 2024), and WGAN with one
    regression step.

    Parameters
    ----------
    target : Measure
        :math:`\nu`.
    batch : int, optional
        Target points in one realization, drawn anew in every step, by weight. By default all of a finite target and 256 draws of one with
        infinitely many (:class:`Functional`).

    Raises
    ------
    BadInput
        In two or more dimensions, for points or weights that are not finite.
    Unsupported
        In two or more dimensions, for more than 2²⁴ pairs (4096 against 4096).
    MissingDependency
        In two or more dimensions with unequal weights or counts, when POT is not installed (``wgflow[ot]``).

    Notes
    -----
    Costs of the exact value are those of :class:`SquaredW2`. The optimal plan is often not unique, nor then the direction of a
    particle: the derivatives are those at the plan that the algorithm returns.

    Examples
    --------
    >>> import torch
    >>> W1(Particles(torch.tensor([[3.0, 4.0]]))).value(Particles(torch.zeros(1, 2)))
    tensor(5.)
    """

    power = 1
    reference = ("peyre2019computational", "malik2024differential", "arjovsky2017wasserstein")

    def conjugate(self, phi: Potential) -> Scalar:
        r"""Return :math:`E_\nu\varphi`: :math:`F^*` on 1-Lipschitz functions. Off them it is infinite, which a penalty stands for."""
        nu = drawn(self.target)
        return nu.mean(phi(nu.x))

    def critic_penalty(self) -> GradientPenalty:
        """Return the one-sided penalty on slopes above 1."""
        return GradientPenalty()


def _plan(x: Points, a: Tensor | None, y: Points, b: Tensor | None, p: int) -> tuple[Plan, np.ndarray, float, bool]:
    """Return the plan, its costs in powers of a unit, that unit, and whether the plan is an assignment."""
    if len(x) * len(y) > MAX_PAIRS:
        raise Unsupported(
            f"exact transport between {len(x)} and {len(y)} points in {x.shape[1]} dimensions is out of reach (at most "
            f"{MAX_PAIRS} pairs). Use SlicedWasserstein, SinkhornDivergence or fewer points"
        )
    u = unit(x, y)
    cost = distances(x, y, u) ** p
    equal = len(x) == len(y) and _are_equal(a) and _are_equal(b)
    return assignment(cost, x.shape[1]) if equal else weighted(cost, a, b), cost, u, equal


def _pairs(x: Points, a: Tensor | None, y: Points, b: Tensor | None, p: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return who is sent where by the optimal plan, indices of x and of y, and how much of the mass."""
    if x.shape[1] > 1:
        rows, columns, mass = (torch.from_numpy(part).to(x.device) for part in _plan(x, a, y, b, p)[0][:3])
        return rows, columns, mass
    orders, levels = [], []
    for points, w in ((x, a), (y, b)):
        order = points[:, 0].argsort(stable=True)
        mass = torch.ones_like(order, dtype=torch.float64) if w is None else w[order].double()
        orders.append(order)
        levels.append(mass.cumsum(0) / mass.sum())
    ends = torch.cat(levels).sort().values
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    i, j = (torch.searchsorted(level, (starts + ends) / 2).clamp(max=len(level) - 1) for level in levels)
    mass = ends - starts
    if a is not None:
        # A particle so light that its mass is no difference of levels goes to its own level, as its slope does.
        own = a[orders[0]].double() / a.sum(dtype=torch.float64)
        light = own < LIGHT
        i = torch.cat([i, torch.arange(len(own), device=i.device)])
        j = torch.cat([j, torch.searchsorted(levels[1], levels[0]).clamp(max=len(y) - 1)])
        mass = torch.cat([mass.masked_fill(light[i[: len(mass)]], 0.0), own.masked_fill(~light, 0.0)])
    return orders[0][i], orders[1][j], mass


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Points, a: Tensor | None, y: Points, b: Tensor | None, p: int) -> Scalar:
        plan, cost, u, equal = _plan(x, a, y, b, p)
        f = _assignment_potential(cost, plan.columns) if equal and ctx.needs_input_grad[1] else plan.potential
        rows, columns, w = (torch.from_numpy(k).to(x.device) for k in plan[:3])
        d = (x.detach()[rows].double() - y.detach()[columns].double()) / u
        length = d.norm(dim=1)
        slope = 2 * d if p == 2 else d / length.clamp(min=torch.finfo(d.dtype).tiny)[:, None]
        dx = (torch.zeros_like(x, dtype=d.dtype).index_add_(0, rows, w[:, None] * slope) * u ** (p - 1)).to(x)
        ctx.save_for_backward(x, a, dx, (torch.from_numpy(f) * u ** (p - 1) * u).to(x))
        return (w @ length**p * u ** (p - 1) * u).to(x)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        *_, dx, f = ctx.saved_tensors
        da = g * f if ctx.needs_input_grad[1] else None
        return g * dx, da, None, None, None


def _are_equal(w: Tensor | None) -> bool:
    return w is None or bool(((w - 1 / len(w)).abs() <= 8 * torch.finfo(w.dtype).eps / len(w)).all())


def _assignment_potential(cost: np.ndarray, j: np.ndarray) -> np.ndarray:
    r"""Potential on x of an optimal assignment: the middle of two extreme ones.

    Potentials are the solutions of :math:`f_i-f_k\le c_{ij(k)}-c_{kj(k)}`, whose lowest and highest ones below and above 0
    are shortest paths (Bellman and Ford).
    """
    excess = cost[:, j] - np.diagonal(cost[:, j])
    ends, typical = [], np.median(cost)  # not the largest cost: one far point must not stop the others
    for step in (excess, excess.T):
        f = np.zeros(len(cost))
        for _ in range(len(cost)):
            shorter = np.minimum(f, (f + step).min(1))
            if (np.abs(shorter - f) <= 1e-14 * np.maximum(np.abs(f), typical)).all():
                break
            f = shorter
        ends.append(f)
    return (ends[0] - ends[1]) / 2
