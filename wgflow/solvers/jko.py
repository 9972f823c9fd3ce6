r"""The Jordan–Kinderlehrer–Otto scheme: implicit Euler in the Wasserstein space.

.. math:: \rho_{k+1}=\operatorname*{argmin}_\rho\ \frac{W_2^2(\rho_k,\rho)}{2h}+F(\rho).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from wgflow._balance import BATCHES, imbalance
from wgflow._fields import Count, Fraction
from wgflow._typing import Info, Points, Scalar
from wgflow.errors import BadInput
from wgflow.estimators import Autograd, Estimator
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure, Successor
from wgflow.optim import Adam, Descent, Optim
from wgflow.solvers.base import Solver, State, advance, register_solver


def transport_cost(x: Points, y: Points, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    r"""Return :math:`\tfrac12\lVert x_i-y_i\rVert^2`, shape (n,), summed or averaged over the coordinates of a point.

    Raises
    ------
    BadInput
        When the shapes differ (they would broadcast) or the reduction is unknown.
    """
    if x.shape != y.shape:
        raise BadInput(f"the transport cost pairs points one to one: got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    squares = (x - y).square().flatten(1)
    if reduction == "sum":
        return squares.sum(1) / 2
    if reduction == "mean":
        return squares.mean(1) / 2
    raise BadInput(f"reduction={reduction!r}: expected 'sum' or 'mean'")


@dataclass(eq=False)
class JKOState(State):
    """A state in the middle of an implicit step: the successor in training and how far it has come."""

    successor: Successor = None  # type: ignore[assignment]
    descent: Descent = None  # type: ignore[assignment]
    i: int = 0

    @property
    def present(self) -> MovingMeasure:
        """The successor, as far as it has been trained; the accepted law when it has just been accepted."""
        return self.measure if self.i == 0 else self.successor.measure(self.measure)


@register_solver("jko")
@dataclass(frozen=True)
class JKO(Solver):
    r"""Minimise :math:`E[c(x,y)]/h+F(\rho')` over a trainable successor :math:`\rho'\ni y` coupled to :math:`\rho_k\ni x`.

    With a ``Critic`` and a ``Pushforward`` this is S-JKO (Choi et al. 2024): one generator, one critic and their
    optimisers persist across steps, and the only copy is the frozen snapshot of the last step, so cost per step and
    memory do not depend on :math:`k`. With one step it is source-fixed UOTM, with ``Identity`` OTM, and with an infinite
    step size the f-GAN of the entropy. On ``Particles`` with ``Autograd`` it is a proximal-point step.

    Parameters
    ----------
    estimator : Estimator
        How :math:`F` is estimated at the successor; refined before every update of it.
    optim : Optim
        Minimiser over the successor's parameters. Persists across steps together with the successor, where that does.
        ``LBFGS()`` with ``iters=1`` solves a smooth step of particles in one update.
    iters : int
        Updates in a time step.
    first_iters : int, optional
        Updates in the first one, when it needs more (S-JKO: 10,000 against 2,000).
    batch : int
        Points in one draw.
    cost : {"sum", "mean"}
        :math:`c=\tfrac12\lVert x-y\rVert^2` summed over the :math:`d` coordinates (:math:`h` is the JKO step) or averaged
        (the convention of the S-JKO paper: :math:`h_{JKO}=d\,h`). UOTM's :math:`\tau` is :math:`1/(2h_{JKO})`.
    latent : {"shared", "independent"}
        Whether old and new map see the same auxiliary noise. The paper and its code draw it twice, which adds the
        conditional variances to the cost and shrinks them: with KL to N(0,1) and pure noise, to h/(1+h).
    snapshot : {"raw", "ema"}
        Whether the accepted law takes the trained weights (paper and code) or their running average.
    tolerance : float, optional
        Accept a step early, once the gradients of transport and energy cancel up to this fraction,
        :math:`\lVert\nabla E[c]/h+\nabla F\rVert\le` ``tolerance`` :math:`(\lVert\nabla E[c]/h\rVert+\lVert\nabla F\rVert)` in
        the successor's parameters, and, with an estimator that is trained, those of its own objective as well (for a critic,
        :math:`\langle\varphi,\rho'\rangle` against :math:`F^*(\varphi)`). At 0.05 the force that is left is a tenth of the
        transport's; the updates given remain the limit.
        For first-order minimisers: ``LBFGS`` and ``TridiagonalNewton`` have a tolerance of their own.
    look_every : int
        Updates between such looks, reported as ``jko/imbalance``. Each takes four fresh batches, with two backward passes each,
        and waits for the device. Norms are free of the bias of the batches' noise, so a look says nothing below that noise.
    """

    estimator: Estimator = field(default_factory=Autograd)
    optim: Optim = field(default_factory=Adam)
    iters: Count = 1000
    first_iters: Count | None = None
    batch: Count = 256
    cost: Literal["sum", "mean"] = "sum"
    latent: Literal["shared", "independent"] = "shared"
    snapshot: Literal["raw", "ema"] = "raw"
    tolerance: Fraction | None = None
    look_every: Count = 50

    order = 1
    implicit = True
    reference = ("jordan1998variational", "choi2024scalable")

    def refuses(self, F: Functional) -> str | None:
        """Refuse a minimiser that compares values with an estimator that has a gradient only."""
        if self.estimator.is_function or not getattr(self.optim, "searches", False):
            return None
        name, optim = type(self.estimator).__name__, type(self.optim).__name__
        return (
            f"{optim} compares values along lines, and those of {name} do not fit its gradient. Use JKO({name}(...), optim=Adam(...)), "
            f"or an estimator that is a function of the particles: Autograd or Blob(density)."
        )

    def updates(self, k: int) -> int:
        """``first_iters`` for the first step, ``iters`` for the others: what ``tolerance`` leaves at most."""
        return self.first_iters if k == 0 and self.first_iters is not None else self.iters

    def updates_before(self, k: int) -> int:
        """``first_iters`` once, ``iters`` in all others."""
        if type(self).updates is not JKO.updates:
            return super().updates_before(k)
        return 0 if k == 0 else self.updates(0) + (k - 1) * self.iters

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> JKOState:
        """Return a state with the first successor proposed."""
        s = super().init(F, measure, rng)
        successor = s.measure.propose(rng)
        descent = self.optim.build(successor.parameters())
        return JKOState(s.measure, s.k, s.t, s.rng, s.estimator, successor, descent)

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Refine the estimate, then take one descent step; the last one of the budget accepts the successor.

        Reports :math:`E[c]` (``jko/transport``) and :math:`F` (``jko/energy``) of the inner objective, and what the
        minimiser reports.
        """
        if not isinstance(state, JKOState):
            raise BadInput(
                f"JKO goes on from a state of JKO, not from a {type(state).__name__}: start from its measure"
            )
        F = F.at(state.k, state.t)
        rho, successor, rng = state.measure, state.successor, state.rng
        info = self.estimator.refine(F, lambda rng: successor.draw(rho, self.batch, rng), state.estimator, rng)

        couple = successor.coupling(rho, self.batch, rng, self.latent)
        frozen: tuple[Functional, Estimator] | None = None

        def objective() -> Scalar:
            nonlocal frozen
            x, y = couple()
            if frozen is None:
                frozen = F.freeze(rng).fit(x), self.estimator.fit(x)
            transport = y.mean(transport_cost(x.x, y.x, self.cost))
            energy = frozen[1].surrogate(frozen[0], y, state.estimator)
            info.update({"jko/transport": transport.detach(), "jko/energy": energy.detach()})
            return transport / h + energy

        report = state.descent.minimise(objective)
        info |= {f"jko/{name}": value for name, value in report.items()}
        successor.trained(rho)

        done = state.i + 1 == self.updates(state.k)
        if not done and self.tolerance is not None and (state.i + 1) % self.look_every == 0:
            info["jko/imbalance"] = self._imbalance(F, state, h)
            done = bool(info["jko/imbalance"] <= self.tolerance)
        return (self._accept(state, h) if done else replace(state, i=state.i + 1)), info

    def _imbalance(self, F: Functional, state: JKOState, h: float) -> Tensor:
        """Return the larger one of what is left to do for the successor and for the estimator."""
        rho, successor, rng = state.measure, state.successor, state.rng

        def parts() -> Iterator[tuple[Scalar, Scalar]]:
            for _ in range(BATCHES):
                x, y = successor.couple(rho, self.batch, rng, self.latent)
                energy = self.estimator.fit(x).surrogate(F.freeze(rng).fit(x), y, state.estimator)
                yield y.mean(transport_cost(x.x, y.x, self.cost)) / h, energy

        left = imbalance(parts(), state.descent.parameters)
        estimate = self.estimator.imbalance(F, lambda rng: successor.draw(rho, self.batch, rng), state.estimator, rng)
        return left if estimate is None else torch.maximum(left, estimate)

    def _accept(self, state: JKOState, h: float) -> State:
        measure = state.successor.accept(state.measure, self.snapshot)
        return advance(self.rebase(replace(state, i=0), measure), measure, h)

    def rebase(self, state: State, measure: MovingMeasure, index: Tensor | None = None) -> JKOState:
        """Also propose a new successor, unless it persists."""
        assert isinstance(state, JKOState)
        successor, descent = state.successor, state.descent
        if not successor.persistent:
            successor = measure.propose(state.rng, successor)
            descent = self.optim.build(successor.parameters())
        return replace(state, measure=measure, successor=successor, descent=descent)
