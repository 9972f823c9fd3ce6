"""Types and ranges of arguments, declared once in an annotation and checked for every class and function that has it.

A dataclass below :class:`Checked` has its fields checked before its own ``__post_init__``, one of another package as well;
:func:`checked` does the same for the parameters of a function or of an ``__init__``. The annotation says what is
expected: the aliases below for numbers, ``Literal``, ``X | None``, ``tuple[X, ...]``, ``Sequence[X]``, ``Callable``, a protocol or
a class. Numbers of NumPy and 0-d tensors become plain ones, lists become tuples where a tuple is declared, and points become
a measure where one is declared. A default is always accepted.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from wgflow.core.brief import Brief
from wgflow.core.ranks import COLLECTIVE, together
from wgflow.core.rules import REFUSED, Range, Rule, resolved, rule_of

P = ParamSpec("P")
R = TypeVar("R")

Positive = Annotated[float, Range("a positive, finite number", 0)]
NonNegative = Annotated[float, Range("a nonnegative, finite number", 0, ends="[)")]
Finite = Annotated[float, Range("a finite number")]
PositiveOrInfinite = Annotated[float, Range("a positive number", 0, ends="(]")]
Fraction = Annotated[float, Range("a number between 0 and 1", 0, 1)]
Share = Annotated[float, Range("a number from 0 to 1", 0, 1, "[]")]
Decay = Annotated[float, Range("a number from 0 up and below 1", 0, 1, "[)")]
Count = Annotated[int, Range("a whole number from 1 up", 1, 2**63, "[)")]
Whole = Annotated[int, Range("a whole number from 0 up", 0, 2**63, "[)")]


def _device(v: Any) -> Any:
    if not isinstance(v, (str, torch.device)):
        return REFUSED
    try:
        torch.empty(0, device=v)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError):
        return REFUSED
    return v


Tensor0d = Annotated[
    Tensor, Rule(lambda v: v if isinstance(v, Tensor) and v.dim() == 0 else REFUSED, "a 0-d tensor", (Tensor,))
]
FloatingPoint = Annotated[
    torch.dtype,
    Rule(
        lambda v: v if isinstance(v, torch.dtype) and v.is_floating_point else REFUSED,
        "a floating-point dtype of torch",
    ),
]
Device = Annotated[torch.device | str, Rule(_device, "a device that torch has here, such as 'cpu' or 'cuda:0'")]


class Checked(Brief):
    """A dataclass below this one has its fields checked against their annotations before its ``__post_init__``.

    ``checks=False`` leaves one out that is made in every step and looks at its fields itself.
    """

    def __init_subclass__(cls, checks: bool = True, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__post_init__
        if not checks or getattr(own, "checks", False):
            return

        @functools.wraps(own)
        def first_checked(self: Any, *init_only: Any) -> None:
            if type(self).__post_init__ is first_checked:  # not again where a subclass calls its parent's
                check_fields(self)
            own(self, *init_only)

        first_checked.checks = True  # type: ignore[attr-defined]
        cls.__post_init__ = first_checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Nothing more to check."""


def check_fields(obj: Any) -> None:
    """Check the fields of a dataclass and replace those that are not in their plain form; raises ``BadInput``."""
    kind: Any = type(obj)
    for name, rule in field_rules(kind):
        value = getattr(obj, name)
        plain = rule.accept(value)
        if plain is not value:
            kept = plain if plain is not REFUSED else rule(value, f"{kind.__name__}({name}={{}})")
            object.__setattr__(obj, name, kept)


@functools.cache
def field_rules(cls: type) -> tuple[tuple[str, Rule], ...]:
    """Return the rules of a dataclass by field; a field whose annotation is not understood has none, nor has a private one."""
    held = []
    for f in dataclasses.fields(cls):
        if not f.init or f.name.startswith("_"):
            continue
        owner = next(c for c in cls.__mro__ if f.name in inspect.get_annotations(c))
        rule = rule_of(resolved(f.type, owner.__module__))
        if rule is not None:
            held.append((f.name, _with_default(rule, f.default)))
    return tuple(held)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check the arguments of a function, or of an ``__init__``, against its annotations; raises ``BadInput``."""
    signature = inspect.signature(function)

    @functools.cache
    def rules() -> dict[str, Rule]:
        found = {
            name: (rule_of(resolved(p.annotation, function.__module__)), p.default)
            for name, p in signature.parameters.items()
            if p.annotation is not inspect.Parameter.empty
        }
        return {name: _with_default(rule, default) for name, (rule, default) in found.items() if rule is not None}

    @functools.wraps(function)
    def with_checked_arguments(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            if hasattr(function, "__signature__"):  # it takes more than it says, for what it passes options on to
                raise TypeError(f"{function.__name__}() {error}") from None
            return function(*args, **kwargs)  # Python says which argument is missing or unknown
        check = functools.partial(_check, function, signature, rules(), bound.arguments)
        if hasattr(function, COLLECTIVE):
            together(check)
        else:
            check()
        return function(*bound.args, **bound.kwargs)

    return with_checked_arguments


def _check(
    function: Callable[..., Any], signature: inspect.Signature, rules: dict[str, Rule], given: dict[str, Any]
) -> None:
    """Put what the rules make of the arguments in their place, or raise ``BadInput``.

    No function within the one that is returned: runs are described by what that holds.
    """
    for name, rule in rules.items():
        if name not in given:
            continue
        where = f"{name}={{}}"
        if function.__name__ == "__init__":
            where = f"{type(given['self']).__name__}({where})"
        if signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            given[name] = tuple(rule(value, where) for value in given[name])
        else:
            given[name] = rule(given[name], where)


def _with_default(rule: Rule, default: Any) -> Rule:
    """Accept a default that the annotation leaves out, such as None."""
    if default in (dataclasses.MISSING, inspect.Parameter.empty) or rule.accept(default) is not REFUSED:
        return rule
    return dataclasses.replace(rule, accept=lambda v: v if v is default else rule.accept(v))
