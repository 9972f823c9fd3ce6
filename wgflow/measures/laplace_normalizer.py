"""Laplace's method for the normalizer of the regularized Wasserstein proximal."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count
from wgflow.core.inner import report
from wgflow.core.networks import called
from wgflow.core.outputs import same_shape
from wgflow.core.typing import Points
from wgflow.measures.normalizers import Normalizer, Tilt, resampled
from wgflow.numerics.distances import readable


@dataclass(frozen=True)
class LaplaceNormalizer(Normalizer):
    r"""Laplace's method: the Gaussian at the proximal point :math:`p=\operatorname{argmin}V+|\cdot-y|^2/2T` stands for the tilted law.

    .. math:: \log m(y)\approx-\frac1{2\tau}\Bigl(V(p)+\frac{|p-y|^2}{2T}\Bigr)-\tfrac12\log\det(I+T\nabla^2V(p)).

    Exact for quadratic potentials, an error of order :math:`\tau` for smooth ones. At a kink it is of order 1 and not the same for
    all points: for an :math:`\ell^1` norm take :class:`L1Potential`.

    Parameters
    ----------
    proximal : callable, optional
        :math:`(y,T)\mapsto p`, from (n, \*event) to the same, as for ``PotentialEnergy``. None finds :math:`p` by Newton's method,
        for which V must have two derivatives.
    iters : int
        Newton's iterations, each the best of three lengths of its step.
    samples : int
        Proposals from the Gaussian at p of which :meth:`draw` takes one by its weight.

    Raises
    ------
    BadInput
        On a CPU, where :math:`I+T\nabla^2V(p)` is not positive definite: the time is longer than the curvature of V allows.

    Notes
    -----
    Cost of an iteration: d + 1 backward passes through V and a factorization of n matrices (d, d).

    Examples
    --------
    Exact for :math:`V=\tfrac12x^2`: :math:`m(0)=(1+T)^{-1/2}`, 0.7071 at :math:`T=1`.

    >>> import torch
    >>> import wgflow as wg
    >>> V = lambda x: 0.5 * x.square().sum(1)
    >>> operator = wg.WassersteinProximal(V, 1.0, temperature=1.0, normalizer=wg.LaplaceNormalizer())
    >>> operator.log_mean(torch.zeros(1, 1)).exp()
    tensor([0.7071])
    """

    proximal: Callable[[Points, float], Points] | None = None
    iters: Count = 20
    samples: Count = 32

    def log_mean(self, tilt: Tilt, y: Points, noise: Tensor | None) -> Tensor:
        """Return the formula above; its derivative in ``y`` is exact."""
        p, root = self._at_mode(tilt, y)
        log_det = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
        return tilt.log_weight(p) - (p - y).flatten(1).square().sum(1) / (2 * tilt.std**2) - 0.5 * log_det

    def draw(self, tilt: Tilt, y: Points, rng: torch.Generator) -> Points:
        """Return of proposals from the Gaussian at p one by its weight."""
        with torch.no_grad():
            p, root = self._at_mode(tilt, y)

        def propose(xi: Tensor) -> tuple[Points, Tensor]:
            flat = tilt.std * torch.linalg.solve_triangular(root.mT, xi.flatten(1)[:, :, None], upper=True)[:, :, 0]
            z = p + flat.view_as(p)
            return z, 0.5 * xi.flatten(1).square().sum(1) - (z - y).flatten(1).square().sum(1) / (2 * tilt.std**2)

        return resampled(propose, tilt.log_weight, self.samples, y, rng)

    def _at_mode(self, tilt: Tilt, y: Points) -> tuple[Points, Tensor]:
        r"""Return p and the Cholesky factor of :math:`I+T\nabla^2V(p)`, (n, d, d)."""
        at = y.detach()
        if self.proximal is None:
            p = self._newton(tilt, at)
        else:
            p = same_shape(
                called(lambda y: self.proximal(y, tilt.time), "a proximal map", at), at, "a proximal map"
            ).detach()
        _, root = _slope(tilt, p, at)
        if torch.is_grad_enabled() and y.requires_grad:
            # One more step of Newton has the derivative of p in y; where p is exact it does not move.
            moved = torch.cholesky_solve(((y - at).flatten(1))[:, :, None], root)[:, :, 0]
            p = p + moved.view_as(p)
            _, root = _slope(tilt, p, at, graph=True)
        return p, root

    def _newton(self, tilt: Tilt, y: Points) -> Points:
        p = y
        for _ in range(self.iters):
            left, root = _slope(tilt, p, y)
            step = torch.cholesky_solve(left[:, :, None], root)[:, :, 0].view_as(p)
            trials = torch.stack([p - t * step for t in (1.0, 0.25, 0.02)])
            heights = torch.stack(
                [tilt.potential(z) + (z - y).flatten(1).square().sum(1) / (2 * tilt.time) for z in trials]
            )
            heights[1:] += 1e-6 * (1 + heights[0].abs())  # near the end whole steps are best, and heights are rounded
            best = heights.argmin(0)
            p = trials[best, torch.arange(len(y), device=y.device)].detach()
        left, _ = _slope(tilt, p, y)
        advice = "Give LaplaceNormalizer more iters, the proximal map itself, or a shorter time."
        report("laplace", left.abs().amax() / tilt.std, 1e-4, advice)
        return p


def _slope(tilt: Tilt, p: Points, y: Points, graph: bool = False) -> tuple[Tensor, Tensor]:
    r"""Return :math:`T\nabla V(p)+p-y` (n, d), and the Cholesky factor of :math:`I+T\nabla^2V(p)`, differentiable if asked."""
    with torch.enable_grad():
        at = p if graph else p.detach().requires_grad_(True)
        (g,) = torch.autograd.grad(tilt.potential(at).sum(), at, create_graph=True, materialize_grads=True)
        flat, zero = g.flatten(1), torch.zeros_like(g.flatten(1))
        rows = [
            torch.autograd.grad(column.sum(), at, retain_graph=True, create_graph=graph, materialize_grads=True)[
                0
            ].flatten(1)
            if column.requires_grad
            else zero
            for column in flat.unbind(1)
        ]
        hessian = torch.stack(rows, 1)
        A = torch.eye(flat.shape[1], dtype=p.dtype, device=p.device) + tilt.time * (hessian + hessian.mT) / 2
        root, failed = torch.linalg.cholesky_ex(A)
    if readable(failed) and bool(failed.any()):
        k = int(failed.nonzero()[0])
        least = float(torch.linalg.eigvalsh(A[k].detach())[0])
        raise BadInput(
            f"LaplaceNormalizer: at point {k} the matrix I + T Hess V has the eigenvalue {least:g}, expected positive ones: with "
            f"time={tilt.time:g} the proximal point is not the bottom of a well. Shorten the time, or use MonteCarloNormalizer()"
        )
    return tilt.time * flat.detach() + (p - y).detach().flatten(1), root
