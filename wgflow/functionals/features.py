"""A functional of what a frozen encoder sees of the points, pulled back to the points themselves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.instead import shown
from wgflow.core.networks import called
from wgflow.core.outputs import differentiable
from wgflow.core.parts import parts_of
from wgflow.core.rules import Says
from wgflow.core.typing import Points
from wgflow.functionals.base import Functional, View, drawn, register_functional
from wgflow.functionals.mmd import SquaredMMD
from wgflow.functionals.viewing import Held, Viewing, of_measures
from wgflow.kernels import RBF
from wgflow.measures import Measure, Particles, Stack, StandardNormal

Encoder = Annotated[
    nn.Module | Callable[[Points], Tensor | Sequence[Tensor]],
    Says("a network or a function that returns features, a tensor (n, S) or (n, L, S) or a list of them"),
]
_BY_BATCH = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


@register_functional("in_features")
@dataclass(frozen=True)
class InFeatures(Viewing):
    r"""The functional :math:`\rho\mapsto\frac1J\sum_j\frac1{L_j}\sum_lF\bigl((\phi_{jl})_\#\rho\bigr)` of features of the points.

    Its velocity is carried back through the encoder, :math:`v(x)=\sum_{jl}D\phi_{jl}(x)^Tv_{jl}(\phi_{jl}(x))/(JL_j)`: a generator that is
    regressed onto points so moved, one optimizer step a batch, is trained as by the loss of :math:`\phi(G)` against
    :math:`\phi(G)+v` held fixed. Gradients go to the encoder's input and never to its weights. Where an encoder is not injective,
    laws of features are matched and no more.

    Parameters
    ----------
    term : Functional
        :math:`F`, with targets that are data, not features of them.
    encoder : nn.Module or callable
        :math:`\phi`, frozen and in evaluation mode: from points (n, \*event) to one or several tensors, (n, S) for one feature of S
        coordinates, (n, L, S) for one at L places. Every place is a problem of its own, and all are solved together.
    normalized : bool
        Measure every feature in units of the root mean squared distance of moving points and targets in it, the same at all its
        places. One ``blur`` or bandwidth, as a fraction of 1, then does for all features, and no unit of the encoder counts.

    Raises
    ------
    BadInput
        For an encoder whose weights require gradients, or that is training with batch normalization or dropout; for
        features of another shape, or that have lost their gradient.

    Notes
    -----
    Against the units of Deng et al. (2026), in which that distance is :math:`\sqrt S`, a functional of squared distances is smaller by
    the factor S: their loss is a mean over the S coordinates. A sum over features is ``J * InFeatures(...)``.

    Examples
    --------
    >>> import torch
    >>> rho, nu = Particles(torch.tensor([[1.0, 0.0]])), Particles(torch.tensor([[0.0, 5.0]]))
    >>> F = InFeatures(0.5 * SquaredMMD(nu, RBF(1.0)), lambda x: x[:, :1])  # blind to the second coordinate
    >>> F.value(rho)
    tensor(0.3935)
    """

    term: Functional
    encoder: Encoder
    normalized: bool = False
    _held: Held = None
    _in_units: Held = None
    _units: tuple[Tensor | float, ...] | None = None

    def __post_init__(self) -> None:
        net = getattr(self.encoder, "__self__", self.encoder)  # of one of its methods as well
        if not isinstance(net, nn.Module):
            return
        trained = [name for name, p in net.named_parameters() if p.requires_grad]
        if trained:
            raise BadInput(
                f"the encoder's weights would get gradients ({trained[0]} and {len(trained) - 1} more require them): freeze it, "
                "encoder.requires_grad_(False).eval()"
            )
        moody = [name for name, m in net.named_modules() if m.training and isinstance(m, _BY_BATCH)]
        if moody:
            raise BadInput(
                f"the encoder is in training mode, and its {moody[0]} then changes from call to call: encoder.eval()"
            )

    @property
    def needs_samples(self) -> bool:  # type: ignore[override]
        """Always: a density is one of points, not of features."""
        return True

    def samples(self) -> list[Measure]:
        """Return all measures: features are of points."""
        return self.targets()

    def views(self, clouds: Stack) -> list[View]:
        """Return the term in every feature, at all its places at once."""
        rho, targets = _alone(clouds), self.targets()
        ours, theirs = self._features(rho.x), self._features_of(targets)
        units = self._units or self._units_of(ours, rho.w, theirs, targets)
        views = [
            replace(view, weight=view.weight / len(ours))
            for term, seen in self._terms(ours, clouds.log_w, theirs, targets, units)
            for view in term.views(seen)
        ]
        return self._as_held(views)

    def fit(self, rho: Particles) -> "InFeatures":
        """Hold units as well, and rules in these."""
        return super(InFeatures, self.with_units(rho)).fit(rho)

    def with_units(self, rho: Particles) -> "InFeatures":
        """Hold the unit of every feature, and those of the features of it; itself when there are none."""
        if not has_units(self):
            return self
        with torch.no_grad():
            targets: list[Measure] = [Stack.of(drawn(m)) for m in self.targets()]
            ours, theirs = self._features(rho.x), self._features_of(targets)
            units = self._units_of(ours, rho.w, theirs, targets)
            if not has_units(self.term):
                return replace(self, _units=units)
            terms = self._terms(ours, rho.log_w, theirs, targets, units)
            seen = [(of_measures(term, (_alone(m) for m in term.targets())), cloud) for term, cloud in terms]  # type: ignore[arg-type]
            held = tuple(term.with_units(_alone(cloud)) for term, cloud in seen)
        return replace(self, _units=units, _in_units=held)

    def _terms(
        self,
        ours: list[Points],
        log_w: Tensor | None,
        theirs: dict[int, list[Points]],
        targets: list[Measure],
        units: tuple[Tensor | float, ...],
    ) -> Iterator[tuple[Functional, Stack]]:
        """Yield for every feature the term, of what it sees of the targets, with what it sees of the moving points."""
        for j, (feature, unit) in enumerate(zip(ours, units, strict=True)):
            seen = [_stacked(theirs[id(m)][j] / unit, m.log_w) for m in targets]  # type: ignore[attr-defined]
            yield self._term(j, seen), _stacked(feature / unit, log_w)

    @torch.no_grad()
    def _features_of(self, targets: list[Measure]) -> dict[int, list[Points]]:
        """Return the features of the points of every target, by its identity."""
        theirs: dict[int, list[Points]] = {}
        for m in targets:
            if id(m) not in theirs:
                theirs[id(m)] = self._features(drawn(m[0]).x)  # type: ignore[index]
        return theirs

    def _units_of(
        self, ours: list[Points], w: Tensor, theirs: dict[int, list[Points]], targets: list[Measure]
    ) -> tuple[Tensor | float, ...]:
        """Return the root mean squared distance of every feature between moving points and targets, over its places."""
        if not self.normalized:
            return (1.0,) * len(ours)
        return tuple(
            _unit(x, w.detach(), [(theirs[id(m)][j], m.w[0]) for m in targets])  # type: ignore[attr-defined]
            for j, x in enumerate(ours)
        )

    def _features(self, x: Points) -> list[Points]:
        found = called(self.encoder, "the encoder", x)
        features = [found] if isinstance(found, Tensor) else list(found)
        for y in features:
            if not isinstance(y, Tensor) or y.dim() not in (2, 3) or len(y) != len(x):
                got = tuple(y.shape) if isinstance(y, Tensor) else shown(y)
                raise BadInput(
                    f"the encoder must map {tuple(x.shape)} to features ({len(x)}, S), or ({len(x)}, places, S); it returned {got}. Take "
                    "a map (n, c, h, w) as flatten(2).mT"
                )
        return [differentiable(y, x, "the encoder") for y in features]

    @classmethod
    def example(cls, event_shape: tuple[int, ...] = (2,)) -> "InFeatures":
        """Return an MMD of squares and sums of the coordinates."""
        target = StandardNormal(*event_shape)
        return cls(SquaredMMD(target, RBF(1.0), batch=8), _example_features)


def _example_features(x: Points) -> list[Tensor]:
    x = x.flatten(1)
    return [x.square(), torch.stack([x, x.sin()], 1)]


def _unit(ours: Points, w: Tensor, theirs: list[tuple[Points, Tensor]]) -> Tensor:
    x = ours.detach().flatten(1)
    first = w @ x  # of features far from 0 it is rounded, perhaps by more than they differ
    x = x - first
    centre = w @ x
    spread = w @ (x - centre).square().sum(1)
    squares = [spread + v @ (y.flatten(1) - first - centre).square().sum(1) for y, v in theirs]
    places = ours.shape[1] if ours.dim() == 3 else 1
    return (torch.stack(squares).mean() / places).clamp(min=torch.finfo(x.dtype).tiny).sqrt()


def _alone(clouds: Stack) -> Particles:
    """Return the cloud of a stack; raises ``Unsupported`` for several."""
    if len(clouds) > 1:
        raise Unsupported(
            "InFeatures sees points, one cloud of them: give it the composed encoder, and put it inside of PerClass"
        )
    return clouds[0]


def has_units(F: Functional) -> bool:
    """Whether a functional measures features in units found from the points."""
    return any(part.normalized for part in parts_of(F, Functional) if isinstance(part, InFeatures))  # type: ignore[type-abstract]


def _stacked(feature: Points, log_w: Tensor | None) -> Stack:
    """Return features (n, S) or (n, L, S) as clouds of points, one a place."""
    x = feature[None] if feature.dim() == 2 else feature.transpose(0, 1)
    return Stack(x, None if log_w is None else log_w.expand(len(x), -1))
