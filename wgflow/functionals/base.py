"""What decreases: functionals of a measure, their one source of randomness, and their algebra."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from wgflow.core.errors import Unsupported
from wgflow.core.fields import Checked
from wgflow.core.instead import suggest
from wgflow.core.linear import Linear
from wgflow.core.parts import own_parts, parts_of
from wgflow.core.placing import Placed
from wgflow.core.registry import Registry
from wgflow.core.typing import Info, Points, Scalar
from wgflow.functionals.penalties import GradientPenalty
from wgflow.kernels import Kernel
from wgflow.kernels.densities import DensityModel, KernelDensity
from wgflow.measures import Measure, MovingMeasure, Particles, Stack
from wgflow.measures.asked import take_points
from wgflow.measures.realised import realised, realised_size

if TYPE_CHECKING:
    from wgflow.functionals.algebra import Scaled, Sum

Potential = Callable[[Points], Tensor]
FUNCTIONALS: "Registry[Functional]" = Registry("functional")
register_functional = FUNCTIONALS.register


class Functional(Checked, Placed, Linear):
    r"""A functional :math:`F(\rho)` of a probability measure.

    A subclass, usually a frozen dataclass, implements at least one of :meth:`value` (primal) and :meth:`conjugate`
    (dual; for convex :math:`F`, :math:`F(\rho)=\sup_\varphi\{\langle\varphi,\rho\rangle-F^*(\varphi)\}` and the maximizer
    is the first variation :math:`\delta F/\delta\rho`). Both are deterministic: :meth:`freeze` is the single door
    through which randomness enters.

    Attributes
    ----------
    batch : int or None
        How many target points one realization uses. None, the default: a finite target (``Particles``, ``Dataset``, ``ImageData``) is
        used whole, with its weights, and of one with infinitely many points 256 are drawn anew in every step. A finite target of more
        than 10,000 points is refused without a number.
    needs_density : bool
        :meth:`value` reads ``rho.log_rho``.
    needs_samples : bool
        :meth:`value` compares with drawn points of the measures it holds.
    reads_law : bool
        :meth:`value` asks the law that points are drawn from (``rho.source``) away from them.
    learns_features : bool
        A critic may give a point several numbers (n, m) instead of one.
    reference : tuple of str
        Keys of the papers it comes from, in the documentation's bibliography.

    Examples
    --------
    The squared mean :math:`|m|^2`, with the first variation :math:`2\langle m,x\rangle`: all particles move together.

    >>> from dataclasses import dataclass
    >>> import torch
    >>> import wgflow as wg
    >>> @dataclass(frozen=True)
    ... class SquaredMean(wg.Functional):
    ...     def value(self, rho):
    ...         return (rho.w @ rho.x).square().sum()
    >>> start = wg.Particles(torch.tensor([[1.0], [3.0]]))
    >>> wg.solve(SquaredMean(), wg.ForwardEuler(), start, step_size=0.5, num_steps=1).measure.x.flatten()
    tensor([-1.,  1.])
    """

    batch: int | None = None
    goes_to = "a functional: what decreases, solve(F, solver, start, ...)"
    needs_density: ClassVar[bool] = False
    needs_samples: ClassVar[bool] = False
    reads_law: ClassVar[bool] = False
    learns_features: bool = False
    reference: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        take_points(cls, Functional)

    def value(self, rho: Particles) -> Scalar:
        r"""Return :math:`F(\rho)`, a 0-d tensor differentiable in ``rho.x`` and ``rho.log_w``."""
        raise Unsupported(f"{type(self).__name__} has no primal value; estimate it with Critic")

    def conjugate(self, phi: Potential) -> Scalar:
        r"""Return :math:`F^*(\varphi)=\sup_\rho\{\langle\varphi,\rho\rangle-F(\rho)\}`, differentiable in ``phi``."""
        raise Unsupported(f"{type(self).__name__} has no conjugate; estimate its first variation with Autograd")

    def prox(self, rho: Particles, h: float) -> Points:
        r"""Return the particles of :math:`\operatorname*{argmin}_{\rho'}W_2^2(\rho,\rho')/2h+F(\rho')`, exactly, without gradient."""
        raise Unsupported(f"{type(self).__name__} has no implicit step in closed form; use JKO(optim=LBFGS(), iters=1)")

    def remaining(self, rho: Particles) -> Tensor:
        """Return how far every particle (n,) may go along its velocity before it has overshot, where distances are known (W1)."""
        raise Unsupported(f"{type(self).__name__} knows no distances to a destination; use ForwardEuler")

    def witness(self, v: Tensor) -> Tensor:
        r"""Turn a critic's unconstrained output ``v`` (n,) into :math:`\varphi`.

        :math:`\varphi=-v` (critics are high on data and low on the model, as in the papers), unless :math:`F^*` has a
        domain that the output must be mapped into.
        """
        return -v

    def variational(self, net: Potential, rho: Particles) -> Scalar:
        r"""Objective that a critic ascends; its supremum is :math:`F(\rho)`.

        :math:`\langle\varphi,\rho\rangle-F^*(\varphi)` with :math:`\varphi=` ``witness(net(.))``, unless a functional has
        a form of its own.
        """
        return self.surrogate(net, rho) - self.conjugate(lambda y: self.witness(net(y)))

    def surrogate(self, net: Potential, rho: Particles) -> Scalar:
        r"""Part of the critic's estimate of :math:`F` that depends on :math:`\rho`: what the moving measure descends."""
        return rho.mean(self.witness(net(rho.x)))

    @property
    def has_witness(self) -> bool:
        """Whether what the moving measure descends under a critic is the mean of :meth:`witness`, a function of one point."""
        return not self.supports("surrogate")

    def critic_penalty(self) -> GradientPenalty | None:
        """Return the penalty without which a critic would leave the domain of the dual (W1); None by default."""
        return None

    def diagnostics(self, net: Potential) -> Info:
        """Return what a critic's values on the target points tell about its quality; nothing by default."""
        return {}

    def split_entropy(self) -> tuple["Functional | None", float]:
        r"""Return ``(E, T)`` with :math:`F = E + T\int\rho\log\rho`; ``T`` = 0 when there is no entropy part."""
        return self, 0.0

    def at(self, k: int, t: float) -> Self:
        """Return the functional of time step ``k`` at time ``t``: every measure it holds is taken at that step."""
        return self.with_measures(lambda m: m.at(k, t))

    def freeze(self, rng: torch.Generator) -> Self:
        """Return one realization: in the place of every measure it holds, a fixed batch of ``batch`` points or all of them."""
        return self.with_measures(lambda m: realised(m, self.batch, rng))

    def matched(self, n: int, only_open: bool = False) -> Self:
        """Return the functional whose realizations use ``n`` target points; itself when it uses none.

        ``only_open`` leaves a ``batch`` as it is where one is given.
        """
        has = "batch" in getattr(self, "__dataclass_fields__", {})
        if not has or (only_open and self.batch is not None):
            return self
        return dataclasses.replace(self, batch=n)  # type: ignore[type-var]

    def fit(self, rho: Particles) -> Self:
        """Return the functional with rules (a bandwidth) applied to ``rho`` and then held: an implicit step minimizes one function."""
        if not dataclasses.is_dataclass(self):
            return self
        return self._with_rules_at(rho)._with(DensityModel, lambda model: model.fit(rho))

    def _with_rules_at(self, rho: Particles) -> Self:
        held = self._with(Kernel, lambda kernel: kernel.fit(rho.x, rho.log_w))
        return held._with(KernelDensity, lambda model: model.fit(rho))

    def with_units(self, rho: Particles) -> Self:
        """Return the functional with units in which it measures features found at ``rho`` and then held; bandwidths stay rules."""
        return self._with(Functional, lambda F: F.with_units(rho)) if dataclasses.is_dataclass(self) else self

    def with_measures(self, change: Callable[[Measure], Measure]) -> Self:
        """Return the functional with every measure it holds changed, in the order of :meth:`targets`."""
        return self._with(Measure, change)

    def contrast(self, other: Particles) -> "Functional":
        r"""Return :math:`F(\rho|\nu)-F(\rho|\rho')` up to a constant, for :math:`\rho'` another sample of :math:`\rho`, held fixed.

        What depends on :math:`\rho` alone cancels, so that a particle never meets itself: at :math:`\rho=\nu` and equally many
        points both terms have one law, and the velocity vanishes on average. A functional without a target stays as it is.
        """
        from wgflow.functionals.contrast import Contrast

        against = self.with_measures(lambda m: other)
        return self if against is self else Contrast(self, against)

    def values(self, clouds: Stack) -> Tensor:
        """Return the values at B clouds, shape (B,); every measure this functional holds is a stack of as many.

        They have one bandwidth where that is a rule.
        """
        held = self._with_rules_at(clouds.pooled()) if len(clouds) > 1 else self
        each = [held.with_measures(lambda m, b=b: m[b]).value(clouds[b]) for b in range(len(clouds))]  # type: ignore[misc, index]
        return torch.stack(each)

    def views(self, clouds: Stack) -> list["View"]:
        """Return the problems that this functional is a sum of, for estimators that look at each; one, unless it is a sum."""
        return [View(self, clouds, clouds.x.new_full((len(clouds),), 1 / len(clouds)))]

    def _with(self, kind: type, change: Callable[[Any], Any]) -> Self:
        """Return this functional with every field of a kind changed; itself where none is."""
        if not dataclasses.is_dataclass(self):
            raise Unsupported(
                f"{type(self).__name__} is not a dataclass: write @dataclass(frozen=True) above the class, or override freeze(rng) "
                "and at(k, t)"
            )
        held = {name: part for name in _names(type(self)) if isinstance(part := getattr(self, name), kind)}
        changed = {name: new for name, part in held.items() if (new := change(part)) is not part}
        return dataclasses.replace(self, **changed) if changed else self

    def data(self) -> Measure | None:
        """Return the data measure that a gradient penalty on real points looks at; None when there is none."""
        return getattr(self, "target", None)

    def targets(self) -> list[Measure]:
        """Return the measures it holds: a flow must live on points of their kind."""
        if not dataclasses.is_dataclass(self):
            return []
        held = [getattr(self, f.name) for f in dataclasses.fields(self)]
        return [m for m in held if isinstance(m, Measure)]

    def samples(self) -> list[Measure]:
        """Return the measures that its value must be able to draw from."""
        return self.targets() if self.needs_samples else []

    @classmethod
    def supports(cls, method: str) -> bool:
        """Whether this class implements an optional method such as ``"value"`` or ``"conjugate"``."""
        return getattr(cls, method) is not getattr(Functional, method)

    def refuses_measure(self, measure: MovingMeasure) -> str | None:
        """Return why this functional cannot be asked of what a flow moves, beyond what the class declares; or None."""
        return None

    def can(self, method: str) -> bool:
        """Whether this object does; a sum or a multiple asks its terms."""
        return self.supports(method)

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "Functional":
        """Return a tiny instance for contract tests and the docs table."""
        raise Unsupported(f"{cls.__name__} has no example(): write one so that the contract tests cover it")

    def _plus(self, other: Any) -> "Sum":
        from wgflow.functionals.algebra import Sum

        return Sum.of(self, other) if isinstance(other, Functional) else NotImplemented

    def _times(self, c: float) -> "Scaled":
        from wgflow.functionals.algebra import Scaled

        return Scaled(c, self)


take_points(Functional, Functional)


@dataclasses.dataclass(frozen=True)
class View:
    r"""A part of a functional, :math:`\sum_b c_b\,G(\rho_b)`: what it looks at may be features or classes of the points of a flow.

    Attributes
    ----------
    functional : Functional
        :math:`G`; the measures it holds are stacks.
    clouds : Stack
        The laws :math:`\rho_b`, differentiable in the points of the flow.
    weight : Tensor, shape (B,)
        :math:`c_b`.
    """

    functional: Functional
    clouds: Stack
    weight: Tensor

    @property
    def value(self) -> Scalar:
        """The part's value, 0-d."""
        return (self.weight * self.functional.values(self.clouds)).sum()


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    """Names of the fields of a dataclass, which every step asks for."""
    return tuple(f.name for f in dataclasses.fields(kind))


def views_of(F: Functional, rho: Particles) -> list[View]:
    """Return the parts of a frozen functional at the particles."""
    return F.with_measures(lambda m: m if isinstance(m, Stack) else Stack.of(drawn(m))).views(Stack.of(rho))


suggest(
    Functional,
    (Measure, "Choose how to compare with it, such as KL(target) or EnergyDistance(target)"),
    (Kernel, "Wrap the kernel: InteractionEnergy(kernel), or SquaredMMD(target, kernel)"),
    (Callable, "Wrap a function of points: PotentialEnergy(V)"),
)


def check_batches(F: Functional) -> None:
    """Refuse a functional that leaves open how much it uses of a large finite target; raises ``BadInput``."""
    for part in parts_of(F, Functional):  # type: ignore[type-abstract]
        for target in own_parts(part):
            if isinstance(target, Measure) and target.can_draw:
                realised_size(target, part.batch)


def drawn(target: Measure) -> Particles:
    """Return the fixed batch that ``freeze`` has put in the place of a target; raises ``Unsupported`` before that."""
    if not isinstance(target, Particles):
        raise Unsupported("draw the target first: F.freeze(rng) returns the functional on one fixed batch")
    return target
