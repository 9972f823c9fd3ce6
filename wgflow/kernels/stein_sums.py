r"""The sums over pairs of the Stein velocity: smoothed slopes and the repulsion of a kernel, in one sweep."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wgflow.core.context import without_autocast
from wgflow.core.ranks import shares
from wgflow.core.typing import Points
from wgflow.kernels.sums import Pull, add_block
from wgflow.numerics.distances import Cloud, Distances, tiles

if TYPE_CHECKING:
    from wgflow.kernels import Kernel


@without_autocast()
def stein_sums(kernel: "Kernel", x: Points, w: Tensor, g: Points, temperature: float) -> Points:
    r"""Return :math:`\sum_jw_j\{k(x_i,x_j)g_j-T\nabla_{x_j}k(x_i,x_j)\}`, shape (n, \*event), without gradient.

    n²/2 kernel values, memory O(n). Where the slope of the kernel is :math:`c` times its value, both terms are one product, that
    with :math:`g_j-2cTx_j`.
    """
    with torch.no_grad():
        between = Distances(x, x, kernel.smooth)
        w, g = w.to(between.dtype), g.to(between.dtype).flatten(1)
        c: float | Tensor = 1.0
        if not between.direct:
            k, q, c = kernel.evaluate(w.new_ones(1, 1))
            if k is q:
                return _stein_in_one(kernel, between, w, g, 2 * c * temperature, x)
        G = torch.empty_like(g.T, memory_format=torch.contiguous_format)
        torch.mul(g.T, w, out=G)
        pull, smoothed, share = Pull(between.x, between.x, w), torch.zeros_like(G), shares()
        for i, j in share.of(tiles(len(x), len(x), x.device, symmetric=True)):
            s, near = between.visit(i, j)
            k, q, c = kernel.evaluate(s)
            mirrored = i.start != j.start
            smoothed[:, i].addmm_(G[:, j], k.T)
            if mirrored:
                smoothed[:, j].addmm_(G[:, i], k)
            add_block(between, pull, pull if mirrored else None, i, j, q, near)
        return share.added(smoothed.T.reshape(x.shape).to(x.dtype) + temperature * pull.result(2 * c, x))


def _stein_in_one(
    kernel: "Kernel", between: Distances, w: Tensor, g: Tensor, scale: float | Tensor, like: Points
) -> Points:
    pull = _SteinPull(between.x, w, g, scale)
    own, share = torch.zeros_like(w), shares()
    for i, j in share.of(tiles(len(w), len(w), w.device, symmetric=True)):
        s, near = between.visit(i, j)
        k = kernel.evaluate(s)[0]
        itself = between.itself(k, i, j)
        if itself is not None:
            own[i] = itself
        add_block(between, pull, pull if i.start != j.start else None, i, j, k, near)
    return share.added(pull.result(own).to(like.dtype).view_as(like))


class _SteinPull:
    r"""Sums :math:`\sum_jw_jk_{ij}\{a(x_i-x_j)+g_j\}`, gathered as those of a :class:`Pull` are."""

    def __init__(self, x: Cloud, w: Tensor, g: Tensor, scale: float | Tensor) -> None:
        self.x, self.w, self.g = x, w, g
        self.scale = scale if isinstance(scale, Tensor) else w.new_full((), scale)
        # [w (g - a x), w].
        self.moments = w.new_empty(g.shape[1] + 1, len(w))
        torch.mul(torch.addcmul(g, x.x, -self.scale).T, w, out=self.moments[:-1])
        self.moments[-1] = w
        self.sums = torch.zeros_like(self.moments)
        self.near: Tensor | None = None

    def add(self, i: slice, j: slice, k: Tensor) -> None:
        """Add what the points ``j`` do to the points ``i``, by kernel values (i, j)."""
        self.sums[:, i].addmm_(self.moments[:, j], k.T)

    def add_near(self, i: slice | Tensor, j: slice | Tensor, k: Tensor) -> None:
        """Add the same in double precision."""
        if self.near is None:
            self.near = torch.zeros_like(self.g)
        x, forces = self.x.double.x, k * self.w[j].double()
        between = x[i] * forces.sum(1, keepdim=True) - forces @ x[j]
        self.near[i] += (self.scale * between + forces @ self.g[j].double()).to(self.near.dtype)

    def result(self, own: Tensor) -> Tensor:
        """Return the sums, with what each point does to itself by the kernel value ``own``."""
        sums = self.sums[:-1].T.contiguous().addcmul_(self.x.x, (self.scale * self.sums[-1])[:, None])
        sums.addcmul_(self.g, (own * self.w)[:, None])
        return sums if self.near is None else sums.add_(self.near)
