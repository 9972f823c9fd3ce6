"""Energies that need no target."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from wgflow._typing import Points, Scalar
from wgflow.errors import BadInput
from wgflow.functionals.base import Functional, register_functional
from wgflow.measures import Particles


@register_functional("potential")
@dataclass(frozen=True)
class PotentialEnergy(Functional):
    r"""The potential energy :math:`F(\rho)=\int V\,d\rho`; its first variation is :math:`V`.

    Parameters
    ----------
    potential : callable
        :math:`V`, from (n, \*event) to (n,), differentiable.

    Examples
    --------
    >>> import torch
    >>> V = PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> V.value(Particles(torch.tensor([[1.0, 0.0], [0.0, 3.0]])))
    tensor(2.5000)
    """

    potential: Callable[[Points], Tensor]

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`\sum_i w_i V(x_i)`.

        Raises
        ------
        BadInput
            When the potential does not return one number a particle.
        """
        v = self.potential(rho.x)
        if v.shape != rho.x.shape[:1]:
            raise BadInput(f"a potential must map {tuple(rho.x.shape)} to ({len(rho)},); it returned {tuple(v.shape)}")
        return rho.mean(v)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "PotentialEnergy":
        """Return the quadratic potential."""
        return cls(lambda x: 0.5 * x.flatten(1).square().sum(1))
