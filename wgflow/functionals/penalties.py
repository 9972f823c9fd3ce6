"""What keeps a critic's slope in bounds: penalties that are a function of it on points of their own."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from wgflow.core.fields import Checked, Count, NonNegative
from wgflow.core.instead import suggest
from wgflow.core.placing import Placed
from wgflow.core.typing import Scalar
from wgflow.measures import Particles


class Penalty(Checked, Placed, ABC):
    """A term of a critic's loss: where it looks is drawn once an update, what it is there is a function of the critic.

    Examples
    --------
    The mean square of the critic on data:

    >>> import torch
    >>> import wgflow as wg
    >>> class Small(wg.Penalty):
    ...     def where(self, rho, nu, rng):
    ...         return nu
    ...
    ...     def __call__(self, v, at):
    ...         return at.mean(v.square())
    >>> critic = wg.Critic(torch.nn.Linear(2, 1), penalty=Small())
    """

    goes_to = "a penalty: give it to a critic, Critic(net, penalty=...)"
    every: int = 1
    """It is applied in every so many critic updates only."""
    label: ClassVar[str] = "penalty"
    """Its name in the logs, after ``critic/``."""

    @abstractmethod
    def where(self, rho: Particles, nu: Particles, rng: torch.Generator) -> Particles:
        """Return the points to look at, from a batch of the model and one of the data."""

    @abstractmethod
    def __call__(self, v: Tensor, at: Particles) -> Scalar:
        """Return the penalty from the critic's values ``v`` at the points ``at``, which require gradient."""


suggest(Penalty, ((int, float), "Wrap the weight: GradientPenalty({value})"))


def slopes(v: Tensor, at: Particles) -> Tensor:
    r"""Return :math:`\nabla v` at the points, flattened (n, d), itself differentiable in the critic's parameters."""
    (grad,) = torch.autograd.grad(v.sum(), at.x, create_graph=True)
    return grad.flatten(1)


@dataclass(frozen=True)
class R1(Penalty):
    r"""Gradient penalty on data, :math:`\frac{\gamma}{2}E_\nu\lVert\nabla v(y)\rVert^2` (squared norm summed over coordinates).

    Parameters
    ----------
    gamma : float
        The S-JKO paper writes :math:`\lambda E\lVert\nabla v\rVert^2` (:math:`\gamma=2\lambda`); its code and UOTM's apply
        :math:`\lambda/2` (:math:`\gamma=\lambda`).
    every : int
        Apply it at every so many critic updates only, ``every`` times as strong (lazy regularization).

    Examples
    --------
    A critic of slope 3 on all data has :math:`\tfrac\gamma2\cdot9`:

    >>> import torch
    >>> import wgflow as wg
    >>> x = torch.zeros(4, 1, requires_grad=True)
    >>> R1(0.2)(3 * x[:, 0], wg.Particles(x))
    tensor(0.9000)
    """

    gamma: NonNegative
    every: Count = 1

    label = "r1"

    def where(self, rho: Particles, nu: Particles, rng: torch.Generator) -> Particles:
        """Return the data."""
        return nu

    def __call__(self, v: Tensor, at: Particles) -> Scalar:
        """Penalty from the critic's values ``v`` (n,) at the data, whose points require gradient."""
        return self.gamma / 2 * self.every * at.mean(slopes(v, at).square().sum(1))


@dataclass(frozen=True)
class GradientPenalty(Penalty):
    r"""Penalty on the slope between model and data, at :math:`\hat x=ay+(1-a)x` with :math:`a` uniform on (0, 1) for every pair.

    Parameters
    ----------
    weight : float
        :math:`\lambda`, with nothing divided by 2.
    kind : {"lp", "gp", "zero"}
        What is penalized, with the Euclidean norm over all coordinates of a point:

        * ``"lp"``: :math:`\lambda E(\lVert\nabla v(\hat x)\rVert-1)_+^2`. Slopes of *at most* 1, which is what the dual of :math:`W_1`
          asks for (WGAN-LP, Petzka, Fischer and Lukovnikov 2018).
        * ``"gp"``: :math:`\lambda E(\lVert\nabla v(\hat x)\rVert-1)^2`. Slopes of 1, also where mass has arrived (WGAN-GP, Gulrajani et
          al. 2017).
        * ``"zero"``: :math:`\lambda E\lVert\nabla v(\hat x)\rVert^2` (Thanh-Tung, Tran and Venkatesh 2019).
    every : int
        Apply it at every so many critic updates only, ``every`` times as strong.

    Notes
    -----
    Pairs are independent, as many as the smaller batch has points; points that have weights are drawn by them. Of several
    processes, each pairs the points of its own share. One forward pass, one backward pass and a backward pass of that one.

    A critic between two point masses at distance r has the slope :math:`1+r/2\lambda` at the optimum of ``"lp"`` and ``"gp"``: it
    overestimates :math:`W_1` by that factor, 1.05 for r = 1 and the default.

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(3, 2, requires_grad=True)
    >>> v = 3 * x[:, 0]  # slope 3
    >>> [GradientPenalty(1.0, kind)(v, Particles(x)).item() for kind in ("lp", "gp", "zero")]
    [4.0, 4.0, 9.0]
    """

    weight: NonNegative = 10.0
    kind: Literal["lp", "gp", "zero"] = "lp"
    every: Count = 1

    def where(self, rho: Particles, nu: Particles, rng: torch.Generator) -> Particles:
        """Return one point on the segment of every pair."""
        k = min(len(rho), len(nu))
        x, y = (p.resampled(k, rng).x.detach() for p in (rho, nu))
        a = torch.rand(k, *[1] * (x.dim() - 1), generator=rng, device=rng.device, dtype=x.dtype)
        return Particles(torch.lerp(x, y, a))

    def __call__(self, v: Tensor, at: Particles) -> Scalar:
        """Penalty from the critic's values ``v`` at the points ``at``, which require gradient."""
        g = slopes(v, at)
        if self.kind == "zero":
            excess = g.square().sum(1)
        else:
            over = g.norm(dim=1) - 1
            excess = (over.relu() if self.kind == "lp" else over).square()
        return self.weight * self.every * at.mean(excess)
