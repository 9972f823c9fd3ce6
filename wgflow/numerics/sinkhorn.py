"""The debiased Sinkhorn divergence between two clouds, by geomloss behind checks."""

from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Fraction, Positive, checked
from wgflow.core.typing import Points, Scalar

MAX_POINTS = 20_000
"""Largest cloud of :func:`sinkhorn_divergence`, whose cost matrices are dense."""

_MASS_TOLERANCE = 1e-5


@checked
def sinkhorn_divergence(
    x: Points,
    y: Points,
    *,
    blur: Positive,
    p: Literal[1, 2] = 2,
    scaling: Fraction = 0.9,
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
    sweep, and stops there. At 0.9 values are far better than gradients: enough to
    measure, too little to drive a flow. It is computed in float64 and in units of the blur, so neither the precision nor
    the unit of the points counts.

    Parameters
    ----------
    x, y : Tensor, shapes (n, \*event) and (m, \*event)
        float32 or float64, of one dtype and device. The result is differentiable in them (first order).
    blur : float
        A length in the units of the flattened points; :class:`SinkhornMetric` says how to choose it.
    p : int
        1 or 2. At p = 1 geomloss counts distances below 1e-4 of the blur as that.
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
    problem = _Problem.of(x, y, blur, a, b)
    value = problem.annealed(p, scaling, debias=True) * blur ** (p - 1) * blur
    return value.to(x.dtype)


@checked
def annealing_error(
    x: Points,
    y: Points,
    *,
    blur: Positive,
    p: Literal[1, 2] = 2,
    scaling: Fraction = 0.9,
    a: Tensor | None = None,
    b: Tensor | None = None,
) -> float:
    """Return the marginal error (L1, of mass 1) of the plan that annealing with these parameters ends at.

    The number that an iteration to a tolerance would be stopped by; annealing has none. The relative error of the
    divergence is smaller, on the clouds that the tests try.
    """
    with torch.no_grad():
        problem = _Problem.of(x, y, blur, a, b)
        f, g = problem.annealed(p, scaling, debias=False, potentials=True)
        x, a, y, b = problem.clouds
        h, new = a.log() + f.flatten(), []
        for points in y.split(max(1, 2**24 // len(x))):
            new.append(-(h - torch.cdist(points, x) ** p / p).logsumexp(1))
        return float(b @ torch.expm1((g.flatten() - torch.cat(new)).clamp(max=50)).abs())


class _Problem(NamedTuple):
    """Two clouds in float64, around a common center and in units of the blur: geomloss compares with numbers like 1e-4."""

    clouds: tuple[Tensor, Tensor, Tensor, Tensor]
    diameter: float

    @classmethod
    def of(cls, x: Points, y: Points, blur: float, a: Tensor | None, b: Tensor | None) -> Self:
        _check_clouds(x, y)
        x, y = x.flatten(1).double(), y.flatten(1).double()
        a, b = _weights(a, x, "a"), _weights(b, y, "b")
        centre = torch.cat([x.detach(), y.detach()]).mean(
            0
        )  # geomloss expands |x-y|², which cancels far from the origin
        x, y = (x - centre) / blur, (y - centre) / blur
        both = torch.cat([x.detach(), y.detach()])
        if not bool(torch.isfinite(4 * both.square().sum(1)).all()):
            raise BadInput(f"squared distances over the squared blur {blur:g} overflow {x.dtype}: increase blur")
        # Annealing starts at the diameter: at 0, when all points coincide, it would return NaN.
        return cls((x, a, y, b), max(float((both.amax(0) - both.amin(0)).norm()), 1.0))

    def annealed(self, p: int, scaling: float, **kind: bool) -> Any:
        """Return what geomloss finds, with a graph where that is wanted."""
        from geomloss import SamplesLoss

        x, a, y, b = self.clouds
        # backend="auto" would switch, beyond 5000 points, to one that fails or returns NaN without KeOps.
        options = {"p": p, "blur": 1.0, "scaling": scaling, "diameter": self.diameter, "backend": "tensorized"}
        loss = SamplesLoss("sinkhorn", **options, **kind)
        wants_grad = torch.is_grad_enabled()
        with torch.set_grad_enabled(wants_grad):  # geomloss leaves it on, or off when it fails midway
            found = loss(a, x, b, y)
        return found if wants_grad or kind.get("potentials") else found.detach()


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
        gigabytes = 2 * (len(x) + len(y)) ** 2 * 8 / 1e9
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
