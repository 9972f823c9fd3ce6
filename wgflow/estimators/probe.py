"""The velocity at points that are not particles."""

import dataclasses
import math
from typing import Any, TypeVar

import torch

from wgflow.core.context import ordinary
from wgflow.core.errors import BadInput
from wgflow.core.fields import Fraction, checked
from wgflow.core.typing import Points
from wgflow.estimators.base import Estimator
from wgflow.functionals import Functional
from wgflow.kernels import Kernel
from wgflow.measures import Measure, Particles

T = TypeVar("T")


@ordinary()
@checked
def velocity_at(
    estimator: Estimator, F: Functional, rho: Particles, es: Any, y: Points, *, mass: Fraction | None = None
) -> Points:
    r"""Return :math:`-\nabla\frac{\delta F}{\delta\rho}(y_j)` at any points ``y``, for the law ``rho`` without them.

    The points join the particles with so little mass that they move nobody, and the velocity is read where they are. An
    estimator whose velocity is ``pointwise`` is asked directly, where the functional has a witness. Bandwidth rules
    (``MedianRBF()``) look at the particles alone.

    Parameters
    ----------
    estimator, F, rho, es
        As for :meth:`Estimator.velocity`; ``F`` is frozen.
    y : Tensor, shape (m, \*event)
        Where; same event shape, dtype and device as the particles.
    mass : float, optional
        Mass of one probe, against 1 for all particles. By default the square root of the machine precision, but at most
        0.001 for all probes together: in float64 the velocity is good to about seven digits, in float32 to a few per cent
        where an estimator adds up weights in order (sorted transport).

    Returns
    -------
    Tensor, shape (m, \*event)

    Raises
    ------
    BadInput
        For points unlike the particles, or a mass that is not between 0 and 1.

    Notes
    -----
    Cost: one velocity of n + m weighted particles. A density from gaps between neighbors (``Spacings``) is changed by a
    probe however light, so it cannot be read in this way.

    Examples
    --------
    >>> import torch
    >>> from wgflow import Autograd, InteractionEnergy, PowerLaw
    >>> rho = Particles(torch.tensor([[-1.0], [3.0]], dtype=torch.float64))
    >>> attraction = InteractionEnergy(PowerLaw(2))  # toward the mean, 1
    >>> velocity_at(Autograd(), attraction, rho, None, torch.tensor([[0.0], [5.0]], dtype=torch.float64)).round(decimals=5)
    tensor([[ 1.],
            [-4.]], dtype=torch.float64)
    """
    if len(y) == 0 or y.shape[1:] != rho.event_shape or y.dtype != rho.x.dtype or y.device != rho.device:
        raise BadInput(
            f"probes {tuple(y.shape)} {y.dtype} on {y.device} are unlike the particles {tuple(rho.x.shape)} {rho.x.dtype} on "
            f"{rho.device}: convert them"
        )
    if estimator.pointwise and F.has_witness:
        return estimator.velocity(_fitted(F, rho), Particles(y), es)
    if mass is None:
        mass = min(math.sqrt(torch.finfo(y.dtype).eps), 1e-3 / len(y))
    x = rho.x.detach()
    log_w = torch.cat([rho.log_weights.detach(), x.new_full((len(y),), math.log(mass))])
    both = Particles(torch.cat([x, y.detach()]), log_w)
    return _fitted(estimator, rho).velocity(_fitted(F, rho), both, es)[len(rho) :]


def _fitted(part: T, rho: Particles) -> T:
    """Return a functional or an estimator with the bandwidth rules in it resolved at the particles; itself without any."""
    if isinstance(part, Kernel):
        return part.fit(rho.x.detach(), rho.log_w)  # type: ignore[return-value]
    own = next((kind for kind in (Functional, Estimator) if isinstance(part, kind)), None)
    if own is not None and type(part).fit is not own.fit:  # type: ignore[attr-defined]
        return part.fit(rho)  # type: ignore[attr-defined,no-any-return]  # it may look at other points than these
    if isinstance(part, tuple):
        fitted = tuple(_fitted(p, rho) for p in part)
        return part if all(a is b for a, b in zip(part, fitted, strict=True)) else fitted  # type: ignore[return-value]
    if not dataclasses.is_dataclass(part) or isinstance(part, (type, Measure)):
        return part
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(part) if f.init}
    changed = {name: new for name, old in fields.items() if (new := _fitted(old, rho)) is not old}
    return dataclasses.replace(part, **changed) if changed else part  # type: ignore[return-value]
