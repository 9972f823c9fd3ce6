"""The Sinkhorn divergence to samples."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from wgflow.core.context import full_precision
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Positive
from wgflow.core.inner import begun_with, carry, report
from wgflow.core.typing import Points, Scalar
from wgflow.functionals._clouds import comparable
from wgflow.functionals.base import Functional, register_functional
from wgflow.measures import Measure, Particles, Stack, StandardNormal
from wgflow.numerics.cache import remember
from wgflow.numerics.once import Derivatives, differentiable_once
from wgflow.numerics.sinkhorn import sinkhorn_divergence
from wgflow.numerics.sinkhorn_problem import Regularisation
from wgflow.numerics.sinkhorn_solver import Dual, dual_value, marginal, solve, solve_self, variation


@dataclass(frozen=True)
class SinkhornReport:
    r"""What :meth:`SinkhornDivergence.report` finds; every tensor without gradient.

    Attributes
    ----------
    value : Tensor, 0-d
        The functional.
    potential : Tensor, shape (n,)
        Its first variation at the particles, :math:`f_{\rho\nu}-f_{\rho\rho}` for hard marginals.
    gradient : Tensor, shape (n, \*event)
        The gradient of the first variation, :math:`T_{\rho\rho}(x)-T_{\rho\nu}(x)` for hard marginals.
    cross : Dual
        Solution between particles and target: potentials (1, n) and (1, m) in float64, sweeps, marginal error, whether converged.
    own, target : Dual or None
        Solutions of the two self terms; None without ``debias``.
    """

    value: Scalar
    potential: Tensor
    gradient: Points
    cross: Dual
    own: Dual | None
    target: Dual | None

    @property
    def converged(self) -> bool:
        """Whether every solution met the tolerance that was asked for."""
        return all(d.converged for d in (self.cross, self.own, self.target) if d is not None)

    @property
    def error(self) -> Tensor:
        """The largest marginal error (L1, of laws of mass 1) of the solutions, 0-d."""
        return torch.stack([d.error.amax() for d in (self.cross, self.own, self.target) if d is not None]).amax()


@register_functional("sinkhorn")
@dataclass(frozen=True, eq=False)
class SinkhornDivergence(Functional):
    r"""The Sinkhorn divergence: entropic transport without the bias of its entropy.

    .. math::
        S_\varepsilon(\rho,\nu) &= \mathrm{OT}_\varepsilon(\rho,\nu)-\tfrac12\mathrm{OT}_\varepsilon(\rho,\rho)
        -\tfrac12\mathrm{OT}_\varepsilon(\nu,\nu), \\
        \mathrm{OT}_\varepsilon(\rho,\nu) &= \min_\pi\int\tfrac12|x-y|^2d\pi+\varepsilon\,\mathrm{KL}(\pi|\rho\otimes\nu),
        \qquad\varepsilon=\text{blur}^2 .

    The cost is **half** the squared distance, summed over the coordinates: the value tends to :math:`\tfrac12W_2^2` as blur
    → 0, to half the squared distance of the means as blur → ∞, and a translation by :math:`t` costs
    :math:`\tfrac12|t|^2` at every blur. The flow's velocity is a difference of two barycentric maps,
    :math:`v=T_{\rho\nu}-T_{\rho\rho}`; that of the raw cost (``debias=False``) is :math:`T_{\rho\nu}-x`, which shrinks the law.

    Parameters
    ----------
    target : Measure
        :math:`\nu`.
    blur : float
        A length in the units of the flattened points. The same in all three terms, as it must be.
    reach : float, optional
        A length: with it marginals are soft, with penalty :math:`\text{reach}^2\,\mathrm{KL}` each, so that mass is hardly moved
        further (both laws still have mass 1).
    debias : bool
        Whether the two self terms are subtracted.
    tol : float
        Marginal error (L1, of laws of mass 1) at which iterations stop. It is the relative error of velocities; that of
        the value is its square. What rounding may add is counted in: some 4e-16 of (size / blur)², as potentials of float32
        points are float64 where the tolerance asks for it.
    max_iters : int
        Sweeps per term, after the warm-up. A tolerance that was not met gives ``NotConverged``, a warning with the error
        reached; inside of a flow ``sinkhorn/residual`` and ``sinkhorn/unconverged`` in its history and its status.
    backend : {"torch", "geomloss"}
        This package's solver, or geomloss at scaling 0.99: no tolerance, and gradients that are the worse
        the smaller the blur; for hard, debiased divergences only.
    batch : int, optional
        Target points in one realization, drawn anew in every step, by weight. By default all of a finite target and 256 draws of one with
        infinitely many (:class:`Functional`).

    Raises
    ------
    BadInput
        For lengths that are not positive or have no square, or options that geomloss' backend lacks.

    Notes
    -----
    Log-domain sweeps, n m exponentials each, with a warm-up at decreasing ε, over-relaxation, and Newton's method for small
    clouds whose blur is far below their spacing. The problem is solved in units of the blur, so results scale with the
    points; weights below 1e-30 count as 1e-30. Memory is O((n + m) d) beyond 2²⁴ pairs; below, a kernel is stored and
    sweeps become products, and from 8 coordinates on the inner products of all pairs are, so that few operations cost d: some 12
    bytes a pair at the most for float32 points, 24 for float64. With a
    ``tol`` of 1e-3 and above values are then made of these too, in single precision for float32 points. The
    target's own term is remembered while the batch stays the same. In a flow every time step begins with the potentials of the one
    before, which are part of its state; once they are no near start (a marginal error above 1/2, as of particles that are drawn anew
    or far steps at a fine blur) all later steps begin with the warm-up. Potentials are found without a graph;
    derivatives are those of the envelope theorem, in closed form, once differentiable, in positions and weights of
    the particles, not in the target. The device is waited for once every 10 sweeps, to test convergence.

    Feydy et al. (2019); unbalanced: Séjourné et al. (2019).

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    >>> shift = torch.tensor([0.6, 0.8], dtype=torch.float64)
    >>> F = SinkhornDivergence(Particles(x + shift), blur=0.5)
    >>> round(float(F.value(Particles(x))), 9)
    0.5
    """

    target: Measure
    blur: Positive
    reach: Positive | None = None
    debias: bool = True
    tol: Positive = 1e-6
    max_iters: Count = 2000
    backend: Literal["torch", "geomloss"] = "torch"
    batch: Count | None = None

    needs_samples = True
    reference = ("feydy2019interpolating", "sejourne2019sinkhorn")

    def __post_init__(self) -> None:
        for name, length in (("blur", self.blur), ("reach", self.reach)):
            if length is not None and not 1e-150 < length < 1e150:
                raise BadInput(f"{name}={length}: expected a length whose square is a number, 1e-150 to 1e150")
        if self.backend == "geomloss" and (self.reach is not None or not self.debias):
            raise BadInput(
                "backend='geomloss' is for hard, debiased divergences: leave reach and debias out, or use 'torch'"
            )

    @property
    def regularisation(self) -> Regularisation:
        """Coefficients of the entropy and of the marginals, and when to stop."""
        rho = None if self.reach is None else self.reach**2
        return Regularisation(self.blur**2, rho, self.tol, self.max_iters)

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`S_\varepsilon(\rho,\nu)`, 0-d, differentiable once in ``rho.x`` and ``rho.log_w``."""
        nu = comparable(rho, self.target)
        if self.backend == "geomloss":
            return sinkhorn_divergence(rho.x, nu.x, blur=self.blur, scaling=0.99, a=rho.w, b=nu.w)
        return _Divergence.apply(rho.x[None], rho.w[None], Stack.of(nu), self)[0]

    def values(self, clouds: Stack) -> Tensor:
        """Return the values at B clouds, (B,): all plans at once."""
        if self.backend == "geomloss":
            return super().values(clouds)
        return _Divergence.apply(clouds.x, clouds.w, self.target, self)

    def contrast(self, other: Particles) -> Functional:
        r"""Return the difference of the raw costs: the self terms of the particles cancel."""
        return Functional.contrast(replace(self, debias=False) if self.backend == "torch" else self, other)

    def report(self, rho: Particles) -> SinkhornReport:
        """Return value, potentials, sweeps and marginal errors at these particles, by this package's solver."""
        nu = comparable(rho, self.target)
        found = self._solve(rho.x.detach()[None], rho.w.detach()[None], Stack.of(nu))
        return replace(found, value=found.value[0], potential=found.potential[0], gradient=found.gradient[0])

    def _solve(self, points: Points, a: Tensor, nu: Stack, wants_x: bool = True) -> SinkhornReport:
        with torch.no_grad(), full_precision(points.device):
            reg, x, log_a = self.regularisation, points.flatten(2), _log_weights(a)
            y, log_b = nu.x.detach().flatten(2), _log_weights(nu.w.detach())
            name = f"sinkhorn {self.blur} {self.reach} {tuple(x.shape)}"
            start, own, target = begun_with(name), None, None
            cross = solve(x, log_a, y, log_b, reg, start if start is not None and start.numel() else None)
            # Potentials of other points, as of a batch that is drawn anew, are no start: that is found out once.
            carry(name, cross.f if start is None or cross.went_on else start[:, :0])
            value, potential = dual_value(cross, log_a, log_b, reg), variation(cross.f, reg)
            gradient = _slope(cross, reg) if wants_x else torch.empty_like(x)
            if self.debias:
                own = solve_self(x, log_a, reg, begun_with(f"{name} own") if cross.went_on else None)
                carry(f"{name} own", own.g)
                target = remember(("sinkhorn", reg), (nu.x, nu.log_w), lambda: solve_self(y, log_b, reg).alone())
                value = value - (dual_value(own, log_a, log_a, reg) + dual_value(target, log_b, log_b, reg)) / 2
                potential = potential - variation(own.f, reg)
                if wants_x:
                    gradient = gradient - _slope(own, reg)
        value, potential, gradient = (t.to(points) for t in (value, potential, gradient))
        own = None if own is None else own.alone()
        return SinkhornReport(value, potential, gradient.view_as(points), cross.alone(), own, target)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "SinkhornDivergence":
        """Return the divergence to a standard normal at blur 0.7."""
        return cls(StandardNormal(*event_shape), blur=0.7, batch=16)


def _slope(dual: Dual, reg: Regularisation) -> Tensor:
    """Gradient of the first variation: displacement times the mass moved per mass."""
    assert dual.problem is not None
    moved = dual.problem.displacement(dual.g / reg.eps)
    return moved if reg.rho is None else moved.mul_(marginal(dual.f, reg)[..., None])


def _log_weights(w: Tensor) -> Tensor:
    """Logarithms (B, n) in float64 of weights that sum to 1 as closely as their own precision allows."""
    log_w = w.double().log()
    return log_w - log_w.logsumexp(1, keepdim=True)


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Points, a: Tensor, nu: Stack, F: SinkhornDivergence) -> Tensor:
        found = F._solve(x.detach(), a.detach(), nu, ctx.needs_input_grad[0])
        report(
            "sinkhorn",
            found.error,
            F.tol,
            f"Increase blur ({F.blur:g}), tol or max_iters ({F.max_iters}): the residual is the error of a marginal (L1, of mass 1).",
        )
        ctx.save_for_backward(x, a, found.gradient, found.potential)
        return found.value

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, g: Tensor) -> Derivatives:
        _, a, gradient, potential = ctx.saved_tensors
        per_point = g.view(-1, *[1] * (gradient.dim() - 1)) * a.view(*a.shape, *[1] * (gradient.dim() - 2))
        dx = per_point * gradient if ctx.needs_input_grad[0] else None
        return dx, g[:, None] * potential if ctx.needs_input_grad[1] else None, None, None
