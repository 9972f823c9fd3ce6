r"""Entropic optimal transport in the log domain, several problems at once, to a tolerance.

.. math:: \mathrm{OT}_\varepsilon(\alpha,\beta)=\max_{f,g}\ \langle\alpha,f\rangle+\langle\beta,g\rangle
   -\varepsilon\langle\alpha\otimes\beta,\ e^{(f\oplus g-C)/\varepsilon}-1\rangle,\qquad C=\tfrac12|x-y|^2,

and, with soft marginals, :math:`\rho\langle\alpha,1-e^{-f/\rho}\rangle` for :math:`\langle\alpha,f\rangle`, likewise for g.
Clouds are (B, n, d) with log weights (B, n). Nothing here keeps a graph, and beyond a few million pairs nothing of their
number is stored.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wgflow.numerics.sinkhorn_problem import EVERY, NEWTON, Look, Problem, Regularisation

NEAR = 0.5
"""Marginal error up to which a given potential is a start: the warm-up would lead nearer than a larger one."""


@dataclass(frozen=True)
class Dual:
    r"""Potentials at convergence.

    Attributes
    ----------
    f, g : Tensor, shapes (B, n) and (B, m)
        Potentials, float64, the best that were found; ``f`` is the exact update of ``g``, so the first marginal is exact.
    iterations : int
        Sweeps at the final ``eps``.
    error : Tensor, shape (B,)
        What the tolerance was compared with, an estimate of rounding included; infinite where nothing was found.
    converged : bool
        Whether the tolerance that was asked for was met by every problem of the batch.
    exponents : torch.dtype
        What costs had to be computed in.
    went_on : bool
        Whether the potential that was given was a start.
    problem : Problem or None
        What was solved, with the products of its points where they are kept; :meth:`alone` lets go of it.
    """

    f: Tensor
    g: Tensor
    iterations: int
    error: Tensor
    converged: bool
    exponents: torch.dtype
    went_on: bool
    problem: Problem | None

    def alone(self) -> "Dual":
        """Return the potentials without what they were found from, whose size is that of all pairs."""
        return replace(self, problem=None)


def solve(x: Tensor, log_a: Tensor, y: Tensor, log_b: Tensor, reg: Regularisation, start: Tensor | None = None) -> Dual:
    """Alternate updates: a warm-up at decreasing ``eps``, then over-relaxed until the tolerance.

    Parameters
    ----------
    x, y : Tensor, shapes (B, n, d) and (B, m, d)
        Points.
    log_a, log_b : Tensor, shapes (B, n) and (B, m)
        Logarithms of weights that sum to 1; -inf for none.
    start : Tensor, shape (B, n), optional
        A potential on x of a problem near this one. Where it is not near, the warm-up is made after all.

    Notes
    -----
    Without the warm-up a small ``eps`` is frozen: potentials must travel the diameter by steps of ``eps``. The relaxation
    is that of Young's theory from the rate observed between tests (Lehmann, von Renesse, Sambale and Uschmajew 2022).
    Where ``eps`` is far below the spacing of the points sweeps hardly arrive; after every 2m of them (50 at least) Newton's
    method is tried, down a path of ``eps``.
    """
    problem, last = Problem(x, log_a, y, log_b, reg), reg.max_iters
    f, g = problem.start(), torch.zeros_like(problem.log_b)
    eps = problem.diameter
    longest = math.ceil(math.log2(eps)) if 1 < eps < math.inf else 0
    ratio = 2 if problem.pairs is None else 4  # in many coordinates distances are alike, and few stations do
    while start is None and 1 < eps < math.inf:
        g = problem.to_g(f, eps)
        f, g = problem.balanced(problem.to_f(g, eps), g)
        eps /= ratio
    if start is not None:
        g = problem.to_g(start.to(f) / reg.eps)
        f, g = problem.balanced(problem.to_f(g), g)

    omega = most = torch.ones_like(problem.measured)[:, None]
    most, since, before, due, halvings = 2 * most, torch.zeros_like(omega), None, 0, min(5, longest)
    pause = turn = EVERY * max(5, g.shape[1] // 5)
    for k in range(last + 1):
        new = problem.to_g(f)
        if k in (due, last):
            look = problem.test(f, g, new)
            if k == 0 and start is not None and not bool((problem.measured <= NEAR).all()):
                return solve(x, log_a, y, log_b, reg)
            if k == last or look is Look.OVER:
                break
            f, g, new, lost = problem.safeguarded(f, g, new)
            soon = k == 0 and (problem.pairs is not None or start is not None)  # a few sweeps do
            due = k + (EVERY // 3 if soon else EVERY if look is Look.GOING else 2)
            most = torch.where(lost & (omega > 1), (1 + omega) / 2, most)
            if k >= turn and reg.rho is None and problem.small and g.shape[1] <= NEWTON:
                g = problem.follow(new, halvings)
                # Later from farther away, and no more once that was the diameter.
                turn, halvings = k + pause if halvings < longest else last, min(2 * halvings, longest)
                f, before, omega = problem.to_f(g), None, torch.ones_like(omega)
                continue
            if before is not None:
                old, aged = omega, k - since >= 2 / (2 - omega)
                omega = torch.where(
                    aged, _relaxation(omega, (problem.measured[:, None] / before) ** (1 / EVERY)), omega
                )
                since = torch.where(omega == old, since, k)
            omega = torch.where(lost, 1.0, torch.minimum(omega, most))
            before = problem.measured[:, None] if look is Look.GOING and not soon else None
        g = g + omega * (new - g)
        f, g = problem.balanced(f + omega * (problem.to_f(g) - f), g)
    return _dual(problem, k, reg, start)


def solve_self(x: Tensor, log_a: Tensor, reg: Regularisation, start: Tensor | None = None) -> Dual:
    """Solve between a cloud and itself: averaged updates halve the error at least, so no warm-up is needed."""
    problem, last = Problem(x, log_a, x, log_a, reg), reg.max_iters
    g, due = torch.zeros_like(problem.log_a) if start is None else start.to(problem.log_a) / reg.eps, 0
    for k in range(last + 1):
        new = problem.to_f(g)
        if k in (due, last):
            look = problem.test(g, g, new)
            if k == last or look is Look.OVER:
                break
            _, g, new, _ = problem.safeguarded(g, g, new)
            due = k + (EVERY // 2 if look is Look.GOING and k else 2)  # soon calm enough for a kernel
        g = (g + new) / 2
    return _dual(problem, k, reg, start)


def _dual(problem: Problem, k: int, reg: Regularisation, start: Tensor | None) -> Dual:
    """Return the best potentials: ``g`` the second marginal's update, and ``f`` its own."""
    new, converged = problem.best[-1], bool((problem.error <= reg.tol).all())
    if not converged:
        # The best potentials may be far from those that it is taken at, and its sums 0 or infinite.
        problem.kernel = None
    f, kind = problem.precisely(new) * reg.eps, problem.kind.exponents
    return Dual(f, new * reg.eps, k, problem.error, converged, kind, start is not None, problem)


def _relaxation(omega: Tensor, rate: Tensor) -> Tensor:
    r"""Next over-relaxation from the observed rate per sweep.

    For two blocks whose plain sweep contracts by :math:`\eta` the rate under :math:`\omega` solves
    :math:`(\lambda+\omega-1)^2=\lambda\omega^2\eta`, and the best :math:`\omega` is :math:`2/(1+\sqrt{1-\eta})`.
    """
    eta = ((rate + omega - 1) ** 2 / (rate * omega**2)).clamp(0, 1 - 1e-4)
    best = 2 / (1 + (1 - eta).sqrt())
    best = torch.where(rate > omega - 1, torch.maximum(best, omega), omega)
    return torch.where(rate < 1, best, 1 + 0.9 * (omega - 1))  # it may rise for a while when omega is large


def dual_value(dual: Dual, log_a: Tensor, log_b: Tensor, reg: Regularisation) -> Tensor:
    r"""Return :math:`\mathrm{OT}_\varepsilon`, shape (B,): second-order accurate in the error of the potentials.

    ``f`` being the update of ``g``, the mass of the plan is :math:`\langle\alpha,1\rangle`, or
    :math:`\langle\alpha,e^{-f/\rho}\rangle` with soft marginals.
    """
    a, b = log_a.exp(), log_b.exp()
    if reg.rho is None:
        return (a * dual.f).sum(1) + (b * dual.g).sum(1)
    part = (a * -torch.expm1(-dual.f / reg.rho)).sum(1) * (reg.rho + reg.eps)
    return part + (b * -torch.expm1(-dual.g / reg.rho)).sum(1) * reg.rho


def variation(f: Tensor, reg: Regularisation) -> Tensor:
    """Return the derivative of the value in the weights."""
    return f if reg.rho is None else -(reg.rho + reg.eps) * torch.expm1(-f / reg.rho)


def marginal(f: Tensor, reg: Regularisation) -> Tensor:
    """Return the mass of the plan on every point, over its weight."""
    return torch.ones_like(f) if reg.rho is None else torch.exp(-f / reg.rho)
