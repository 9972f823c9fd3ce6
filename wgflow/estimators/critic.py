r"""The first variation by a trained network: the maximizer of the variational form of :math:`F`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from wgflow.core.compiling import as_one_graph
from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Count
from wgflow.core.instead import shown
from wgflow.core.networks import called
from wgflow.core.rng import aside
from wgflow.core.typing import Info, NetSource, Points, Scalar
from wgflow.estimators.augmentation import Augmentation
from wgflow.estimators.base import Draw, Estimator, build_pointwise, register_estimator
from wgflow.functionals import R1, Functional, Penalty
from wgflow.measures import Particles
from wgflow.measures.realised import DRAWS
from wgflow.optim import Adam, Descent, Optim
from wgflow.optim.balance import BATCHES, imbalance

_BATCHES = 3
"""Of the model, of the data and between them: what a critic's loss looks at."""


@dataclass(eq=False)
class CriticState:
    """A critic in training.

    Attributes
    ----------
    net : nn.Module
        The network, high on data and low on the model.
    descent : Descent
        Its optimizer.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> critic = wg.Critic(torch.nn.Linear(2, 1))
    >>> state = critic.init(wg.Softplus(wg.twenty_five_gaussians()), torch.Generator())
    >>> state.net(torch.zeros(3, 2)).shape
    torch.Size([3, 1])
    """

    net: nn.Module
    descent: Descent


@dataclass(eq=False)
class AugmentedState(CriticState):
    """A critic that sees changed points, and the random numbers (1, n, numbers) of what the moving measure descends."""

    numbers: Tensor | None = None


@register_estimator("critic")
@dataclass(frozen=True)
class Critic(Estimator):
    r"""A network :math:`v` that ascends :math:`\langle\varphi,\rho\rangle-F^*(\varphi)`, :math:`\varphi=` ``F.witness(v)``.

    The network keeps the sign of the papers: high on data, low on the model. It is created once and persists across
    time steps with its optimizer.

    Parameters
    ----------
    net : nn.Module or callable
        :math:`v`, from (n, \*event) to (n,) or (n, 1), or to features (n, m) where a functional learns them; a module is copied, a
        function is called under the run's seed. It is a function of one point: batch normalization gives a warning.
    optim : Optim
        Its optimizer; betas and learning rate of Choi et al. by default.
    iters : int
        Critic updates each time the solver asks (one per update of the moving measure in S-JKO).
    r1 : R1, optional
        Gradient penalty on the data points of the critic step.
    penalty : Penalty or "none", optional
        Another penalty, such as ``GradientPenalty(10, "gp")``. By default the functional's own: ``GradientPenalty()`` for ``W1``, whose
        critics must not be steep, and none for the others. ``"none"`` for a network that is bounded by itself
        (``spectral_norm(net)``, ``Clipped(net)``).
    augment : Augmentation, optional
        Random change of the points of model and data before the network sees them, drawn anew in every update of either;
        penalties are on slopes in the points as they were. Of images: ``DiffAugment()``.

    Notes
    -----
    One update costs one forward pass on a model batch (drawn without gradient), one on a data batch and one backward
    pass; R1 adds a backward pass of a backward pass, a penalty between model and data another forward pass as well.

    Examples
    --------
    The dual of W1 between points at 0 and 3: the model moves toward the data at a speed of 1, up to the penalty's tolerance.

    >>> import torch
    >>> import wgflow as wg
    >>> critic = wg.Critic(torch.nn.Linear(1, 1), optim=wg.Adam(0.05), iters=100, penalty=wg.GradientPenalty(100.0))
    >>> F = wg.W1(wg.Particles(torch.tensor([[3.0]])))
    >>> flow = wg.solve(F, wg.ForwardEuler(critic), wg.Particles(torch.zeros(1, 1)), step_size=0.5, num_steps=1)
    >>> round(flow.measure.x.item(), 1)
    0.5
    """

    net: NetSource
    optim: Optim = field(default_factory=lambda: Adam(1e-4))
    iters: Count = 1
    r1: R1 | None = None
    penalty: Penalty | Literal["none"] | None = None
    augment: Augmentation | None = None

    needs = ("conjugate", "variational")
    needs_samples = True
    pointwise = True

    @classmethod
    def example(cls) -> "Critic":
        """Return a tiny instance."""
        return cls(lambda: nn.Linear(2, 1))

    def init(self, F: Functional, rng: torch.Generator) -> CriticState:
        """Build the network and its optimizer; raises ``BadInput`` for a network that does not give a point one number."""
        net = build_pointwise(self.net, rng, "critic")
        data = F.at(0, 0.0).data()
        if data is not None and data.can_draw:
            _look(net, data.draw(F.batch or DRAWS, aside(rng)).x, F.learns_features)
        return (CriticState if self.augment is None else AugmentedState)(net, self.optim.build(net.parameters()))

    def refine(self, F: Functional, draw: Draw, es: CriticState, rng: torch.Generator) -> Info:
        """Ascend ``iters`` times, each on a fresh realization of ``F`` and a fresh batch."""
        info: Info = {}
        for _ in range(self.iters):
            realised, rho = F.freeze(rng), draw(rng)
            numbers = self._numbers(F, rho, _BATCHES, rng)
            info |= self._ascend(realised, rho, es, rng, numbers)  # what is not of every update too
            if isinstance(es, AugmentedState):
                es.numbers = self._numbers(F, rho, 1, rng)
        return info

    def _ascend(
        self, F: Functional, rho: Particles, es: CriticState, rng: torch.Generator, numbers: Tensor | None
    ) -> Info:
        looked = [_Looked.at(p, F, rho, rng) for p in self.penalties(F) if es.descent.updates % p.every == 0]
        info: Info = {}

        def objective() -> Scalar:
            loss, told = as_one_graph(_loss, es.net)(F, rho, self._evaluated(F, es, numbers), looked)
            info.update(told)
            return loss

        report = es.descent.minimise(objective)
        info |= {f"critic/{name}": value for name, value in report.items()}
        return {name: torch.as_tensor(value).detach() for name, value in info.items()}

    def penalties(self, F: Functional) -> list[Penalty]:
        """Return what the critic's loss holds beside the objective of ``F``."""
        other = F.critic_penalty() if self.penalty is None else self.penalty
        return [p for p in (self.r1, other) if isinstance(p, Penalty)]

    def imbalance(self, F: Functional, draw: Draw, es: CriticState, rng: torch.Generator) -> Tensor:
        r"""Compare :math:`\langle\varphi,\rho\rangle` with the rest of what the critic ascends, penalties included.

        Their gradients in the critic's weights cancel at its maximum: the two sides then agree on every direction that the
        network can move in.
        """

        def parts() -> Iterator[tuple[Scalar, Scalar]]:
            for _ in range(BATCHES):
                realised, rho = F.freeze(rng), draw(rng)
                net = self._evaluated(realised, es, self._numbers(F, rho, _BATCHES, rng))
                looked = [_Looked.at(p, realised, rho, rng) for p in map(_at_every_update, self.penalties(F))]
                model = realised.surrogate(net, rho)
                yield model, -as_one_graph(_loss, es.net)(realised, rho, net, looked)[0] - model

        return imbalance(parts(), es.descent.parameters)

    def surrogate(self, F: Functional, rho: Particles, es: CriticState) -> Scalar:
        r"""Return :math:`\langle\varphi,\rho\rangle`, plus the values of what a sum holds beside the critic's term."""
        numbers = es.numbers if isinstance(es, AugmentedState) else None
        return F.surrogate(self._evaluated(F, es, numbers), rho)

    def _numbers(self, F: Functional, rho: Particles, count: int, rng: torch.Generator) -> Tensor | None:
        """Return uniform numbers (count, n, numbers) that change the points of so many batches; of several ranks, this one's part."""
        data = F.data()
        if self.augment is None or data is None:
            return None
        like = rho.x.new_empty(max(len(rho), F.batch or 1), count * self.augment.numbers)
        u = torch.special.ndtr(data.normals(like, rng)).clamp(max=1 - torch.finfo(like.dtype).eps)
        return u.unflatten(1, (count, -1)).movedim(1, 0)

    def _evaluated(self, F: Functional, es: CriticState, numbers: Tensor | None) -> "_Evaluated":
        return _Evaluated(es.net, F.learns_features, None if numbers is None else self.augment, numbers)

    def potential(self, F: Functional, x: Points, es: CriticState) -> Tensor:
        r"""Return :math:`\varphi(x)`, shape (n,), without gradient.

        Raises
        ------
        Unsupported
            For a functional whose first variation depends on the law: :meth:`gradient` is given one.
        """
        if not F.has_witness:
            raise Unsupported(
                f"the potential of {type(F).__name__} depends on the law: take gradient(F, rho, state) at one"
            )
        rho = Particles(x)
        with torch.no_grad():
            mean = self.surrogate(F, rho, es)
        return mean + self.gradient(F, rho, es)[0]


class _Looked(NamedTuple):
    """A penalty and the points that it looks at in one update."""

    penalty: Penalty
    points: Particles

    @classmethod
    def at(cls, penalty: Penalty, F: Functional, rho: Particles, rng: torch.Generator) -> "_Looked":
        data = F.data()
        assert isinstance(data, Particles), "why_not() asks for data"
        points = penalty.where(rho, data, rng)
        points.x.requires_grad_(True)
        return cls(penalty, points)


def _loss(F: Functional, rho: Particles, net: "_Evaluated", looked: list[_Looked]) -> tuple[Scalar, Info]:
    """Return what a critic descends, and its parts."""
    data = F.data()
    value = F.variational(net, rho)
    info = {"critic/objective": value}
    if not F.learns_features:
        info["critic/model"] = rho.mean(net(rho.x))
        if isinstance(data, Particles):
            info["critic/data"] = data.mean(net(data.x))
    loss = -value
    for penalty, at in looked:
        info[f"critic/{penalty.label}"] = penalty(net(at.x), at)
        loss = loss + info[f"critic/{penalty.label}"]
    return loss, info | {f"critic/{name}": value for name, value in F.diagnostics(net).items()}


@torch.no_grad()
def _look(net: nn.Module, x: Points, features: bool) -> None:
    """Look at the output of a network before work starts, and leave it as it was."""
    training = {module: module.training for module in net.modules()}
    try:
        v = called(net.eval(), "the critic", x)
    except BadInput:  # points that it cannot take may be unlike those of the flow as well, which says more
        return
    finally:
        for module, mode in training.items():
            module.training = mode
    _Evaluated(lambda _: v, features)(x)


def _at_every_update(penalty: Penalty) -> Penalty:
    return penalty if penalty.every == 1 else replace(penalty, every=1)  # type: ignore[type-var]


class _Evaluated:
    """A critic that checks its output and never evaluates the same tensor twice, each changed by random numbers of its own."""

    def __init__(
        self,
        net: Callable[[Points], Any],
        features: bool,
        augment: Augmentation | None = None,
        numbers: Tensor | None = None,
    ) -> None:
        self.net, self.features, self.augment, self.numbers = net, features, augment, numbers
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Points) -> Tensor:
        for known, v in self.seen:
            if known is x:
                return v
        v = called(self.net, "the critic", self._changed(x))
        if not isinstance(v, Tensor):
            raise BadInput(f"a critic must map {tuple(x.shape)} to a tensor ({len(x)},), got {shown(v)}")
        if v.shape == (len(x), 1):
            v = v[:, 0]
        if v.shape != (len(x),) and not (self.features and v.dim() == 2 and len(v) == len(x)):
            wanted = f"({len(x)},) or ({len(x)}, {'features' if self.features else 1})"
            raise BadInput(f"a critic must map {tuple(x.shape)} to {wanted}, got {tuple(v.shape)}")
        if torch.is_grad_enabled() and not v.requires_grad:
            raise BadInput(
                "a critic must depend on its parameters: its output was detached, or computed without gradient"
            )
        # Conjugates hold exponentials: never in half precision.
        v = v if v.dtype in (torch.float32, torch.float64) else v.float()
        self.seen.append((x, v))
        return v

    def _changed(self, x: Points) -> Points:
        if self.augment is None or self.numbers is None:
            return x
        u = self.numbers[min(len(self.seen), len(self.numbers) - 1)]
        if len(x) > len(u):  # of a target that is used whole
            u = u[torch.arange(len(x), device=u.device) % len(u)]
        return self.augment(x, u[: len(x)])
