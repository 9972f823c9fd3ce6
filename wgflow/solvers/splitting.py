"""Splittings: one time step is made of the steps of two simpler flows, and any solver may make them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from wgflow.core.fields import Count
from wgflow.core.typing import Info, Points
from wgflow.estimators import Autograd, Blob, Estimator
from wgflow.functionals import Entropy, Functional, Sum
from wgflow.functionals.linear import terms_of
from wgflow.kernels import NearestRBF
from wgflow.kernels.densities import KernelDensity
from wgflow.measures import MovingMeasure, Particles
from wgflow.optim import LBFGS
from wgflow.solvers.base import Solver, State, advance, register_solver
from wgflow.solvers.explicit import Explicit, ForwardEuler, squared_speed
from wgflow.solvers.jko import JKO
from wgflow.solvers.reaction import Reaction, Reweight


@dataclass(eq=False)
class SplitState(State):
    """A state of a solver that runs another one: that one's state, and whether it is in the middle of its step."""

    inner: State = None  # type: ignore[assignment]
    begun: bool = False

    @property
    def present(self) -> MovingMeasure:
        """The law as the inner solver has it."""
        return self.inner.present if self.begun else self.measure

    def take(self, index: Tensor) -> Self:
        """Let what the inner solver keeps a particle follow it."""
        return replace(self, inner=self.inner.take(index))


@register_solver("forward_backward")
@dataclass(frozen=True)
class ForwardBackward(Explicit):
    r"""Forward Euler on E, then an implicit step on the entropy, for :math:`F=E+T\int\rho\log\rho`. Order 1.

    .. math:: \nu=(\mathrm{id}-h\nabla\tfrac{\delta E}{\delta\rho_k})_\#\rho_k,\qquad
       \rho_{k+1}=\operatorname*{argmin}_\rho\frac{W_2^2(\nu,\rho)}{2h}+T\int\rho\log\rho.

    Parameters
    ----------
    estimator : Estimator
        How the first variation of E is found.
    backward : Solver
        The solver of the second half, with an estimator of the entropy: ``JKO(Blob(density), LBFGS(),
        iters=1)``; ``Spacings()`` is its density in one dimension.
    closed_terms : bool
        Leave the terms with a proximal map (:meth:`Functional.prox`) to the second half as well, together with the entropy.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    Unlike Langevin it has no bias in the step size: for a quadratic potential with Hessian A the stationary covariance
    is :math:`T A^{-1}` for every :math:`h\le1/\lambda_{max}(A)`, up to what the density model adds. (Beyond that the
    forward half is no gradient of a convex function any more, and in one dimension the variance is :math:`hT/(2-ha)`.)
    Cost: one gradient of E and one inner minimization. Source: Salim, Korba and Luise (2020).

    The splitting of Han, Osher and Li (2025) for :math:`V=f+g` has ``backward=ForwardEuler(ProximalScore(h, normalizer of g))``, explicit
    and a proximal step ahead, ``closed_terms``, and the Moreau envelope of g in the functional (``presets.brwp_splitting``).

    Examples
    --------
    KL to N(0, 1) is :math:`E\tfrac12x^2` plus the entropy. Its stationary variance is 1, but for what 10 spacings add:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.KL(wg.StandardNormal(1, dtype=torch.float64))
    >>> solver = wg.ForwardBackward(backward=wg.JKO(wg.Blob(wg.Spacings()), wg.LBFGS()))
    >>> start = wg.Particles(torch.linspace(-1, 1, 10, dtype=torch.float64)[:, None])
    >>> flow = wg.solve(F, solver, start, step_size=0.5, num_steps=6)
    >>> round(flow.measure.x.var(unbiased=False).item(), 2)
    1.0
    """

    backward: Solver = field(default_factory=lambda: JKO(Blob(KernelDensity(NearestRBF())), LBFGS(), iters=1))
    closed_terms: bool = False

    order = 1
    needs_tracked_points = True
    splits_entropy = True
    reference = ("salim2020wasserstein", "han2025splitting")

    def refuses(self, F: Functional) -> str | None:
        """Refuse a functional without an entropy."""
        if F.split_entropy()[1] == 0:
            name = type(self.estimator).__name__
            return f"ForwardBackward splits off an entropy, and {type(F).__name__} has none. Use ForwardEuler({name}(...))."
        energy = F.split_entropy()[0]
        if self.closed_terms and not any(t.can("prox") for t in terms_of(energy)):
            return (
                "closed_terms=True leaves terms with a proximal map to the second half, and no term has one: give it, "
                "PotentialEnergy(V, proximal=...), or leave closed_terms out."
            )
        return None

    def parts(self, F: Functional) -> list[tuple[Functional, Solver]]:
        """The backward solver, for the entropy and what goes with it."""
        return [] if self.refuses(F) else [(self._halves(F)[1], self.backward)]

    def _halves(self, F: Functional) -> tuple[Functional | None, Functional]:
        """Return what the forward half is explicit in, and what the backward solver gets."""
        energy, temperature = F.split_entropy()
        entropy = temperature * Entropy()
        if energy is None or not self.closed_terms:
            return energy, entropy
        terms = terms_of(energy)
        explicit = [t for t in terms if not t.can("prox")]
        closed = [t for t in terms if t.can("prox")]
        return Sum.of(*explicit) if explicit else None, Sum.of(*closed, entropy)

    def suited(self, measure: MovingMeasure) -> Self:
        """Suit the backward solver."""
        return replace(self, backward=self.backward.suited(measure))

    def updates(self, k: int) -> int:
        """Those of the backward solver."""
        return self.backward.updates(k)

    def updates_before(self, k: int) -> int:
        """Those of the backward solver."""
        return self.backward.updates_before(k)

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> SplitState:
        """Return a state with both halves ready."""
        energy, rest = self._halves(F)
        measure = measure.start(rng)
        es = None if energy is None else self.estimator.init(energy, rng)
        inner = self.backward.init(rest, measure, rng)
        return SplitState(measure, 0, 0.0, rng, es, inner)

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Make one update of the backward solver, before the first of them the forward half; reports both."""
        assert isinstance(state, SplitState)
        energy, rest = self._halves(F.at(state.k, state.t))
        info: Info = {}
        if not state.begun:
            measure: MovingMeasure = state.measure
            if energy is not None:
                measure, info = self._forward(energy, state, h)
            state = replace(state, inner=self.backward.rebase(state.inner, measure), begun=True)
        inner, report = self.backward.update(rest, state.inner, h)
        state = replace(state, inner=inner)
        if inner.k > state.k:
            state = replace(advance(state, inner.measure, h), begun=False)
        return state, info | report

    def _forward(self, energy: Functional, state: State, h: float) -> tuple[MovingMeasure, Info]:
        energy, info = self.realise(energy, state)

        def move(p: Particles) -> Points:
            v = self.estimator.velocity(energy, p, state.estimator)
            info["forward/drift"] = squared_speed(p, v)
            return p.x + h * v

        return state.measure.follow(move, state.rng), info

    def rebase(self, state: State, measure: MovingMeasure, index: Tensor | None = None) -> SplitState:
        """Also move the backward solver there."""
        assert isinstance(state, SplitState)
        return replace(state, measure=measure, inner=self.backward.rebase(state.inner, measure, index))


@register_solver("with_reaction")
@dataclass(frozen=True)
class WithReaction(Solver):
    r"""Wasserstein-Fisher-Rao flows: any transport solver, then a reaction that moves mass between the particles.

    .. math:: \partial_t\rho=\nabla\cdot(\rho\nabla\varphi)-r\,(\varphi-E_\rho\varphi)\,\rho,\qquad\varphi=\tfrac{\delta F}{\delta\rho}.

    Parameters
    ----------
    transport : Solver, optional
        What moves the particles; ``ForwardEuler(estimator)`` by default.
    reaction : Reaction
        ``Reweight(rate)`` changes weights, ``BirthDeath(rate)`` duplicates and kills particles of equal weight. Momentum
        follows its particle. Rate 0 is the transport alone, to the last bit.
    estimator : Estimator, optional
        How :math:`\varphi` is found for the reaction; one of the transport's kind by default. With ``Langevin`` as the
        transport it must know the entropy: ``Blob(density)``.
    strang : bool
        Half a reaction before the transport and half after, instead of a whole one after (Lie). Order 2 when the transport
        and the reaction have it: ``Heun()`` and ``Reweight(order=2)``, say.
    batch : int
        Points per batch shown to an estimator that learns.

    Notes
    -----
    Cost beside the transport: one gradient of the functional for a reaction, two for one of order 2, twice that for Strang.
    An estimator that learns is trained twice, once for the transport. Source: Lu, Lu and Nolen (2019) for KL.

    Raises
    ------
    BadInput
        When the reaction cannot act on the particles it is given.

    Examples
    --------
    Two particles in the potentials 0 and 1, which do not move: mass goes to the lower one at rate 4.

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: (x > 0).sum(1) + 0 * x.sum(1))
    >>> start = wg.Particles(torch.tensor([[0.0], [1.0]]))
    >>> flow = wg.solve(F, wg.WithReaction(wg.ForwardEuler(), wg.Reweight(rate=4.0)), start, step_size=0.1, num_steps=10)
    >>> flow.measure.log_w.exp()  # proportional to 1 and exp(-4)
    tensor([0.9820, 0.0180])
    """

    transport: Solver = None  # type: ignore[assignment]
    reaction: Reaction = field(default_factory=Reweight)
    estimator: Estimator = None  # type: ignore[assignment]
    strang: bool = False
    batch: Count = field(default=256, kw_only=True)

    needs_tracked_points = True
    reference = ("lu2019accelerating",)

    def __post_init__(self) -> None:
        if self.transport is None:
            object.__setattr__(self, "transport", ForwardEuler(self.estimator or Autograd(), batch=self.batch))
        if self.estimator is None:
            object.__setattr__(self, "estimator", self.transport.estimator)

    @property
    def order(self) -> int | None:  # type: ignore[override]
        """1 for Lie, at most 2 for Strang; None when the transport has none."""
        if self.transport.order is None:
            return None
        return min(2, self.transport.order, self.reaction.order) if self.strang else 1

    def parts(self, F: Functional) -> list[tuple[Functional, Solver]]:
        """The transport, for the same functional."""
        return [(F, self.transport)]

    def refuses_measure(self, measure: MovingMeasure) -> str | None:
        """Refuse a law that draws new points every time: a reaction changes the mass of points that stay."""
        if measure.tracks_points:
            return super().refuses_measure(measure)
        m = type(measure).__name__
        return (
            f"a reaction moves mass between points that stay, and a {m} makes new ones in every draw. Use Particles, such as "
            f"a draw of it, or {type(self.transport).__name__} without the reaction."
        )

    def refuses(self, F: Functional) -> str | None:
        """Refuse an estimator that gives no first variation."""
        if self.estimator.gives_potential or self.reaction.rate == 0:
            return None
        return (
            f"a reaction goes by the first variation, and {type(self.estimator).__name__} gives its gradient only. Use "
            "WithReaction(transport, reaction, estimator=Autograd()), Blob(density) or Critic(net) there."
        )

    def remark(self, history: Sequence[dict[str, Any]]) -> str | None:
        """That of the transport."""
        return self.transport.remark(history)

    def suited(self, measure: MovingMeasure) -> Self:
        """Suit the transport."""
        return replace(self, transport=self.transport.suited(measure))

    def updates(self, k: int) -> int:
        """Those of the transport."""
        return self.transport.updates(k)

    def updates_before(self, k: int) -> int:
        """Those of the transport."""
        return self.transport.updates_before(k)

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> SplitState:
        """Return the transport's state, with an estimator for the reaction beside it."""
        self.reaction.admit(measure)
        inner = self.transport.init(F, measure, rng)
        es: Any = None if self.reaction.rate == 0 else self.estimator.init(F, rng)
        return SplitState(inner.measure, inner.k, inner.t, rng, es, inner)

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Make one update of the transport; the reaction comes after the last of a time step, and first in Strang's."""
        assert isinstance(state, SplitState)
        info: Info = {}
        if self.strang and not state.begun:
            state, info = self._react(F.at(state.k, state.t), state, h / 2)
        inner, report = self.transport.update(F, state.inner, h)
        info |= report
        if inner.k == state.k:
            return replace(state, inner=inner, begun=True), info
        F = F.at(state.k, state.t + h)
        state = replace(advance(state, inner.measure, h), inner=inner, begun=False)
        state, report = self._react(F, state, h / 2 if self.strang else h)
        return state, info | report

    def _react(self, F: Functional, state: SplitState, h: float) -> tuple[SplitState, Info]:
        if self.reaction.rate == 0:
            return state, {}
        rho, es, rng = state.measure, state.estimator, state.rng
        assert isinstance(rho, Particles), "why_not() asks for a measure that tracks its points"
        info = self.estimator.refine(F, lambda rng: rho.draw(self.batch, rng), es, rng)
        F = F.freeze(rng)
        after, index, report = self.reaction.react(rho, lambda p: self.estimator.gradient(F, p, es)[0], h, rng)
        return self.rebase(state, after, index), info | report

    def rebase(self, state: State, measure: MovingMeasure, index: Tensor | None = None) -> SplitState:
        """Also move the transport there."""
        assert isinstance(state, SplitState)
        return replace(state, measure=measure, inner=self.transport.rebase(state.inner, measure, index))
