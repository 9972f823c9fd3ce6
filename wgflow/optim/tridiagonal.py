"""Newton's method for particles on a line whose energy couples neighbors only: the exact JKO step in one dimension."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Checked, Count, Fraction
from wgflow.core.ranks import averaged
from wgflow.core.typing import Info, Scalar
from wgflow.optim.descent import Descent


@dataclass(frozen=True)
class TridiagonalNewton(Checked):
    r"""Damped Newton for sorted particles with nearest-neighbor energies, as a description: one update is a whole minimization.

    ``JKO(Blob(Spacings()), optim=TridiagonalNewton(), iters=1)`` on one-dimensional ``Particles`` is the exact JKO step of
    quantiles. Potential energies have a diagonal Hessian and ``Spacings`` a tridiagonal one (``Entropy(Spacings())``,
    ``PowerEntropy(Spacings(), m)``), which three Hessian-vector products determine. Steps are shortened so that particles keep
    their order, and until the objective falls. Where it is not convex the Hessian is shifted.

    Parameters
    ----------
    max_iter : int
        Newton iterations of one minimization; a handful suffices.
    tolerance : float, optional
        Stop when the largest entry of the gradient, per mass, has fallen to this fraction of what it was at the start. By
        default 1e-8, and 3e-3 in float32, which ``Spacings`` reaches with up to some hundreds of particles: the gaps are then
        known to 1e-4 (with thousands, to some percent only).

    Raises
    ------
    BadInput
        From the build, unless the parameter is one tensor (n, 1) or (n,).
    Unsupported
        From the update, when the objective has no second derivatives or couples more than neighbors: use ``LBFGS()``.

    Notes
    -----
    With n particles the error against the exact JKO step is that of ``Spacings``, about :math:`n^{-1/2}` for Gaussian tails and
    :math:`n^{-1}` for compact supports. Cost of an iteration: one gradient, three Hessian-vector products and a linear solve by
    parallel cyclic reduction, O(n log n); waits for the device. Use float64.

    Examples
    --------
    One JKO step of the entropy with :math:`h=1` takes the variance from 1 to 2.618 (:math:`\sigma'-1=1/\sigma'`).

    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.optim import TridiagonalNewton
    >>> u = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    >>> start = wg.Particles(torch.special.ndtri(u)[:, None])
    >>> solver = wg.JKO(wg.Blob(wg.Spacings()), optim=TridiagonalNewton(), iters=1)
    >>> flow = wg.solve(wg.Entropy(), solver, start, step_size=1.0, num_steps=1)
    >>> abs(flow.measure.x.var().item() - 2.618) < 0.1
    True
    """

    max_iter: Count = 100
    tolerance: Fraction | None = None

    searches: ClassVar[bool] = True

    def build(self, parameters: Iterable[Tensor]) -> Descent:
        """Return a fresh minimizer of the positions of particles on a line."""
        held = list(parameters)
        if len(held) != 1 or held[0].numel() != len(held[0]):
            shapes = ", ".join(str(tuple(p.shape)) for p in held)
            raise BadInput(f"TridiagonalNewton minimizes over particles with one coordinate, got {shapes}: use LBFGS()")
        return _Newton(held, self)


class _Newton(Descent):
    """A minimizer that starts anew in every update, and so has no state but the count."""

    def __init__(self, parameters: list[Tensor], settings: TridiagonalNewton) -> None:
        super().__init__(torch.optim.SGD(parameters, 1.0), 1.0, None)
        self.y, self.settings = parameters[0], settings
        single = torch.finfo(self.y.dtype).eps > 1e-10
        self.asked: float = (3e-3 if single else 1e-8) if settings.tolerance is None else settings.tolerance

    def minimise(self, objective: Callable[[], Scalar]) -> Info:
        """Minimize; reports the evaluations and the fraction of the first gradient that is left (``residual``)."""
        self.updates += 1
        order = self.y.detach().flatten().argsort()
        root = None if self.mass is None else torch.where(self.mass > 0, self.mass.rsqrt(), 0.0)[order]
        first, residual, evaluations = math.nan, math.inf, 0
        for i in range(self.settings.max_iter + 1):
            loss = objective()
            (g,) = torch.autograd.grad(loss, self.y, create_graph=True)
            whole = averaged(g.detach())
            slope, largest = whole.flatten()[order], float(self.per_mass(whole).abs().max())
            self.first = first = largest if i == 0 else first
            evaluations += 1
            residual = largest / first if first else 0.0
            if residual <= self.asked or not math.isfinite(largest) or i == self.settings.max_iter:
                break
            diagonal, off = self._hessian(g.flatten()[order], order, check=i == 0)
            if root is None:
                step = -_positive_solve(diagonal, off, slope)
            else:  # equally stiff for all, and a particle without mass stays
                diagonal, off = diagonal * root.square() + (root == 0).to(root), off * root[:-1] * root[1:]
                step = -root * _positive_solve(diagonal, off, slope * root)
            tried = self._search(objective, float(averaged(loss.detach())), step, float(slope @ step), order)
            evaluations += tried
            if tried == 0:
                break
        return {"residual": residual, "evaluations": evaluations}

    def _hessian(self, g: Tensor, order: Tensor, check: bool) -> tuple[Tensor, Tensor]:
        """Return the diagonal (n,) and the entries beside it (n - 1,), in sorted order."""
        n = len(order)
        color = torch.arange(n, device=g.device) % 3
        columns = [self._product(g, (color == c).to(g), order) for c in range(3)]
        # Entry i of H times the indicator of a color sees, of i - 1, i and i + 1, the one of that color.
        H = torch.stack(columns)
        i = torch.arange(n, device=g.device)
        diagonal, off = H[color, i], H[color.roll(-1), i][:-1]
        if check:
            v = torch.cos(1.0 + i.to(g) ** 2)
            found, whole = multiply(diagonal, off, v), self._product(g, v, order)
            if not bool((found - whole).abs().max() <= 1e-3 * whole.abs().max()):
                raise Unsupported(
                    "TridiagonalNewton: this objective couples more than neighboring particles. Use JKO(..., optim=LBFGS(), iters=1)."
                )
        return diagonal, off

    def _product(self, g: Tensor, v: Tensor, order: Tensor) -> Tensor:
        try:
            (Hv,) = torch.autograd.grad(g, self.y, v, retain_graph=True)
        except RuntimeError as error:
            raise Unsupported(
                "TridiagonalNewton: this functional cannot be differentiated twice. Use JKO(..., optim=LBFGS(), iters=1)."
            ) from error
        return averaged(Hv.flatten()[order])

    @torch.no_grad()
    def _search(self, objective: Callable[[], Scalar], value: float, step: Tensor, slope: float, order: Tensor) -> int:
        """Move by the longest of the halved steps that keeps the order and decreases; return the evaluations, 0 for none."""
        y = self.y.detach().clone()
        x = y.flatten()[order]
        closing = (-step.diff() / x.diff()).max() if len(x) > 1 else step.new_zeros(())
        t = min(1.0, 0.9 / max(float(closing), 1e-300))
        noise = 8 * torch.finfo(x.dtype).eps * abs(value)
        for tries in range(1, 41):
            moved = torch.empty_like(x)
            moved[order] = x + t * step
            self.y.copy_(moved.view_as(y))
            if float(averaged(objective())) <= value + 1e-4 * t * slope + noise:
                return tries
            t /= 2
        self.y.copy_(y)
        return 0

    def state_dict(self) -> dict[str, Any]:
        """Plain form: the count."""
        return {"updates": self.updates}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore the count."""
        self.updates = saved["updates"]


def multiply(diagonal: Tensor, off: Tensor, v: Tensor) -> Tensor:
    """Return the product of a symmetric tridiagonal matrix with a vector (n,)."""
    out = diagonal * v
    out[:-1] += off * v[1:]
    out[1:] += off * v[:-1]
    return out


def solve_tridiagonal(diagonal: Tensor, off: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
    """Solve a symmetric tridiagonal system by parallel cyclic reduction: O(log n) vector operations.

    Returns the solution (n,) and the smallest pivot, 0-d: positive when and only when the matrix is positive definite,
    and then no pivoting is missed.
    """
    n = len(diagonal)
    zero = diagonal.new_zeros(1)
    a, b, c, d = torch.cat([zero, off]), diagonal, torch.cat([off, zero]), rhs
    least, s = b.min(), 1
    while s < n:
        before = lambda t, fill=0.0, s=s: torch.nn.functional.pad(t, (s, 0), value=fill)[:n]  # noqa: E731
        after = lambda t, fill=0.0, s=s: torch.nn.functional.pad(t, (0, s), value=fill)[s:]  # noqa: E731
        left, right = -a / before(b, 1.0), -c / after(b, 1.0)
        b, d = b + left * before(c) + right * after(a), d + left * before(d) + right * after(d)
        a, c = left * before(a), right * after(c)
        least, s = torch.minimum(least, b.min()), 2 * s
    return d / b, least


def _positive_solve(diagonal: Tensor, off: Tensor, rhs: Tensor) -> Tensor:
    """Solve, with the least tried multiple of the identity added that makes the matrix positive definite."""
    shift = 0.0
    while True:
        x, pivot = solve_tridiagonal(diagonal + shift, off, rhs)
        if bool(pivot > 0) or not math.isfinite(shift):
            return x
        shift = max(4 * shift, 1e-3 * float(diagonal.abs().max()))
