"""Random changes of points before a critic sees them."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from wgflow.core.fields import Checked
from wgflow.core.placing import Placed
from wgflow.core.typing import Points


class Augmentation(Checked, Placed, ABC):
    r"""A random map :math:`T_u` of points, for ``Critic(net, augment=...)``: the critic compares :math:`T_\#\rho` with :math:`T_\#\nu`.

    Examples
    --------
    Points in random units:

    >>> import torch
    >>> import wgflow as wg
    >>> class Units(wg.Augmentation):
    ...     numbers = 1
    ...
    ...     def __call__(self, x, u):
    ...         return (0.5 + u) * x
    >>> critic = wg.Critic(torch.nn.Linear(2, 1), augment=Units())
    """

    goes_to = "an augmentation: give it to a critic, Critic(net, augment=...)"
    numbers: ClassVar[int]
    """How many random numbers a point takes."""

    @abstractmethod
    def __call__(self, x: Points, u: Tensor) -> Points:
        r"""Return :math:`T_u(x)`, differentiable in ``x`` (n, \*event); ``u`` (n, numbers) is uniform on (0, 1)."""
