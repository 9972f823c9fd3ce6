"""The debiased Sinkhorn divergence between two clouds, by geomloss behind checks."""

import math

import torch
from torch import Tensor

from wgflow._typing import Points, Scalar
from wgflow.errors import BadInput

MAX_POINTS = 20_000
"""Largest cloud of :func:`sinkhorn_divergence`, whose cost matrices are dense."""

_MASS_TOLERANCE = 1e-5


def sinkhorn_divergence(
    x: Points,
    y: Points,
    *,
    blur: float,
    p: int = 2,
    scaling: float = 0.9,
    a: Tensor | None = None,
    b: Tensor | None = None,
) -> Scalar:
    r"""Debiased Sinkhorn divergence between two weighted clouds, by geomloss.

    .. math::
        S_\varepsilon(\alpha,\beta) &= \mathrm{OT}_\varepsilon(\alpha,\beta)
        - \tfrac12\mathrm{OT}_\varepsilon(\alpha,\alpha) - \tfrac12\mathrm{OT}_\varepsilon(\beta,\beta), \\
        \mathrm{OT}_\varepsilon(\alpha,\beta) &= \min_\pi \int \tfrac1p\lVert x-y\rVert^p\,d\pi
        + \varepsilon\,\mathrm{KL}(\pi\,|\,\alpha\otimes\beta), \qquad \varepsilon = \text{blur}^p .

    The cost is **1/p times** the p-th power of the Euclidean norm, summed (not averaged) over the
    coordinates of the flattened events: at p = 2 a translation by t costs :math:`\tfrac12|t|^2` at every
    blur, and the value tends to :math:`\tfrac12 W_2^2` as blur → 0.

    geomloss has no tolerance: it anneals the length from the diameter down to ``blur``, by ``scaling`` a
    sweep, and stops there. At 0.9 values are good to about 1 % and gradients to about 10 %: enough to
    measure, too little to drive a flow.

    Parameters
    ----------
    x, y : Tensor, shapes (n, \*event) and (m, \*event)
        float32 or float64, of one dtype and device. The result is differentiable in them (first order).
    blur : float
        A length in the units of the flattened points; :class:`SinkhornMetric` says how to choose it.
    p : int
        1 or 2. At p = 1 geomloss counts distances below 1e-4 as 1e-4.
    scaling : float
        Ratio of successive annealing lengths, in (0, 1); nearer to 1 is more accurate and slower.
    a, b : Tensor, shapes (n,) and (m,), optional
        Weights, each summing to one; uniform when None.

    Returns
    -------
    Tensor
        A 0-d tensor. It can be slightly negative for nearly equal clouds.

    Raises
    ------
    BadInput
        For mismatched shapes, dtypes or devices, points that are not finite, weights that are negative or
        do not sum to one (geomloss would return a meaningless number), or more than :data:`MAX_POINTS`
        points: the method holds (n + m)² cost entries and about as many again while it sums.

    Notes
    -----
    Feydy, Séjourné, Vialard, Amari, Trouvé and Peyré, *Interpolating between optimal transport and MMD using
    Sinkhorn divergences*, AISTATS 2019.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> shift = torch.tensor([0.6, 0.8], dtype=torch.float64)
    >>> round(float(sinkhorn_divergence(x + shift, x, blur=0.5)), 6)
    0.5
    """
    check_parameters(blur, p, scaling)
    _check_clouds(x, y)
    x, y = x.flatten(1), y.flatten(1)
    a, b = _weights(a, x, "a"), _weights(b, y, "b")
    both = torch.cat([x.detach(), y.detach()])
    centre = both.mean(0)  # geomloss expands |x-y|², which cancels badly far from the origin
    x, y, both = x - centre, y - centre, both - centre
    if not bool(torch.isfinite(4 * both.square().sum(1)).all()):
        raise BadInput(f"squared distances overflow {x.dtype}: rescale the points")
    # geomloss starts its annealing at the diameter: at 0, when all points coincide, it would return NaN.
    diameter = max(float((both.amax(0) - both.amin(0)).norm()), blur)

    from geomloss import SamplesLoss

    # backend="auto" would switch, beyond 5000 points, to one that fails or returns NaN without KeOps.
    loss = SamplesLoss("sinkhorn", p=p, blur=blur, scaling=scaling, diameter=diameter, backend="tensorized")
    wants_grad = torch.is_grad_enabled()
    with torch.set_grad_enabled(wants_grad):  # geomloss leaves it on, or off when it fails midway
        value = loss(a, x, b, y)
    return value if wants_grad else value.detach()


def check_parameters(blur: float, p: int, scaling: float) -> None:
    """Raise ``BadInput`` for settings that geomloss would take and misread."""
    if not (math.isfinite(blur) and blur > 0):
        raise BadInput(f"blur must be a positive length in the units of the flattened points, got {blur}")
    if p not in (1, 2):
        raise BadInput(f"p must be 1 or 2 (the cost is |x-y|^p/p), got {p}")
    if not 0 < scaling < 1:
        raise BadInput(f"scaling must lie between 0 and 1, for example 0.9, got {scaling}")


def _check_clouds(x: Points, y: Points) -> None:
    for name, points in (("x", x), ("y", y)):
        if points.dim() < 2 or len(points) == 0:
            raise BadInput(f"{name} must have shape (n, *event) with n >= 1, got {tuple(points.shape)}")
        if points.dtype not in (torch.float32, torch.float64):
            raise BadInput(f"{name} must be float32 or float64, got {points.dtype}: convert with .float()")
    for what in ("shape of a point", "dtype", "device"):
        ours, theirs = ((t.shape[1:] if what.startswith("shape") else getattr(t, what)) for t in (x, y))
        if ours != theirs:
            raise BadInput(f"x and y must agree in the {what}, got {ours} and {theirs}")
    if max(len(x), len(y)) > MAX_POINTS:
        gigabytes = 2 * (len(x) + len(y)) ** 2 * x.element_size() / 1e9
        raise BadInput(
            f"{len(x)} against {len(y)} points need about {gigabytes:.0f} GB of memory for dense costs; "
            f"the limit is {MAX_POINTS} a side. Use random subsets (2000 points are common) and average"
        )
    for name, points in (("x", x), ("y", y)):
        bad = int((~torch.isfinite(points.flatten(1))).any(1).sum())
        if bad:
            raise BadInput(f"{bad} of the {len(points)} points of {name} are not finite")


def _weights(w: Tensor | None, x: Tensor, name: str) -> Tensor:
    if w is None:
        return x.new_full((len(x),), 1 / len(x))
    if w.shape != x.shape[:1]:
        raise BadInput(f"{name} must have shape ({len(x)},), one weight a point, got {tuple(w.shape)}")
    total, least = float(w.detach().sum()), float(w.detach().min())
    if not (least >= 0 and abs(total - 1) <= _MASS_TOLERANCE):
        raise BadInput(f"{name} must be nonnegative and sum to 1; its sum is {total}, its minimum {least}")
    return w.to(x)
