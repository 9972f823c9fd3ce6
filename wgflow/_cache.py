"""Remembers numbers that depend on a few tensors only, such as the target's own term in a distance."""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")

# Few entries: each keeps its tensors alive, so that their storage cannot become another tensor's.
_entries: deque[tuple[Hashable, tuple[Tensor | None, ...], tuple[Any, ...], Any]] = deque(maxlen=4)


def remember(tag: Hashable, tensors: tuple[Tensor | None, ...], compute: Callable[[], T]) -> T:
    """Return ``compute()``, or what it returned before for the same tag and the same, unchanged tensors.

    Tensors are the same when they view the same storage alike and have not been written to since; a copy is another one.
    Tensors that require gradient, or of inference mode, which do not count changes, are never remembered.
    """
    if any(t is not None and (t.requires_grad or t.is_inference()) for t in tensors):
        return compute()
    prints = tuple(map(_print, tensors))
    for known, _, other, value in _entries:
        # By the hash first: comparing tags that hold tensors (a fitted bandwidth) would wait for the device.
        if other == prints and hash(known) == hash(tag) and known == tag:
            return value
    value = compute()
    _entries.append((tag, tensors, prints, value))
    return value


def _print(t: Tensor | None) -> Any:
    return None if t is None else (t.device, t.dtype, t.data_ptr(), t._version, tuple(t.shape), t.stride())
