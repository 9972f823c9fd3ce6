"""The parts that a part of a flow is made of: the one walk over fields, for whatever must reach all of them."""

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def own_parts(part: Any) -> Iterator[Any]:
    """Yield what the fields of a dataclass hold, with the entries of tuples and lists in their place."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return
    for f in dataclasses.fields(part):
        held = getattr(part, f.name)
        yield from held if isinstance(held, (tuple, list)) else (held,)


def parts_of(part: Any, kind: type[T]) -> Iterator[T]:
    """Yield a part and all that it is made of, as far as these are of one kind."""
    if isinstance(part, kind):
        yield part
    for held in own_parts(part):
        if dataclasses.is_dataclass(held):
            yield from parts_of(held, kind)
