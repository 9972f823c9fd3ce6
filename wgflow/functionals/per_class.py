"""A functional of every class of labeled points by itself."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wgflow.core.behind import parted
from wgflow.core.errors import BadInput
from wgflow.functionals.base import Functional, View, drawn
from wgflow.functionals.features import has_units
from wgflow.functionals.viewing import Held, Viewing, of_measures
from wgflow.measures import Balanced, Labelled, OfEveryClass, Particles, Stack


@dataclass(frozen=True)
class PerClass(Viewing):
    r"""The functional :math:`\rho\mapsto\sum_c\rho(c)\,F(\rho(\cdot|c)\,|\,\nu(\cdot|c))` of points with their class behind them.

    A particle is moved by the flow of its class, however many points that has: no label is moved, and no mass between
    classes. All classes, and all places of all features, are solved at once. How many points a class has in a batch is read from
    the device, twice a cloud and not once a class.

    Parameters
    ----------
    term : Functional
        :math:`F`, whose targets are ``Labelled``, best ``Balanced`` (as many points of every class in every draw), or
        ``OfEveryClass``. It sees the points without their labels. Points of every class that are mixed into a labeled law have the
        same part of each class.

    Raises
    ------
    BadInput
        For other targets; for a draw without a point of some class that the moving law has.

    Examples
    --------
    >>> import torch
    >>> from wgflow import Dataset, EnergyDistance
    >>> data = Labelled(Dataset(torch.tensor([[0.0], [10.0]]), labels=torch.tensor([0, 1])))
    >>> F = PerClass(EnergyDistance(Balanced(data), batch=2)).freeze(torch.Generator())
    >>> F.value(Particles(torch.tensor([[1.0, 1.0, 0.0], [10.0, 0.0, 1.0]])))  # 2|1 - 0| and 0, half of the mass each
    tensor(1.)
    """

    term: Functional
    _event_shape: tuple[int, ...] | None = None
    _held: Held = None
    _in_units: Held = None

    def __post_init__(self) -> None:
        if self._event_shape is not None:
            return
        shapes = set()
        for m in self.term.targets():
            base = m.base if isinstance(m, Balanced) else m
            if not isinstance(base, (Labelled, OfEveryClass)):
                raise BadInput(
                    f"PerClass: the target of {type(self.term).__name__} is a {type(m).__name__} and has no labels. Give it "
                    "Balanced(Labelled(data))"
                )
            shapes.add((tuple(base.base.event_shape), m.event_shape))
        if len(shapes) != 1:
            raise BadInput(f"PerClass: expected targets of one shape and number of classes, got {len(shapes)}")
        object.__setattr__(self, "_event_shape", shapes.pop()[0])

    def views(self, clouds: Stack) -> list[View]:
        """Return the views of the term, each with the clouds of all classes."""
        rho, found = clouds[0], []
        for c, mass, own, theirs in self._classes(rho, [drawn(m[0]) for m in self.term.targets()]):  # type: ignore[index]
            views = self._term(c, map(Stack.of, theirs)).views(Stack.of(own))
            found.append([replace(view, weight=mass * view.weight) for view in views])
        return self._as_held([_joined(same) for same in zip(*found, strict=True)])

    def fit(self, rho: Particles) -> "PerClass":
        """Hold the units of every class as well, and rules in these."""
        return super(PerClass, self.with_units(rho)).fit(rho)

    def with_units(self, rho: Particles) -> "PerClass":
        """Hold the units of every class; itself when there are none."""
        if not has_units(self.term):
            return self
        held = [self.term] * rho.x.shape[-1]
        for c, _, own, theirs in self._classes(rho, [drawn(m) for m in self.term.targets()]):
            held[c] = self._term(c, theirs).with_units(own)
        return replace(self, _in_units=tuple(held))

    def _classes(
        self, rho: Particles, targets: list[Particles]
    ) -> Iterator[tuple[int, Tensor, Particles, list[Particles]]]:
        """Yield every class that has points, its mass, its points, and those of the targets."""
        x, ours = self._parted(rho.x)
        log_w, w = _weights(rho, ours), rho.w
        parts = [(y, _weights(p, labels), _by_class(labels)) for p in targets for y, labels in [self._parted(p.x)]]
        for c, index in enumerate(_by_class(ours)):
            if len(index) == 0:
                continue
            own = _picked(x, log_w, index, c)
            if own.log_w is not None:  # of points without weight each counts as much in their class, whose mass is 0
                own = Particles(own.x, torch.where((own.log_w > -torch.inf).any(), own.log_w, 0.0))
            yield c, w[index].sum(), own, [_picked(y, v, classes[c], c) for y, v, classes in parts]

    def _parted(self, points: Tensor) -> tuple[Tensor, Tensor]:
        assert self._event_shape is not None
        return parted(points, self._event_shape)


def _by_class(labels: Tensor) -> tuple[Tensor, ...]:
    """Return the numbers of the points of every class, in their order; a point may be of several."""
    belongs = labels.T > 0.5
    return belongs.nonzero()[:, 1].split(belongs.sum(1).tolist())


def _weights(p: Particles, labels: Tensor) -> Tensor | None:
    """Return logarithms of weights (n, C) in every class: a point of several classes is shared out as the other points are."""
    if p.log_w is None:
        return None
    belongs = labels > 0.5
    one = belongs.sum(1, keepdim=True) == 1
    mass = (p.w.detach()[:, None] * (belongs & one)).sum(0)
    tiny = torch.finfo(mass.dtype).tiny
    share = (mass / mass.sum().clamp(min=tiny)).clamp(min=tiny)
    return p.log_w[:, None] + torch.where(one, 0.0, share.log())


def _picked(x: Tensor, log_w: Tensor | None, index: Tensor, c: int) -> Particles:
    if len(index) == 0:
        raise BadInput(
            f"PerClass: there are {len(x)} target points in a batch and none of class {c}. Take a larger batch, or Balanced(...), "
            "which draws the classes in turn"
        )
    return Particles(x[index], None if log_w is None else log_w[index, c])


def _joined(views: tuple[View, ...]) -> View:
    """Return views of several classes as one."""
    if len(views) == 1:
        return views[0]
    targets = [Stack.joined(same) for same in zip(*(v.functional.targets() for v in views), strict=True)]  # type: ignore[arg-type]
    functional = of_measures(views[0].functional, targets)
    return View(functional, Stack.joined([v.clouds for v in views]), torch.cat([v.weight for v in views]))
