"""What a function or a class does and holds, as far as its code tells: the same in another process and after an edited comment."""

import dataclasses
import dis
import hashlib
import inspect
import os
import sys
import sysconfig
from functools import cache
from types import CellType, CodeType, FunctionType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any

from wgflow.core.brief import Brief

_FOLDERS = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_INSTALLED = tuple(
    {os.path.realpath(folder) + os.sep for folder in (*_FOLDERS, os.path.dirname(os.path.dirname(__file__)))}
)
_DOCSTRING = getattr(inspect, "CO_HAS_DOCSTRING", 0)
_PYTHON = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"


@cache
def _in_a_library(file: str) -> bool:
    return file.startswith("<frozen ") or os.path.realpath(file).startswith(_INSTALLED)


def is_library(obj: Any) -> bool:
    """Whether a function, a class or a module is part of Python, of an installed package or of wgflow.

    Those are told apart by name. Everything else somebody may be working on, and its code counts.
    """
    if isinstance(obj, FunctionType):
        return _in_a_library(obj.__code__.co_filename)
    module = obj if isinstance(obj, ModuleType) else sys.modules.get(obj.__module__)
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    return file is None or _in_a_library(file)


def code_digest(function: FunctionType) -> str:
    """Digest of the bytecode, the constants and the names that it uses; neither of lines, files and addresses nor of docstrings."""
    return f"{hashlib.sha256(repr(_content(function.__code__)).encode()).hexdigest()[:16]} ({_PYTHON})"


def _content(code: CodeType) -> list[Any]:
    constants = [_constant(c) for c in code.co_consts]
    if _has_docstring(code):
        constants[0] = _constant(None)
    arguments = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & ~_DOCSTRING]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), arguments, constants, list(code.co_names)]


def _has_docstring(code: CodeType) -> bool:
    if _DOCSTRING:
        return bool(code.co_flags & _DOCSTRING)
    # Before Python 3.14 the first constant of a function is its docstring or None; a lambda has none.
    return code.co_name.isidentifier() and isinstance(next(iter(code.co_consts), None), str)


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _content(value)
    if isinstance(value, (tuple, frozenset)):
        parts = [_constant(v) for v in value]
        return [type(value).__name__, parts if isinstance(value, tuple) else sorted(map(repr, parts))]
    return [type(value).__name__, repr(value)]


def names_used(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the global names that code and the functions inside of it read, and all other names: attributes and methods."""
    read = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    others = set(code.co_names) - read
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner, more = names_used(constant)
            read, others = read | inner, others | more
    return read, others


def held_in(cell: CellType) -> Any:
    """What a closure holds in one of its cells."""
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def globals_read(f: FunctionType) -> dict[str, Any]:
    """What a function reads from its module, and from modules of the user's that it names there."""
    read, others = names_used(f.__code__)
    found: dict[str, Any] = {}
    for name in sorted(read & f.__globals__.keys()):
        value = f.__globals__[name]
        if isinstance(value, ModuleType) and not is_library(value):
            found |= {f"{name}.{inner}": vars(value)[inner] for inner in sorted(others & vars(value).keys())}
        else:
            found[name] = value
    return found


def attributes(obj: Any) -> dict[str, Any]:
    """What an object holds, without what it has only kept of what it computed (``functools.cached_property``)."""
    cls = type(obj)
    slots = {n for c in cls.__mro__ for n, v in vars(c).items() if isinstance(v, MemberDescriptorType)}
    held = {n: getattr(obj, n) for n in slots if hasattr(obj, n)} | getattr(obj, "__dict__", {})
    return {name: value for name, value in held.items() if not _keeps(inspect.getattr_static(cls, name, None))}


def _keeps(member: Any) -> bool:
    """Whether a member of a class puts what it returns into the object, under its own name."""
    kind = type(member)
    return (
        hasattr(kind, "__get__")
        and not hasattr(kind, "__set__")
        and kind not in (FunctionType, classmethod, staticmethod)
    )


def members(cls: type) -> dict[str, Any]:
    """What the body of a class says, without what Python puts there."""

    def said(name: str, value: Any) -> bool:
        if isinstance(value, (MemberDescriptorType, GetSetDescriptorType)) or name == "_abc_impl":
            return False
        if not (name.startswith("__") and name.endswith("__")):
            return True
        return isinstance(value, FunctionType) and value.__code__.co_filename != "<string>" and "annotate" not in name

    body = dict(vars(cls))
    if body.get("__repr__") is Brief.__repr__:
        body |= {"__repr__": _repr_without_brief(cls)}
    return {name: value for name, value in sorted(body.items()) if said(name, value)}


def _repr_without_brief(cls: type) -> Any:
    """Return the ``__repr__`` that a class had before :class:`Brief` gave it one: that of a dataclass, in digests since the first."""
    if "__dataclass_params__" not in vars(cls) or not vars(cls)["__dataclass_params__"].repr:
        return None
    shown = [(f.name, Any, dataclasses.field(repr=f.repr, kw_only=True)) for f in dataclasses.fields(cls)]
    place = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return vars(dataclasses.make_dataclass(cls.__name__, shown, namespace=place, eq=False))["__repr__"]
