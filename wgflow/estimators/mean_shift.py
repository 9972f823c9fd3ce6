"""Attraction to data less repulsion by the moving law, by affinities: mean shifts and drifting fields."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from torch import Tensor

from wgflow.core.context import full_precision
from wgflow.core.errors import BadInput
from wgflow.core.fields import Decay
from wgflow.core.rules import Says
from wgflow.core.typing import Points, Scalar
from wgflow.estimators.base import pulled_back, register_estimator
from wgflow.estimators.opposed import Opposed, OpposedState
from wgflow.functionals import KL, Functional, Scaled, Wrapped
from wgflow.functionals.base import View, views_of
from wgflow.functionals.contrast import Contrast
from wgflow.kernels import RBF, Kernel
from wgflow.kernels.features import RadialKernel, at_one_place, check_positive_definite
from wgflow.measures import Particles, Stack
from wgflow.numerics.distances import stacked_squares


@register_estimator("mean_shift")
@dataclass(frozen=True)
class MeanShift(Opposed):
    r"""A direction of KL to samples: toward data that are near, away from near points of the moving law.

    .. math:: v(x)=\sum_jP^+_{ij}(y_j-x)-\sum_jP^-_{ij}(x'_j-x)

    with affinities P made of a kernel. **It is the gradient of no functional**: that the Jacobian :math:`\partial v_i/\partial x_j` is not
    symmetric says so, and is a test. What is unnormalized is one: the flow of an MMD, :class:`SquaredMMD`.

    Parameters
    ----------
    kernel : Kernel or callable
        The affinity of two points; or a function of the time step that returns one.
    normalized : {"rows", "sides", "joint"}
        ``rows``: each point shares itself out over a cloud, :math:`P_{ij}\propto k(x_i,y_j)`. With ``RBF(s)`` the velocity is
        :math:`s^2(\nabla\log\nu_s-\nabla\log\rho_s)` of the laws smoothed by s: KL's with both scores replaced by Parzen's.
        ``sides``: :math:`A=\sqrt{\text{row softmax}\cdot\text{column softmax}}` on either side, and :math:`P^+=A^+\sum_jA^-`,
        :math:`P^-=A^-\sum_jA^+` (Gretton et al. 2026). ``joint``: the same with rows normalized over both clouds together, Algorithm
        2 of Deng et al. (2026), with ``Laplace(T)``.
    own : bool
        Repelled by the other points of the batch itself, instead of an independent one: for ``Particles``, of which there is none.
    floor : float
        Least product of the two softmaxes; 1e-6 in the code that Deng et al. have published, where it couples all points, and is meant
        for some hundred points in high dimension. In the plane it turns the field into mean matching.

    Raises
    ------
    BadInput
        For a floor where rows are normalized, and a kernel that is not positive definite: an affinity falls with the distance.

    Notes
    -----
    In units of displacements: a step size of 1 is natural. For ``EvaluationNoise(MeanShift(RBF(s)), s)`` the mean of the velocity is the
    Wasserstein gradient of :math:`s^2\,\mathrm{KL}(\rho*N(0,s^2)\,|\,\nu*N(0,s^2))`. A bandwidth much below the distance of modes freezes
    their masses. Cost n m + n n' kernel values, all in memory.

    Examples
    --------
    Toward one datum, and from no other particle, the displacement is the whole way:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.KL(wg.Particles(torch.tensor([[3.0]])))
    >>> solver = wg.ForwardEuler(wg.MeanShift(wg.RBF(1.0), own=True))
    >>> wg.solve(F, solver, wg.Particles(torch.zeros(1, 1)), step_size=1.0, num_steps=1).measure.x
    tensor([[3.]])
    """

    kernel: Annotated[
        RadialKernel | Callable[[int], Kernel], Says("a kernel, or a function of the step that returns one")
    ]
    normalized: Literal["rows", "sides", "joint"] = "rows"
    own: bool = field(default=False, kw_only=True)
    floor: Decay = field(default=0.0, kw_only=True)
    _rules_at: Particles | None = field(default=None, kw_only=True, repr=False)

    gives_potential = False
    is_function = False
    reference = ("deng2026drifting", "gretton2026drifting")

    def __post_init__(self) -> None:
        if self.floor and self.normalized == "rows":
            raise BadInput(f"floor={self.floor} is of products of two softmaxes: leave it out with normalized='rows'")
        if isinstance(self.kernel, Kernel):
            check_positive_definite(type(self), self.kernel)

    @property
    def needs_fresh_points(self) -> bool:  # type: ignore[override]
        """Unless a batch repels itself."""
        return not self.own

    @property
    def pointwise(self) -> bool:  # type: ignore[override]
        """Where rows are normalized, the points that repel are others, and no rule looks at all points for a bandwidth.

        A function of the step may return a rule at any step.
        """
        return (
            self.normalized == "rows" and not self.own and isinstance(self.kernel, Kernel) and not _is_rule(self.kernel)
        )

    @classmethod
    def example(cls) -> "MeanShift":
        """Return a tiny instance."""
        return cls(RBF(1.0))

    def sees(self, F: Functional) -> int | None:
        """As many as of the data, where an independent batch is used."""
        return None if self.own else super().sees(F)

    def refuses(self, F: Functional) -> str | None:
        """Refuse functionals other than KL, which it is a direction of."""
        inner = F
        while isinstance(inner, Wrapped):
            inner = inner.term
        if isinstance(inner, KL) and not (isinstance(F, Scaled) and F.c < 0):
            return None
        return (
            f"MeanShift is a direction of KL to samples, and not of {type(F).__name__}. Use KL(target), or Autograd() or TwoBatch() "
            "for a distance to samples."
        )

    def surrogate(self, F: Functional, rho: Particles, es: OpposedState) -> Scalar:
        """Return the linear function with this velocity."""
        return pulled_back(self.velocities(F, rho, es))

    def velocities(self, F: Functional, rho: Particles, es: OpposedState) -> list[tuple[View, Points]]:
        """Return the drift in every view, of all clouds at once."""
        own = Particles(rho.x.detach(), None if rho.log_w is None else rho.log_w.detach()) if self.own else es.second
        if own is None:
            raise BadInput("MeanShift has no second batch yet: call refine(F, draw, state, rng) first, as solvers do")
        against = F.contrast(self.repelling(own, es))
        views, kernel = views_of(against, rho), self._kernel(max(es.k, 0))
        at = views if self._rules_at is None or not _is_rule(kernel) else views_of(against, self._rules_at)
        kernels = [kernel.fit(pool.x.detach(), pool.log_w) for pool in (view.clouds.pooled() for view in at)]
        return [(view, self._drift(k, view, len(own))) for view, k in zip(views, kernels, strict=True)]

    def fit(self, rho: Particles) -> "MeanShift":
        """Hold the points at which a bandwidth that is a rule is found, in every view of them; itself when there is none."""
        if isinstance(self.kernel, Kernel) and not _is_rule(self.kernel):
            return self
        return replace(self, _rules_at=Particles(rho.x.detach(), rho.log_w))

    def _kernel(self, k: int) -> Kernel:
        return self.kernel if isinstance(self.kernel, Kernel) else self.kernel(k)

    def _drift(self, kernel: Kernel, view: View, own: int) -> Points:
        pair = view.functional
        assert isinstance(pair, Contrast)
        positive, negative, clouds = pair.data(), pair.other.data(), view.clouds
        assert isinstance(positive, Stack)
        assert isinstance(negative, Stack)
        with torch.no_grad(), full_precision(clouds.device):
            x, y, z = (s.x.detach().flatten(2) for s in (clouds, positive, negative))
            near, away = (kernel.log_profile(stacked_squares(x, other)) for other in (y, z))
            if self.own:
                away.diagonal(dim1=1, dim2=2)[:, :own] = -torch.inf
            centre = y.mean(1, keepdim=True)
            repelling = self._repelling(negative, clouds)
            v = self._shift(
                near, positive.log_weights, away, repelling, clouds.log_weights, x - centre, y - centre, z - centre
            )
        return v.view_as(clouds.x)

    def _repelling(self, negative: Stack, clouds: Stack) -> Tensor:
        """Return logarithms (B, m) of weights in units of the moving law's; a batch that repels itself comes first."""
        log = negative.log_weights
        if self.negatives is None:
            return log
        log = log + math.log(self.negatives.alpha)
        if not self.own:
            return log
        # A point does not repel itself: of n points n - 1 do, and what is mixed in counts against those, in every class by itself.
        n = (clouds.log_weights > -torch.inf).sum(1, keepdim=True)
        mixed_in = torch.arange(log.shape[1], device=log.device) >= n
        return torch.where(mixed_in, log + ((n - 1) / n).to(log).log(), log)

    def _shift(
        self, near: Tensor, b: Tensor, away: Tensor, c: Tensor, a: Tensor, x: Tensor, y: Tensor, z: Tensor
    ) -> Tensor:
        """Return the drift from logarithms of kernels (B, n, m) and of weights, of y and z (B, m) and of x (B, n)."""
        rows = [near + b[:, None], away + c[:, None]]
        if self.normalized == "rows":
            to, off = (_shares(row, 2).exp() for row in rows)
            return to @ y - off @ z - (1 - off.sum(2, keepdim=True)) * x  # the last where nothing repels
        if self.normalized == "joint":
            shares = _shares(torch.cat(rows, 2), 2).split([y.shape[1], z.shape[1]], 2)
        else:
            shares = tuple(_shares(row, 2) for row in rows)
        columns = [_shares(log + a[..., None], 1) for log in (near, away)]
        to, off = (self._affinity(row + column) for row, column in zip(shares, columns, strict=True))
        return off.sum(2, keepdim=True) * (to @ y) - to.sum(2, keepdim=True) * (off @ z)

    def _affinity(self, log: Tensor) -> Tensor:
        return (0.5 * log).exp() if self.floor == 0 else log.exp().clamp(min=self.floor).sqrt()


def _is_rule(kernel: Kernel) -> bool:
    return at_one_place(kernel) is not kernel


def _shares(log: Tensor, dim: int) -> Tensor:
    """Logarithms of shares that sum to 1; of nothing, as of the other points where there is one only, all are 0."""
    return torch.where((log == -torch.inf).all(dim, keepdim=True), log, log.log_softmax(dim))
