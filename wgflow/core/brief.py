"""What objects show of themselves: their parts that are not the default, tensors by shape, dtype and device, in at most ten lines.

A class below :class:`Brief` has this ``repr``. Nothing of it runs an operation on a tensor, so that printing an object does not
wait for a device.
"""

import dataclasses
import enum
import functools
import html
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

WIDTH, LINES = 100, 10
"""Most columns of a line, and most lines of an object."""
_DEPTH, _LONGEST, _FEW = 5, 70, 6
_INDENT, _UNBROKEN, _PART = "  ", "\0", 2 * WIDTH - 40
_PLAIN = (bool, int, type(None), complex, bytes, range, torch.dtype, torch.Size, enum.Enum)


class Pieces(NamedTuple):
    """The text of an object before it is put into lines: ``head``, then parts with ``between`` them, then ``tail``."""

    head: str
    parts: Sequence[str]
    tail: str = ")"
    between: str = ", "

    def line(self) -> str:
        """Return all of it in one line."""
        return f"{self.head}{self.between.join(self.parts)}{self.tail}"


class Brief:
    """An object that shows itself in at most ten lines.

    A dataclass shows its fields, another class the parameters of its ``__init__`` that it keeps under their names. What is as
    it is by default is left out. A class that reads better otherwise has a ``_pieces`` of its own.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # or a dataclass would get one that prints whole tensors
            cls.__repr__ = cls.__repr__  # type: ignore[method-assign]

    def _pieces(self, inner: Callable[[Any], str]) -> Pieces:
        """Return the text of this object, in which ``inner`` gives that of a part."""
        return Pieces(f"{type(self).__name__}(", _changed(self, inner))

    def __repr__(self) -> str:
        """Return the parts that are not the default, in at most ten lines of 100 columns."""
        text = brief(self)
        return text if len(text) <= WIDTH else "\n".join(_lines(self._pieces(functools.partial(fitting, width=_PART))))


def fitting(value: Any, width: int) -> str:
    """Return the fullest text of a value that fits into one line of ``width`` columns."""
    texts = (brief(value, depth) for depth in range(_DEPTH, -1, -1))
    text = next((t for t in texts if len(t) <= width), brief(value, 0))
    return shortened(text, width)


def shortened(text: str, width: int) -> str:
    """Return a line without what is beyond ``width``."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def brief(value: Any, depth: int = _DEPTH) -> str:
    """Return a value in one line; objects more than ``depth`` levels inside of it by their names alone."""
    if isinstance(value, float):
        return short if len(short := repr(value)) <= 10 else f"{value:.6g}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, str | Path | torch.device):
        text = str(value)
        return repr(shortened(text, _LONGEST))
    if isinstance(value, Tensor | np.ndarray):
        return array(value)
    if isinstance(value, Mapping) and not isinstance(value, Brief):
        return _several([f"{brief(k)}: {brief(v, depth - 1)}" for k, v in _first(value.items())], len(value), "{}")
    if isinstance(value, list | tuple | set | frozenset) and not _named(value):
        ends = {list: "[]", tuple: "()"}.get(type(value), "{}")
        return _several([brief(v, depth - 1) for v in _first(value)], len(value), ends)
    pieces = _of(value)
    if pieces is None:
        return _foreign(value)
    if depth <= 0:
        return f"{type(value).__name__}(...)"
    return pieces(value, functools.partial(brief, depth=depth - 1)).line()


def array(value: Any) -> str:
    """Return the entries of a short tensor in the memory of the host, and the shape, dtype and device of another one."""
    on_host = isinstance(value, np.ndarray) or (value.device.type == "cpu" and value.layout is torch.strided)
    kind = str(value.dtype).removeprefix("torch.")
    if on_host and 0 < int(np.prod(value.shape)) <= _FEW and type(value) in (Tensor, nn.Parameter, np.ndarray):
        entries = (value.detach() if isinstance(value, Tensor) else value).tolist()
        return f"{'tensor' if isinstance(value, Tensor) else 'array'}({_entries(entries)})"
    what = "tensor" if isinstance(value, Tensor) else "array"
    where = f" {value.device}" if isinstance(value, Tensor) else ""
    return f"<{what} {tuple(value.shape)} {kind}{where}>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> str:
    """Return an HTML table for a notebook."""

    def cells(row: Sequence[Any], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in row) + "</tr>"

    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    body = "".join(cells(row, "td") for row in rows)
    return f"<table>{above}<thead>{cells(head, 'th')}</thead><tbody>{body}</tbody></table>"


def _entries(values: Any) -> str:
    if isinstance(values, list):
        return f"[{', '.join(map(_entries, values))}]"
    return f"{values:.4g}" if isinstance(values, float) else str(values)


def _first(values: Iterable[Any]) -> list[Any]:
    return [v for v, _ in zip(values, range(_FEW), strict=False)]


def _several(texts: list[str], count: int, ends: str) -> str:
    more = [f"... {count} in all"] if count > len(texts) else [""] if ends == "()" and count == 1 else []
    return f"{ends[0]}{', '.join(texts + more).rstrip(' ')}{ends[1]}"


def _of(value: Any) -> Any:
    """Return the function that gives the :class:`Pieces` of an object; None for one that is shown by its name."""
    if isinstance(value, type | nn.Module):
        return None
    if isinstance(value, Brief):
        return type(value)._pieces
    return Brief._pieces if dataclasses.is_dataclass(value) or _named(value) else None


def _named(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _foreign(value: Any) -> str:
    """Return a network with the number of its parameters, a function by its name, anything else by its class."""
    if isinstance(value, nn.Module):
        return network(value)
    if isinstance(value, torch.Generator):
        return f"Generator({str(value.device)!r})"
    if isinstance(value, functools.partial):
        return f"partial({brief(value.func)})"
    name = getattr(value, "__qualname__", None)
    return name.rpartition("<locals>.")[2] if isinstance(name, str) else f"<{type(value).__name__}>"


def network(net: nn.Module) -> str:
    """Return the class of a network with the number of its parameters, and their type and device where they have one."""
    held = [p for p in net.parameters() if not isinstance(p, UninitializedParameter | UninitializedBuffer)]
    count = f"{sum(p.numel() for p in held):,} parameters"
    about = [f"{str(p.dtype).removeprefix('torch.')} {p.device}" for p in held[:1]]
    return f"{type(net).__name__}({', '.join([count, *about])})"


def _changed(value: Any, inner: Callable[[Any], str]) -> list[str]:
    """Return the texts of the parts of an object that are not the default."""
    found = []
    for name, held, default in _parts(value):
        if held is default or (isinstance(held, torch.dtype) and default is None and held is torch.get_default_dtype()):
            continue
        text = inner(held)
        if default is inspect.Parameter.empty or text != inner(default):
            found.append(f"{name}={text}" if name else text)
    return found


def _parts(value: Any) -> Iterable[tuple[str, Any, Any]]:
    """Yield the parts of an object by name, with their defaults or ``Parameter.empty``; those without a name stand alone."""
    empty = inspect.Parameter.empty
    if dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            if f.repr and f.init and not f.name.startswith("_"):
                made = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
                yield f.name, getattr(value, f.name, None), empty if made is dataclasses.MISSING else made
        return
    if _named(value):
        yield from ((name, getattr(value, name), empty) for name in value._fields)
        return
    held, parameters = vars(value), inspect.signature(type(value)).parameters.values()
    before = any(p.kind is p.VAR_POSITIONAL for p in parameters)  # names cannot stand before entries
    for p in parameters:
        kept = next((name for name in (p.name, f"_{p.name}") if name in held), None)
        if kept is not None and p.kind is p.VAR_POSITIONAL:
            yield from (("", entry, empty) for entry in held[kept])
        elif kept is not None:
            yield "" if before and p.kind is p.POSITIONAL_OR_KEYWORD else p.name, held[kept], p.default


def _lines(pieces: Pieces) -> list[str]:
    """Return an object as lines: its head, its parts on as few lines as they need, its tail."""
    indent, between = _INDENT if pieces.head else "", pieces.between.rstrip(" ")
    lines: list[str] = []
    for i, part in enumerate(pieces.parts):
        text = part if i == len(pieces.parts) - 1 else part + between
        if lines and len(lines[-1]) + 1 + len(text) <= WIDTH:
            lines[-1] += f" {text}"
        else:
            lines += _wrapped(text, indent)
    if len(lines) > LINES - 2:
        lines[LINES - 3 :] = [f"{indent}..."]
    return [line for line in (pieces.head, *lines, pieces.tail) if line]


def _wrapped(text: str, indent: str) -> list[str]:
    """Return a part as lines that are broken in no tensor and no text."""
    whole = re.sub(r"<[^<>]*>|'[^']*'|tensor\(\[.*?\]\)", lambda m: m[0].replace(" ", _UNBROKEN), text)
    ends: dict[str, Any] = {"initial_indent": indent, "subsequent_indent": indent + 2 * _INDENT}
    return [line.replace(_UNBROKEN, " ") for line in textwrap.wrap(whole, WIDTH, break_on_hyphens=False, **ends)]
