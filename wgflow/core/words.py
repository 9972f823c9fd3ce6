"""Values as people write them, on a command line or in a file: one conversion, to what an annotation asks for."""

import math
import re
import sys
import types
import typing
from typing import Annotated, Any, Literal, Union

from wgflow.core.errors import BadInput

NOTHING = ("none", "null", "~")
TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")
_INFINITE = re.compile(r"([+-]?)\.?(inf|infinity)")
_REFUSED: Any = object()
_QUOTES = ". In a file, text that reads as a number, a date, or yes or no stands in quotes"


def read(hint: Any, value: Any, name: str) -> Any:
    """Return ``value`` as what ``hint`` asks for: texts are read, numbers converted where nothing is lost.

    A number may be written ``1e-4``, ``.inf`` or ``Infinity``; truth ``true``, ``yes`` or ``on``; where a value may be missing,
    ``none`` or ``null``. A text stays one where a text is asked for.

    Raises
    ------
    BadInput
        For a value of another kind; names it and what was expected.
    """
    accepted = kinds(hint)
    for kind in sorted(accepted, key=_ORDER.index):
        if kind is type(None) and isinstance(value, str) and str in accepted:
            continue
        found = _as(kind, value)
        if found is not _REFUSED:
            return found
    quotes = "" if str not in accepted or value is None or isinstance(value, str) else _QUOTES
    raise BadInput(f"{name}={shortened(value)}: expected {' or '.join(_SAID[kind] for kind in accepted)}{quotes}")


def kinds(hint: Any) -> tuple[type, ...]:
    """Return the plain types that an annotation accepts; those of the values for a ``Literal``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return kinds(args[0])
    if origin is Literal:
        return tuple(dict.fromkeys(map(type, args)))
    if origin in (Union, types.UnionType):
        return tuple(kind for part in args for kind in kinds(part))
    return (hint,)


def choices(hint: Any) -> tuple[str, ...]:
    """Return the texts that an annotation names, those of every ``Literal`` in it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return tuple(value for value in args if isinstance(value, str))
    parts = args[:1] if origin is Annotated else args if origin in (Union, types.UnionType) else ()
    return tuple(word for part in parts for word in choices(part))


def shortened(value: Any) -> str:
    """Return how a message shows a value: in one short line."""
    try:
        text = repr(value) if isinstance(value, _ORDER) else f"<{type(value).__name__}>"
    except ValueError:  # Python does not write an integer of thousands of digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:97]}..."


_ORDER = (type(None), bool, int, float, str)
_SAID = {type(None): "nothing", bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _as(kind: type, value: Any) -> Any:
    if isinstance(value, str) and kind is not str:
        word = value.strip().lower()
        if kind is bool:
            return True if word in TRUE else False if word in FALSE else _REFUSED
        value = None if word in NOTHING else _number(word)
        if value is None and kind is not type(None):
            return _REFUSED
    if isinstance(value, bool):
        return value if kind is bool else _REFUSED
    if kind in (bool, str, type(None)):
        return value if isinstance(value, kind) else _REFUSED
    if kind is float and isinstance(value, (int, float)):
        return float(value) if isinstance(value, float) or abs(value) <= sys.float_info.max else _REFUSED
    if kind is int and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        return int(value)
    return _REFUSED


def _number(word: str) -> int | float | str:
    """Return the number that a word stands for, or the word."""
    if infinite := _INFINITE.fullmatch(word):
        return float(f"{infinite[1]}inf")
    for kind in (int, float):
        try:
            number = kind(word)
        except ValueError:
            continue
        return word if number in (math.inf, -math.inf) else number  # 1e999 is a slip, not the limit
    return word
