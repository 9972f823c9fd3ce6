"""One pair of clouds and the two updates of its potentials, in the precision that a tolerance asks for."""

import math
from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from wgflow.numerics.softmin import DOUBLE, LN2, MIXED, SINGLE, Pairs, exp2_, logits, means, rows, softmin, span

STORED_CPU, STORED_CUDA = 2**24, 2**28
"""Pairs up to which the kernel is stored while the iteration closes in; beyond, nothing of that size ever is."""
LOOSE = 1e-3
"""Tolerance from which on stored products of single precision will do for values too: to some 1e-6 of the largest exponents."""
MANY = 8
"""Coordinates from which on the inner products of so many pairs are stored as well: they do not change with the potentials."""
MIDDLE = 9
"""Points whose median is the center of a cloud."""
EVERY = 10
"""Sweeps between two tests of convergence, each of which waits for the device."""
NEWTON, NEWTON_STEPS = 1024, 30
"""Newton's method: its largest second cloud (a step costs the cube), and steps."""
LEAST = -69.0
"""Logarithm of the least weight, 1e-30. Lighter points count as of this weight: no tolerance sees it, no kernel overflows."""


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
        ones), with what rounding may add to it.
    max_iters : int
        Sweeps at ``eps``, after the warm-up.
    """

    eps: float
    rho: float | None = None
    tol: float = 1e-6
    max_iters: int = 2000


class Look(Enum):
    """What a test of convergence finds, and what has been done about it."""

    GOING = auto()
    CHANGED = auto()  # the numbers are made in another way from here on: the error will be another one
    OVER = auto()  # met, or no number of sweeps would help


class Problem:
    r"""Two clouds in units of :math:`\sqrt\varepsilon`, so that costs and potentials are exponents.

    Points, weights and potentials are float64. Exponents are as large as (size / blur)², and their rounding is an error of
    the marginals. A problem of float32 points starts in float32 and goes on in float64 where the tolerance asks for more
    than that resolves.
    """

    def __init__(self, x: Tensor, log_a: Tensor, y: Tensor, log_b: Tensor, reg: Regularisation) -> None:
        self.log_a, self.log_b = (w.double().clamp(min=LEAST) for w in (log_a, log_b))
        a, b = self.log_a.exp(), self.log_b.exp()
        # Any point amidst will do as the centre, as long as it is the same for both clouds.
        centre = ((a.to(x)[:, None] @ x + b.to(y)[:, None] @ y) / 2).double()
        self.unit = math.sqrt(reg.eps)
        self.x, self.y = (z.to(centre, copy=True).sub_(centre).div_(self.unit) for z in (x, y))
        self.rho, self.tol = None if reg.rho is None else reg.rho / reg.eps, reg.tol
        ours, theirs = (torch.linalg.vector_norm(z, dim=2).square() for z in (self.x, self.y))
        self.halves = ours / 2, theirs / 2
        moment = 1 + (a * ours).sum(1) + (b * theirs).sum(1)
        kinds = (SINGLE, MIXED, DOUBLE) if x.dtype == torch.float32 else (DOUBLE,)
        rounding = [4 * torch.finfo(k.sums).eps + 2 * torch.finfo(k.exponents).eps * moment for k in kinds]
        squared, *worst = torch.stack([torch.cat([ours, theirs], 1).amax(), *(r.amax() for r in rounding)]).tolist()
        self.diameter = 4 * squared  # its square, at least
        # What Newton's method adds, relatively, to a diagonal: for fine eps plans fall into components, which exchange nothing
        # that the numbers can resolve.
        self.ridge = 1e-10 + torch.finfo(torch.float64).eps * self.diameter
        limit = STORED_CUDA if x.device.type == "cuda" else STORED_CPU
        self.storable = self.small = self.log_a.numel() * self.log_b.shape[1] <= limit
        self.pairs: Pairs | None = None
        self._ladder = list(zip(kinds, rounding, worst, strict=True))
        if len(kinds) > 1 and not worst[0] < 0.1:
            del self._ladder[0]  # single precision resolves nothing here: it is no start either
        self.raised()
        if self.pairs is not None and self.rho is None:
            # All that couples two points; in many coordinates it is much less than their distances.
            low, high = self.pairs.products.aminmax()
            self.diameter = min(self.diameter, 2 * float(torch.maximum(-low, high)))
        self.measured = torch.full_like(moment, torch.inf)
        self.error = self.measured
        self.best: tuple[Tensor, ...] = ()  # what was handed to a test when it found the least error

    def raised(self) -> bool:
        """Go on in the next precision; return False where there is none."""
        if not self._ladder:
            return False
        self.kind, self.rounding, self.worst = self._ladder.pop(0)
        self.kernel: Tensor | None = None
        kept = None if self.pairs is None else self.pairs.products.dtype
        if self.small and self.x.shape[2] >= MANY and kept != self.kind.exponents:
            x, y = (z.to(self.kind.exponents) for z in (self.x, self.y))
            self.pairs = Pairs(x @ y.mT, *self.halves)
        self.least = torch.full_like(self.rounding, torch.inf)
        self.at = (self.log_a, self.log_b)  # potentials that the kernel is taken at
        return True

    def start(self) -> Tensor:
        """Return a first potential on x: the part of the cost that the other points have no say in, where marginals are hard."""
        return torch.zeros_like(self.log_a) if self.rho is not None else self.halves[0]

    def damp(self, eps: float) -> float:
        """Return the factor of an update under soft marginals."""
        return 1.0 if self.rho is None else self.rho / (self.rho + eps)

    def to_f(self, g: Tensor, eps: float = 1.0) -> Tensor:
        """Return the potential on x that ``g`` gives."""
        if self.kernel is None:
            return self.damp(eps) * softmin(eps, self.x, self.y, self.log_b + g / eps, self.kind, self.pairs)
        mass = self.kernel @ (self.log_b + g - self.at[1]).exp().to(self.kernel)[..., None]
        return self.damp(eps) * (self.at[0] - mass[..., 0].double().log())

    def to_g(self, f: Tensor, eps: float = 1.0) -> Tensor:
        """Return the potential on y that ``f`` gives."""
        if self.kernel is None:
            across = None if self.pairs is None else self.pairs.mT
            return self.damp(eps) * softmin(eps, self.y, self.x, self.log_a + f / eps, self.kind, across)
        mass = (self.log_a + f - self.at[0]).exp().to(self.kernel)[:, None] @ self.kernel
        return self.damp(eps) * (self.at[1] - mass[:, 0].double().log())

    def balanced(self, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return :math:`(f+\lambda,g-\lambda)` at the best constant, which sweeps find in some rho / eps of them only.

        Séjourné, Vialard and Peyré, Faster unbalanced optimal transport: translation invariant Sinkhorn, 2022. For hard marginals
        constants do not count.
        """
        if self.rho is None:
            return f, g
        masses = (self.log_a - f / self.rho).logsumexp(1), (self.log_b - g / self.rho).logsumexp(1)
        shift = self.rho / 2 * (masses[0] - masses[1])[:, None]
        return f + shift, g - shift

    def precisely(self, g: Tensor) -> Tensor:
        """Return the potential on x that ``g`` gives, in double precision: what a value is made of, of second order in g alone."""
        if self.pairs is not None and self.tol >= LOOSE:  # exponentials of double precision would be most of the work
            return self.to_f(g)
        precise = self.pairs is not None and self.pairs.products.dtype == torch.float64
        return self.damp(1.0) * softmin(1.0, self.x, self.y, self.log_b + g, DOUBLE, self.pairs if precise else None)

    def displacement(self, g: Tensor) -> Tensor:
        """Return x less its mean partner under the plan that ``g`` gives, (B, n, d), in the unit of points and the precision of sums."""
        # Around a median of some: one far point must not take the digits of the others.
        centre = self.y[:, :: -(-self.y.shape[1] // MIDDLE)].median(1, keepdim=True).values
        z = self.y.sub(centre).to(self.kind.sums)
        if self.kernel is None:
            mean = means(1.0, self.x, self.y, self.log_b + g, z, self.kind, self.pairs)
        else:
            weights = (self.log_b + g - self.at[1]).exp().to(self.kernel)[..., None]
            sums = self.kernel @ torch.cat([z.mul_(weights), weights], 2)
            mean = sums[..., :-1] / sums[..., -1:]
        return self.x.sub(centre).to(mean).sub_(mean).mul_(self.unit)

    def measure(self, g: Tensor, new: Tensor) -> Tensor:
        """Return the sum (B,) of the relative changes of a marginal from ``g`` to its update ``new``; infinite after overflow."""
        change = g - new
        found = (self.log_b.exp() * torch.expm1(change.clamp(max=50)).abs()).sum(1)
        return torch.where(change.isfinite().all(1), found, torch.inf)

    def test(self, f: Tensor, g: Tensor, new: Tensor) -> Look:
        """Find the error (B,) of ``g``, whose update is ``new``, and choose how to go on.

        A sweep never makes a change larger (softmin is a contraction of the maximum norm), so when the last one was
        small the next few stay within the range of an exponential, and products with a kernel can replace sums of
        exponentials of all pairs: the same numbers, faster.
        """
        before, self.measured = self.measured, self.measure(g, new)
        far = span(self.kind.sums) / 8
        spent = self.measured <= self.rounding
        if self._ladder:  # what no longer falls, close to the resolution, is noise
            spent |= (self.measured <= 8 * self.rounding) & (self.measured > before / 2)
        met = self.measured + self.rounding <= self.tol
        moved = torch.maximum((f - self.at[0]).abs().amax(), (g - self.at[1]).abs().amax())
        states = [self.measured.isfinite().all(), met.all(), (met | spent).all()]
        states += [(g - new).abs().amax() <= 3 * far / EVERY, moved > far]
        finite, done, spent, calm, strayed = torch.stack(states).tolist()  # the one wait for the device
        better = self.measured < self.least
        self.least = torch.where(better, self.measured, self.least)
        self.best = tuple(
            torch.where(better[:, None], t, b) for t, b in zip((f, g, new), self.best or (f, g, new), strict=True)
        )
        self.error = self.least + self.rounding
        if done:
            return Look.OVER
        if spent or not finite:
            overflown = self.kernel is not None and not finite
            self.kernel, self.storable = None, self.storable and not overflown
            return Look.CHANGED if overflown or self.raised() else Look.OVER
        if strayed:
            self.kernel = None
        if calm and self.kernel is None and self.storable:
            # Products with a kernel of precise exponents cost the same: from here on single precision has no use.
            changed = self.kind is SINGLE and self.worst > self.tol and self.raised()
            self.kernel, self.at = self.plan(f, g), (f, g)
            return Look.CHANGED if changed else Look.GOING
        return Look.GOING

    def safeguarded(self, *now: Tensor) -> tuple[Tensor, ...]:
        """Return the best potentials so far in place of those with ten times their error, and last where that is."""
        lost = ~(self.measured <= 10 * self.least)[:, None]  # written so that NaN is lost
        return *(torch.where(lost, b, t) for t, b in zip(now, self.best, strict=True)), lost

    def plan(self, f: Tensor, g: Tensor, eps: float = 1.0) -> Tensor:
        """Return the density of the plan, exp((f + g - C) / eps)."""
        block = logits(eps, self.x, self.y, g / eps, self.kind.exponents, self.pairs)
        h = ((f - self.halves[0]) / (eps * LN2)).to(self.kind.exponents)
        return torch.cat([exp2_(block(i).add_(h[:, i, None]).to(self.kind.sums)) for i in rows(self.x, g.shape[1])], 1)

    def follow(self, g: Tensor, halvings: int) -> Tensor:
        """Improve ``g`` down a path: where eps is fine Newton's method starts near enough only from a coarser solution."""
        while self.raised():
            pass
        for k in range(halvings, -1, -1):
            g = self.newton(g, 2.0**k)
        return g

    def newton(self, g: Tensor, eps: float) -> Tensor:
        """Solve at ``eps`` by Newton's method on the dual, a concave function; hard marginals only."""
        self.kernel = None
        g = self.to_g(self.to_f(g, eps), eps)
        a, b, kept = self.log_a.exp(), self.log_b.exp(), g
        least, reach, step = torch.full_like(g[:, :1], torch.inf), torch.ones_like(g[:, :1]) / 2, torch.zeros_like(g)
        for _ in range(NEWTON_STEPS):
            kernel = self.plan(self.to_f(g, eps), g, eps)
            column = (a[:, None] @ kernel)[:, 0] * b
            error = (column - b).abs().sum(1, keepdim=True)
            better = error < least
            kept, least = torch.where(better, g, kept), torch.minimum(error, least)
            if bool((least[:, 0] + self.rounding <= self.tol).all()):
                break
            # Rows are exact: what remains is the Schur complement, singular along constants alone.
            row = kernel * b[:, None]  # conditional laws of y given x
            schur = torch.diag_embed(column * (1 + self.ridge)) - row.mT @ (a[..., None] * row)
            factor, failed = torch.linalg.cholesky_ex(schur + b[:, :, None] * b[:, None])
            found = torch.cholesky_solve((b - column)[..., None], factor)[..., 0]
            step = torch.where(better, torch.where((failed == 0)[:, None], found, 0.0), step)
            reach = torch.where(better, 4 * reach, reach / 8)
            g = kept + eps * step * (reach / step.abs().amax(1, keepdim=True)).clamp(max=1)
        return kept
