"""What an annotation accepts: one rule for numbers in a range, literals, unions, tuples, functions, protocols and classes."""

import collections.abc
import dataclasses
import functools
import inspect
import math
import numbers
import operator
import sys
import types
import typing
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import numpy as np
import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.instead import article, instead, shown

REFUSED: Any = object()
"""What a rule returns for a value that it does not accept."""
_LARGEST = sys.float_info.max
_MADE: dict[type, tuple[tuple[type, ...], Callable[[Any], Any]]] = {}


def take(given: tuple[type, ...], make: Callable[[Any], Any], *expected: type) -> None:
    """Take an object of the classes ``given`` where one of ``expected`` is: ``make`` makes one of it, or raises ``BadInput``."""
    _MADE.update(dict.fromkeys(expected, (given, make)))


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, which belong to it where ``ends`` has a square bracket; never NaN."""

    says: str
    low: float = -math.inf
    high: float = math.inf
    ends: Literal["()", "[)", "(]", "[]"] = "()"

    def __contains__(self, v: float) -> bool:
        above = self.low <= v if self.ends[0] == "[" else self.low < v
        return above and (v <= self.high if self.ends[1] == "]" else v < self.high)


@dataclass(frozen=True)
class Says:
    """Says in words what an annotation expects, in place of a sentence made from it."""

    says: str


@dataclass(frozen=True)
class Rule:
    """What one annotation accepts: the value to keep, or ``REFUSED``."""

    accept: Callable[[Any], Any]
    expected: str
    kinds: tuple[Any, ...] = ()
    """Classes that it accepts objects of, to say what to write instead."""
    entry: "Rule | None" = None
    """The rule of every entry of a list."""

    def __call__(self, value: Any, name: str) -> Any:
        """Return the value to keep; raises ``BadInput`` that calls it ``name``, such as ``"Adam(lr={})"``."""
        plain = self.accept(value)
        if plain is REFUSED:
            hint = self._hint(value)
            raise BadInput(f"{name.format(shown(value))}: expected {self.expected}{hint and f'. {hint}'}")
        return plain

    def _hint(self, value: Any) -> str:
        if self.entry is None:
            return instead(value, self.kinds)
        if not isinstance(value, (list, tuple)):
            return instead(value, self.entry.kinds) or f"Put it into a list: [{shown(value)}]"
        wrong = next((v for v in value if self.entry.accept(v) is REFUSED), None)
        return instead(wrong, self.entry.kinds) or f"An entry is {shown(wrong)}"


def resolved(annotation: Any, module: str) -> Any:
    """Return an annotation with the names in it looked up in its module, then in wgflow; ``Any`` where one is unknown."""
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    for other in ({}, vars(sys.modules["wgflow"])):
        try:
            names = other | getattr(sys.modules.get(module), "__dict__", {})
            return typing.get_type_hints(holder, names, include_extras=True)["it"]
        except (NameError, AttributeError, TypeError, SyntaxError):
            continue
    return Any


@functools.cache
def rule_of(annotation: Any) -> Rule | None:
    """Return the rule of an annotation, or None for one that says nothing that can be checked."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _annotated(*args)
    if origin in (Union, types.UnionType):
        return _union(args)
    if origin is Literal:
        return Rule(lambda v: v if type(v) in (str, int, bool) and v in args else REFUSED, f"one of {_listed(args)}")
    if origin is tuple:
        return _tuple(args)
    if origin is collections.abc.Sequence:
        return _sequence(rule_of(args[0]))
    if origin is collections.abc.Callable:
        return _callable(args[0])
    if origin is type:
        return Rule(lambda v: v if isinstance(v, type) else REFUSED, "a class")
    kind = origin or annotation
    if kind is None or kind is type(None):
        return Rule(lambda v: v if v is None else REFUSED, "None")
    if kind is float:
        return _number(Range("a number", ends="[]"))
    if kind is int:
        return _whole(Range("a whole number", -(2**63), 2**63))
    if kind is bool:
        return Rule(lambda v: v if v is True or v is False else _plain_bool(v), "True or False")
    return _instance(kind) if isinstance(kind, type) and kind not in (object, Any) else None


def _annotated(base: Any, *extras: Any) -> Rule | None:
    for extra in extras:
        if isinstance(extra, Range):
            return _whole(extra) if base is int else _number(extra)
        if isinstance(extra, Rule):
            return extra
    rule = rule_of(base)
    says = next((extra.says for extra in extras if isinstance(extra, Says)), None)
    return rule if rule is None or says is None else dataclasses.replace(rule, expected=says)


def _number(inside: Range) -> Rule:
    return _within(inside, float, _plain_number)


def _whole(inside: Range) -> Rule:
    return _within(inside, int, _plain_whole)


def _within(inside: Range, kind: type, plain: Callable[[Any], Any]) -> Rule:
    def accept(v: Any) -> Any:
        if type(v) is not kind:
            v = plain(v)
        return v if v is not REFUSED and v in inside else REFUSED

    return Rule(accept, inside.says, (kind,))


def _plain_number(v: Any) -> Any:
    """Return a plain number of a scalar of NumPy or torch; ``REFUSED`` for what is none, or too large for a float."""
    if isinstance(v, (Tensor, np.ndarray)) and v.ndim == 0 and not getattr(v, "requires_grad", False):
        v = v.item() if getattr(v, "device", "cpu") != torch.device("meta") else REFUSED
    elif isinstance(v, np.generic):
        v = v.item()
    if isinstance(v, bool) or not isinstance(v, numbers.Real):
        return REFUSED
    if not isinstance(v, int):
        return float(v)
    return int(v) if abs(v) <= _LARGEST else REFUSED


def _plain_whole(v: Any) -> Any:
    if isinstance(v, (bool, np.bool_)) or getattr(v, "dtype", None) is torch.bool:
        return REFUSED
    try:
        return operator.index(v)
    except (TypeError, RuntimeError, NotImplementedError):
        return REFUSED


def _plain_bool(v: Any) -> Any:
    return bool(v) if isinstance(v, np.bool_) else REFUSED


def _instance(kind: type) -> Rule:
    if getattr(kind, "_is_protocol", False):
        wanted = [n for n in vars(kind) if callable(vars(kind)[n]) and (n == "__call__" or not n.startswith("_"))]
        fits = lambda v: not isinstance(v, type) and all(callable(getattr(v, n, None)) for n in wanted)  # noqa: E731
    else:
        fits = lambda v: isinstance(v, kind)  # noqa: E731
    known: set[type] = set()

    def accept(v: Any) -> Any:
        if type(v) in known:
            return v
        if not fits(v):
            return _made(v, kind)
        known.add(type(v))
        return v

    return Rule(accept, article(kind), (kind,))


def _made(v: Any, kind: type) -> Any:
    given, make = _MADE.get(kind, ((), None))
    if make is None or not isinstance(v, given):
        return REFUSED
    try:
        return make(v)
    except BadInput:
        return REFUSED


def _callable(parameters: Any) -> Rule:
    asked = None if parameters is ... else len(parameters)
    known: Any = weakref.WeakSet()

    def accept(v: Any) -> Any:
        plain = getattr(v, "__func__", v)  # a bound method is made anew every time, its function is not
        if isinstance(plain, types.FunctionType) and plain in known:
            return v
        if not callable(v) or not takes(v, asked):
            return REFUSED
        if isinstance(plain, types.FunctionType):
            known.add(plain)
        return v

    what = "" if asked is None else " without arguments" if asked == 0 else f" of {asked} argument{'s' * (asked > 1)}"
    return Rule(accept, f"a function{what}", (collections.abc.Callable,))


def takes(function: Callable[..., Any], count: int | None) -> bool:
    """Whether a function can be called with so many arguments, as far as it can be told."""
    if getattr(function, "is_part", False):
        return False  # a part of a flow, whose call is no function of points
    if isinstance(function, type):
        if getattr(getattr(function, "__post_init__", None), "checks", False):
            return False  # a class of ours in the place of an object
        if count and issubclass(function, (torch.nn.Module, torch.optim.Optimizer)):
            return False  # a factory of networks has no arguments
    try:
        inspect.signature(function).bind(*[None] * (count or 0))
    except TypeError:
        return count is None
    except ValueError:  # builtins do not always say
        return True
    return True


def _union(args: tuple[Any, ...]) -> Rule | None:
    rules = [rule_of(a) for a in args]
    known = [r for r in rules if r is not None]
    if len(known) < len(rules):
        return None
    optional = type(None) in args
    some = [r for r, a in zip(known, args, strict=True) if a is not type(None)]
    makes = {float, int, *_MADE}
    first, *others = [r.accept for r in sorted(some, key=lambda r: not makes.isdisjoint(r.kinds))]  # tensors stay

    def accept(v: Any) -> Any:
        if v is None and optional:
            return v
        plain = first(v)
        for other in others:
            if plain is not REFUSED:
                break
            plain = other(v)
        return plain

    words = [r.expected for r in known]
    return Rule(accept, ", ".join(words[:-1]) + ", or " + words[-1], tuple(k for r in known for k in r.kinds))


def _tuple(args: tuple[Any, ...]) -> Rule:
    repeated = len(args) == 2 and args[1] is ...
    rules = [rule_of(a) for a in (args[:1] if repeated else args)]

    def accept(v: Any) -> Any:
        if isinstance(v, (Tensor, np.ndarray)) and v.ndim == 1:
            v = v.tolist()
        if not isinstance(v, (tuple, list)) or not (repeated or len(v) == len(rules)):
            return REFUSED
        each = rules * len(v) if repeated else rules
        entries = [e if rule is None else rule.accept(e) for e, rule in zip(v, each, strict=True)]
        if any(e is REFUSED for e in entries):
            return REFUSED
        same = type(v) is tuple and all(a is b for a, b in zip(v, entries, strict=True))
        return v if same else tuple(entries)

    words = ["anything" if r is None else r.expected for r in rules]
    says = f"a tuple, every entry {words[0]}" if repeated else f"a tuple of {len(rules)}: {', '.join(words)}"
    return Rule(accept, says, entry=rules[0] if repeated else None)


def _sequence(rule: Rule | None) -> Rule:
    def accept(v: Any) -> Any:
        if isinstance(v, (str, bytes)) or not isinstance(v, (collections.abc.Sequence, np.ndarray)):
            return REFUSED
        if rule is None:
            return v
        entries = [rule.accept(e) for e in v]
        if any(e is REFUSED for e in entries):
            return REFUSED
        return v if all(a is b for a, b in zip(v, entries, strict=True)) else entries

    return Rule(accept, "a list" if rule is None else f"a list, every entry {rule.expected}", entry=rule)


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(map(repr, values))
