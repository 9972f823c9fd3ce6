r"""Entropic optimal transport in the log domain, several problems at once, to a tolerance.

.. math:: \mathrm{OT}_\varepsilon(\alpha,\beta)=\max_{f,g}\ \langle\alpha,f\rangle+\langle\beta,g\rangle
   -\varepsilon\langle\alpha\otimes\beta,\ e^{(f\oplus g-C)/\varepsilon}-1\rangle,\qquad C=\tfrac12|x-y|^2,

and, with soft marginals, :math:`\rho\langle\alpha,1-e^{-f/\rho}\rangle` for :math:`\langle\alpha,f\rangle`, likewise for g.
Clouds are (B, n, d) with log weights (B, n). Nothing here keeps a graph, and beyond a few million pairs nothing of their
number is stored.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow._softmin import exp_, logits, rows, softmin, span

STORED_CPU, STORED_CUDA = 2**23, 2**28
"""Pairs up to which the kernel is stored while the iteration closes in; beyond, nothing of that size ever is."""
EVERY = 10
"""Sweeps between two tests of convergence, each of which waits for the device."""
NEWTON, NEWTON_STEPS, RIDGE = 1024, 30, 1e-10
"""Newton's method: its largest second cloud (a step costs the cube), steps, and what is added, relatively, to the diagonal.

For fine ``eps`` plans fall into components, which exchange nothing that the numbers can resolve."""


@dataclass(frozen=True)
class Regularisation:
    """Strength of the entropy and of the marginals, and when to stop.

    Parameters
    ----------
    eps : float
        The coefficient of the entropy.
    rho : float, optional
        The coefficient of the marginals' KL; None for hard marginals.
    tol : float
        Largest sum over a marginal of the relative changes that another sweep would make (the marginal's L1 error, for hard
        ones); never below what the precision of the numbers can resolve.
    max_iters : int
        Sweeps at ``eps``, after the warm-up.
    """

    eps: float
    rho: float | None = None
    tol: float = 1e-6
    max_iters: int = 2000

    def damp(self, eps: float) -> float:
        """Return the factor of an update under soft marginals."""
        return 1.0 if self.rho is None else self.rho / (self.rho + eps)


@dataclass(frozen=True)
class Dual:
    r"""Potentials at convergence.

    Attributes
    ----------
    f, g : Tensor, shapes (B, n) and (B, m)
        Potentials; ``f`` is the exact update of ``g``, so the first marginal is exact.
    iterations : int
        Sweeps at the final ``eps``.
    error : Tensor, shape (B,)
        What the tolerance was compared with.
    converged : bool
        Whether it was met by every problem of the batch.
    """

    f: Tensor
    g: Tensor
    iterations: int
    error: Tensor
    converged: bool


class _Problem:
    """The two updates of one pair of clouds: block by block, or by a stored kernel once the potentials hardly move."""

    def __init__(self, x: Tensor, log_a: Tensor, y: Tensor, log_b: Tensor, reg: Regularisation) -> None:
        centre = y.mean(1, keepdim=True)
        self.x, self.y, self.log_a, self.log_b, self.reg = x - centre, y - centre, log_a, log_b, reg
        self.size = torch.maximum(self.x.square().sum(2).amax(1), self.y.square().sum(2).amax(1))
        # Exponents are of the order of size / eps, and so is their rounding error.
        self.tol = (8 * torch.finfo(x.dtype).eps * (1 + self.size / reg.eps)).clamp(min=reg.tol)
        self.kernel: Tensor | None = None
        self.at = (log_a, log_b)  # potentials that the kernel was taken at

    def to_f(self, g: Tensor, eps: float) -> Tensor:
        """Return the potential on x that ``g`` gives."""
        if self.kernel is None:
            return self.reg.damp(eps) * softmin(eps, self.x, self.y, self.log_b + g / eps)
        mass = self.kernel @ (self.log_b + (g - self.at[1]) / eps).exp()[..., None]
        return self.reg.damp(eps) * (self.at[0] - eps * mass[..., 0].log())

    def to_g(self, f: Tensor, eps: float) -> Tensor:
        """Return the potential on y that ``f`` gives."""
        if self.kernel is None:
            return self.reg.damp(eps) * softmin(eps, self.y, self.x, self.log_a + f / eps)
        mass = (self.log_a + (f - self.at[0]) / eps).exp()[:, None] @ self.kernel
        return self.reg.damp(eps) * (self.at[1] - eps * mass[:, 0].log())

    def test(self, f: Tensor, g: Tensor, new: Tensor) -> tuple[Tensor, bool]:
        """Return the error (B,) of ``g``, whose update is ``new``, and whether it is above the tolerance anywhere.

        A sweep never makes a change larger (softmin is a contraction of the maximum norm), so when the last one was
        small the next few stay within the range of an exponential, and products with a kernel can replace sums of
        exponentials of all pairs: the same numbers, several times as fast.
        """
        eps, far = self.reg.eps, self.reg.eps * span(f)
        error = (self.log_b.exp() * torch.expm1(((g - new) / eps).clamp(max=50)).abs()).sum(1)
        # Written so that NaN stops.
        states = [(error > self.tol).any(), (g - new).abs().amax() <= far / 30]
        if self.kernel is not None:
            states += [torch.maximum((f - self.at[0]).abs().amax(), (g - self.at[1]).abs().amax()) > far / 8]
        running, calm, *strayed = torch.stack(states).tolist()  # the one wait for the device
        if strayed == [True]:
            self.kernel = None
        if running and calm and self.kernel is None and self.storable:
            self.store(f, g, eps)
        return error, running

    @property
    def storable(self) -> bool:
        """Whether the kernel is small enough to be stored."""
        limit = STORED_CUDA if self.x.device.type == "cuda" else STORED_CPU
        return self.log_a.numel() * self.log_b.shape[1] <= limit

    def store(self, f: Tensor, g: Tensor, eps: float) -> Tensor:
        """Take the kernel, exp((f + g - C) / eps), at these potentials."""
        block, h = logits(eps, self.x, self.y, g / eps), (f - self.x.square().sum(2) / 2) / eps
        self.kernel = torch.cat([exp_(block(i).add_(h[:, i, None])) for i in rows(self.x, g.shape[1])], 1)
        self.at = (f, g)
        return self.kernel

    def follow(self, g: Tensor) -> Tensor:
        """Improve ``g`` down a path: where eps is fine Newton's method starts near enough only from a coarser solution."""
        for coarser in (32, 16, 8, 4, 2, 1):
            g = self.newton(g, coarser * self.reg.eps)
        self.kernel = None
        return g

    def newton(self, g: Tensor, eps: float) -> Tensor:
        """Solve at ``eps`` by Newton's method on the dual, a concave function; hard marginals only."""
        self.kernel = None
        g = self.to_g(self.to_f(g, eps), eps)
        a, b, kept = self.log_a.exp(), self.log_b.exp(), g
        least = torch.full_like(g[:, :1], torch.inf)
        for _ in range(NEWTON_STEPS):
            self.kernel = None
            kernel = self.store(self.to_f(g, eps), g, eps)
            column = (a[:, None] @ kernel)[:, 0] * b
            error = (column - b).abs().sum(1, keepdim=True)
            kept, least = torch.where(error < least, g, kept), torch.minimum(error, least)
            if not bool((least[:, 0] > self.tol).any()):
                break
            # Rows are exact: what remains is the Schur complement, singular along constants alone.
            row = (kernel * b[:, None]).double()  # conditional laws of y given x
            schur = torch.diag_embed(column * (1 + RIDGE) + (b == 0)).double() - row.mT @ (a[..., None] * row)
            factor, failed = torch.linalg.cholesky_ex(schur + b[:, :, None] * b[:, None])
            step = torch.cholesky_solve((b - column).double()[..., None], factor)[..., 0]
            step = step / step.abs().amax(1, keepdim=True).clamp(min=1)  # at most eps, where the model holds
            g = g + eps * torch.where((failed == 0)[:, None], step, 0.0).to(g)
        return kept


def solve(x: Tensor, log_a: Tensor, y: Tensor, log_b: Tensor, reg: Regularisation) -> Dual:
    """Alternate updates: a warm-up at decreasing ``eps``, then over-relaxed until the tolerance.

    Parameters
    ----------
    x, y : Tensor, shapes (B, n, d) and (B, m, d)
        Points.
    log_a, log_b : Tensor, shapes (B, n) and (B, m)
        Logarithms of weights that sum to 1; -inf for none.

    Notes
    -----
    Without the warm-up a small ``eps`` is frozen: potentials must travel the diameter by steps of ``eps``. The relaxation
    is that of Young's theory from the rate observed between tests (Lehmann, von Renesse, Sambale and Uschmajew 2022).
    Where ``eps`` is far below the spacing of the points sweeps hardly arrive; after every 2m of them (50 at least) Newton's
    method is tried, down a path of ``eps``.
    """
    problem, last = _Problem(x, log_a, y, log_b, reg), reg.max_iters
    f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
    eps = 4 * float(problem.size.max())  # at least the square of the diameter
    while reg.eps < eps < math.inf:
        g = problem.to_g(f, eps)
        f = problem.to_f(g, eps)
        eps /= 2

    omega, before, pause = torch.ones_like(problem.tol)[:, None], None, EVERY * max(5, g.shape[1] // 5)
    for k in range(last + 1):
        new = problem.to_g(f, reg.eps)
        if k % EVERY == 0 or k == last:
            error, running = problem.test(f, g, new)
            if k == last or not running:
                break
            if k and k % pause == 0 and reg.rho is None and problem.storable and g.shape[1] <= NEWTON:
                g = problem.follow(new)
                f, before, omega = problem.to_f(g, reg.eps), None, torch.ones_like(omega)
                continue
            if before is not None:
                omega = _relaxation(omega, (error / before)[:, None] ** (1 / EVERY))
            before = error
        g = g + omega * (new - g)
        f = f + omega * (problem.to_f(g, reg.eps) - f)
    return Dual(problem.to_f(new, reg.eps), new, k, error, not running)


def solve_self(x: Tensor, log_a: Tensor, reg: Regularisation) -> Dual:
    """Solve between a cloud and itself: averaged updates halve the error at least, so no warm-up is needed."""
    problem, last = _Problem(x, log_a, x, log_a, reg), reg.max_iters
    g = torch.zeros_like(log_a)
    for k in range(last + 1):
        new = problem.to_f(g, reg.eps)
        if k % (EVERY // 2) == 0 or k == last:
            error, running = problem.test(g, g, new)
            if k == last or not running:
                break
        g = (g + new) / 2
    return Dual(new, g, k, error, not running)


def _relaxation(omega: Tensor, rate: Tensor) -> Tensor:
    r"""Next over-relaxation from the observed rate per sweep.

    For two blocks whose plain sweep contracts by :math:`\eta` the rate under :math:`\omega` solves
    :math:`(\lambda+\omega-1)^2=\lambda\omega^2\eta`, and the best :math:`\omega` is :math:`2/(1+\sqrt{1-\eta})`.
    """
    eta = ((rate + omega - 1) ** 2 / (rate * omega**2)).clamp(0, 1 - 1e-4)
    best = 2 / (1 + (1 - eta).sqrt())
    omega = torch.where(rate > omega - 1, torch.maximum(best, omega), omega)
    return torch.where(rate < 1, omega, 1 + 0.9 * (omega - 1))  # it may rise for a while when omega is large


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
