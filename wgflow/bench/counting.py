"""Counts what a flow asks for: first variations of estimators, and calls of maps and networks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from threading import RLock, get_ident
from typing import Any

from torch import nn

from wgflow import Estimator
from wgflow.maps import TransportMap
from wgflow.solvers import langevin

_LOCK = RLock()
_GRADIENTS = ("surrogate", "gradient", "velocity")
_DISGUISED = "torchdiffeq"
"""A package that calls what it integrates through modules of its own, which are no networks."""
_MAPS = ("forward", "with_logdet", "inverse", "inverse_with_logdet")


@dataclass(eq=False)
class Counts:
    """Calls so far.

    Attributes
    ----------
    gradients : int
        First variations that were asked for: a velocity, a gradient, or a value that is differentiated.
    networks : int
        Calls of transport maps, generators and critics; what these call inside of themselves is not counted again.
    """

    gradients: int = 0
    networks: int = 0


@contextmanager
def counted() -> Iterator[Counts]:
    """Count in this block what this thread calls; blocks of several threads take turns.

    Only the outermost of nested calls counts, whoever has defined its class.
    """
    counts = Counts()
    with _LOCK, ExitStack() as stack:
        inside = _Depth()
        for cls in _family(Estimator):
            for name in _GRADIENTS:
                _count(stack, cls, name, inside, lambda: _add(counts, "gradients"))
        _count(stack, langevin, "value_and_slope", inside, lambda: _add(counts, "gradients"))
        within = _Depth()
        for cls in _family(TransportMap):
            for name in _MAPS:
                _count(stack, cls, name, within, lambda: _add(counts, "networks"))
        _count(stack, nn.Module, "__call__", within, lambda: _add(counts, "networks"))
        yield counts


@dataclass(eq=False)
class _Depth:
    """How many of the calls that exclude each other are in progress in a thread."""

    depth: int = 0
    thread: int = field(default_factory=get_ident)


def _add(counts: Counts, name: str) -> None:
    setattr(counts, name, getattr(counts, name) + 1)


def _family(cls: type) -> Iterator[type]:
    yield cls
    kinds: list[type] = cls.__subclasses__()
    for kind in kinds:
        yield from _family(kind)


def _count(stack: ExitStack, owner: Any, name: str, inside: _Depth, add: Callable[[], None]) -> None:
    """Count the calls of a function that ``owner`` itself defines, until the stack is closed."""
    original = vars(owner).get(name)
    if original is None:
        return

    @wraps(original)
    def counting(*arguments: Any, **options: Any) -> Any:
        if get_ident() != inside.thread or type(arguments[0]).__module__.startswith(_DISGUISED):
            return original(*arguments, **options)
        if not inside.depth:
            add()
        inside.depth += 1
        try:
            return original(*arguments, **options)
        finally:
            inside.depth -= 1

    setattr(owner, name, counting)
    stack.callback(setattr, owner, name, original)
