"""What to write in the place of a value of the wrong kind; looked at only when one is refused."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from wgflow.core.brief import Brief, fitting

_SENTENCES: dict[type, tuple[tuple[Any, str], ...]] = {}


def suggest(expected: type, *pairs: tuple[Any, str]) -> None:
    """Say what to write where an object of a class is expected: pairs of what is given in its place and a sentence.

    ``{value}`` in a sentence becomes the value.
    """
    _SENTENCES[expected] = pairs


def shown(value: Any) -> str:
    """Return a value as a message names it: short, and of arrays their shape instead of their entries."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
        kind = "tensor" if isinstance(value, Tensor) else "array"
        return f"<{kind} of shape {tuple(value.shape)}, {value.dtype}>"
    try:
        if isinstance(value, Brief):
            return fitting(value, 70)
        text = repr(value)
    except Exception:  # an integer of too many digits, or a foreign object
        return f"<{type(value).__name__}>"
    return text if len(text) <= 70 else f"{text[:60]}..."


def as_tensor(value: Any, name: str = "x") -> str:
    """Return what makes a tensor of a value that is not one."""
    return f"torch.{'as_' if isinstance(value, np.ndarray) else ''}tensor({name})"


def article(kind: type) -> str:
    """Return the name of a class with its article; what is not of wgflow is said in words."""
    words = {str: "text", dict: "a dictionary", list: "a list", Tensor: "a tensor", nn.Module: "a network (nn.Module)"}
    if kind in words:
        return words[kind]
    name = kind.__name__
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def instead(value: Any, kinds: tuple[type, ...]) -> str:
    """Return a sentence that says what to write in the place of ``value`` where an object of ``kinds`` is expected, or ``""``."""
    if isinstance(value, type):
        fits = [k for k in kinds if k in value.__mro__]
        needed = "" if not _needs_arguments(value) else "..."
        return (
            f"That is the class: write {value.__name__}({needed})"
            if fits or value.__module__.startswith("wgflow") or issubclass(value, nn.Module)
            else ""
        )
    for expected in kinds:
        if isinstance(value, str) and expected.__module__.startswith("wgflow") and (near := _near(value, expected)):
            return near
        for given, sentence in _SENTENCES.get(expected, ()):
            if isinstance(value, given):
                return sentence.format(value=shown(value))
    if isinstance(value, bool) and (float in kinds or int in kinds):
        return "True and False are no numbers here"
    if isinstance(value, str) and (float in kinds or int in kinds) and _reads_as_number(value):
        return f"That is text: write {value.strip()} without quotes"
    if Tensor in kinds and isinstance(value, (np.ndarray, list, tuple)):
        return f"Convert it: {as_tensor(value)}"
    if Mapping in kinds and isinstance(value, (list, tuple)):
        return "Give every one a name: {'first': ..., 'second': ...}"
    where = getattr(value, "goes_to", "")
    return f"{type(value).__name__} is {where}" if where else ""


def _near(text: str, expected: type) -> str:
    """Return which classes below ``expected`` a piece of text may have meant."""
    private = lambda c: "._" in f"{c.__module__}.{c.__name__}"  # noqa: E731
    known = sorted({c.__name__ for c in _below(expected) if not private(c) and not inspect.isabstract(c)})
    lowered = {name.lower(): name for name in known}
    wanted = text.lower().replace("_", "")
    close = [name for low, name in lowered.items() if wanted and wanted in low]
    close = close or [lowered[low] for low in difflib.get_close_matches(wanted, lowered, n=3, cutoff=0.5)]
    return f"Text is no {expected.__name__}: did you mean {' or '.join(f'{c}(...)' for c in close)}?" if close else ""


def _below(kind: type) -> list[type]:
    subclasses: list[type] = type.__subclasses__(kind)
    return subclasses + [c for below in subclasses for c in _below(below)]


def _needs_arguments(kind: type) -> bool:
    try:
        inspect.signature(kind).bind()
    except (TypeError, ValueError):
        return True
    return False


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
