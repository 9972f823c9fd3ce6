"""Which points of a weighted cloud a draw takes: by weight, unbiased, and with little variance."""

import torch
from torch import Tensor

from wgflow.core.rng import aside

_BELOW_ONE = 1 - 2**-53


def at_levels(w: Tensor, levels: Tensor) -> Tensor:
    r"""Return, for levels in [0, 1), the indices whose weights they fall into when these lie end to end; never one of weight 0.

    Weights (m,) need not sum to one. Sums are in float64: in float32 those over a million weights drift.
    """
    edges = w.detach().double().cumsum(0)
    return torch.searchsorted(edges / edges[-1], levels.clamp(max=_BELOW_ONE), right=True).clamp(max=len(w) - 1)


def systematic(w: Tensor, u: Tensor | float, n: int) -> Tensor:
    r"""Return ``n`` indices, in order, of which :math:`i` comes :math:`\lfloor nw_i\rfloor` or :math:`\lceil nw_i\rceil` times.

    They are those at the levels :math:`(k+u)/n`, :math:`k<n`: for :math:`u` uniform in [0, 1) the i-th comes :math:`nw_i` times on
    average.
    """
    return at_levels(w, (torch.arange(n, device=w.device, dtype=torch.float64) + u) / n)


def picks(log_w: Tensor | None, size: int, n: int, rng: torch.Generator) -> Tensor:
    r"""Return ``n`` indices below ``size`` in random order, :math:`i` on average :math:`nw_i` times, for points of equal weight.

    Equal weights, said or not, give ``n`` distinct ones (all of them equally often when ``n`` is larger) and use up the same
    numbers of ``rng``; others are drawn systematically over a random order (Kitagawa 1996). The device is not waited for.
    """
    order = torch.randperm(size, generator=rng, device=rng.device)
    if log_w is None and n <= size:
        return order[:n]
    own = aside(rng)
    u = torch.rand((), generator=own, device=rng.device, dtype=torch.float64)
    shuffle = torch.randperm(n, generator=own, device=rng.device)
    if log_w is None:
        return order[systematic(torch.ones_like(order), u, n)][shuffle]
    log_w = log_w.detach().to(rng.device)
    drawn = order[systematic(log_w[order].double().softmax(0), u, n)][shuffle]
    return drawn if n > size else torch.where((log_w == log_w[0]).all(), order[:n], drawn)
