"""The first variation by differentiating the functional's own value."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from wgflow.core.outputs import scalar
from wgflow.core.typing import Points, Scalar
from wgflow.estimators.base import Estimator, register_estimator
from wgflow.functionals import Functional
from wgflow.functionals.base import View, views_of
from wgflow.measures import Particles


@register_estimator("autograd")
@dataclass(frozen=True)
class Autograd(Estimator):
    r""":math:`s(\rho)=F(\rho)` itself: exact for the particles it is given.

    Raises
    ------
    Unsupported
        From :meth:`Functional.value`, when the functional has no primal form on these particles.

    Examples
    --------
    Of :math:`\tfrac12E|x|^2` the velocity is :math:`-x`, whatever the number of particles:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> wg.Autograd().velocity(F, wg.Particles(torch.tensor([[1.0], [3.0]])), None).flatten()
    tensor([-1., -3.])
    """

    needs = ("value",)
    shows_law = True

    def surrogate(self, F: Functional, rho: Particles, es: Any) -> Scalar:
        """Return the value of the functional."""
        return scalar(F.value(rho), rho.x, f"{type(F).__name__}.value")

    def velocities(self, F: Functional, rho: Particles, es: Any) -> list[tuple[View, Points]]:
        """Return the slope of every part, of all its clouds at once."""
        found = []
        for view in views_of(F, rho):
            x = view.clouds.x.detach().requires_grad_(True)
            with torch.enable_grad():
                values = view.functional.values(replace(view.clouds, x=x))
            (d_x,) = torch.autograd.grad(values.sum(), x)
            w = view.clouds.w.detach()
            per_mass = torch.where(w > 0, -1 / w, 0.0)
            found.append((view, d_x * per_mass.view(*w.shape, *[1] * (x.dim() - 2))))
        return found
