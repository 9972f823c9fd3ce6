r"""The plan of an entropic JKO step on a grid: a concave function of one logarithm a cell, maximized by accelerated matrix scaling."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wgflow.measures.grid import Grid

_BLOCK = 2**22
"""Numbers in one block of a log-domain convolution."""
_MEMORY = 16
"""Steps that the acceleration looks back on."""
_PATIENCE = 200
"""Iterations without progress after which rounding is taken to be the limit."""
_NEVER = 1e30
"""Instead of an infinite potential: a finite logarithm of nothing keeps differences of logarithms defined."""


class Blur:
    """Convolution with the Gaussian kernel on logarithms, one axis after the other."""

    def __init__(self, grid: Grid, std: float) -> None:
        self.log_kernels = []
        for x, dx in zip(grid.axes, grid.spacing, strict=True):
            z = (x[:, None] - x) / std
            self.log_kernels.append(-0.5 * z.square() + math.log(dx / (std * math.sqrt(2 * math.pi))))
        self.kernels = [log_kernel.exp() for log_kernel in self.log_kernels]

    def __call__(self, u: Tensor) -> Tensor:
        """Return the logarithm of the convolution of exp(u), on the whole grid."""
        for axis in range(u.dim()):
            lines = u.movedim(axis, -1)
            u = self._lines(lines.reshape(-1, lines.shape[-1]), axis).view(lines.shape).movedim(-1, axis)
        return u

    def _lines(self, u: Tensor, axis: int) -> Tensor:
        """Convolve rows: by a matrix product, and term by term those where that has lost digits to underflow."""
        top = u.amax(1, keepdim=True).clamp(min=torch.finfo(u.dtype).min)
        sums = (u - top).exp() @ self.kernels[axis]
        out = sums.log() + top
        tiny = torch.finfo(u.dtype).tiny * 1e18
        lost = ((sums < tiny).any(1) & (top[:, 0] > torch.finfo(u.dtype).min)).nonzero()[:, 0]
        log_kernel = self.log_kernels[axis]
        for rows in lost.split(max(1, _BLOCK // log_kernel.numel())):
            out[rows] = torch.logsumexp(u[rows, None, :] + log_kernel, -1)
        return out


class Prox:
    r"""The minimizer over p of :math:`\gamma\,p(\log\frac ps-1)-\frac\gamma2p\log p+h\,(Vp+Tp\log p+\frac c{m-1}p^m)`, by logarithms.

    Constants that multiply the mass are left out: they scale the plan, whose mass is fixed.
    """

    def __init__(
        self, gamma: float, debias: bool, h: float, V: Tensor, temperature: float, power: tuple[float, float] | None
    ) -> None:
        self.gamma = gamma
        hV = h * V
        self.hV = (hV - hV.min()).clamp(max=_NEVER)
        self.kappa = (gamma / 2 if debias else gamma) + h * temperature
        self.hc, self.m = (0.0, 2.0) if power is None else (h * power[0], power[1])

    def __call__(self, log_s: Tensor) -> Tensor:
        """Return the logarithm of the proximal point."""
        log_p = (self.gamma * log_s - self.hV) / self.kappa
        if self.hc == 0:
            return log_p
        # kappa l + hc m/(m-1) e^{(m-1)l} = R; with y = (m-1) l this is y + w e^y = z.
        z, log_w = (self.m - 1) * log_p, math.log(self.hc * self.m / self.kappa)
        return (_log_wright_omega(z + log_w) - log_w) / (self.m - 1)

    def answers(self, log_p: Tensor, p: Tensor) -> Tensor:
        r"""Return the total of :math:`p\,d\log p/d\log s`, 0-d."""
        if self.hc == 0:
            return p.sum() * (self.gamma / self.kappa)
        return (p * self.gamma / (self.kappa + self.hc * self.m * ((self.m - 1) * log_p).exp())).sum()

    def least(self, log_p: Tensor, p: Tensor) -> Tensor:
        """Return the total of the minima, 0-d and in double precision."""
        linear = -self.kappa * p.sum(dtype=torch.float64)
        return linear if self.hc == 0 else linear - self.hc * (self.m * log_p).exp().sum(dtype=torch.float64)


def _log_wright_omega(z: Tensor) -> Tensor:
    r"""Return v with :math:`v+e^v=z`: Newton's method from above, where it falls monotonically; rounding after 8 steps."""
    v = torch.where(z > 1, z.clamp(min=1).log(), z)
    for _ in range(8):
        e = v.exp()
        v = v - (v + e - z) / (1 + e)
    return v


@dataclass(eq=False)
class Plan:
    """The plan of one logarithm a cell, whose second marginal is the proximal one.

    Attributes
    ----------
    log_a, log_b : Tensor
        Logarithms of the two scalings.
    log_p : Tensor
        Of the second marginal.
    blurred : Tensor
        ``log_b`` after the kernel.
    left : Tensor
        Logarithm of the first marginal asked for over the one that is there; 0 in empty cells.
    short : Tensor
        The difference of those marginals, densities.
    residual : float
        Mass of that difference.
    dual, rounding : float
        Value of the concave function, whose gradient is that difference, and its rounding.
    damping : float
        The share of a scaling step that suits: 1, or less where p answers more than in proportion.
    """

    log_a: Tensor
    log_b: Tensor
    log_p: Tensor
    blurred: Tensor
    left: Tensor
    short: Tensor
    residual: float
    dual: float
    rounding: float
    damping: float


class Problem:
    r"""Maximize over log a the concave :math:`\gamma\langle\log a,q\rangle+\min_p\{\dots\}` with s the convolution of a.

    Scaling, :math:`\log a\leftarrow\log a+\log(q/r)` with r the first marginal, never lowers it, or half of that where the
    density of the result answers more than in proportion to s (a debiased step without much entropy).
    """

    def __init__(self, blur: Blur, prox: Prox, log_q: Tensor, volume: float) -> None:
        self.blur, self.prox, self.log_q, self.volume = blur, prox, log_q, volume
        self.q, empty = log_q.exp(), log_q == -torch.inf
        self.empty = empty if bool(empty.any()) else None
        self.safe = min(1.0, prox.kappa / prox.gamma)

    def plan(self, log_a: Tensor) -> Plan:
        """Evaluate: two convolutions. Waits for the device."""
        log_s = self.blur(log_a)
        log_p = self.prox(log_s)
        log_b = log_p - log_s
        blurred = self.blur(log_b)
        left = self.log_q - log_a - blurred
        paid = log_a * self.q
        if self.empty is not None:  # where log a is minus infinity
            left, paid = left.masked_fill(self.empty, 0), paid.masked_fill(self.empty, 0)
        short, p = self.q - (self.log_q - left).exp(), log_p.exp()
        sums = torch.stack(
            [
                short.abs().sum(dtype=torch.float64),
                paid.sum(dtype=torch.float64) * self.prox.gamma + self.prox.least(log_p, p),
                paid.abs().sum(dtype=torch.float64) * self.prox.gamma,
                (p.sum() / self.prox.answers(log_p, p).clamp(min=1e-300)).double(),
            ]
        )
        residual, dual, size, damping = sums.tolist()
        residual, dual, size = residual * self.volume, dual * self.volume, size * self.volume
        rounding = 16 * torch.finfo(self.q.dtype).eps * (size + abs(dual))
        return Plan(log_a, log_b, log_p, blurred, left, short, residual, dual, rounding, min(1.0, damping))

    def solve(self, log_b: Tensor, tolerance: float, max_iter: int) -> tuple[Plan, int]:
        """Return the plan with the least residual that was found from ``log_b`` on, and the iterations."""
        now = best = self.plan(self.log_q - self.blur(log_b))
        # A low power of the density: nearly empty cells must not be forgotten, since what leaves them is far off first.
        anderson, iterations, idle, high = Anderson(self.q**0.125), 1, 0, now.dual
        while iterations < max_iter and idle < _PATIENCE and not best.residual <= tolerance:
            after = None
            for step in self._steps(now, anderson):
                tried, iterations = self.plan(now.log_a + step), iterations + 1
                if tried.dual >= now.dual - now.rounding:
                    anderson.add(step, tried.left - now.left)
                    after = tried
                    break
                if iterations == max_iter:
                    break
            if after is None:
                break
            idle = 0 if after.dual > high or after.residual < 0.99 * best.residual else idle + 1
            now, high = after, max(high, after.dual)
            best = now if now.residual <= best.residual else best
        return best, iterations

    def _steps(self, plan: Plan, anderson: "Anderson") -> Iterator[Tensor]:
        """Yield steps to try, from the boldest to the one that never fails but for rounding."""
        if anderson.count:
            bold = anderson(plan.left, plan.damping)
            yield bold
            if float((plan.short * bold).sum()) > 0:
                yield bold / 4
            anderson.forget()
        yield plan.damping * plan.left
        if self.safe < plan.damping:
            yield self.safe * plan.left


class Anderson:
    """Anderson's acceleration: the fixed-point step from where a combination of the last steps leaves least, in a weighted norm."""

    def __init__(self, root_weight: Tensor) -> None:
        self.root_weight, self.count = root_weight, 0
        self.steps, self.changes, self.weighted = root_weight.new_empty(3, _MEMORY, *root_weight.shape).flatten(2)
        self.gram = np.zeros((_MEMORY, _MEMORY))  # on the host, as it is small

    def add(self, step: Tensor, change: Tensor) -> None:
        """Remember a step and by how much it has changed what is left, in place of the oldest."""
        i = self.count % _MEMORY
        self.steps[i], self.changes[i] = step.flatten(), change.flatten()
        self.weighted[i] = (change * self.root_weight).flatten()
        self.count += 1
        n = min(self.count, _MEMORY)
        self.gram[i, :n] = self.gram[:n, i] = self._products(self.weighted[i], n)

    def forget(self) -> None:
        """Start anew."""
        self.count = 0

    def __call__(self, left: Tensor, damping: float) -> Tensor:
        """Return the accelerated step."""
        n = min(self.count, _MEMORY)
        rhs = self._products((left * self.root_weight).flatten(), n)
        # Directions within rounding of the others are left out.
        c = torch.from_numpy(np.linalg.lstsq(self.gram[:n, :n], rhs, rcond=1e-14)[0]).to(left)
        return damping * left - (c @ self.steps[:n] + damping * (c @ self.changes[:n])).view_as(left)

    def _products(self, v: Tensor, n: int) -> np.ndarray:
        return (self.weighted[:n] @ v).double().cpu().numpy()
