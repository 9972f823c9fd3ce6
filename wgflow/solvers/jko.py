r"""The Jordan–Kinderlehrer–Otto scheme: implicit Euler in the Wasserstein space.

.. math:: \rho_{k+1}=\operatorname*{argmin}_\rho\ \frac{W_2^2(\rho_k,\rho)}{2h}+F(\rho).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, Self, cast

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Fraction
from wgflow.core.inner import report
from wgflow.core.parts import parts_of
from wgflow.core.typing import Info, Scalar
from wgflow.estimators import Autograd, Estimator
from wgflow.estimators.base import with_mass
from wgflow.functionals import Functional
from wgflow.measures import MovingMeasure, Particles, Successor
from wgflow.optim import LBFGS, Adam, Descent, Optim
from wgflow.optim.balance import BATCHES, imbalance
from wgflow.optim.minimizers import check_accumulation
from wgflow.solvers.base import Solver, State, advance, register_solver
from wgflow.solvers.transport import transport_cost

_BALANCED = 0.05
"""Imbalance of a step of points by a default minimizer of first order."""
_ADVICE = (
    "Raise max_iter of the minimizer, or its tolerance where the objective has kinks or rounding is the limit; or take a smaller "
    "step, or particles in float64."
)


def _mass(rho: MovingMeasure) -> Tensor | None:
    """Return the weights of particles over the largest of them, None for equal ones."""
    if not isinstance(rho, Particles) or rho.log_w is None:
        return None
    return rho.w.detach() / rho.w.detach().amax()


@dataclass(eq=False)
class JKOState(State):
    """A state in the middle of an implicit step: the successor in training and how far it has come.

    Attributes
    ----------
    successor : Successor
        The law after the step, with the parameters that are trained.
    descent : Descent
        Their optimizer.
    i : int
        Updates since the step began; 0 where a successor has just been accepted.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> flow = wg.solve(V, wg.JKO(optim=wg.LBFGS(), iters=1), wg.Particles(torch.ones(1, 1)), step_size=1.0, num_steps=1)
    >>> type(flow.state).__name__, flow.state.i, round(flow.state.present.x.item(), 4)
    ('JKOState', 0, 0.5)
    """

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
    r"""Minimize :math:`E[c(x,y)]/h+F(\rho')` over a trainable successor :math:`\rho'\ni y` coupled to :math:`\rho_k\ni x`.

    With a ``Critic`` and a ``Pushforward`` this is S-JKO (Choi et al. 2024): one generator, one critic and their
    optimizers persist across steps, and the only copy is the frozen snapshot of the last step, so cost per step and
    memory do not depend on :math:`k`. With one step it is source-fixed UOTM, with ``Identity`` OTM, and with an infinite
    step size the f-GAN of the entropy. On ``Particles`` with ``Autograd`` it is a proximal-point step.

    Parameters
    ----------
    estimator : Estimator
        How :math:`F` is estimated at the successor; refined before every update of it.
    optim : Optim, optional
        Minimizer over the successor's parameters. Persists across steps together with the successor, where that does. By
        default ``LBFGS()`` for points whose energy is a function of them (``Autograd``, ``Blob``), which solves a smooth step in
        one update, else ``Adam()``; for points with a ``tolerance`` of 0.05, so that a step that it does not solve says so.
    iters : int, optional
        Updates in a time step: by default 1 of a minimizer with an end of its own (``LBFGS``, ``TridiagonalNewton``) and 1000 of others.
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
        For first-order minimizers: ``LBFGS`` and ``TridiagonalNewton`` have a tolerance of their own. Without it the updates of
        a first-order minimizer are a budget, and nothing says how far they led; with it a step that uses them up above it is
        reported as ``jko/unconverged``.
    look_every : int
        Updates between such looks, reported as ``jko/imbalance``. Each takes four fresh batches, with two backward passes each,
        and waits for the device. Norms are free of the bias of the batches' noise, so a look says nothing below that noise.

    Raises
    ------
    BadInput
        When a minimizer that averages the gradients of several updates (``accumulate``), of the successor or of the estimator, would
        average over the end of a time step.

    Notes
    -----
    Where points are moved by a minimizer with an end, a step reports ``minimiser/residual``: the largest entry of the gradient
    that is left, over the largest of three: the gradient at the start of the last update, the pull of the transport at the
    end, and that pull for a move of a hundredth of the largest coordinate. A step that ends above the minimizer's tolerance is
    ``minimiser/unconverged``. Gradients are per mass, so that a light particle's step is solved like that of a heavy one; one of
    weight 0 has no velocity here either and stays. For networks a minimization is training, and its iterations are a budget.

    Examples
    --------
    For :math:`F=\tfrac12E|x|^2` the minimizer of :math:`\tfrac1{2h}|y-x|^2+\tfrac12|y|^2` is :math:`x/(1+h)`:

    >>> import torch
    >>> import wgflow as wg
    >>> F = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    >>> start = wg.Particles(torch.ones(1, 1, dtype=torch.float64))
    >>> wg.solve(F, wg.JKO(), start, step_size=1.0, num_steps=1).measure.x
    tensor([[0.5000]], dtype=torch.float64)
    """

    estimator: Estimator = field(default_factory=Autograd)
    optim: Optim | None = None
    iters: Count | None = None
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

    def __post_init__(self) -> None:
        looked = None if self.tolerance is None else self.look_every
        counts = {"first_iters": self.first_iters, "iters": self._counted().iters, "look_every": looked}
        check_accumulation(self.optim, counts)
        for e in parts_of(self.estimator, Estimator):  # type: ignore[type-abstract]
            check_accumulation(getattr(e, "optim", None), counts, getattr(e, "iters", None) or 1)

    def refuses(self, F: Functional) -> str | None:
        """Refuse a minimizer that compares values with an estimator that has a gradient only."""
        if self.estimator.is_function or not getattr(self.optim, "searches", False):
            return None
        name, optim = type(self.estimator).__name__, type(self.optim).__name__
        return (
            f"{optim} compares values along lines, and those of {name} do not fit its gradient. Use JKO({name}(...), optim=Adam(...)), "
            f"or an estimator that is a function of the particles: Autograd or Blob(density)."
        )

    def suited(self, measure: MovingMeasure) -> Self:
        """Choose the minimizer for what is moved, where none was given."""
        if self.optim is not None and self.iters is not None:
            return self
        if self.optim is not None or not measure.tracks_points:
            return replace(self, optim=self.optim or Adam())._counted()
        learned = type(self.estimator).refine is not Estimator.refine
        if self.estimator.is_function and not learned:
            return replace(self, optim=LBFGS())._counted()
        return replace(self, optim=Adam(), tolerance=self.tolerance or _BALANCED)._counted()

    def _counted(self) -> Self:
        ends = getattr(self.optim, "searches", False)
        return self if self.iters is not None else replace(self, iters=1 if ends else 1000)

    def updates(self, k: int) -> int:
        """``first_iters`` for the first step, ``iters`` for the others: what ``tolerance`` leaves at most."""
        return self.first_iters if k == 0 and self.first_iters is not None else cast(int, self._counted().iters)

    def updates_before(self, k: int) -> int:
        """``first_iters`` once, ``iters`` in all others."""
        if type(self).updates is not JKO.updates:
            return super().updates_before(k)
        return 0 if k == 0 else self.updates(0) + (k - 1) * self.updates(1)

    def init(self, F: Functional, measure: MovingMeasure, rng: torch.Generator) -> JKOState:
        """Return a state with the first successor proposed."""
        s = super().init(F, measure, rng)
        successor = s.measure.propose(rng)
        descent = self._build(s.measure, successor)
        return JKOState(s.measure, s.k, s.t, s.rng, s.estimator, successor, descent)

    def update(self, F: Functional, state: State, h: float) -> tuple[State, Info]:
        """Refine the estimate, then take one descent step; the last one of the budget accepts the successor.

        Reports :math:`E[c]` (``jko/transport``) and :math:`F` (``jko/energy``) of the inner objective, and what the
        minimizer reports.
        """
        if not isinstance(state, JKOState):
            raise BadInput(
                f"JKO goes on from a state of JKO, not from a {type(state).__name__}: start from its measure"
            )
        F = F.at(state.k, state.t)
        rho, successor, rng = state.measure, state.successor, state.rng
        info = self.estimator.refine(F, lambda rng: successor.draw(rho, self.batch, rng), state.estimator, rng)

        weighty = with_mass(rho) if isinstance(rho, Particles) else rho
        couple = successor.coupling(weighty, self.batch, rng, self.latent)
        state.descent.mass = _mass(weighty)
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

        found = state.descent.minimise(objective)
        info |= {f"jko/{name}": value for name, value in found.items()}
        successor.trained(rho)

        last = state.i + 1 == self.suited(rho).updates(state.k)
        done, asked = last, state.descent.asked
        if self.tolerance is not None and asked is None and (last or (state.i + 1) % self.look_every == 0):
            left = info["jko/imbalance"] = self._imbalance(F, state, h)
            if last:
                report(
                    "jko",
                    left,
                    self.tolerance,
                    "Raise iters or the learning rate of the minimizer, or take a smaller step.",
                )
            done = last or bool(left <= self.tolerance)
        if last and asked is not None and rho.tracks_points:
            report("minimiser", self._left(rho, state, h) * found["residual"], asked, _ADVICE)
        return (self._accept(state, h) if done else replace(state, i=state.i + 1)), info

    def _build(self, measure: MovingMeasure, successor: Successor) -> Descent:
        return cast(Optim, self.suited(measure).optim).build(successor.parameters())

    def _left(self, rho: MovingMeasure, state: JKOState, h: float) -> float:
        """Return the first gradient over the scale that what is left of it is held against."""
        (y,) = state.successor.parameters()
        assert isinstance(rho, Particles)
        pull = rho.w.amax() / (h * (y[0].numel() if self.cost == "mean" else 1))
        moved = (y.detach() - rho.x).abs().amax()
        scale = max(state.descent.first, float(pull * torch.maximum(moved, 0.01 * rho.x.abs().amax())))
        return state.descent.first / scale if scale > 0 else 1.0

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
            descent = self._build(measure, successor)
        return replace(state, measure=measure, successor=successor, descent=descent)
