r"""The first variation by a trained network: the maximiser of the variational form of :math:`F`."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, NonNegative
from wgflow.core.instead import shown
from wgflow.core.networks import called
from wgflow.core.typing import Info, NetSource, Points, Scalar
from wgflow.estimators.base import Draw, Estimator, build_pointwise, register_estimator
from wgflow.functionals import Functional
from wgflow.measures import Particles
from wgflow.optim import Adam, Descent, Optim
from wgflow.optim.balance import BATCHES, imbalance


@dataclass(frozen=True)
class R1(Checked):
    r"""Gradient penalty on data, :math:`\frac{\gamma}{2}E_\nu\lVert\nabla v(y)\rVert^2` (squared norm summed over coordinates).

    Parameters
    ----------
    gamma : float
        The S-JKO paper writes :math:`\lambda E\lVert\nabla v\rVert^2` (:math:`\gamma=2\lambda`); its code and UOTM's apply
        :math:`\lambda/2` (:math:`\gamma=\lambda`).
    every : int
        Apply it at every so many critic updates only, ``every`` times as strong (lazy regularisation).
    """

    gamma: NonNegative
    every: Count = 1

    def __call__(self, v: Tensor, nu: Particles) -> Scalar:
        """Penalty from the critic's values ``v`` (n,) at the data ``nu``, whose points require gradient."""
        (grad,) = torch.autograd.grad(v.sum(), nu.x, create_graph=True)
        return self.gamma / 2 * self.every * nu.mean(grad.flatten(1).square().sum(1))


@dataclass(eq=False)
class CriticState:
    """A critic in training."""

    net: nn.Module
    descent: Descent


@register_estimator("critic")
@dataclass(frozen=True)
class Critic(Estimator):
    r"""A network :math:`v` that ascends :math:`\langle\varphi,\rho\rangle-F^*(\varphi)`, :math:`\varphi=` ``F.witness(v)``.

    The network keeps the sign of the papers: high on data, low on the model. It is created once and persists across
    time steps with its optimiser.

    Parameters
    ----------
    net : nn.Module or callable
        :math:`v`, from (n, \*event) to (n,) or (n, 1); a module is copied, a function is called under the run's seed. It is a
        function of one point: batch normalisation gives a warning.
    optim : Optim
        Its optimiser; betas and learning rate of Choi et al. by default.
    iters : int
        Critic updates each time the solver asks (one per update of the moving measure in S-JKO).
    r1 : R1, optional
        Gradient penalty on the data points of the critic step.

    Notes
    -----
    One update costs one forward pass on a model batch (drawn without gradient), one on a data batch and one backward
    pass; R1 adds a backward pass of a backward pass.
    """

    net: NetSource
    optim: Optim = field(default_factory=lambda: Adam(1e-4))
    iters: Count = 1
    r1: R1 | None = None

    needs = ("conjugate", "variational")
    needs_samples = True
    pointwise = True

    @classmethod
    def example(cls) -> "Critic":
        """Return a tiny instance."""
        return cls(lambda: nn.Linear(2, 1))

    def init(self, F: Functional, rng: torch.Generator) -> CriticState:
        """Build the network and its optimiser."""
        net = build_pointwise(self.net, rng, "critic")
        return CriticState(net, self.optim.build(net.parameters()))

    def refine(self, F: Functional, draw: Draw, es: CriticState, rng: torch.Generator) -> Info:
        """Ascend ``iters`` times, each on a fresh realisation of ``F`` and a fresh batch."""
        info: Info = {}
        for _ in range(self.iters):
            info = self._ascend(F.freeze(rng), draw(rng), es)
        return info

    def _ascend(self, F: Functional, rho: Particles, es: CriticState) -> Info:
        r1 = None if self.r1 is None or es.descent.updates % self.r1.every else self.r1
        info: Info = {}
        report = es.descent.minimise(lambda: self._loss(F, rho, _Evaluated(es.net), r1, info))
        info |= {f"critic/{name}": value for name, value in report.items()}
        return {name: torch.as_tensor(value).detach() for name, value in info.items()}

    @staticmethod
    def _loss(F: Functional, rho: Particles, net: "_Evaluated", r1: R1 | None, info: Info) -> Scalar:
        data = F.data()
        if r1 is not None:
            assert isinstance(data, Particles), "why_not() asks for data"
            data.x.requires_grad_(True)
        value = F.variational(net, rho)
        loss = F.critic_penalty(net, rho) - value
        info.update({"critic/objective": value, "critic/model": rho.mean(net(rho.x))})
        if isinstance(data, Particles):
            info["critic/data"] = data.mean(net(data.x))
            if r1 is not None:
                info["critic/r1"] = r1(net(data.x), data)
                loss = loss + info["critic/r1"]
        info.update({f"critic/{name}": value for name, value in F.diagnostics(net).items()})
        return loss

    def imbalance(self, F: Functional, draw: Draw, es: CriticState, rng: torch.Generator) -> Tensor:
        r"""Compare :math:`\langle\varphi,\rho\rangle` with the rest of what the critic ascends, penalties included.

        Their gradients in the critic's weights cancel at its maximum: the two sides then agree on every direction that the
        network can move in.
        """
        r1 = None if self.r1 is None else replace(self.r1, every=1)

        def parts() -> Iterator[tuple[Scalar, Scalar]]:
            for _ in range(BATCHES):
                realised, rho, net = F.freeze(rng), draw(rng), _Evaluated(es.net)
                model = realised.surrogate(net, rho)
                yield model, -self._loss(realised, rho, net, r1, {}) - model

        return imbalance(parts(), es.descent.parameters)

    def surrogate(self, F: Functional, rho: Particles, es: CriticState) -> Scalar:
        r"""Return :math:`\langle\varphi,\rho\rangle`, plus the values of what a sum holds beside the critic's term."""
        return F.surrogate(_Evaluated(es.net), rho)

    def potential(self, F: Functional, x: Points, es: CriticState) -> Tensor:
        r"""Return :math:`\varphi(x)`, shape (n,), without gradient."""
        with torch.no_grad():
            return F.witness(_Evaluated(es.net)(x))


class _Evaluated:
    """A critic that checks its output and never evaluates the same tensor twice."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Points) -> Tensor:
        for known, v in self.seen:
            if known is x:
                return v
        v = called(self.net, "the critic", x)
        if not isinstance(v, Tensor):
            raise BadInput(f"a critic must map {tuple(x.shape)} to a tensor ({len(x)},), got {shown(v)}")
        if v.shape == (len(x), 1):
            v = v[:, 0]
        if v.shape != (len(x),):
            raise BadInput(f"a critic must map {tuple(x.shape)} to ({len(x)},) or ({len(x)}, 1), got {tuple(v.shape)}")
        if torch.is_grad_enabled() and not v.requires_grad:
            raise BadInput(
                "a critic must depend on its parameters: its output was detached, or computed without gradient"
            )
        # Conjugates hold exponentials: never in half precision.
        v = v if v.dtype in (torch.float32, torch.float64) else v.float()
        self.seen.append((x, v))
        return v
