"""Maps of a space to itself that start at the identity; where they know how, with their log-determinant and inverse."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wgflow.core.brief import network
from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Count, checked
from wgflow.core.registry import Registry
from wgflow.core.typing import Points

MAPS: "Registry[TransportMap]" = Registry("map")
register_map = MAPS.register


class TransportMap(nn.Module):
    r"""A trainable map :math:`T:\mathbb R^d\to\mathbb R^d`, the identity when it is made, applied to points (n, \*event).

    A subclass defines ``forward``, which treats every point by itself, and what else it can:

    * :meth:`with_logdet`, the Jacobian's :math:`\log|\det\nabla T(x)|`, which keeps a density alive;
    * :meth:`inverse`, which gives a density at points that were not drawn.

    Parameters
    ----------
    \*event_shape : int
        Shape of one point.

    Attributes
    ----------
    event_shape : torch.Size
        Shape of one point.
    has_logdet, invertible : bool
        What this map can.

    Raises
    ------
    BadInput
        For no size at all, or sizes below 1.

    Examples
    --------
    A shift, whose Jacobian has determinant 1:

    >>> class Shift(TransportMap):
    ...     has_logdet = True
    ...
    ...     def __init__(self, d):
    ...         super().__init__(d)
    ...         self.b = nn.Parameter(torch.zeros(d))
    ...
    ...     def forward(self, x):
    ...         return x + self.b
    >>> T = Shift(2)
    >>> torch.equal(T(torch.ones(3, 2)), torch.ones(3, 2))
    True
    """

    has_logdet: ClassVar[bool] = False
    invertible: ClassVar[bool] = False

    @checked
    def __init__(self, *event_shape: Count) -> None:
        super().__init__()
        if not event_shape:
            raise BadInput(f"{type(self).__name__}(): expected the sizes of one point, such as (2) or (3, 32, 32)")
        self.event_shape = torch.Size(event_shape)
        self.dim = math.prod(event_shape)
        self.register_load_state_dict_post_hook(_check_finite)

    def __repr__(self) -> str:
        """Return the class with the number of its parameters."""
        return network(self)

    @classmethod
    def example(cls) -> "TransportMap":
        """Return a tiny instance for contract tests, of points with two coordinates."""
        return cls(2)

    def with_logdet(self, x: Points, rng: torch.Generator | None = None) -> tuple[Points, Tensor]:
        r"""Return :math:`T(x)` and :math:`\log|\det\nabla T(x)|`, shape (n,), both differentiable.

        Exact without ``rng``. With one, a map that was made with a stochastic estimator uses it: the estimate is unbiased
        (as far as the estimator is) and so is its gradient; other maps ignore ``rng``.

        Raises
        ------
        Unsupported
            When the map has no log-determinant.
        """
        raise Unsupported(
            f"{type(self).__name__} has no log-determinant, so no density can be tracked through it. Use ICNNGradient, "
            "NeuralODE, Affine or Residual(logdet='exact'), or a functional that needs samples only, under Critic."
        )

    def inverse(self, y: Points) -> Points:
        """Return the points that are mapped to ``y``, without gradient.

        Raises
        ------
        Unsupported
            When the map has no inverse, or none is found.
        """
        raise Unsupported(
            f"{type(self).__name__} has no inverse. Use Affine, ICNNGradient or NeuralODE, or the densities that draws "
            "carry (log_rho) in the place of log_prob at given points."
        )

    def inverse_with_logdet(self, y: Points) -> tuple[Points, Tensor]:
        r"""Return :math:`x=T^{-1}(y)` and :math:`\log|\det\nabla T(x)|`, without gradient."""
        with torch.no_grad():
            x = self.inverse(y)
            return x, self.with_logdet(x)[1]

    def project(self) -> None:
        """Put the parameters back where they are allowed to be, after an update; nothing by default."""

    def flat(self, x: Points) -> Tensor:
        """Return the points as vectors, (n, d).

        Raises
        ------
        BadInput
            When they have another event shape than the map, or another dtype than its weights.
        """
        if x.shape[1:] != self.event_shape:
            raise BadInput(
                f"{type(self).__name__} maps points of shape {tuple(self.event_shape)}, got {tuple(x.shape[1:])}"
            )
        weight = next(self.parameters(), x)
        if x.dtype != weight.dtype:
            raise BadInput(
                f"{type(self).__name__} has weights of {weight.dtype}, got points of {x.dtype}: convert one of them, "
                f"T.to({x.dtype}) or x.to({weight.dtype})"
            )
        return x.flatten(1)


def _check_finite(module: nn.Module, incompatible: object) -> None:
    lost = [name for name, p in module.named_parameters() if not bool(p.isfinite().all())]
    if lost:
        raise BadInput(
            f"these weights of a {type(module).__name__} are nan or infinite: {', '.join(lost)}. The checkpoint is damaged, or of a "
            "flow that diverged; go on from an earlier one."
        )


def start_at_zero(net: nn.Module, name: str) -> None:
    """Set the last layer of a network to zero, so that it returns zero.

    Raises
    ------
    BadInput
        For what is no network, one that normalizes over the batch, or one without a layer.
    """
    if not isinstance(net, nn.Module):
        raise BadInput(f"{name}(net={type(net).__name__}): expected an nn.Module")
    if any(isinstance(m, _BatchNorm) for m in net.modules()):
        raise BadInput(
            f"{name} applies its network to every point by itself, and this one normalizes over the batch. Use LayerNorm or "
            "GroupNorm, or a Pushforward, whose network may."
        )
    layers = [m for m in net.modules() if isinstance(getattr(m, "weight", None), nn.Parameter)]
    if not layers:
        raise BadInput(
            f"{name} needs a network with a linear output layer to start at the identity; this has no layers"
        )
    with torch.no_grad():
        for p in layers[-1].parameters(recurse=False):
            p.zero_()


def evaluate(net: Callable[[Points], Points], x: Points) -> Points:
    """Return ``net(x)``; raises ``BadInput`` when it has another shape than ``x``."""
    value = net(x)
    if value.shape != x.shape:
        raise BadInput(
            f"a transport map needs a network from points {tuple(x.shape[1:])} to the same shape (its Jacobian must be "
            f"square); it returned {tuple(value.shape[1:])}"
        )
    return value


def jacobian(net: Callable[[Points], Points], x: Points) -> tuple[Points, Tensor]:
    r"""Return a pointwise function's values (n, \*event) and Jacobians (n, d, d), by d backward passes at once."""

    def one(point: Tensor) -> tuple[Tensor, Tensor]:
        value = evaluate(net, point[None])[0]
        return value.flatten(), value

    jac, y = torch.func.vmap(torch.func.jacrev(one, has_aux=True))(x)
    return y, jac.flatten(2)


def rademacher(like: Tensor, rng: torch.Generator) -> Tensor:
    """Return independent signs of the shape, dtype and device of ``like``."""
    signs = torch.randint(2, like.shape, generator=rng, device=rng.device)
    return (2 * signs - 1).to(like)


def inverted(x: Points, y: Points, name: str) -> Points:
    """Return the points ``x`` that were found to be mapped to ``y``; raises ``Unsupported`` when one is not finite."""
    lost = ~x.isfinite().flatten(1).all(1)
    if bool(lost.any()):
        raise Unsupported(
            f"{name} could not be inverted at {int(lost.sum())} of {len(y)} points, for which nan or infinity was found: the "
            "points or its weights are not finite, or it is singular to working precision. Use float64, or the densities "
            "that draws carry (log_rho)."
        )
    return x


Linearised = Callable[[Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def newton_inverse(linearised: Linearised, y: Tensor, name: str, max_iter: int = 100) -> Tensor:
    r"""Solve :math:`T(x)=y` for vectors ``y`` (n, d) by Newton's method with step halving, every point by itself.

    ``linearised`` returns :math:`T(x)` and :math:`\nabla T(x)` (n, d, d). The residual falls to 100 ulp of the size of
    ``y``, or as far as rounding lets it if that is 1000 times as far.

    Raises
    ------
    Unsupported
        When a residual does not vanish: there is no inverse there.
    """
    x = y.clone()
    inverted(y, y, name)
    eps = torch.finfo(y.dtype).eps
    tolerance = 100 * eps * (1 + y.norm(dim=1))
    value, jac = linearised(x)
    residual = value - y
    size = residual.norm(dim=1)
    for _ in range(max_iter):
        if bool((size <= tolerance).all()):
            return x
        direction = torch.linalg.solve_ex(jac, residual[..., None])[0][..., 0]
        step, pending = torch.ones_like(size), torch.ones_like(size, dtype=torch.bool)
        trial, found = x, size
        for _ in range(30):
            trial = torch.where(pending[:, None], x - step[:, None] * direction, trial)
            value, jac = linearised(trial)
            found = (value - y).norm(dim=1)
            pending = ~(found <= (1 - 1e-4 * step) * size) & (size > tolerance)
            if not bool(pending.any()):
                break
            step = torch.where(pending, step / 2, step)
        better = found < size
        if not bool(better.any()):
            break
        x = torch.where(better[:, None], trial, x)
        value, jac = linearised(x)
        residual = value - y
        size = residual.norm(dim=1)
    lost = ~(size <= 1000 * tolerance)
    if bool(lost.any()):
        raise Unsupported(
            f"{name} could not be inverted at {int(lost.sum())} of {len(y)} points (largest residual "
            f"{float(size[lost].max()):.3g}): it is singular or not one-to-one there. Use ICNNGradient, whose inverse "
            "always exists, or the densities that draws carry (log_rho)."
        )
    return x
