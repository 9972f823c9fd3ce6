"""What a transport map owes its callers."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.rng import generator
from wgflow.core.typing import Points
from wgflow.maps import TransportMap
from wgflow.testing._checks import Suite, applies, at_most, close
from wgflow.testing._worlds import critic, global_state_kept, points, through_a_file, untouched

AWAY = 0.15
"""How far the weights are moved off the identity: maps with an inverse near it keep it."""


@dataclass(frozen=True)
class MapCase:
    """A map in float64 as it was made, the same map away from the identity, and points."""

    fresh: TransportMap
    moved: TransportMap
    x: Points

    @classmethod
    def of(cls, T: TransportMap) -> "MapCase":
        """Return the case of a map that was just made."""
        fresh = copy.deepcopy(T).double()
        return cls(fresh, away(fresh), points(tuple(T.event_shape), 9, seed=0))

    def jacobians(self) -> Tensor:
        """Return the Jacobians of the moved map, (n, d, d), row by row in reverse mode."""
        x = self.x.clone().requires_grad_(True)
        y = self.moved(x).flatten(1)
        rows = [
            torch.autograd.grad(y[:, i].sum(), x, retain_graph=True, materialize_grads=True)[0].flatten(1)
            for i in range(y.shape[1])
        ]
        return torch.stack(rows, 1)


def away(T: TransportMap) -> TransportMap:
    """Return a copy with every weight moved by a random number, and put back where it is allowed to be."""
    T = copy.deepcopy(T)
    rng = generator(1)
    with torch.no_grad():
        for p in T.parameters():
            p.add_(AWAY * torch.randn(p.shape, generator=rng, dtype=torch.float64))
    T.project()
    return T


MAP = Suite[MapCase]()


@MAP.check
def starts_at_the_identity(case: MapCase) -> None:
    """A map that was just made returns its points, and its log-determinant is 0."""
    close(case.fresh(case.x), case.x, "a new map is not the identity", atol=1e-12)
    if case.fresh.has_logdet:
        logdet = case.fresh.with_logdet(case.x)[1]
        close(logdet, torch.zeros_like(logdet), "the log-determinant of a new map is not 0", atol=1e-12)


@MAP.check
def training_leaves_the_identity(case: MapCase) -> None:
    """From the identity, some weight feels an objective; all are trained unless they are frozen."""
    T = copy.deepcopy(case.fresh)
    weights = [p for p in T.parameters() if p.requires_grad]
    assert weights, "it has no weights to train"
    held = critic(tuple(T.event_shape))
    slopes = torch.autograd.grad(held(T(case.x)).mean(), weights, materialize_grads=True)
    assert any(bool((g != 0).any()) for g in slopes), (
        "no weight of a new map feels an objective: it would never leave the identity"
    )


@MAP.check
def treats_every_point_by_itself(case: MapCase) -> None:
    """The image of a point does not depend on the others, and has its shape."""
    y = case.moved(case.x)
    close(
        y,
        torch.cat([case.moved(x) for x in case.x.split(1)]),
        "the image of a point depends on the others",
        rtol=1e-9,
        atol=1e-9,
    )
    close(y, case.moved(case.x.flip(0)).flip(0), "the image of a point depends on the order", rtol=1e-9, atol=1e-9)


@MAP.check
def logdet_is_that_of_the_jacobian(case: MapCase) -> None:
    """with_logdet(x) returns the image of x and log|det| of the Jacobian, by reverse-mode autograd."""
    applies(case.moved.has_logdet, "it has no log-determinant")
    y, logdet = case.moved.with_logdet(case.x)
    close(y, case.moved(case.x), "with_logdet returns another image than the map", atol=1e-7, rtol=1e-7)
    expected = torch.linalg.slogdet(case.jacobians())[1]
    close(logdet, expected, "the log-determinant is not that of the Jacobian", atol=1e-6, rtol=1e-6)


@MAP.check
def logdet_is_differentiable(case: MapCase) -> None:
    """The slope of the log-determinant along a direction of points and weights is its central difference."""
    applies(case.moved.has_logdet, "it has no log-determinant")
    T, x = copy.deepcopy(case.moved), case.x.clone().requires_grad_(True)
    held: list[Tensor] = [*(p for p in T.parameters() if p.requires_grad), x]
    rng = generator(7)
    h = 1e-5
    way = _inside(T, [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in held], h)

    def value(step: float) -> Tensor:
        with torch.no_grad():
            for p, v in zip(held, way, strict=True):
                p.add_(step * v)
        out = T.with_logdet(x)[1].mean()
        with torch.no_grad():
            for p, v in zip(held, way, strict=True):
                p.sub_(step * v)
        return out

    now = T.with_logdet(x)[1].mean()
    # A map that keeps volumes may return a constant.
    slopes = torch.autograd.grad(now + 0 * x.sum(), held, materialize_grads=True)
    difference = (value(h) - value(-h)) / (2 * h)
    along = sum((g * v).sum() for g, v in zip(slopes, way, strict=True))
    close(along, difference, "the gradient of the log-determinant is not that of its values", rtol=1e-4, atol=1e-6)


def _inside(T: TransportMap, way: list[Tensor], h: float) -> list[Tensor]:
    """Return the direction without the entries along which a weight would leave what is allowed."""
    for step in (h, -h):
        moved = copy.deepcopy(T)
        weights = [p for p in moved.parameters() if p.requires_grad]
        with torch.no_grad():
            for p, v in zip(weights, way, strict=False):
                p.add_(step * v)
        asked = [p.detach().clone() for p in weights]
        moved.project()
        kept = [torch.where(p == q, v, 0.0) for p, q, v in zip(weights, asked, way, strict=False)]
        way = [*kept, *way[len(kept) :]]
    return way


@MAP.check
def inverse_undoes_the_map(case: MapCase) -> None:
    """inverse(T(x)) is x, without gradient, and inverse_with_logdet says the same."""
    applies(case.moved.invertible, "it is not invertible")
    with torch.no_grad():
        y = case.moved(case.x)
    back = case.moved.inverse(y)
    assert not back.requires_grad, "the inverse has a gradient: write @torch.no_grad() above it"
    close(back, case.x, "inverse(T(x)) is not x", atol=1e-6, rtol=1e-6)
    if case.moved.has_logdet:
        x, logdet = case.moved.inverse_with_logdet(y)
        close(x, case.x, "inverse_with_logdet(T(x)) is not x", atol=1e-6, rtol=1e-6)
        close(
            logdet,
            case.moved.with_logdet(case.x)[1],
            "the log-determinant at the inverse is another",
            atol=1e-6,
            rtol=1e-6,
        )


@MAP.check
def says_what_it_cannot(case: MapCase) -> None:
    """What has_logdet and invertible deny is refused with Unsupported, and what they declare is there."""
    with torch.no_grad():
        y = case.fresh(case.x)
    for declared, name, do in (
        (case.fresh.has_logdet, "with_logdet", case.fresh.with_logdet),
        (case.fresh.invertible, "inverse", case.fresh.inverse),
    ):
        try:
            do(y)
        except Unsupported:
            assert not declared, f"{name} is declared and raises Unsupported"
        else:
            assert declared, (
                f"{name} works and is not declared: set {'has_logdet' if 'logdet' in name else 'invertible'}"
            )


@MAP.check
def estimates_are_unbiased(case: MapCase) -> None:
    """with_logdet(x, rng) is a function of the generator, and on average the exact log-determinant."""
    applies(case.moved.has_logdet, "it has no log-determinant")
    x = case.x[:1]
    exact = case.moved.with_logdet(x)[1].detach()
    many = x.expand(500, *x.shape[1:])
    one, two = (case.moved.with_logdet(many, generator(4))[1].detach() for _ in range(2))
    close(two, one, "the log-determinant changes with the same generator")
    global_state_kept(lambda: case.moved.with_logdet(x, generator(4)), "with_logdet(x, rng)")
    spread = float(one.std()) / len(one) ** 0.5
    at_most(
        abs(float(one.mean() - exact)),
        5 * spread,
        "the mean of 500 estimates is off by more than 5 standard errors",
        1e-6,
    )


@MAP.check
def state_dict_restores_it(case: MapCase) -> None:
    """The weights of one map, written and read, make another the same map."""
    other = copy.deepcopy(case.fresh)
    other.load_state_dict(through_a_file(case.moved))
    close(other(case.x), case.moved(case.x), "a map with loaded weights is another map")


@MAP.check
def points_of_another_kind_are_refused(case: MapCase) -> None:
    """Points of another shape or dtype raise BadInput."""
    shape = tuple(case.fresh.event_shape)
    for wrong in (points((*shape[:-1], shape[-1] + 1)), points(shape).float()):
        try:
            case.fresh(wrong)
        except BadInput:
            continue
        except Exception as error:
            raise AssertionError(
                f"points {tuple(wrong.shape)} of {wrong.dtype} raise {type(error).__name__}, expected BadInput: begin forward with "
                "self.flat(x)"
            ) from error
        raise AssertionError(
            f"points {tuple(wrong.shape)} of {wrong.dtype} are mapped: begin forward with self.flat(x)"
        )


@MAP.check
def inputs_are_left_as_they_were(case: MapCase) -> None:
    """Neither the points nor the weights are changed in place by a use of the map."""
    x = case.x.clone()

    def act() -> None:
        y = case.moved(x)
        if case.moved.has_logdet:
            case.moved.with_logdet(x)
        if case.moved.invertible:
            case.moved.inverse(y.detach())

    untouched({"x": x, "map": case.moved}, act, "a use of the map changes its points or its weights")


@MAP.check
def single_precision_keeps_half_of_the_digits(case: MapCase) -> None:
    """In float32 everything is float32, and agrees with float64 to half of its digits."""
    half = torch.finfo(torch.float32).eps ** 0.5
    T: nn.Module = copy.deepcopy(case.moved).float()
    y = T(case.x.float())
    assert y.dtype == torch.float32, f"the image is {y.dtype} for points of torch.float32"
    close(y, case.moved(case.x).float(), "the map in float32 is not that in float64", rtol=half, atol=half)
