"""What a functional owes its callers."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from wgflow import Functional, Measure, Particles
from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.instead import article
from wgflow.core.rng import generator
from wgflow.core.typing import Points
from wgflow.testing._arguments import refuses_wrong_arguments
from wgflow.testing._checks import Suite, applies, close
from wgflow.testing._precision import cast, double_precision
from wgflow.testing._worlds import (
    central,
    critic,
    global_state_kept,
    rescaled,
    shuffled,
    split,
    untouched,
    world,
)

Form = Callable[[Particles], Tensor]


@dataclass(frozen=True)
class FunctionalCase:
    """A functional in float64, particles to evaluate it at, their log density as a function of points, and a critic."""

    F: Functional
    p: Particles
    density: Callable[[Points], Tensor] | None
    net: nn.Module

    @classmethod
    def of(cls, F: Functional, measure: Measure | None = None) -> "FunctionalCase":
        """Return the case of a functional at a few points of a measure."""
        held = [] if measure is None else [measure]
        shape = tuple(next((m.event_shape for m in [*held, *F.targets()]), (2,)))
        p, density = world(measure, shape)
        case = cls(cast(F, torch.float64), p, density, critic(shape))
        if not held and not F.targets():
            _try(case, shape)
        return case

    def log_rho(self, x: Points) -> Tensor | None:
        """Return the log density at points in the place of the particles."""
        return self.p.log_rho if self.density is None else self.density(x)

    def frozen(self, seed: int = 5) -> Functional:
        """Return one realization."""
        return self.F.at(0, 0.0).freeze(generator(seed))

    def forms(self, F: Functional | None = None, net: nn.Module | None = None) -> dict[str, Form]:
        """Return every scalar of the measure that a realization offers, by name; the value only where it is known and finite."""
        F, net = F or self.frozen(), net or self.net
        found: dict[str, Form] = {}
        with suppress(Unsupported):
            if F.can("value"):
                value = F.value(cast(self.p, next(net.parameters()).dtype))
                _scalar(value, "value")
                if float(value.detach()) != torch.inf:
                    found["value"] = F.value
        if F.can("conjugate") or F.can("variational"):
            found |= {"variational": lambda p: F.variational(net, p), "surrogate": lambda p: F.surrogate(net, p)}
        return found


def _try(case: FunctionalCase, shape: tuple[int, ...]) -> None:
    """Evaluate a functional that does not say what its points are."""
    try:
        with double_precision(), suppress(Unsupported, AssertionError):  # the checks say what is wrong with a value
            case.forms()
    except BadInput as error:
        name = type(case.F).__name__
        raise BadInput(
            f"{name} does not take points of shape {shape}: give some that it does, measure=... ({error})"
        ) from error


FUNCTIONAL = Suite[FunctionalCase]()


@FUNCTIONAL.check
def has_a_primal_or_a_dual_form(case: FunctionalCase) -> None:
    """It implements value, conjugate or variational, and says in a docstring what it is."""
    name = type(case.F).__name__
    assert any(case.F.can(m) for m in ("value", "conjugate", "variational")), (
        f"{name} has no value, conjugate or variational"
    )
    if not case.forms():
        try:
            case.frozen().value(case.p)
        except Unsupported as reason:
            raise AssertionError(f"no value of {name} is known here: {reason}") from reason
        raise AssertionError(f"{name} is infinite at the particles of this check; give others as measure=")
    assert type(case.F).__doc__, f"{name} has no docstring"


@FUNCTIONAL.check
def value_is_a_finite_scalar(case: FunctionalCase) -> None:
    """The value is a finite 0-d tensor of the dtype of the points."""
    applies(case.F.can("value"), "it has no value")
    try:
        value = case.frozen().value(case.p)
    except Unsupported as reason:
        raise SkipTest(f"no value is known here: {reason}") from reason
    _finite_scalar(value, "value")


@FUNCTIONAL.check
def dual_forms_are_finite_scalars(case: FunctionalCase) -> None:
    """What a critic ascends and what the model descends are finite 0-d tensors of the dtype of the points."""
    dual = {name: form for name, form in case.forms().items() if name != "value"}
    applies(dual, "it has no conjugate or variational")
    for name, form in dual.items():
        _finite_scalar(form(case.p), name)


def _scalar(s: Any, name: str) -> None:
    assert isinstance(s, Tensor), f"{name} returned {article(type(s))}, expected a 0-d tensor"
    assert s.shape == (), f"{name} has shape {tuple(s.shape)}, expected a 0-d tensor"


def _finite_scalar(s: Any, name: str) -> None:
    _scalar(s, name)
    assert s.dtype == torch.float64, f"{name} is {s.dtype} for particles of torch.float64"
    assert bool(torch.isfinite(s)), (
        f"{name} is {float(s.detach())} at the particles of this check; give others as measure="
    )


@FUNCTIONAL.check
def order_of_the_particles_does_not_matter(case: FunctionalCase) -> None:
    """Nothing depends on the order of the particles."""
    order = torch.randperm(len(case.p), generator=generator(3))
    for name, s in case.forms().items():
        close(
            s(shuffled(case.p, order)),
            s(case.p),
            f"{name} changes with the order of the particles",
            rtol=1e-12,
            atol=1e-12,
        )


@FUNCTIONAL.check
def splitting_a_particle_changes_nothing(case: FunctionalCase) -> None:
    """A particle may be split into two of half the weight."""
    for name, s in case.forms().items():
        claim = f"{name} changes when a particle is split into two of half the weight"
        close(s(split(case.p)), s(case.p), claim, rtol=1e-12, atol=1e-12)


@FUNCTIONAL.check
def scale_of_the_weights_does_not_matter(case: FunctionalCase) -> None:
    """Weights need not be normalized, and no weights are equal weights."""
    for name, s in case.forms().items():
        for why, p, same in rescaled(case.p):
            close(s(p), s(same), f"{name} changes {why}", rtol=1e-12, atol=1e-12)


@FUNCTIONAL.check
def a_particle_without_mass_does_not_matter(case: FunctionalCase) -> None:
    """A particle of weight 0 changes nothing."""
    p = case.p
    outermost = p.x[p.x.flatten(1).norm(dim=1).argmax()][None]
    x, none = torch.cat([p.x, 1.2 * outermost]), torch.cat([p.log_weights, p.log_weights.new_tensor([-torch.inf])])
    more = Particles(x, none, case.log_rho(x) if case.density else None)
    for name, s in case.forms().items():
        close(s(more), s(p), f"{name} changes when a particle of weight 0 joins", rtol=1e-12, atol=1e-12)


@FUNCTIONAL.check
def gradients_are_central_differences(case: FunctionalCase) -> None:
    """Gradients in positions and weights agree with central differences, and are the same every time."""
    held = [case.p.x, case.p.log_weights]
    for name, s in case.forms().items():

        def of(x: Tensor, log_w: Tensor, *, s: Form = s) -> Tensor:
            return s(Particles(x, log_w, case.log_rho(x)))

        leaves = [t.clone().requires_grad_(True) for t in held]
        value = of(*leaves)
        assert value.requires_grad, (
            f"{name} has no gradient in positions or weights: it was detached or went through NumPy"
        )
        found = torch.autograd.grad(value, leaves, retain_graph=True, materialize_grads=True)
        again = torch.autograd.grad(value, leaves, materialize_grads=True)
        for what, a, b, c in zip(("positions", "weights"), found, central(of, held), again, strict=True):
            close(a, b, f"the gradient of {name} in the {what} is not that of its values", rtol=1e-3, atol=1e-5)
            close(c, a, f"the gradient of {name} in the {what} changes from one call to the next")


@FUNCTIONAL.check
def shape_of_a_point_does_not_matter(case: FunctionalCase) -> None:
    """A point of shape (1, 2, 2) is one of shape (4,)."""
    values = []
    for shape in ((4,), (1, 2, 2)):
        try:
            F = type(case.F).example(shape)
        except (Unsupported, TypeError):
            applies(False, f"{type(case.F).__name__} has no example(event_shape)")
        alike = FunctionalCase.of(F)
        values.append({name: s(alike.p) for name, s in alike.forms().items()})
    for name in values[0]:
        close(values[1][name], values[0][name], f"{name} changes with the shape of a point", rtol=1e-12)


@FUNCTIONAL.check
def randomness_comes_from_freezing_alone(case: FunctionalCase) -> None:
    """freeze(rng) is the only door of randomness: a frozen functional is deterministic, and stays as it is."""
    p, fixed = case.p, case.frozen(0)
    for name, s in case.forms(fixed).items():
        one = s(p)
        for why, F in (
            ("when it is evaluated again", fixed),
            ("with the same seed", case.frozen(0)),
            ("when it is frozen again", fixed.freeze(generator(9))),
        ):
            close(case.forms(F)[name](p), one, f"{name} changes {why}")
        global_state_kept(lambda name=name: case.forms(case.frozen(0))[name](p), name)  # type: ignore[misc]


@FUNCTIONAL.check
def inputs_are_left_as_they_were(case: FunctionalCase) -> None:
    """Neither the particles nor what the functional holds are changed in place."""
    F = case.frozen()
    forms = case.forms(F)

    def act() -> None:
        x = case.p.x.clone().requires_grad_(True)
        for s in forms.values():
            s(case.p)
            value = s(replace(case.p, x=x, log_rho=case.log_rho(x)))
            torch.autograd.grad(value, x, materialize_grads=True)

    held = {"x": case.p.x, "log_w": case.p.log_w, "log_rho": case.p.log_rho, "F": F}
    untouched(held, act, "an evaluation changes its inputs in place")


@FUNCTIONAL.check
def single_precision_keeps_half_of_the_digits(case: FunctionalCase) -> None:
    """In float32 everything is float32, and agrees with float64 to half of its digits."""
    single = torch.float32
    half = torch.finfo(single).eps ** 0.5
    F, net, p = cast(case.frozen(), single), cast(case.net, single), cast(case.p, single)
    exact = case.forms()
    for name, s in case.forms(F, net).items():
        value = s(p)
        assert value.dtype == single, f"{name} is {value.dtype} for particles of {single}"
        close(value, exact[name](case.p).float(), f"{name} in float32 is not that in float64", rtol=half, atol=half)


@FUNCTIONAL.check
def wrong_arguments_are_refused(case: FunctionalCase) -> None:
    """Nothing but an error of wgflow leaves the constructor, and of values of every kind most are refused."""
    refuses_wrong_arguments(case.F)
