"""The first variation by differentiating the functional's own value."""

from dataclasses import dataclass
from typing import Any

from wgflow.core.outputs import scalar
from wgflow.core.typing import Scalar
from wgflow.estimators.base import Estimator, register_estimator
from wgflow.functionals import Functional
from wgflow.measures import Particles


@register_estimator("autograd")
@dataclass(frozen=True)
class Autograd(Estimator):
    r""":math:`s(\rho)=F(\rho)` itself: exact for the particles it is given.

    Raises
    ------
    Unsupported
        From :meth:`Functional.value`, when the functional has no primal form on these particles.
    """

    needs = ("value",)

    def surrogate(self, F: Functional, rho: Particles, es: Any) -> Scalar:
        """Return the value of the functional."""
        return scalar(F.value(rho), rho.x, f"{type(F).__name__}.value")
